//! Reads a `multipart/form-data` request (RFC 7578): the JSON in one part, and files in all other parts, in any order.
//! Files are stored as they arrive, so the memory does not depend on their size; small files of a single message stay
//! in memory until the message is stored.

mod disposition;
mod source;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use multer::{Field, Multipart};

use super::body::{MAX_JSON_BYTES, UploadMemory};
use crate::accept::blobs::upload::Upload;
use crate::accept::request::batch::MAX_MESSAGES;
use crate::accept::request::files::FilePart;
use crate::accept::request::json::pointer::cut;
use crate::domain::api::fault::{Code, Fault};
use crate::http::auth::Caller;
use crate::http::limits::memory_limit::Reservation;
use crate::http::{Api, ApiError};
use source::Source;

/// Maximum length of a boundary (RFC 2046 §5.1.1).
const MAX_BOUNDARY: usize = 70;
/// Maximum length of the name of a part, in bytes.
const MAX_NAME: usize = 200;
/// Maximum total size of the files that stay in memory. Direct handoff sends a message with these files without loading
/// them.
pub(in crate::http) const KEPT_BYTES: usize = 256 << 10;
/// Bytes allowed for the boundary and the headers of each part, in addition to the limits of its content.
const OVERHEAD: u64 = 4 << 10;
/// Minimum and maximum number of bytes by which the buffer of the JSON grows.
const JSON_STEP: [usize; 2] = [64 << 10, 1 << 20];
/// The media types of a request with several messages.
const JSON_OR_FORM: &str = "application/json or multipart/form-data";

/// The formats and limits of the body of a request that sends messages.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct BodyFormat {
    /// The media types, for the error about another one.
    pub media_types: &'static str,
    /// The name of a form's part with the JSON.
    json_part: &'static str,
    /// Maximum number of files of a form.
    files: usize,
    /// Maximum number of bytes of all files of a form together.
    file_bytes: u64,
    /// Maximum number of bytes of a form's JSON. It is buffered, so concurrent forms reserve memory for it.
    json_bytes: u64,
    /// Whether small files of a form stay in memory until the message is stored. If several messages attach a file, each
    /// would have a copy.
    keeps_small_files: bool,
}

impl BodyFormat {
    /// Returns the format of one message.
    pub(in crate::http) fn message(api: &Api) -> Self {
        Self {
            media_types: "application/json, multipart/form-data or message/rfc822",
            json_part: "message",
            files: api.limits.attachments,
            file_bytes: api.max_upload,
            json_bytes: MAX_JSON_BYTES,
            keeps_small_files: true,
        }
    }

    /// Returns the format of a batch.
    pub(in crate::http) fn batch(api: &Api) -> Self {
        let files = api.limits.attachments.max(MAX_MESSAGES);
        Self { json_part: "messages", files, ..Self::bulk(api) }
    }

    /// Returns the format of a bulk.
    pub(in crate::http) fn bulk(api: &Api) -> Self {
        let (media_types, json_bytes) = (JSON_OR_FORM, api.bodies.max_message());
        Self { media_types, json_bytes, keeps_small_files: false, ..Self::message(api) }
    }

    fn body_bytes(self) -> u64 {
        self.file_bytes + self.json_bytes + OVERHEAD * (self.files as u64 + 2)
    }
}

/// The content of a form.
#[derive(Debug)]
pub(in crate::http) struct Form {
    /// The JSON.
    pub json: Vec<u8>,
    /// The files by the names of their parts.
    pub parts: BTreeMap<String, FilePart>,
    /// The reservation of the memory of both; `None` if the form is small.
    pub reservation: Option<Reservation>,
}

/// Reads a form. Fails on the first fault of the form itself.
pub(in crate::http) async fn read(
    api: &Api,
    caller: &Caller,
    headers: &HeaderMap,
    body: Body,
    format: BodyFormat,
) -> Result<Form, ApiError> {
    let boundary = boundary(headers)?;
    let max = format.body_bytes();
    let body = api.bodies.upload(Some(caller.requester()), headers, body, max, format.json_bytes)?;
    let memory: Arc<UploadMemory> = body.memory();
    let source = Source::new(body);
    let mut form = Multipart::new(source.clone(), boundary);
    let parts = BTreeMap::new();
    let mut reader = Reader { api, caller, format, memory: &memory, json: None, parts, file_bytes: 0, kept: 0 };
    while let Some(part) = source.next_part(&mut form).await? {
        reader.part(part, &source).await?;
    }
    drop(form);
    source.finish().await?;
    drop(source);
    // A body may take a long time to arrive; the key may have been revoked in the meantime.
    api.keys.recheck(headers).await?;
    let name = format.json_part;
    if reader.json.is_none() {
        let message = format!("the form needs a part `{name}` with the JSON of the request");
        return Err(fault(name, Code::Required, message));
    }
    if !format.keeps_small_files {
        reader.store_kept().await?;
    }
    let Reader { json, parts, .. } = reader;
    let reservation = Arc::into_inner(memory).and_then(UploadMemory::into_reservation);
    Ok(Form { json: json.unwrap_or_default(), parts, reservation })
}

fn boundary(headers: &HeaderMap) -> Result<String, ApiError> {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let boundary = multer::parse_boundary(value).unwrap_or_default();
    if (1..=MAX_BOUNDARY).contains(&boundary.len()) {
        return Ok(boundary);
    }
    let detail = format!(
        "The `Content-Type` of a form needs a `boundary` of 1 to {MAX_BOUNDARY} characters. HTTP libraries set it: do not \
         set this header yourself."
    );
    Err(ApiError::Malformed(detail))
}

