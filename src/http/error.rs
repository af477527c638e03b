//! Errors of the API as RFC 9457 problems. Each error has a problem code, and each code has one HTTP status
//! ([`ProblemCode::status`]).

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::RETRY_AFTER;
use crate::accept::AcceptError;
use crate::accept::blobs::upload::UploadError;
use crate::accept::request::Rejection;
use crate::db::messages::stored::StoredMessageError;
use crate::db::{DbError, Trouble};
use crate::domain::api::fault::{Code, Fault};
pub use crate::domain::api::problem::{Problem, ProblemCode};
use crate::object_storage::ObjectError;

/// Why a request failed.
#[derive(Debug)]
pub enum ApiError {
    /// 400: the body, a header or the query string is malformed.
    Malformed(String),
    /// 401: missing or invalid API key.
    Unauthorized(&'static str),
    /// 403: the key does not allow the request, for example because it lacks a scope.
    Forbidden(String),
    /// 403: the key does not allow the values of these fields.
    ForbiddenFields(Vec<Fault>),
    /// 403: the key's tenant is suspended, and the request is not a read.
    TenantSuspended(String),
    /// 404: the object or the endpoint does not exist.
    NotFound(&'static str),
    /// 405: the endpoint does not support the method.
    MethodNotAllowed,
    /// 408: the body did not arrive in time.
    BodyTimeout,
    /// 409: the current state does not allow the request.
    Conflict {
        /// Machine-readable code.
        code: ProblemCode,
        /// The reason.
        detail: String,
        /// When to retry, if that can help.
        retry_after: Option<Duration>,
    },
    /// 410: the data was deleted.
    Gone {
        /// Machine-readable code.
        code: ProblemCode,
        /// What was deleted, and what is still there.
        detail: String,
    },
    /// 413, with the limit in bytes.
    TooLarge(u64),
    /// 413: a part of the body, described by the text, is larger than this limit in bytes.
    PartTooLarge(Cow<'static, str>, u64),
    /// 415, with the expected content type.
    UnsupportedMediaType(&'static str),
    /// 415: the body has a `Content-Encoding`.
    UnsupportedCoding,
    /// 422: invalid fields or parameters.
    Invalid(Vec<Fault>),
    /// 422: the idempotency key was used for a different request.
    KeyReused,
    /// 429: a limit is exceeded.
    LimitExceeded {
        /// Machine-readable code.
        code: ProblemCode,
        /// The limit.
        detail: String,
        /// When to retry.
        retry_after: Duration,
    },
    /// 503: temporarily unavailable; the client should retry.
    Unavailable(&'static str),
    /// 503: the process is starting or shutting down, for this reason.
    NotReady(String),
    /// 503: the process serves only reads.
    ReadOnly,
    /// 500: internal error. The cause is in the log.
    Internal,
}

impl ApiError {
    fn code(&self) -> ProblemCode {
        match self {
            Self::Malformed(_) => ProblemCode::MalformedRequest,
            Self::Unauthorized(_) => ProblemCode::Unauthorized,
            Self::Forbidden(_) | Self::ForbiddenFields(_) => ProblemCode::Forbidden,
            Self::TenantSuspended(_) => ProblemCode::TenantSuspended,
            Self::NotFound(_) => ProblemCode::NotFound,
            Self::MethodNotAllowed => ProblemCode::MethodNotAllowed,
            Self::BodyTimeout => ProblemCode::BodyTimeout,
            Self::Conflict { code, .. } | Self::Gone { code, .. } | Self::LimitExceeded { code, .. } => *code,
            Self::TooLarge(_) | Self::PartTooLarge(..) => ProblemCode::TooLarge,
            Self::UnsupportedMediaType(_) | Self::UnsupportedCoding => ProblemCode::UnsupportedMediaType,
            Self::Invalid(_) => ProblemCode::InvalidRequest,
            Self::KeyReused => ProblemCode::IdempotencyKeyReused,
            Self::Unavailable(_) => ProblemCode::Unavailable,
            Self::NotReady(_) => ProblemCode::NotReady,
            Self::ReadOnly => ProblemCode::ReadOnly,
            Self::Internal => ProblemCode::InternalError,
        }
    }

    fn detail(&self) -> Cow<'static, str> {
        match self {
            Self::Malformed(detail)
            | Self::Forbidden(detail)
            | Self::NotReady(detail)
            | Self::TenantSuspended(detail)
            | Self::Conflict { detail, .. }
            | Self::Gone { detail, .. }
            | Self::LimitExceeded { detail, .. } => detail.clone().into(),
            Self::ForbiddenFields(faults) => match faults.as_slice() {
                [one] => one.sentence().into(),
                many => format!("This key does not allow {} values; `errors` lists them.", many.len()).into(),
            },
            Self::Unauthorized(detail) | Self::NotFound(detail) | Self::Unavailable(detail) => (*detail).into(),
            Self::MethodNotAllowed => "Method not allowed; see the `Allow` header.".into(),
            Self::BodyTimeout => "The request body did not arrive in time.".into(),
            Self::TooLarge(limit) => {
                format!("The request body may be at most {limit} bytes ({} MiB).", limit >> 20).into()
            }
            Self::PartTooLarge(what, limit) => {
                format!("{what} may have at most {limit} bytes ({} MiB).", limit >> 20).into()
            }
            Self::UnsupportedMediaType(expected) => format!("Send the body as {expected}.").into(),
            Self::UnsupportedCoding => "`Content-Encoding` is not supported; send the body uncompressed.".into(),
            Self::Invalid(faults) => match faults.as_slice() {
                [one] => one.sentence().into(),
                many => format!("The request has {} faults; `errors` lists them.", many.len()).into(),
            },
            Self::KeyReused => {
                "This `Idempotency-Key` was used with a different request. Use another key for another message.".into()
            }
            Self::ReadOnly => {
                "This process serves only reads (`serve --only read-only-api`). Send the request to a process that runs the API on \
                 the primary."
                    .into()
            }
            Self::Internal => "Internal error. The log has the cause under this `request_id`.".into(),
        }
    }

    /// Returns when to retry, if that can help.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Conflict { retry_after, .. } => *retry_after,
            Self::LimitExceeded { retry_after, .. } => Some(*retry_after),
            Self::Unavailable(_) | Self::NotReady(_) => Some(RETRY_AFTER),
            _ => None,
        }
    }
}

impl ApiError {
    fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.code().status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Returns the error as a problem, without the id of a request.
    pub fn into_problem(self) -> Problem {
        let (code, title, detail) = (self.code(), self.status().canonical_reason().unwrap_or("Error"), self.detail());
        let errors = match self {
            Self::Invalid(faults) | Self::ForbiddenFields(faults) => faults,
            _ => Vec::new(),
        };
        Problem::new(code, title, detail, errors)
    }
}

/// Returns a wait in whole seconds for `Retry-After`: rounded up, at least 1.
fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

impl IntoResponse for ApiError {
    /// `request_id::ApiService` writes the body, because it knows the request's id.
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        if let Some(wait) = self.retry_after() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
        }
        if matches!(self, Self::Unauthorized(_)) {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if matches!(self, Self::UnsupportedCoding) {
            response.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        response.extensions_mut().insert(self.into_problem());
        response
    }
}

impl ApiError {
    /// Maps the error of a search. A search that took too long is an invalid request: its fault has `pointer`, the
    /// parameter that narrows the search, and the message `advice`.
    pub(super) fn search(error: DbError, pointer: &str, advice: &str) -> Self {
        if !error.is_too_slow() {
            return error.into();
        }
        Self::Invalid(vec![Fault { pointer: pointer.into(), code: Code::TooBroad.as_str(), message: advice.into() }])
    }
}

impl ApiError {
    /// Returns the error of a message whose content was deleted.
    pub(super) fn content_deleted() -> Self {
        Self::Gone {
            code: ProblemCode::ContentDeleted,
            detail: "The content of this message was deleted; `GET /v1/messages/{id}` still has its state.".into(),
        }
    }

    /// Returns the error of a cursor behind the first stored event; `deleted` is the `seq` of the last deleted one.
    pub(super) fn cursor_expired(cursor: i64, deleted: i64) -> Self {
        Self::Gone {
            code: ProblemCode::CursorExpired,
            detail: format!(
                "Events {} to {deleted} were deleted because of their age. To continue with the first stored event, pass \
                 {deleted} instead of {cursor}.",
                cursor + 1
            ),
        }
    }
}

impl From<DbError> for ApiError {
    fn from(error: DbError) -> Self {
        Self::from(&error)
    }
}

impl From<Arc<DbError>> for ApiError {
    fn from(error: Arc<DbError>) -> Self {
        Self::from(&*error)
    }
}

impl From<&DbError> for ApiError {
    fn from(error: &DbError) -> Self {
        if let Some(trouble) = error.trouble() {
            tracing::warn!(event = "request_unavailable", %error, "database unavailable; returned 503");
            return Self::Unavailable(unavailable_detail(trouble));
        }
        tracing::error!(event = "request_failed", %error, "request failed; returned 500");
        Self::Internal
    }
}

/// Returns the `detail` of a 503 response for this failure of the database.
fn unavailable_detail(trouble: Trouble) -> &'static str {
    macro_rules! with_retry_hint {
        ($cause:literal) => {
            concat!($cause, " Retry the request; with an `Idempotency-Key` it takes effect only once.")
        };
    }
    match trouble {
        Trouble::Unreachable => with_retry_hint!("The database cannot be reached."),
        Trouble::Full => with_retry_hint!("The database accepts no more connections."),
        Trouble::ReadOnly => with_retry_hint!("The database is read-only, as after a failover."),
        Trouble::Slow => with_retry_hint!("The database did not respond in time."),
        Trouble::DiskFull => with_retry_hint!("The database's disk is full."),
        Trouble::OutOfMemory => with_retry_hint!("The database is out of memory."),
        Trouble::Starting => with_retry_hint!("The database is starting up or shutting down."),
        Trouble::Denied => with_retry_hint!("The database denies access to this service."),
    }
}

/// The `detail` of a 503 response if a file lacks chunks.
const INCOMPLETE: &str = "The database has lost a part of a file, or the upload took longer than a day. Nothing was stored; retry \
                          the request after `Retry-After`.";

impl From<AcceptError> for ApiError {
    fn from(error: AcceptError) -> Self {
        match error {
            AcceptError::KeyReused => Self::KeyReused,
            AcceptError::KeyInFlight => Self::Conflict {
                code: ProblemCode::IdempotencyKeyInFlight,
                detail: "A request with this `Idempotency-Key` is still in progress.".into(),
                retry_after: Some(Duration::from_secs(1)),
            },
            AcceptError::TemplateDeleted => Self::Invalid(vec![Fault {
                pointer: "/template/id".into(),
                code: Code::UnknownTemplate.as_str(),
                message: "the template was deleted".into(),
            }]),
            AcceptError::FileDeleted => Self::Unavailable(
                "An attached file was deleted while the request was processed. Nothing was changed; retry the request \
                 after `Retry-After`.",
            ),
            AcceptError::FileIncomplete => Self::Unavailable(INCOMPLETE),
            AcceptError::Db(error) => Self::from(error.as_ref()),
            AcceptError::Objects(error) => error.into(),
        }
    }
}

impl From<UploadError> for ApiError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Mismatch(digest) => Self::Invalid(vec![Fault {
                pointer: "sha256".into(),
                code: Code::DigestMismatch.as_str(),
                message: format!("The body has the SHA-256 {digest}. Nothing was stored."),
            }]),
            UploadError::Incomplete => Self::Unavailable(INCOMPLETE),
            UploadError::Db(error) => Self::from(error.as_ref()),
            UploadError::Objects(error) => error.into(),
        }
    }
}

