//! Parses attachments and inline images: decodes base64 or finds the file that an attachment refers to, and determines
//! the name, the media type, the size and the digest.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use crate::accept::request::files::{self, Files, MissingPart};
use crate::accept::request::json::fields::Fields;
use crate::accept::request::json::pointer::{Pointer, cut};
use crate::accept::request::json::walk::Node;
use crate::accept::request::{Context, Limits};
use crate::domain::api::fault::{Code, Faults};
use crate::domain::key::hex;
use crate::domain::message::{Attachment, NewAttachment};
use crate::mail;

/// The fields of an attachment.
pub const FIELDS: &[&str] = &["filename", "content", "sha256", "part", "content_type", "content_id"];
/// The fields for the bytes of an attachment. An attachment has exactly one of them.
const SOURCES: [&str; 3] = ["content", "sha256", "part"];

/// The media type of content of unknown type.
const UNKNOWN_TYPE: &str = "application/octet-stream";

const MAX_FILENAME: usize = 255;
const MAX_CONTENT_TYPE: usize = 255;
const MAX_CONTENT_ID: usize = 128;

/// Parses the array `attachments` and returns the attachments in its order.
pub fn attachments(node: Option<Node<'_, '_>>, context: &Context<'_>, faults: &mut Faults) -> Vec<NewAttachment> {
    let mut list: Vec<NewAttachment> = Vec::new();
    let Some(node) = node else { return list };
    let Limits { attachments: limit, attachment_bytes: max_bytes, .. } = *context.limits;
    let at_all = node.at;
    node.each(limit, format_args!("at most {limit} attachments are allowed"), faults, |item, faults| {
        let at = item.at;
        let Some(new) = attachment(item, context.files, faults) else { return };
        let id = &new.description.content_id;
        if id.is_some() && list.iter().any(|earlier| earlier.description.content_id == *id) {
            let at = Pointer::Field(&at, "content_id");
            at.fault(faults, Code::DuplicateValue, "must be unique: another attachment has the same `content_id`");
        }
        list.push(new);
    });
    let bytes: u64 = list.iter().map(|file| file.description.size).fold(0, u64::saturating_add);
    if bytes > max_bytes {
        let message = format_args!("must have at most {max_bytes} bytes together, not {bytes}");
        at_all.fault(faults, Code::TooLarge, message);
    }
    list
}

/// The bytes of an attachment.
enum Source {
    /// Bytes in the request.
    Bytes(Vec<u8>),
    /// A stored blob.
    Blob { sha256: String, size: u64 },
}

fn attachment(node: Node<'_, '_>, files: &Files, faults: &mut Faults) -> Option<NewAttachment> {
    let Node { value, at } = node;
    let mut fields = Fields::open(value, &at, FIELDS, faults)?;
    let filename = fields.require("filename", faults).and_then(|node| node.line(1..=MAX_FILENAME, faults));
    let source = source(&mut fields, &at, files, faults);
    // The outer option means "given", the inner one "valid": an invalid value must not be treated as an absent field.
    let given_type = fields.take("content_type").map(|node| content_type(node, faults));
    let given_id = fields.take("content_id").map(|node| content_id(node, faults));
    let (filename, source) = (filename?, source?);
    // The bytes of a blob are not checked here: a blob that cannot be sent as its type is sent as
    // `application/octet-stream`.
    let is_sendable_as = |kind: &str| match &source {
        Source::Bytes(data) => mail::is_sendable_as(kind, data),
        Source::Blob { .. } => true,
    };
    let content_type = match given_type {
        Some(given) => check_declared_type(given?, is_sendable_as, &at, faults)?,
        None => Some(guess_type(&filename)).filter(|kind| is_sendable_as(kind)).unwrap_or(UNKNOWN_TYPE).to_owned(),
    };
    let content_id = match given_id {
        Some(given) => Some(given?),
        None => None,
    };
    let (sha256, size, data) = match source {
        Source::Bytes(data) => (hex(&Sha256::digest(&data)), data.len() as u64, data),
        Source::Blob { sha256, size } => (sha256, size, Vec::new()),
    };
    let filename = filename.into_owned();
    let description = Attachment { filename, content_type, content_id, sha256, size, ..Attachment::default() };
    Some(NewAttachment { description, data })
}

/// Returns an attachment with the digest and size of its bytes.
pub(in crate::accept) fn with_digest(description: Attachment, data: Vec<u8>) -> NewAttachment {
    let (sha256, size) = (hex(&Sha256::digest(&data)), data.len() as u64);
    NewAttachment { description: Attachment { sha256, size, ..description }, data }
}

