//! The `Idempotency-Key` header (IETF draft): quoted or bare, 1–256 characters.

use axum::http::HeaderMap;
use sha2::{Digest, Sha256};

use super::ApiError;
use crate::accept::Idempotency;
use crate::domain::fault::{Code, Fault};

const NAME: &str = "idempotency-key";

/// The key of a request, with the fingerprint of its body.
pub(super) fn of(headers: &HeaderMap, body: &[u8]) -> Result<Option<Idempotency>, ApiError> {
    let Some(value) = headers.get(NAME) else { return Ok(None) };
    let bare = value
        .to_str()
        .ok()
        .map(str::trim)
        .map(|text| text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text));
    match bare {
        Some(key) if (1..=256).contains(&key.len()) => {
            Ok(Some(Idempotency { key: key.to_owned(), fingerprint: Sha256::digest(body).into() }))
        }
        _ => Err(ApiError::Invalid(vec![Fault {
            pointer: "Idempotency-Key".into(),
            code: Code::InvalidValue.as_str(),
            message: "An Idempotency-Key has 1 to 256 printable ASCII characters.".into(),
        }])),
    }
}
