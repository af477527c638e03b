//! Error responses (RFC 9457) of all endpoints, as plain data. `http::layer::request_id` adds the id of the request.

use std::borrow::Cow;

use serde::Serialize;

use super::fault::Fault;
use crate::domain::words::words;

words! {
    /// The kind of error. Branch on this code, and not on `title` or `detail`. New codes may be added.
    pub enum ProblemCode as "ProblemCode" {
        /// The body, a header or the query string cannot be parsed.
        MalformedRequest = "malformed_request",
        /// The API key is missing, wrong, revoked or expired.
        Unauthorized = "unauthorized",
        /// The API key lacks a scope, may not send from the sender's domain, may not be used from the client's address, or is a
        /// test key where a live key is needed, or the reverse.
        Forbidden = "forbidden",
        /// The API key's tenant is suspended: it may only read.
        TenantSuspended = "tenant_suspended",
        /// There is no such endpoint, or no such object for this API key.
        NotFound = "not_found",
        /// The endpoint does not support this method.
        MethodNotAllowed = "method_not_allowed",
        /// The request body did not arrive in time.
        BodyTimeout = "body_timeout",
        /// A request with this `Idempotency-Key` is still in progress.
        IdempotencyKeyInFlight = "idempotency_key_in_flight",
        /// The bulk was canceled.
        BulkCanceled = "bulk_canceled",
        /// The domain is already registered.
        DomainExists = "domain_exists",
        /// DKIM keys cannot be stored, because no `secret_key` is configured.
        NoSecretKey = "no_secret_key",
        /// An earlier rotation created DKIM keys whose records are not published yet.
        RotationPending = "rotation_pending",
        /// The message needs an unsubscribe link, but `public_url` or `secret_key` is not configured.
        NotConfigured = "not_configured",
        /// The message that the report is about is still being sent.
        StillSending = "still_sending",
        /// The message was sent from SQL, and is not accepted yet; `detail` says what it waits for.
        NotAccepted = "not_accepted",
        /// The message was sent from SQL, and was rejected; `detail` has the reason. Nothing was sent.
        MessageRejected = "message_rejected",
        /// No recipient of the message waits for its `scheduled_at`.
        NotScheduled = "not_scheduled",
        /// An attempt for this message is in progress.
        InFlight = "in_flight",
        /// No recipient of the message is deferred or held.
        NothingToRetry = "nothing_to_retry",
        /// Recipients of the message are still to be sent to.
        NotEnded = "not_ended",
        /// A stream of this name already exists.
        StreamExists = "stream_exists",
        /// A tenant with this name already exists.
        TenantExists = "tenant_exists",
        /// The tenant is being deleted, or it is the default tenant, which cannot be.
        TenantNotChangeable = "tenant_not_changeable",
        /// An inbound route with this match already exists.
        InboundRouteExists = "inbound_route_exists",
        /// The domain cannot have inbound routes here, because it belongs to somebody else.
        InboundDomainTaken = "inbound_domain_taken",
        /// A template with this alias already exists.
        TemplateExists = "template_exists",
        /// The template was changed after the `revision` that the request names.
        TemplateChanged = "template_changed",
        /// Scheduled messages, or other templates, use the template.
        TemplateInUse = "template_in_use",
        /// The webhook endpoint is disabled.
        WebhookDisabled = "webhook_disabled",
        /// More test messages are waiting than one call can advance the clock for.
        TooManyWaiting = "too_many_waiting",
        /// The content of the message was deleted, because of its age or by request.
        ContentDeleted = "content_deleted",
        /// Events after this cursor were deleted because of their age.
        CursorExpired = "cursor_expired",
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
        /// The `rate` of the API key or of its tenant is exceeded; `detail` says which.
        RateLimitExceeded = "rate_limit_exceeded",
        /// The `quota` of recipients per day of the API key or of its tenant does not suffice for the request; `detail` says
        /// which. Nothing was sent.
        DailyQuotaExceeded = "daily_quota_exceeded",
        /// Too many requests with invalid API keys came from the client's address.
        TooManyAuthFailures = "too_many_auth_failures",
        /// An internal error of Postrider.
        InternalError = "internal_error",
        /// The database is unavailable, or Postrider is overloaded.
        Unavailable = "unavailable",
        /// This process of Postrider is starting or shutting down, or waits for a migration of the database.
        NotReady = "not_ready",
        /// This process of Postrider serves only reads, from a copy of the database.
        ReadOnly = "read_only",
    }
}

impl ProblemCode {
    /// Returns the HTTP status of the error.
    pub const fn status(self) -> u16 {
        match self {
            Self::MalformedRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden | Self::TenantSuspended => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::BodyTimeout => 408,
            Self::IdempotencyKeyInFlight
            | Self::BulkCanceled
            | Self::DomainExists
            | Self::NoSecretKey
            | Self::RotationPending
            | Self::NotConfigured
            | Self::StillSending
            | Self::NotAccepted
            | Self::MessageRejected
            | Self::NotScheduled
            | Self::InFlight
            | Self::NothingToRetry
            | Self::NotEnded
            | Self::StreamExists
            | Self::TenantExists
            | Self::TenantNotChangeable
            | Self::InboundRouteExists
            | Self::InboundDomainTaken
            | Self::TemplateExists
            | Self::TemplateChanged
            | Self::TemplateInUse
            | Self::WebhookDisabled
            | Self::TooManyWaiting => 409,
            Self::ContentDeleted | Self::CursorExpired => 410,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::MisdirectedRequest => 421,
            Self::InvalidRequest | Self::IdempotencyKeyReused => 422,
            Self::RateLimitExceeded | Self::DailyQuotaExceeded | Self::TooManyAuthFailures => 429,
            Self::InternalError => 500,
            Self::Unavailable | Self::NotReady | Self::ReadOnly => 503,
        }
    }