/// Parses the field for the bytes: `content`, `sha256` or `part`.
fn source(fields: &mut Fields<'_, '_>, at: &Pointer<'_>, files: &Files, faults: &mut Faults) -> Option<Source> {
    let mut given = SOURCES.iter().filter_map(|name| Some((*name, fields.take(name)?))).collect::<Vec<_>>().into_iter();
    let Some((name, node)) = given.next() else {
        let message = "`content`, `sha256` or `part` is required";
        Pointer::Field(at, "content").fault(faults, Code::Required, message);
        return None;
    };
    let others = given.fold(0, |count, (_, other)| {
        let message = format_args!("must not be given together with `{name}`: use `content`, `sha256` or `part`");
        other.at.fault(faults, Code::InvalidValue, message);
        count + 1
    });
    let source = match name {
        "content" => decode(node, faults).map(Source::Bytes),
        "sha256" => blob(node, files, faults),
        _ => part(node, at, files, faults),
    };
    source.filter(|_| others == 0)
}

/// Finds the blob that an attachment refers to.
fn blob(node: Node<'_, '_>, files: &Files, faults: &mut Faults) -> Option<Source> {
    let at = node.at;
    let text = node.string(faults)?;
    let Some(sha256) = files::digest(&text) else {
        at.fault(faults, Code::InvalidValue, "must be the SHA-256 of the file, as 64 hexadecimal digits");
        return None;
    };
    let Some(size) = files.blob_size(&sha256) else {
        let message = "no file with this SHA-256 is stored; upload it with `PUT /v1/blobs/{sha256}`";
        at.fault(faults, Code::UnknownBlob, message);
        return None;
    };
    Some(Source::Blob { sha256, size })
}

/// Finds the part of the form that the attachment at `attachment` refers to.
fn part(node: Node<'_, '_>, attachment: &Pointer<'_>, files: &Files, faults: &mut Faults) -> Option<Source> {
    let at = node.at;
    let name = node.string(faults)?;
    if let Some(MissingPart { field, code, message }) = files.missing.get(&*name) {
        Pointer::Field(attachment, field).fault(faults, *code, message);
        return None;
    }
    match files.part(&name) {
        Some(part) if part.data.len() as u64 == part.size => Some(Source::Bytes(part.data.clone())),
        Some(part) => Some(Source::Blob { sha256: part.sha256.clone(), size: part.size }),
        None if files.parts.is_some() => {
            let message = format_args!("the form has no part `{}`; add the file as a part with this name", cut(&name));
            at.fault(faults, Code::UnknownPart, message);
            None
        }
        None => {
            let message = "only a form has parts; send the request as `multipart/form-data`, or use `content`";
            at.fault(faults, Code::UnknownPart, message);
            None
        }
    }
}

/// Guesses the media type from the file's extension.
fn guess_type(filename: &str) -> &'static str {
    mime_guess::from_path(filename).first_raw().unwrap_or(UNKNOWN_TYPE)
}

/// Checks that the content can be sent with the given media type.
fn check_declared_type(
    given: String,
    is_sendable_as: impl Fn(&str) -> bool,
    at: &Pointer<'_>,
    faults: &mut Faults,
) -> Option<String> {
    if is_sendable_as(&given) {
        return Some(given);
    }
    let at = Pointer::Field(at, "content_type");
    let message = "an attached message is sent unencoded (RFC 2046 §5.2.1), so it must begin with header fields in \
                   ASCII, and have lines of at most 998 bytes without NUL; a type other than `message/rfc822` must be \
                   ASCII: encode its parts first, or declare it as `application/octet-stream`";
    at.fault(faults, Code::InvalidContentType, message);
    None
}

/// Decodes standard base64 with padding (RFC 4648 §4). White space is skipped, because many encoders wrap lines.
fn decode(node: Node<'_, '_>, faults: &mut Faults) -> Option<Vec<u8>> {
    let at = node.at;
    let mut text = node.string(faults)?;
    if let Ok(data) = STANDARD.decode(text.as_bytes()) {
        return Some(data);
    }
    if text.bytes().any(|b| b.is_ascii_whitespace()) {
        let mut joined = text.into_owned();
        joined.retain(|c| !c.is_ascii_whitespace());
        text = Cow::Owned(joined);
    }
    STANDARD.decode(text.as_bytes()).map_err(|_| at.fault(faults, Code::InvalidBase64, why_not_base64(&text))).ok()
}

