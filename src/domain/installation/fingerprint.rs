//! Fingerprints of the settings that must be the same in all replicas. They show which settings differ without
//! revealing them. Pure.

use std::collections::BTreeMap;

use aws_lc_rs::{digest, hmac};

/// Fingerprints by the names of their settings.
pub type Fingerprints = BTreeMap<String, String>;

/// The length of a fingerprint, in bytes: enough to distinguish settings.
const LENGTH: usize = 8;

/// Returns the fingerprint of a setting that is not secret.
pub fn text_fingerprint(text: &str) -> String {
    hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
}

/// Returns the fingerprint of secrets, the current one first. It reveals nothing about them.
pub fn secrets_fingerprint<'a>(secrets: impl Iterator<Item = &'a str>) -> String {
    let fingerprints = secrets.map(|secret| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        hex(hmac::sign(&key, b"postrider settings fingerprint 1").as_ref())
    });
    text_fingerprint(&fingerprints.collect::<Vec<_>>().join(","))
}

/// Returns the names of the settings that differ. Ignores settings that only one side has, because the other side runs
/// another version.
pub fn differences(own: &Fingerprints, other: &Fingerprints) -> Vec<String> {
    let differs = |(name, value): &(&String, &String)| other.get(*name).is_some_and(|found| found != *value);
    own.iter().filter(differs).map(|(name, _)| name.clone()).collect()
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
        pairs.iter().map(|(name, value)| ((*name).to_owned(), text_fingerprint(value))).collect()
    }

    #[test]
    fn differing_settings_are_named() {
        let own = fingerprints(&[("routes", "a"), ("public_url", "b"), ("new", "c")]);
        assert_eq!(differences(&own, &fingerprints(&[("routes", "x"), ("public_url", "b"), ("old", "d")])), ["routes"]);
        assert_eq!(differences(&own, &Fingerprints::new()), Vec::<String>::new());
    }

    #[test]
    fn fingerprint_depends_on_secrets_and_their_order() {
        let fingerprint = |secrets: &[&str]| secrets_fingerprint(secrets.iter().copied());
        assert_eq!(fingerprint(&["one"]), fingerprint(&["one"]));
        assert_ne!(fingerprint(&["one"]), fingerprint(&["two"]));
        assert_ne!(fingerprint(&["one", "two"]), fingerprint(&["two", "one"]));
        assert_eq!(fingerprint(&["one"]).len(), 2 * LENGTH);
    }
}
