//! Parses the body of `POST /v1/test/clock`.

use std::ops::RangeInclusive;
use std::time::Duration;

use chrono::TimeDelta;

use crate::accept::request::json::fields::Fields;
use crate::accept::request::json::pointer::Pointer;
use crate::accept::request::{Rejection, json};
use crate::domain::api::fault::Faults;

/// The fields of the body.
const FIELDS: &[&str] = &["advance"];
/// How far one call advances the clock.
const ADVANCE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(30 * 24);

/// Parses how far to advance the clock.
pub fn parse(body: &[u8]) -> Result<TimeDelta, Rejection> {
    let value = json::read(body, json::MAX_VALUES)?;
    let mut faults = Faults::default();
    let at = Pointer::Root;
    let advance = Fields::open(value, &at, FIELDS, &mut faults)
        .and_then(|mut fields| fields.require("advance", &mut faults))
        .and_then(|node| node.seconds(ADVANCE, &mut faults));
    match advance {
        Some(seconds) if faults.is_empty() => Ok(TimeDelta::seconds(seconds.into())),
        _ => Err(Rejection::Invalid(faults.into_vec())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advance_is_a_duration_within_bounds() {
        assert_eq!(parse(br#"{"advance": "2h"}"#), Ok(TimeDelta::hours(2)));
        assert_eq!(parse(br#"{"advance": 90}"#), Ok(TimeDelta::seconds(90)));
        assert_eq!(parse(br#"{"advance": "30d"}"#), Ok(TimeDelta::days(30)));
        for (body, code) in [
            (r#"{"advance": "0s"}"#, "invalid_value"),
            (r#"{"advance": "31d"}"#, "invalid_value"),
            (r#"{"advance": "-1h"}"#, "invalid_value"),
            (r#"{"advance": true}"#, "invalid_type"),
            ("{}", "required"),
        ] {
            let Err(Rejection::Invalid(faults)) = parse(body.as_bytes()) else { panic!("{body}") };
            assert_eq!((faults[0].pointer.as_str(), faults[0].code), ("/advance", code), "{body}");
        }
    }
}
