//! Translates the JSON of requests that send messages into that of `/v1/messages`.
//!
//! Only the values that differ are parsed: the files of attachments, the time, and the id of the template. The other
//! values are copied unparsed, so that the parser of `/v1` validates them and reports their faults. The bytes of a file
//! become a part of a form ([`FilePart`]), in whatever form the SDK has sent them. A file that is given as a URL becomes
//! a part too, which the caller has to download ([`Download`]).
//!
//! A body may be larger than a body of `/v1`, because some SDKs send files as arrays of numbers. The translation may
//! not: it stops before it becomes larger than a body of `/v1` may be.

mod attachment;
mod file_bytes;
pub(super) mod schedule;
mod test_addresses;
mod text;
mod translator;

use std::collections::BTreeMap;
use std::ops::Range;

use chrono::{DateTime, Utc};
use serde::Deserialize;

use crate::accept::request::batch::{self, Refused, Validation};
use crate::accept::request::files::FilePart;
use crate::accept::request::json::pointer::Pointer;
use crate::accept::request::json::raw_list::RawList;
use crate::accept::request::{Rejection, json};
use crate::domain::api::fault::{Code, Fault, Faults};

pub(super) use text::with_texts;
use translator::{Email, Translator};

/// Maximum number of messages in a batch.
pub(super) const MAX_BATCH: usize = 100;

/// How a request is translated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    /// When the request arrived.
    pub now: DateTime<Utc>,
    /// Maximum number of bytes of the JSON and the files together.
    pub max: usize,
    /// Whether the request has an `Idempotency-Key`, so that its canonical form is needed.
    pub is_keyed: bool,
    /// How many attachments of a message may be given as URLs: those beyond a message's maximum number of attachments
    /// are refused later, and need not be downloaded. `None` if no files are downloaded.
    pub downloads: Option<usize>,
}

/// A file to download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Download {
    /// The name of the part for the file.
    pub part: String,
    pub url: String,
}

/// A translated request.
#[derive(Debug, Default)]
pub(super) struct Translation {
    /// The JSON for `/v1`, without derived texts.
    pub json: Vec<u8>,
    /// The same JSON, but with the text of `scheduled_at` and the URLs of attachments as the client wrote them, and with
    /// a hash in place of each refused message. Requests with the same `Idempotency-Key` are compared by this form, so
    /// that "in 1 hour" is the same a minute later. Empty if the request has no key.
    pub canonical: Vec<u8>,
    /// The files, by the names of their parts.
    pub parts: BTreeMap<String, FilePart>,
    /// The files that are not in `parts`, but must be downloaded.
    pub downloads: Vec<Download>,
    /// The positions in the JSON of the HTML bodies of messages without a text ([`with_texts`]).
    pub htmls: Vec<Range<usize>>,
    /// The position in the request of each message in the JSON.
    pub indexes: Vec<usize>,
    /// The messages of a permissive batch that are not in the JSON, because they cannot be translated.
    pub refused: Vec<Refused>,
}

/// Translates the body of `POST /emails`. Returns `None` if the translation is too large.
pub(super) fn message(body: &[u8], options: &Options) -> Result<Option<Translation>, Rejection> {
    let email: Email<'_> = read_object(body)?;
    let (mut translator, mut faults) = (Translator::new(*options), Faults::default());
    translator.email(&email, 0, &Pointer::Root, &mut faults);
    let translation = translator.finish();
    if translation.is_none() || faults.is_empty() {
        Ok(translation)
    } else {
        Err(Rejection::Invalid(faults.into_vec()))
    }
}

/// Translates the body of `POST /emails/batch`. Returns `None` if the translation is too large.
pub(super) fn batch(body: &[u8], options: &Options, validation: Validation) -> Result<Option<Translation>, Rejection> {
    let emails = match read::<RawList<'_, MAX_BATCH>>(body)? {
        RawList::Array { count: 0, .. } => {
            return Err(one_fault("", Code::Required, "at least one email is required"));
        }
        RawList::Array { count, .. } if count > MAX_BATCH => {
            let message = format!("at most {MAX_BATCH} emails are allowed, not {count}");
            return Err(one_fault("", Code::TooMany, &message));
        }
        RawList::Array { items, .. } => items,
        RawList::Null => return Err(one_fault("", Code::InvalidType, "expected an array, found null")),
        RawList::Other(found) => {
            return Err(one_fault("", Code::InvalidType, &format!("expected an array, found {found}")));
        }
    };
    let mut translator = Translator::new(*options);
    translator.both(b"{\"messages\":[");
    let list = Pointer::Field(&Pointer::Root, "messages");
    for (index, email) in emails.into_iter().enumerate() {
        translator.item(email, index, &Pointer::Index(&list, index));
    }
    translator.both(match validation {
        Validation::Strict => b"]}",
        Validation::Permissive => b"],\"validation\":\"permissive\"}",
    });
    match translator.finish() {
        Some(translation) if validation == Validation::Strict && !translation.refused.is_empty() => {
            Err(Rejection::Invalid(batch::all_faults(Vec::new(), translation.refused)))
        }
        translation => Ok(translation),
    }
}

/// Parses a body that must be an object. Without this check, serde would also accept an array, as the members of the
/// struct in their order.
pub(super) fn read_object<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Rejection> {
    if json::text(body)?.trim_ascii_start().starts_with('{') {
        return read(body);
    }
    read::<serde::de::IgnoredAny>(body)?;
    Err(one_fault("", Code::InvalidType, EXPECTED_OBJECT))
}

/// The fault of a value that is not an object.
const EXPECTED_OBJECT: &str = "expected an object";

/// Parses a value within a body, which must be an object. Returns the error message if it is invalid.
fn read_item<'a, T: Deserialize<'a>>(value: &'a str) -> Result<T, String> {
    if !value.starts_with('{') {
        return Err(EXPECTED_OBJECT.into());
    }
    serde_json::from_str(value).map_err(|error| error.to_string())
}

/// Parses a body. serde checks the types of the parsed values, and reports only the first fault.
pub(super) fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Rejection> {
    serde_json::from_str(json::text(body)?).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => one_fault("", Code::InvalidType, &error.to_string()),
        _ => json::malformed(&error),
    })
}

/// Returns the rejection of a body with one fault.
pub(super) fn one_fault(pointer: &str, code: Code, message: &str) -> Rejection {
    Rejection::Invalid(vec![Fault { pointer: pointer.into(), code: code.as_str(), message: message.into() }])
}

#[cfg(test)]
mod tests;