/// The cause is in the log; [`ObjectStorage`](crate::object_storage::ObjectStorage) has written it.
impl From<ObjectError> for ApiError {
    fn from(error: ObjectError) -> Self {
        match error {
            ObjectError::Unavailable => Self::Unavailable(
                "The object store for large attachments is not available. Nothing was changed; retry the request after \
                 `Retry-After`.",
            ),
            ObjectError::NotConfigured => Self::Unavailable(
                "The attachment is in an object store, which is not configured in this process (`attachments.bucket`).",
            ),
            ObjectError::Missing { .. } | ObjectError::Damaged { .. } => {
                tracing::error!(event = "object_missing", %error, "an attachment is missing in the object store; returned 404");
                Self::NotFound("The attachment is missing in the object store; the log has the name of the object.")
            }
        }
    }
}

impl From<Rejection> for ApiError {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::Invalid(faults) => Self::Invalid(faults),
            malformed @ Rejection::Malformed { .. } => Self::Malformed(malformed.to_string()),
            Rejection::NeedsBlobs(_) => {
                tracing::error!(
                    event = "blobs_not_looked_up",
                    "request refers to blobs that were not looked up; returned 500"
                );
                Self::Internal
            }
            Rejection::NeedsTemplates(_) => {
                tracing::error!(
                    event = "templates_not_loaded",
                    "request names templates that were not loaded; returned 500"
                );
                Self::Internal
            }
        }
    }
}

