//! Times in responses: RFC 3339 with microseconds, which all SDKs of Resend parse.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serializer;

/// Formats a time.
pub(super) fn format(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Serializes a time.
pub(super) fn time<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*time))
}

/// Serializes a time that may be missing.
#[allow(clippy::ref_option, reason = "the signature that serde calls")]
pub(super) fn optional_time<S: Serializer>(time: &Option<DateTime<Utc>>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.serialize_str(&format(*time)),
        None => serializer.serialize_none(),
    }
}
