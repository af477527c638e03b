//! Downloads the files of attachments that a request gives as URLs.

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, stream};

use crate::accept::blobs::upload::{Upload, UploadError};
use crate::accept::request as native;
use crate::accept::request::files::{FilePart, MissingPart};
use crate::domain::api::fault::{Code, Fault};
use crate::domain::key::Scope;
use crate::fetch::{self, Budget, FetchError, Fetcher};
use crate::http::auth::Caller;
use crate::http::messages::create;
use crate::http::request::form::KEPT_BYTES;
use crate::http::request::references::References;
use crate::http::request::send_body::SendBody;
use crate::http::resend::request::Download;
use crate::http::{Api, ApiError};
use crate::url_guard::Denied;

/// Maximum number of different URLs in a request.
const MAX_URLS: usize = 100;
/// Maximum number of files of a request that are downloaded at the same time.
const CONCURRENCY: usize = 4;

/// Validates the body of one message before its files are downloaded: the key must be allowed to send the message, and
/// an invalid message must not cause downloads.
pub(super) async fn validate(
    api: &Api,
    caller: &Caller,
    body: &mut SendBody,
    downloads: &[Download],
) -> Result<(), ApiError> {
    if downloads.is_empty() {
        return Ok(());
    }
    // Stands for each file. Its content counts as stored, so it is not checked.
    let placeholder = FilePart { sha256: String::new(), size: 1, data: Vec::new() };
    let placeholders = downloads.iter().map(|download| (download.part.clone(), placeholder.clone()));
    body.references.files.parts.get_or_insert_default().extend(placeholders);
    let message = body.check(api, caller, native::parse).await?;
    create::require_permission(caller, &message)?;
    // The downloads may take long; until then, the templates would take memory, and the permit to render them.
    let mut files = std::mem::take(&mut body.references).files;
    if let Some(parts) = &mut files.parts {
        for download in downloads {
            parts.remove(&download.part);
        }
    }
    body.references = References::new(files);
    Ok(())
}

/// Downloads files, stores them as they arrive, and adds them to the body as parts. A file that cannot be downloaded
/// becomes a fault of its attachment when the body is parsed. Returns the caller with its key's current state.
pub(super) async fn add(
    api: &Api,
    caller: &Caller,
    body: &mut SendBody,
    downloads: Vec<Download>,
) -> Result<Caller, ApiError> {
    let Some(fetcher) = api.fetcher.as_deref().filter(|_| !downloads.is_empty()) else { return Ok(caller.clone()) };
    // A batch may attach the same file to all of its messages.
    let mut parts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for Download { part, url } in downloads {
        parts.entry(url).or_default().push(part);
    }
    if parts.len() > MAX_URLS {
        return Err(too_many());
    }
    let budget = fetcher.budget();
    let keep = KEPT_BYTES / parts.len();
    let downloads = parts.into_iter().map(|(url, parts)| {
        // Several messages would each have a copy of a file in memory.
        let request = FileRequest { fetcher, budget: &budget, url, keep: if parts.len() == 1 { keep } else { 0 } };
        async move { (parts, request.store(api, caller).await) }
    });
    let mut results = stream::iter(downloads).buffer_unordered(CONCURRENCY);
    let files = &mut body.references.files;
    while let Some((parts, result)) = results.next().await {
        match result {
            Ok(file) => {
                let all = parts.into_iter().map(|part| (part, file.clone()));
                files.parts.get_or_insert_default().extend(all);
            }
            Err(Failure::Fetch(error)) => {
                let missing = missing(&error);
                files.missing.extend(parts.into_iter().map(|part| (part, missing.clone())));
            }
            Err(Failure::Api(error)) => return Err(error),
        }
    }
    // Downloads may take long; in the meantime, the key may have been changed or revoked, or its tenant suspended.
    let caller = caller.refresh(api).await?;
    caller.require(Scope::Send)?;
    Ok(caller)
}

fn too_many() -> ApiError {
    ApiError::Invalid(vec![Fault {
        pointer: "/attachments".into(),
        code: Code::TooMany.as_str(),
        message: format!("the attachments of a request may have at most {MAX_URLS} different URLs"),
    }])
}

/// Returns the fault of an attachment whose file cannot be downloaded.
fn missing(error: &FetchError) -> MissingPart {
    let code = match error {
        FetchError::Denied(Denied::Scheme | Denied::Credentials | Denied::Host) => Code::InvalidUrl,
        FetchError::Denied(_) => Code::DeniedAddress,
        FetchError::TooLong => Code::TooLong,
        FetchError::TooLarge(_) => Code::TooLarge,
        _ => Code::InvalidUrl,
    };
    MissingPart { field: "path", code, message: error.to_string() }
}

/// A file to download.
struct FileRequest<'a> {
    fetcher: &'a Fetcher,
    budget: &'a Budget,
    url: String,
    /// A file of at most this many bytes stays in memory.
    keep: usize,
}

/// Why a file was not stored.
enum Failure {
    /// It cannot be downloaded.
    Fetch(FetchError),
    /// The request has failed.
    Api(ApiError),
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        Self::Fetch(error)
    }
}

impl From<UploadError> for Failure {
    fn from(error: UploadError) -> Self {
        Self::Api(error.into())
    }
}

impl FileRequest<'_> {
    /// Downloads the file and stores it.
    async fn store(&self, api: &Api, caller: &Caller) -> Result<FilePart, Failure> {
        let _permit = api.downloads.acquire(caller.requester()).await.map_err(Failure::Api)?;
        let mut file = self.fetcher.get(&self.url, self.budget).await?;
        let mut upload = api.acceptor.upload(caller.tenant());
        if let Err(failure) = receive(&mut file, &mut upload).await {
            upload.discard().await;
            return Err(failure);
        }
        let uploaded = upload.finish_or_keep(self.keep).await?;
        Ok(FilePart { sha256: uploaded.sha256, size: uploaded.size, data: uploaded.data.unwrap_or_default() })
    }
}

async fn receive(file: &mut fetch::Download<'_>, upload: &mut Upload<'_>) -> Result<(), Failure> {
    while let Some(bytes) = file.next().await? {
        upload.write(&bytes).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_url_is_not_a_denied_address() {
        for (denied, code) in [
            (Denied::Scheme, Code::InvalidUrl),
            (Denied::Credentials, Code::InvalidUrl),
            (Denied::Host, Code::InvalidUrl),
            (Denied::Unknown("files.test".into()), Code::DeniedAddress),
        ] {
            assert_eq!(missing(&denied.into()).code, code);
        }
    }
}
