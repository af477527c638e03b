//! Files that attachments refer to instead of containing them: uploaded blobs (`sha256`), and the file parts of a form
//! (`part`).
//!
//! Only the database knows which blobs exist, so a request that refers to blobs is parsed twice: the first time,
//! [`check`] returns the digests to look up.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json_borrow::Value;

use super::Rejection;
use super::json::pointer::cut;
use crate::domain::api::fault::{Code, Faults};

/// Length of a SHA-256 in hexadecimal.
const DIGEST_LENGTH: usize = 64;
/// Maximum number of digests looked up for one request. More than this many attachments are refused anyway.
const MAX_DIGESTS: usize = 50_000;

/// The files of a request that are not in its JSON.
#[derive(Debug, Default)]
pub struct Files {
    /// Sizes of the stored blobs among those that the request refers to, by digest; `None` before the lookup.
    pub blobs: Option<HashMap<String, u64>>,
    /// The file parts of a form by their names; `None` if the request is not a form.
    pub parts: Option<BTreeMap<String, FilePart>>,
    /// Why parts are missing that the service itself would have added, by their names.
    pub missing: BTreeMap<String, MissingPart>,
}

/// No files: for requests without attachments.
pub static NO_FILES: Files = Files { blobs: None, parts: None, missing: BTreeMap::new() };

/// Why a part is missing.
#[derive(Debug, Clone)]
pub struct MissingPart {
    /// The field of the attachment that is at fault.
    pub field: &'static str,
    /// The code of the fault.
    pub code: Code,
    /// The message of the fault.
    pub message: String,
}

/// A file part of a form.
#[derive(Debug, Clone)]
pub struct FilePart {
    /// SHA-256 of the bytes, in hexadecimal.
    pub sha256: String,
    /// Size in bytes.
    pub size: u64,
    /// The bytes; empty if they are stored.
    pub data: Vec<u8>,
}

impl Files {
    /// Returns a file part of the form.
    pub fn part(&self, name: &str) -> Option<&FilePart> {
        self.parts.as_ref()?.get(name)
    }

    /// Returns the size of a stored blob.
    pub fn blob_size(&self, digest: &str) -> Option<u64> {
        self.blobs.as_ref()?.get(digest).copied()
    }
}

/// Returns a digest in lower case, if the text is a SHA-256 in hexadecimal.
pub fn digest(text: &str) -> Option<String> {
    let is_digest = text.len() == DIGEST_LENGTH && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_digest.then(|| text.to_ascii_lowercase())
}

/// The file parts of a form that no attachment refers to.
#[derive(Debug)]
pub(super) struct UnusedParts<'f>(BTreeSet<&'f str>);

impl<'f> UnusedParts<'f> {
    /// Returns all parts of a form. A request that is not a form has none.
    pub(super) fn new(files: &'f Files) -> Self {
        Self(files.parts.iter().flat_map(BTreeMap::keys).map(String::as_str).collect())
    }

    /// Removes the parts to which the attachments in a body refer.
    pub(super) fn remove_used(&mut self, body: &Value<'_>) {
        if self.0.is_empty() {
            return;
        }
        for name in attachments(body).filter_map(|file| field(file, "part")) {
            self.0.remove(name);
        }
    }

    /// Adds a fault for each part.
    pub(super) fn report(self, faults: &mut Faults) {
        for name in self.0 {
            let name = cut(name);
            let message = format!("no attachment refers to this part; add an attachment with \"part\": \"{name}\"");
            faults.push(name, Code::UnusedPart, message);
        }
    }
}

/// Adds a fault for each part of a form that no attachment refers to. Fails if blobs must be looked up first. Must be
/// called with the whole body, before its fields are taken out.
pub fn check(value: &Value<'_>, files: &Files, faults: &mut Faults) -> Result<(), Rejection> {
    if files.blobs.is_none() {
        let digests = digests(value);
        if !digests.is_empty() {
            return Err(Rejection::NeedsBlobs(digests.into_iter().collect()));
        }
    }
    let mut unused = UnusedParts::new(files);
    unused.remove_used(value);
    unused.report(faults);
    Ok(())
}

/// Returns the digests of the blobs that a body refers to, at most as many as a request may look up.
pub fn digests(value: &Value<'_>) -> BTreeSet<String> {
    attachments(value).filter_map(|file| digest(field(file, "sha256")?)).take(MAX_DIGESTS).collect()
}

fn field<'v>(object: &'v Value<'v>, name: &'static str) -> Option<&'v str> {
    object.get(name).as_str()
}

/// Returns the attachments in a message, or in the messages of a batch: an array, or an object with the field
/// `messages`.
fn attachments<'v>(value: &'v Value<'v>) -> impl Iterator<Item = &'v Value<'v>> {
    fn items<'v>(value: &'v Value<'v>) -> &'v [Value<'v>] {
        value.as_array().unwrap_or_default()
    }
    let batch = items(value).iter().chain(items(value.get("messages")));
    std::iter::once(value).chain(batch).flat_map(|message| items(message.get("attachments")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn checked(body: &serde_json::Value, files: &Files) -> (Option<Vec<String>>, Vec<(String, &'static str)>) {
        let text = body.to_string();
        let (value, mut faults) = (serde_json::from_str(&text).unwrap(), Faults::default());
        let digests = match check(&value, files, &mut faults) {
            Ok(()) => None,
            Err(Rejection::NeedsBlobs(digests)) => Some(digests),
            Err(other) => panic!("{other}"),
        };
        (digests, faults.into_vec().into_iter().map(|fault| (fault.pointer, fault.code)).collect())
    }

    #[test]
    fn digests_are_found_in_messages_and_batches() {
        let (one, two) = ("a1".repeat(32), "b2".repeat(32));
        let message = json!({"attachments": [{"sha256": one.to_uppercase()}, {"sha256": two}, {"sha256": "x"}, 5]});
        let expected = (Some(vec![one.clone(), two.clone()]), Vec::new());
        for body in [message.clone(), json!([message]), json!({"messages": [5, message, message]})] {
            assert_eq!(checked(&body, &Files::default()), expected, "{body}");
        }
        let looked_up = Files { blobs: Some(HashMap::new()), ..Files::default() };
        assert_eq!(checked(&message, &looked_up).0, None);
        for body in [json!({"text": one}), json!({"attachments": {"sha256": one}}), json!([]), json!("x"), json!(null)]
        {
            assert_eq!(checked(&body, &Files::default()).0, None, "{body}");
        }
    }

    #[test]
    fn unused_parts_are_reported() {
        let part = FilePart { sha256: "00".repeat(32), size: 0, data: Vec::new() };
        let parts = ["a", "b", "c"].map(|name| (name.to_owned(), part.clone()));
        let files = Files { parts: Some(parts.into()), ..Files::default() };
        let body = json!([{"attachments": [{"part": "a"}, {"part": "a"}]}, {"attachments": [{"part": "c"}]}]);
        assert_eq!(checked(&body, &files), (None, vec![("b".to_owned(), "unused_part")]));
    }
}
