//! Error responses (RFC 9457) of all endpoints: plain data, completed by `http::request_id`, which knows the request.

use std::borrow::Cow;

use serde::Serialize;

use super::fault::Fault;
use super::words::words;

words! {
    /// What kind of error it is. Branch on it, and not on `title` or `detail`. New codes may be added.
    pub enum ProblemCode as "ProblemCode" {
        /// The body, a header or the query string cannot be parsed.
        MalformedRequest = "malformed_request",
        /// The API key is missing, wrong, revoked or expired.
        Unauthorized = "unauthorized",
        /// The key lacks a scope, or is not allowed to send from the sender's domain.
        Forbidden = "forbidden",
        /// No such endpoint, or no such object for this key.
        NotFound = "not_found",
        /// The endpoint does not support this method.
        MethodNotAllowed = "method_not_allowed",
        /// The request body did not arrive in time.
        BodyTimeout = "body_timeout",
        /// A request with this `Idempotency-Key` is still in progress.
        IdempotencyKeyInFlight = "idempotency_key_in_flight",
        /// The domain is registered already.
        DomainExists = "domain_exists",
        /// DKIM keys cannot be stored, because no `secret_key` is configured.
        NoSecretKey = "no_secret_key",
        /// New DKIM keys were created before and wait for their records.
        RotationPending = "rotation_pending",
        /// The message has an unsubscribe link, but this process has no `public_url` or `secret_key` to make it with.
        NotConfigured = "not_configured",
        /// The message that the report is about is still being sent.
        StillSending = "still_sending",
        /// No recipient of the message waits for its `scheduled_at`.
        NotScheduled = "not_scheduled",
        /// An attempt for this message is in progress.
        InFlight = "in_flight",
        /// No recipient of the message is deferred or held.
        NothingToRetry = "nothing_to_retry",
        /// A stream of this name exists already.
        StreamExists = "stream_exists",
        /// The webhook endpoint is disabled.
        WebhookDisabled = "webhook_disabled",
        /// The request body is larger than allowed.
        TooLarge = "too_large",
        /// The endpoint does not support the body's media type or content coding.
        UnsupportedMediaType = "unsupported_media_type",
        /// In `postrider dev`: the `Host` header names another machine.
        MisdirectedRequest = "misdirected_request",
        /// The request is well-formed but not valid; `errors` lists every fault.
        InvalidRequest = "invalid_request",
        /// The `Idempotency-Key` was used with another request.
        IdempotencyKeyReused = "idempotency_key_reused",
        /// An error of the service itself.
        InternalError = "internal_error",
        /// The database is unavailable, or the service is overloaded.
        Unavailable = "unavailable",
    }
}

impl ProblemCode {
    /// Returns its HTTP status.
    pub const fn status(self) -> u16 {
        match self {
            Self::MalformedRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::BodyTimeout => 408,
            Self::IdempotencyKeyInFlight
            | Self::DomainExists
            | Self::NoSecretKey
            | Self::RotationPending
            | Self::NotConfigured
            | Self::StillSending
            | Self::NotScheduled
            | Self::InFlight
            | Self::NothingToRetry
            | Self::StreamExists
            | Self::WebhookDisabled => 409,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::MisdirectedRequest => 421,
            Self::InvalidRequest | Self::IdempotencyKeyReused => 422,
            Self::InternalError => 500,
            Self::Unavailable => 503,
        }
    }

    /// Returns what a caller can do about it, for the documentation.
    pub const fn fix(self) -> &'static str {
        match self {
            Self::MalformedRequest => "Fix the place that `detail` names.",
            Self::Unauthorized => "Send `Authorization: Bearer KEY` with a key that is neither revoked nor expired.",
            Self::Forbidden => "Use a key with the scope, or the sender domain, that `detail` names.",
            Self::NotFound => "Check the path and the id.",
            Self::MethodNotAllowed => "Use a method of the `Allow` header.",
            Self::BodyTimeout => "Send the body faster, or check the network.",
            Self::IdempotencyKeyInFlight | Self::StillSending => "Repeat the request after `Retry-After`.",
            Self::DomainExists => "Read it with `GET /v1/domains/{name}`.",
            Self::NoSecretKey => "Set `secret_key` and restart.",
            Self::RotationPending => "Publish the records that `GET /v1/domains/{name}` shows, then verify.",
            Self::NotConfigured => "Set `public_url` and `secret_key`.",
            Self::NotScheduled => "None: it was sent, canceled or has expired.",
            Self::InFlight => "Wait for the attempt to end.",
            Self::NothingToRetry => "`GET /v1/messages/{id}/explain` says what it waits for.",
            Self::StreamExists => "Change it with `PATCH /v1/streams/{name}`.",
            Self::WebhookDisabled => "Enable it with `PATCH /v1/webhooks/{id}` and `{\"disabled\": false}`.",
            Self::TooLarge => "Send a smaller body: `detail` has the limit.",
            Self::UnsupportedMediaType => "Send the type that `detail` names, without a `Content-Encoding`.",
            Self::MisdirectedRequest => "Use 127.0.0.1, localhost or a name without dots.",
            Self::InvalidRequest => "Fix every place in `errors`.",
            Self::IdempotencyKeyReused => "Use a new key for a new request.",
            Self::Unavailable => "Repeat the request after `Retry-After`, preferably with an `Idempotency-Key`.",
            Self::InternalError => "Look for the `request_id` in the log.",
        }
    }
}

/// An error response, `application/problem+json` (RFC 9457).
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Problem {
    /// Always `about:blank`; `code` distinguishes errors.
    #[serde(rename = "type")]
    #[schema(example = "about:blank")]
    pub kind: &'static str,
    /// The status in words.
    #[schema(example = "Unprocessable Entity")]
    pub title: &'static str,
    /// The HTTP status.
    #[schema(example = 422)]
    pub status: u16,
    /// What is wrong, where, and how to fix it.
    #[schema(example = "`/to/0`: not an email address.")]
    pub detail: Cow<'static, str>,
    /// Stable, machine-readable code.
    #[schema(example = "invalid_request")]
    pub code: ProblemCode,
    /// The value of the `X-Request-Id` header.
    pub request_id: String,
    /// All faults of the request, if the request is invalid.
    pub errors: Vec<Fault>,
}

impl Problem {
    /// Creates a problem, without the id of its request. `title` is the status in words.
    pub fn new(
        code: ProblemCode,
        title: &'static str,
        detail: impl Into<Cow<'static, str>>,
        errors: Vec<Fault>,
    ) -> Self {
        let (status, detail) = (code.status(), detail.into());
        Self { kind: "about:blank", title, status, detail, code, request_id: String::new(), errors }
    }
}
