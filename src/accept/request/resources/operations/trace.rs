//! Parses the body of `POST /v1/lanes/{id}/trace`.

use std::ops::RangeInclusive;

use crate::accept::request::json::fields::Fields;
use crate::accept::request::json::pointer::Pointer;
use crate::accept::request::{Rejection, json};
use crate::domain::api::fault::Faults;

/// The fields of the body.
const FIELDS: &[&str] = &["attempts"];
/// The number of attempts that can be traced; 0 ends a trace.
const ATTEMPTS: RangeInclusive<u64> = 0..=100;

/// Parses the number of attempts to trace.
pub fn parse(body: &[u8]) -> Result<i32, Rejection> {
    let value = json::read(body, json::MAX_VALUES)?;
    let mut faults = Faults::default();
    let at = Pointer::Root;
    let attempts = Fields::open(value, &at, FIELDS, &mut faults)
        .and_then(|mut fields| fields.require("attempts", &mut faults))
        .and_then(|node| node.whole(ATTEMPTS, &mut faults));
    match attempts {
        Some(attempts) if faults.is_empty() => Ok(attempts),
        _ => Err(Rejection::Invalid(faults.into_vec())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_required_and_limited() {
        assert_eq!(parse(br#"{"attempts": 100}"#), Ok(100));
        assert_eq!(parse(br#"{"attempts": 0}"#), Ok(0));
        for body in ["{}", r#"{"attempts": 101}"#, r#"{"attempts": -1}"#, r#"{"attempts": "5"}"#, r#"{"n": 5}"#, "[]"] {
            assert!(matches!(parse(body.as_bytes()), Err(Rejection::Invalid(_))), "{body}");
        }
    }
}
