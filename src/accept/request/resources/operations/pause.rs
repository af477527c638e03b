//! Parses the body of `POST …/pause` of a lane or a stream: the reason.

use crate::accept::request::json::fields::Fields;
use crate::accept::request::json::pointer::Pointer;
use crate::accept::request::{Rejection, json};
use crate::domain::api::fault::Faults;

/// The fields of the body.
const FIELDS: &[&str] = &["reason"];
/// Maximum length of a reason, in characters.
const MAX_REASON: usize = 500;

/// Parses the reason. Returns `None` for an empty body.
pub fn parse(body: &[u8]) -> Result<Option<String>, Rejection> {
    if body.trim_ascii().is_empty() {
        return Ok(None);
    }
    let value = json::read(body, json::MAX_VALUES)?;
    let mut faults = Faults::default();
    let at = Pointer::Root;
    let reason = Fields::open(value, &at, FIELDS, &mut faults)
        .and_then(|mut fields| fields.take("reason"))
        .and_then(|node| node.line(1..=MAX_REASON, &mut faults));
    if faults.is_empty() {
        Ok(reason.map(std::borrow::Cow::into_owned))
    } else {
        Err(Rejection::Invalid(faults.into_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_is_optional_and_must_be_one_line() {
        assert_eq!(parse(b""), Ok(None));
        assert_eq!(parse(b"{}"), Ok(None));
        assert_eq!(parse(br#"{"reason": "the postmaster asked"}"#), Ok(Some("the postmaster asked".into())));
        for body in [r#"{"reason": "a\nb"}"#, r#"{"reason": ""}"#, r#"{"reason": 5}"#, r#"{"why": "x"}"#, "[]"] {
            assert!(matches!(parse(body.as_bytes()), Err(Rejection::Invalid(_))), "{body}");
        }
    }
}