fn fault(pointer: &str, code: Code, message: impl Into<String>) -> ApiError {
    ApiError::Invalid(vec![Fault { pointer: cut(pointer).into_owned(), code: code.as_str(), message: message.into() }])
}

/// The parts that have been read.
struct Reader<'a> {
    api: &'a Api,
    caller: &'a Caller,
    format: BodyFormat,
    memory: &'a UploadMemory,
    json: Option<Vec<u8>>,
    parts: BTreeMap<String, FilePart>,
    /// Bytes of all files.
    file_bytes: u64,
    /// Bytes of the files in memory.
    kept: usize,
}

impl Reader<'_> {
    async fn part(&mut self, field: Field<'_>, source: &Source) -> Result<(), ApiError> {
        let name = name(&field)?;
        check_encoding(&field, &name)?;
        let BodyFormat { json_part, files: max, keeps_small_files, .. } = self.format;
        if self.parts.contains_key(&name) || (name == json_part && self.json.is_some()) {
            return Err(fault(
                &name,
                Code::DuplicateField,
                "the form has two parts with this name; names must be unique",
            ));
        }
        if name == json_part {
            self.json = Some(self.json(field, source).await?);
            return Ok(());
        }
        if self.parts.len() == max {
            let message = format!("at most {max} files are allowed in a form, in addition to the part `{json_part}`");
            return Err(fault(&name, Code::TooMany, message));
        }
        let api = self.api;
        let mut upload = api.acceptor.upload(self.caller.tenant());
        if let Err(error) = self.receive(field, source, &mut upload).await {
            upload.discard().await;
            return Err(error);
        }
        let uploaded = upload.finish_or_keep(KEPT_BYTES - self.kept).await?;
        let data = uploaded.data.unwrap_or_default();
        self.kept += data.len();
        self.parts.insert(name, FilePart { sha256: uploaded.sha256, size: uploaded.size, data });
        if !keeps_small_files && self.kept > KEPT_BYTES / 2 {
            self.store_kept().await?;
        }
        Ok(())
    }

    /// Stores the files that are in memory, several with one statement.
    async fn store_kept(&mut self) -> Result<(), ApiError> {
        let kept = self.parts.values_mut().filter(|part| !part.data.is_empty());
        let files: Vec<(String, Vec<u8>)> =
            kept.map(|part| (part.sha256.clone(), std::mem::take(&mut part.data))).collect();
        self.kept = 0;
        Ok(self.api.acceptor.store_files(self.caller.tenant(), files).await?)
    }

    /// Receives a file.
    async fn receive(
        &mut self,
        mut field: Field<'_>,
        source: &Source,
        upload: &mut Upload<'_>,
    ) -> Result<(), ApiError> {
        while let Some(bytes) = source.next_bytes(&mut field).await? {
            self.file_bytes += bytes.len() as u64;
            let max = self.format.file_bytes;
            if self.file_bytes > max {
                return Err(ApiError::PartTooLarge("The files of a form together".into(), max));
            }
            upload.write(&bytes).await?;
        }
        Ok(())
    }

    /// Reads the JSON.
    async fn json(&self, mut field: Field<'_>, source: &Source) -> Result<Vec<u8>, ApiError> {
        let (mut json, max) = (Vec::<u8>::new(), self.format.json_bytes);
        while let Some(bytes) = source.next_bytes(&mut field).await? {
            if (json.len() + bytes.len()) as u64 > max {
                let part = format!("The part `{}` of a form", self.format.json_part);
                return Err(ApiError::PartTooLarge(part.into(), max));
            }
            if json.capacity() - json.len() < bytes.len() {
                let [least, most] = JSON_STEP;
                let step = json.len().clamp(least, most).max(bytes.len());
                self.memory.grow((json.len() + step) as u64).await?;
                json.reserve_exact(step);
            }
            json.extend_from_slice(&bytes);
        }
        self.memory.set_buffered(json.len() as u64);
        Ok(json)
    }
}

/// Returns the name of a part.
fn name(field: &Field<'_>) -> Result<String, ApiError> {
    let value = field.headers().get(header::CONTENT_DISPOSITION).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let name = value.and_then(|value| disposition::name(&value)).unwrap_or_default();
    if (1..=MAX_NAME).contains(&name.len()) {
        return Ok(name);
    }
    let detail = format!(
        "Part {} of the form needs the header `Content-Disposition: form-data; name=\"…\"` with a name of 1 to {MAX_NAME} bytes.",
        field.index() + 1
    );
    Err(ApiError::Malformed(detail))
}

/// Fails if the content of a part is encoded, which RFC 7578 §4.7 deprecates and no HTTP library does.
fn check_encoding(field: &Field<'_>, name: &str) -> Result<(), ApiError> {
    let encoding = field.headers().get(header::HeaderName::from_static("content-transfer-encoding"));
    let encoding = encoding.map_or(&b"binary"[..], |value| value.as_bytes()).trim_ascii();
    if [&b"binary"[..], b"8bit", b"7bit"].iter().any(|plain| encoding.eq_ignore_ascii_case(plain)) {
        return Ok(());
    }
    let name = cut(name);
    let detail = format!("Part `{name}` of the form has a `Content-Transfer-Encoding`; send its bytes unencoded.");
    Err(ApiError::Malformed(detail))
}
