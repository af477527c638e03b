//! Parses the body of `POST /v1/webhooks/{id}/replay`: where to start.

use std::ops::RangeInclusive;

use chrono::{DateTime, Utc};

use crate::accept::request::json::fields::Fields;
use crate::accept::request::json::pointer::Pointer;
use crate::accept::request::message::schedule;
use crate::accept::request::{Rejection, json};
use crate::domain::api::fault::{Code, Faults};

/// The fields of the body.
const FIELDS: &[&str] = &["after_seq", "since"];
/// Range of an event's `seq`.
const SEQ: RangeInclusive<u64> = 0..=i64::MAX.cast_unsigned();

/// Where a replay starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayStart {
    /// After the event with this `seq`.
    After(i64),
    /// With the first event at or after this time.
    Since(DateTime<Utc>),
}

/// Parses where to start: a `seq` or a time, not both.
pub fn parse(body: &[u8]) -> Result<ReplayStart, Rejection> {
    let value = json::read(body, json::MAX_VALUES)?;
    let mut faults = Faults::default();
    let at = Pointer::Root;
    let start = Fields::open(value, &at, FIELDS, &mut faults).and_then(|mut fields| {
        let since = fields.take("since");
        match (fields.take("after_seq"), since) {
            (Some(_), Some(_)) => {
                at.fault(&mut faults, Code::InvalidValue, "use `after_seq` or `since`, not both");
                None
            }
            (Some(node), None) => node.whole(SEQ, &mut faults).map(ReplayStart::After),
            (None, Some(node)) => schedule::time(Some(node), &mut faults).map(|(time, _)| ReplayStart::Since(time)),
            (None, None) => {
                let message = "use `after_seq`, the `seq` of the event after which to start, or `since`, a time";
                Pointer::Field(&at, "after_seq").fault(&mut faults, Code::Required, message);
                None
            }
        }
    });
    match start {
        Some(start) if faults.is_empty() => Ok(start),
        _ => Err(Rejection::Invalid(faults.into_vec())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replay_starts_after_a_seq_or_at_a_time() {
        assert_eq!(parse(br#"{"after_seq": 0}"#), Ok(ReplayStart::After(0)));
        assert_eq!(parse(br#"{"since": "1970-01-01T01:00:00+01:00"}"#), Ok(ReplayStart::Since(DateTime::UNIX_EPOCH)));
    }

    #[test]
    fn body_without_one_valid_start_is_refused() {
        for (body, pointer, code) in [
            ("{}", "/after_seq", "required"),
            (r#"{"after_seq": 1, "since": "2026-11-23T12:00:00Z"}"#, "", "invalid_value"),
            (r#"{"after_seq": -1}"#, "/after_seq", "invalid_value"),
            (r#"{"after_seq": 9223372036854775808}"#, "/after_seq", "invalid_value"),
            (r#"{"after_seq": "5"}"#, "/after_seq", "invalid_type"),
            (r#"{"since": "yesterday"}"#, "/since", "invalid_timestamp"),
            (r#"{"seq": 5, "after_seq": 1}"#, "/seq", "unknown_field"),
            ("[]", "", "invalid_type"),
        ] {
            let Err(Rejection::Invalid(faults)) = parse(body.as_bytes()) else { panic!("{body} is accepted") };
            let found: Vec<_> = faults.iter().map(|fault| (fault.pointer.as_str(), fault.code)).collect();
            assert_eq!(found, [(pointer, code)], "{body}");
        }
    }
}
