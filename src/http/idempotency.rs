//! The `Idempotency-Key` header (IETF draft): quoted or bare, 1–256 characters.

use axum::http::HeaderMap;

use super::ApiError;
use crate::domain::fault::{Code, Fault};

const HEADER: &str = "idempotency-key";

/// Returns the idempotency key of a request, if it has one.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let bare = value
        .to_str()
        .ok()
        .map(str::trim)
        .map(|text| text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text));
    match bare {
        Some(key) if (1..=256).contains(&key.len()) && values.next().is_none() => Ok(Some(key)),
        _ => Err(ApiError::Invalid(vec![Fault {
            pointer: "Idempotency-Key".into(),
            code: Code::InvalidValue.as_str(),
            message: "Pass one `Idempotency-Key` of 1 to 256 printable ASCII characters.".into(),
        }])),
    }
}
