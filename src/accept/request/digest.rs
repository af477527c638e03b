//! Computes the digest of a parsed request, by which requests with the same `Idempotency-Key` are compared. The order
//! of names, white space, escapes and `null` (which equals a missing field) do not matter; everything else does.

use serde_json_borrow::Value;
use sha2::{Digest as _, Sha256};

/// Returns the SHA-256 of a JSON value. Every part is prefixed with its type and length, so that different values never
/// produce the same bytes. The parser bounds the depth.
pub fn digest(value: &Value<'_>) -> [u8; 32] {
    let mut hash = Sha256::new();
    write(value, &mut hash);
    hash.finalize().into()
}

fn write(value: &Value<'_>, hash: &mut Sha256) {
    match value {
        Value::Null => hash.update(b"n"),
        Value::Bool(false) => hash.update(b"f"),
        Value::Bool(true) => hash.update(b"t"),
        Value::Number(number) => text(b'#', &number.to_string(), hash),
        Value::Str(string) => text(b's', string, hash),
        Value::Array(items) => {
            length(b'a', items.len(), hash);
            for item in items {
                write(item, hash);
            }
        }
        Value::Object(object) => {
            let mut entries: Vec<(&str, &Value<'_>)> = object.iter().filter(|(_, value)| !value.is_null()).collect();
            entries.sort_by_key(|(name, _)| *name);
            length(b'o', entries.len(), hash);
            for (name, value) in entries {
                text(b'k', name, hash);
                write(value, hash);
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