    /// Returns how the caller can fix the error, for the documentation.
    pub const fn fix(self) -> &'static str {
        match self {
            Self::MalformedRequest => "Fix the part of the request that `detail` names.",
            Self::Unauthorized => "Send `Authorization: Bearer KEY` with a key that is neither revoked nor expired.",
            Self::Forbidden => {
                "Use a key with the scope, the sender domain, the address or the mode that `detail` names."
            }
            Self::TenantSuspended => "Ask the operator of this service to resume the tenant.",
            Self::NotFound => "Check the path and the id.",
            Self::MethodNotAllowed => "Use a method in the `Allow` header.",
            Self::BodyTimeout => "Send the body faster, or check the network.",
            Self::IdempotencyKeyInFlight | Self::StillSending => "Repeat the request after `Retry-After`.",
            Self::BulkCanceled => "Send the remaining recipients as a new bulk.",
            Self::DomainExists => "Read the domain with `GET /v1/domains/{name}`.",
            Self::NoSecretKey => "Set `secret_key` and restart.",
            Self::RotationPending => "Publish the records that `GET /v1/domains/{name}` shows, then verify.",
            Self::NotConfigured => "Set `public_url` and `secret_key`.",
            Self::NotAccepted => {
                "Repeat the request later, or cancel the message with `POST /v1/messages/{id}/cancel`."
            }
            Self::MessageRejected => "Read `GET /v1/messages/rejected`, and send a corrected message.",
            Self::NotScheduled => "None: the message was sent or canceled, or has expired.",
            Self::InFlight => "Wait until the attempt has ended.",
            Self::NothingToRetry => "Read what blocks the message with `GET /v1/messages/{id}/explain`.",
            Self::NotEnded => "Cancel the message with `POST /v1/messages/{id}/cancel`, or wait until it has ended.",
            Self::StreamExists => "Change the stream with `PATCH /v1/streams/{name}`.",
            Self::TenantExists => "Use another name, or change the tenant with `PATCH /v1/tenants/{id}`.",
            Self::TenantNotChangeable => "None.",
            Self::InboundRouteExists => "Change the route with `PATCH /v1/inbound-routes/{id}`.",
            Self::InboundDomainTaken => {
                "Use another domain; if it is yours, register it with `POST /v1/domains` and verify it, or ask the operator."
            }
            Self::TemplateExists => "Change the template with `PATCH /v1/templates/{id}`, or use another alias.",
            Self::TemplateChanged => {
                "Read the template with `GET /v1/templates/{id}`, and repeat the change with its `revision`."
            }
            Self::TemplateInUse => {
                "Wait until the messages have been sent, or cancel them; give the templates that use it another layout."
            }
            Self::WebhookDisabled => "Enable the endpoint with `PATCH /v1/webhooks/{id}` and `{\"disabled\": false}`.",
            Self::TooManyWaiting => "Cancel test messages that are no longer needed.",
            Self::ContentDeleted => {
                "None: only the state of the message is left. Keep content for longer: `[retention]`."
            }
            Self::CursorExpired => "Continue with the cursor that `detail` names; the events before it are lost.",
            Self::TooLarge => "Send a smaller body: `detail` has the limit.",
            Self::UnsupportedMediaType => "Send the media type that `detail` names, without a `Content-Encoding`.",
            Self::MisdirectedRequest => "Use 127.0.0.1, localhost or a name without dots.",
            Self::InvalidRequest => "Fix every fault in `errors`.",
            Self::IdempotencyKeyReused => "Use a new key for a new request.",
            Self::RateLimitExceeded => "Repeat the request after `Retry-After`, and send requests more slowly.",
            Self::DailyQuotaExceeded => {
                "Repeat the request after `Retry-After`, or raise the quota with `PATCH /v1/keys/{id}` or `PATCH /v1/tenants/{id}`."
            }
            Self::TooManyAuthFailures => "Send a valid key; requests succeed again after `Retry-After`.",
            Self::Unavailable => "Repeat the request after `Retry-After`, preferably with an `Idempotency-Key`.",
            Self::NotReady => "Repeat the request after `Retry-After`; if it lasts, read `detail`.",
            Self::ReadOnly => "Send the request to a process that runs the API on the primary.",
            Self::InternalError => "Search the log for the `request_id`.",
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
    /// The standard text of the HTTP status.
    #[schema(example = "Unprocessable Entity")]
    pub title: &'static str,
    /// The HTTP status.
    #[schema(example = 422)]
    pub status: u16,
    /// What is wrong, in which part of the request, and how to fix it.
    #[schema(example = "`/to/0`: not an email address.")]
    pub detail: Cow<'static, str>,
    /// A stable, machine-readable code.
    #[schema(example = "invalid_request")]
    pub code: ProblemCode,
    /// The request's id, as in the `X-Request-Id` header.
    pub request_id: String,
    /// All faults of an invalid request; empty for other errors.
    pub errors: Vec<Fault>,
}

impl Problem {
    /// Creates a problem without a request id. `title` is the standard text of the HTTP status.
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