impl From<StoredMessageError> for ApiError {
    fn from(error: StoredMessageError) -> Self {
        match error {
            StoredMessageError::Db(error) => error.into(),
            StoredMessageError::ContentDeleted => Self::content_deleted(),
            StoredMessageError::Objects(error) => error.into(),
            StoredMessageError::NoUnsubscribeLinks => Self::Conflict {
                code: ProblemCode::NotConfigured,
                detail: format!("The message cannot be shown: {error}."),
                retry_after: None,
            },
            unreadable => {
                tracing::error!(
                    event = "stored_message_unreadable",
                    error = %unreadable,
                    "cannot read stored message; returned 500"
                );
                Self::Internal
            }
        }
    }
}

/// Returns the error of an unknown path.
pub(super) async fn not_found() -> ApiError {
    ApiError::NotFound("No such endpoint; see /docs.")
}

/// Returns the error of an unsupported method.
pub(super) async fn method_not_allowed() -> ApiError {
    ApiError::MethodNotAllowed
}

/// Returns the response to a request whose handler panicked. The panic's message, which may have personal data, is not
/// logged; [`crate::telemetry`] has logged where it happened.
pub(super) fn panicked() -> Response {
    tracing::error!(event = "handler_panicked", "handler panicked; returned 500");
    ApiError::Internal.into_response()
}