fn why_not_base64(text: &str) -> Cow<'static, str> {
    if text.starts_with("data:") {
        return "must not be a data URL; use only the part after `base64,`".into();
    }
    let invalid = text.char_indices().find(|(_, c)| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=')));
    match invalid {
        Some((_, '-' | '_')) => {
            "must use the standard alphabet, not the URL-safe one: + and / instead of - and _".into()
        }
        Some((index, c)) => format!("must be base64, but has {c:?} at character {index}").into(),
        None if !text.len().is_multiple_of(4) => {
            "must be base64 with padding: it is truncated, or `=` is missing at its end".into()
        }
        None => "must be base64, but its end is not valid".into(),
    }
}

/// Parses a media type with optional parameters (RFC 2045 §5.1).
pub(in crate::accept::request) fn content_type(node: Node<'_, '_>, faults: &mut Faults) -> Option<String> {
    let at = node.at;
    let text = node.line(1..=MAX_CONTENT_TYPE, faults)?;
    let text = text.trim();
    if !is_media_type(text) {
        let message = "must be a media type such as `application/pdf` or `text/csv; charset=utf-8`";
        at.fault(faults, Code::InvalidContentType, message);
        return None;
    }
    if text.len() > 9 && text.as_bytes()[..10].eq_ignore_ascii_case(b"multipart/") {
        let message = "must not be a multipart type, which cannot be base64-encoded (RFC 2045 §6.4)";
        at.fault(faults, Code::InvalidContentType, message);
        return None;
    }
    Some(text.to_owned())
}

fn is_media_type(text: &str) -> bool {
    let after_token = |text: &'_ str| -> Option<usize> {
        let end = text.bytes().position(|b| !is_token(b)).unwrap_or(text.len());
        (end > 0).then_some(end)
    };
    let parameter = |text: &'_ str| -> Option<usize> {
        let equals = after_token(text)?;
        let value = text[equals..].strip_prefix('=')?;
        let length = if value.starts_with('"') { quoted(value)? } else { after_token(value)? };
        Some(equals + 1 + length)
    };
    let Some((kind, rest)) = text.split_once('/') else { return false };
    let Some(end) = after_token(rest) else { return false };
    if kind.is_empty() || !kind.bytes().all(is_token) {
        return false;
    }
    let mut rest = rest[end..].trim_start();
    while let Some(next) = rest.strip_prefix(';') {
        let next = next.trim_start();
        let Some(end) = parameter(next) else { return next.is_empty() };
        rest = next[end..].trim_start();
    }
    rest.is_empty()
}

/// Returns the length of the quoted string at the start of the text, which must be ASCII without control characters.
fn quoted(text: &str) -> Option<usize> {
    let mut bytes = text.bytes().enumerate().skip(1);
    while let Some((index, byte)) = bytes.next() {
        match byte {
            b'"' => return Some(index + 1),
            b'\\' => bytes.next().filter(|(_, byte)| byte.is_ascii()).map(drop)?,
            b' '..=b'~' => {}
            _ => return None,
        }
    }
    None
}

/// Returns whether a byte is allowed in a `token` of RFC 2045: printable ASCII except `tspecials`.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&byte)
}

/// Parses a content id, with or without angle brackets. `cid:` links in the HTML refer to it (RFC 2392).
fn content_id(node: Node<'_, '_>, faults: &mut Faults) -> Option<String> {
    let at = node.at;
    let text = node.line(1..=MAX_CONTENT_ID, faults)?;
    let id = text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(&text);
    if !id.is_empty() && id.bytes().all(|b| b.is_ascii_graphic() && !b"<>()[]\",;:\\".contains(&b)) {
        return Some(id.to_owned());
    }
    at.fault(faults, Code::InvalidValue, "must be printable ASCII without spaces and without <>()[]\",;:\\");
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_type_syntax_is_checked() {
        for good in [
            "application/pdf",
            "text/csv; charset=utf-8",
            "text/plain;charset=\"utf-8; \\\"x\\\"\" ; a=b",
            "application/vnd.ms-excel",
            "image/svg+xml;",
        ] {
            assert!(is_media_type(good), "{good}");
        }
        for bad in [
            "",
            "pdf",
            "/pdf",
            "a/",
            "a b/c",
            "a/b c",
            "a/b; c",
            "a/b; =c",
            "a/b; c=\"x",
            "a/b;c=\u{e9}",
            "a/b/c",
            "é/b",
        ] {
            assert!(!is_media_type(bad), "{bad}");
        }
    }

    #[test]
    fn media_type_is_guessed_from_the_extension() {
        for (name, kind) in [
            ("invoice.PDF", "application/pdf"),
            ("a.b.png", "image/png"),
            ("meeting.ics", "text/calendar"),
            ("Rechnung", "application/octet-stream"),
            (".pdf", "application/octet-stream"),
            ("a/b\\c", "application/octet-stream"),
        ] {
            assert_eq!(guess_type(name), kind, "{name}");
        }
    }
}
