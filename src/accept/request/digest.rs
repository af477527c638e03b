//! Computes the digest of a parsed request, by which requests with the same `Idempotency-Key` are compared. The order
//! of names, white space, escapes and fields that are `null` (which equal missing ones) do not matter; everything else
//! does.

use std::borrow::Cow;

use serde_json_borrow::Value;
use sha2::{Digest as _, Sha256};

use super::files::{Files, NO_FILES};

/// Returns the SHA-256 of a JSON value. Every part is prefixed with its type and length, so that different values never
/// produce the same bytes. The parser bounds the depth.
pub fn digest(value: &Value<'_>) -> [u8; 32] {
    with_files(value, &NO_FILES)
}

/// Like [`digest`], for a request with files: an attachment that refers to a part of the form counts as one that refers
/// to a blob with the bytes of this part, so that neither the name of the part nor its place in the form matters.
pub fn with_files(value: &Value<'_>, files: &Files) -> [u8; 32] {
    let mut hash = Sha256::new();
    write(value, files, false, &mut hash);
    hash.finalize().into()
}

/// Adds a value; `is_attachment` says whether it is a list of attachments or one of its items.
fn write(value: &Value<'_>, files: &Files, is_attachment: bool, hash: &mut Sha256) {
    match value {
        Value::Null => hash.update(b"n"),
        Value::Bool(false) => hash.update(b"f"),
        Value::Bool(true) => hash.update(b"t"),
        Value::Number(number) => text(b'#', &number.to_string(), hash),
        Value::Str(string) => text(b's', string, hash),
        Value::Array(items) => {
            length(b'a', items.len(), hash);
            for item in items {
                write(item, files, is_attachment, hash);
            }
        }
        Value::Object(object) => {
            let mut entries: Vec<(&str, Cow<'_, Value<'_>>)> = object
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| {
                    let part = value.as_str().filter(|_| is_attachment && name == "part");
                    match part.and_then(|part| files.part(part)) {
                        Some(part) => ("sha256", Cow::Owned(Value::Str(part.sha256.as_str().into()))),
                        None => (name, Cow::Borrowed(value)),
                    }
                })
                .collect();
            entries.sort_by_key(|(name, _)| *name);
            length(b'o', entries.len(), hash);
            for (name, value) in entries {
                text(b'k', name, hash);
                write(&value, files, name == "attachments", hash);
            }
        }
    }
}

fn text(kind: u8, text: &str, hash: &mut Sha256) {
    length(kind, text.len(), hash);
    hash.update(text.as_bytes());
}

fn length(kind: u8, length: usize, hash: &mut Sha256) {
    let mut head = [kind, 0, 0, 0, 0, 0, 0, 0, 0];
    head[1..].copy_from_slice(&(length as u64).to_be_bytes());
    hash.update(head);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accept::request::files::FilePart;

    fn digest_of(json: &str) -> [u8; 32] {
        digest(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn order_spaces_escapes_and_null_do_not_matter() {
        let one = digest_of(r#"{"a":"x","b":[1,{"c":true,"d":"e"}]}"#);
        for same in [
            r#" { "b" : [ 1, {"d":"e", "c":true} ], "a" : "x" } "#,
            r#"{"a":"\u0078","b":[1,{"c":true,"d":"e"}]}"#,
            r#"{"a":"x","b":[1,{"c":true,"d":"e","f":null}],"g":null}"#,
        ] {
            assert_eq!(digest_of(same), one, "{same}");
        }
    }

    #[test]
    fn part_of_a_form_counts_as_a_blob_with_its_bytes() {
        let part = |sha256: &str| FilePart { sha256: sha256.into(), size: 3, data: Vec::new() };
        let files = |name: &str, sha256: &str| Files {
            parts: Some([(name.to_owned(), part(sha256))].into()),
            ..Files::default()
        };
        let of = |json: &str, files: &Files| with_files(&serde_json::from_str(json).unwrap(), files);
        let by_part = |name: &str| format!(r#"{{"attachments":[{{"part":"{name}","filename":"a"}}]}}"#);
        let by_hash = |sha256: &str| format!(r#"{{"attachments":[{{"filename":"a","sha256":"{sha256}"}}]}}"#);
        let form = of(&by_part("x"), &files("x", "11"));
        assert_eq!(form, digest_of(&by_hash("11")));
        assert_eq!(form, of(&by_part("y"), &files("y", "11")));
        assert_ne!(form, of(&by_part("x"), &files("x", "22")));
        assert_ne!(form, digest_of(&by_part("x")));
        let metadata = |value: &str| format!(r#"{{"metadata":{{{value}}}}}"#);
        let other = of(&metadata(r#""part":"x""#), &files("x", "11"));
        assert_eq!(other, digest_of(&metadata(r#""part":"x""#)), "only attachments refer to parts");
    }

    #[test]
    fn every_other_difference_changes_the_digest() {
        let all = [
            r#"{"a":"x"}"#,
            r#"{"a":"y"}"#,
            r#"{"b":"x"}"#,
            r#"{"a":["x"]}"#,
            r#"{"a":["x",""]}"#,
            r#"{"a":["","x"]}"#,
            r#"{"a":true}"#,
            r#"{"a":"true"}"#,
            r#"{"a":1}"#,
            r#"{"a":"1"}"#,
            r#"{"a":{}}"#,
            r#"{"a":[]}"#,
            "{}",
            r#"{"a":["x",null]}"#,
            r#"{"a":{"x":"y"}}"#,
            r#"{"a":["xy"]}"#,
            r#"{"a":["x","y"]}"#,
            r#"{"a":["y","x"]}"#,
        ];
        let digests: std::collections::HashSet<_> = all.iter().map(|json| digest_of(json)).collect();
        assert_eq!(digests.len(), all.len());
    }
}
