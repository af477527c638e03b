//! Sets of error responses that operations share, for `responses(…)` in their annotations. The documentation comment of
//! a variant is the description of the response.
//!
//! A response listed after a set replaces the set's response with the same status. [`super::document`] adds the body of
//! every error, and requires an API key for every operation with [`AuthErrors`].

#![expect(dead_code, reason = "only the annotations use the sets; handlers return `ApiError`")]

use utoipa::IntoResponses;

/// The errors of every operation that requires an API key.
#[derive(IntoResponses)]
pub enum AuthErrors {
    /// Missing or invalid API key
    #[response(status = 401)]
    Unauthorized,
    /// Insufficient scope
    #[response(status = 403)]
    Forbidden,
    /// A limit of the API key is exceeded, or too many requests had invalid API keys; retry after `Retry-After`
    #[response(status = 429)]
    LimitExceeded,
}

/// The error of operations on one object.
#[derive(IntoResponses)]
pub enum NotFound {
    /// Not found
    #[response(status = 404)]
    NotFound,
}

/// The errors of operations on one message.
#[derive(IntoResponses)]
pub enum MessageErrors {
    /// Not found
    #[response(status = 404)]
    NotFound,
    /// The message was sent from SQL, and is not accepted yet or was rejected
    #[response(status = 409)]
    NotAccepted,
}

/// The error of operations with query parameters.
#[derive(IntoResponses)]
pub enum InvalidParameter {
    /// Invalid parameter
    #[response(status = 422)]
    InvalidParameter,
}

/// The errors of operations with a JSON body.
#[derive(IntoResponses)]
pub enum JsonErrors {
    /// Malformed JSON
    #[response(status = 400)]
    Malformed,
    /// Request body too large
    #[response(status = 413)]
    TooLarge,
    /// The content type is not `application/json`
    #[response(status = 415)]
    UnsupportedMediaType,
    /// Invalid request; `errors` lists every fault
    #[response(status = 422)]
    Invalid,
}
