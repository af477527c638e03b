//! Fingerprints of the settings that have to be the same in all replicas, so that a replica that differs can be named without
//! showing a setting to anybody. Pure.

use std::collections::BTreeMap;

use aws_lc_rs::{digest, hmac};

/// A fingerprint for each setting, by its name.
pub type Fingerprints = BTreeMap<String, String>;

/// Bytes of a fingerprint that are kept: enough to tell settings apart.
const LENGTH: usize = 8;

/// Of what is no secret.
pub fn of_text(text: &str) -> String {
    hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
}

/// Of secrets, the one in use first. Whoever reads it learns nothing about them, and only whoever has them can make it.
pub fn of_secrets<'a>(secrets: impl Iterator<Item = &'a str>) -> String {
    let marks = secrets.map(|secret| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        hex(hmac::sign(&key, b"postrider settings fingerprint 1").as_ref())
    });
    of_text(&marks.collect::<Vec<_>>().join(","))
}

/// The names of the settings that differ; one that only one side knows is of another version, and tells nothing.
pub fn differences(ours: &Fingerprints, theirs: &Fingerprints) -> Vec<String> {
    let differs = |(name, value): &(&String, &String)| theirs.get(*name).is_some_and(|other| other != *value);
    ours.iter().filter(differs).map(|(name, _)| name.clone()).collect()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().take(LENGTH).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Fingerprints {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), of_text(value))).collect()
    }

    #[test]
    fn settings_that_differ_are_named_and_unknown_ones_are_not() {
        let ours = of(&[("routes", "a"), ("public_url", "b"), ("new", "c")]);
        assert_eq!(differences(&ours, &of(&[("routes", "x"), ("public_url", "b"), ("old", "d")])), ["routes"]);
        assert_eq!(differences(&ours, &Fingerprints::new()), Vec::<String>::new());
    }

    #[test]
    fn each_secret_and_their_order_count() {
        let of = |secrets: &[&str]| of_secrets(secrets.iter().copied());
        assert_eq!(of(&["one"]), of(&["one"]));
        assert_ne!(of(&["one"]), of(&["two"]));
        assert_ne!(of(&["one", "two"]), of(&["two", "one"]));
        assert_eq!(of(&["one"]).len(), 2 * LENGTH);
    }
}
