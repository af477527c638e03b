//! The `Idempotency-Key` header (IETF draft): quoted or bare, 1–256 characters.

use axum::http::HeaderMap;

use crate::domain::api::fault::{Code, Fault};
use crate::http::ApiError;

const HEADER: &str = "idempotency-key";

/// Returns the idempotency key of a request, if it has one.
pub(in crate::http) fn key(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().ok().filter(|_| values.next().is_none());
    text.and_then(parse).map(Some).ok_or_else(invalid)
}

/// Returns the key in the value of a header: quoted or bare.
fn parse(value: &str) -> Option<&str> {
    let text = value.trim();
    let key = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    (1..=256).contains(&key.len()).then_some(key)
}

fn invalid() -> ApiError {
    ApiError::Invalid(vec![Fault {
        pointer: "Idempotency-Key".into(),
        code: Code::InvalidValue.as_str(),
        message: "Pass one `Idempotency-Key` of 1 to 256 printable ASCII characters.".into(),
    }])
}

/// Returns the idempotency key in the header fields of a message, if it has one.
pub(in crate::http) fn key_of_fields(values: &[String]) -> Result<Option<&str>, ApiError> {
    match values {
        [] => Ok(None),
        [one] if one.bytes().all(|byte| (b' '..=b'~').contains(&byte)) => parse(one).map(Some).ok_or_else(invalid),
        _ => Err(invalid()),
    }
}
