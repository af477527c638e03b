//! Fingerprints of the settings that must be the same in all replicas, so that a differing replica can be found without
//! revealing a setting. Pure.

use std::collections::BTreeMap;

use aws_lc_rs::{digest, hmac};

/// A fingerprint for each setting, by its name.
pub type Fingerprints = BTreeMap<String, String>;

/// Bytes of a fingerprint: enough to distinguish settings.
const LENGTH: usize = 8;

/// Returns the fingerprint of a setting that is not secret.
pub fn of_text(text: &str) -> String {
    hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
}

/// Returns the fingerprint of secrets, the current one first. It reveals nothing about them.
pub fn of_secrets<'a>(secrets: impl Iterator<Item = &'a str>) -> String {
    let marks = secrets.map(|secret| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        hex(hmac::sign(&key, b"postrider settings fingerprint 1").as_ref())
    });
    of_text(&marks.collect::<Vec<_>>().join(","))
}

/// Returns the names of the settings that differ. A setting that only one side has comes from another version and is
/// ignored.
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

    fn fingerprints(pairs: &[(&str, &str)]) -> Fingerprints {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), of_text(value))).collect()
    }

    #[test]
    fn differing_settings_are_named_and_unknown_ones_are_not() {
        let ours = fingerprints(&[("routes", "a"), ("public_url", "b"), ("new", "c")]);
        assert_eq!(
            differences(&ours, &fingerprints(&[("routes", "x"), ("public_url", "b"), ("old", "d")])),
            ["routes"]
        );
        assert_eq!(differences(&ours, &Fingerprints::new()), Vec::<String>::new());
    }

    #[test]
    fn each_secret_and_their_order_count() {
        let fingerprint = |secrets: &[&str]| of_secrets(secrets.iter().copied());
        assert_eq!(fingerprint(&["one"]), fingerprint(&["one"]));
        assert_ne!(fingerprint(&["one"]), fingerprint(&["two"]));
        assert_ne!(fingerprint(&["one", "two"]), fingerprint(&["two", "one"]));
        assert_eq!(fingerprint(&["one"]).len(), 2 * LENGTH);
    }
}
