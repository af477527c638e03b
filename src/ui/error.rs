//! Errors of the dashboard as pages.

use askama::Template;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{Html, IntoResponse, Redirect, Response};
use serde::Deserialize;

use crate::db::DbError;
use crate::http::{ApiError, Problem};

/// Why a page cannot be shown.
#[derive(Debug)]
pub(super) enum UiError {
    /// The browser is not signed in. After signing in it goes to this path.
    SignedOut {
        /// The path with its query.
        next: String,
        /// Whether htmx has sent the request, for a part of a page: the whole page has to go to the sign-in.
        is_part: bool,
    },
    /// The request failed.
    Failed(Failure),
}

/// A failed request, as the API describes it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Failure {
    /// The HTTP status.
    pub status: u16,
    /// What is wrong and how to fix it.
    pub detail: String,
    /// All faults of an invalid request.
    #[serde(default)]
    pub errors: Vec<FieldFault>,
}

/// A fault of one field.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct FieldFault {
    /// The field: a JSON pointer or the name of a parameter.
    pub pointer: String,
    /// What is wrong with it.
    pub message: String,
}

impl Failure {
    /// Returns all faults as one text.
    pub(super) fn text(&self) -> String {
        match self.errors.as_slice() {
            [] => self.detail.clone(),
            faults => {
                let one = |fault: &FieldFault| format!("{}: {}", fault.pointer.trim_start_matches('/'), fault.message);
                faults.iter().map(one).collect::<Vec<_>>().join(" ")
            }
        }
    }
}

impl UiError {
    pub(super) fn new(status: u16, detail: impl Into<String>) -> Self {
        Self::Failed(Failure { status, detail: detail.into(), errors: Vec::new() })
    }

    /// Returns why the input of a form was refused, to show the form again with what was typed. Other errors are returned as they
    /// are: the key may not do this, there is no such object, or the service failed.
    pub(super) fn refusal(self) -> Result<Failure, Self> {
        match self {
            Self::Failed(failure) if matches!(failure.status, 400 | 409..=499) => Ok(failure),
            error => Err(error),
        }
    }

    pub(super) fn not_found(detail: &str) -> Self {
        Self::new(404, detail)
    }

    /// Returns the error of a response of the API that cannot be read.
    pub(super) fn unreadable(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(
            event = "dashboard_unreadable_response",
            cause = %cause,
            "cannot read a response of the API; returned 500"
        );
        Self::new(500, "Internal error. The log has the cause.")
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let errors =
            problem.errors.into_iter().map(|fault| FieldFault { pointer: fault.pointer, message: fault.message });
        Self { status: problem.status, detail: problem.detail.into_owned(), errors: errors.collect() }
    }
}

impl From<Problem> for UiError {
    fn from(problem: Problem) -> Self {
        Self::Failed(problem.into())
    }
}

impl From<ApiError> for UiError {
    fn from(error: ApiError) -> Self {
        let problem = error.into_response().extensions_mut().remove::<Problem>();
        problem.map_or_else(|| Self::new(500, "Internal error. The log has the cause."), Self::from)
    }
}

impl From<DbError> for UiError {
    fn from(error: DbError) -> Self {
        ApiError::from(error).into()
    }
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage<'a> {
    title: &'a str,
    failure: &'a Failure,
    theme: Option<&'static str>,
    /// The id of the request, with which the log has the cause.
    request_id: &'a str,
}

/// The request's id, which the layer around all routes sets.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

impl Failure {
    /// Returns the page that shows the failure of a request with these headers.
    pub(super) fn page(&self, headers: &HeaderMap) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let title = match status {
            StatusCode::FORBIDDEN => "Not allowed",
            StatusCode::NOT_FOUND => "Not found",
            StatusCode::SERVICE_UNAVAILABLE => "Temporarily unavailable",
            other => other.canonical_reason().unwrap_or("Error"),
        };
        let request_id = headers.get(X_REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
        let page = ErrorPage { title, failure: self, theme: super::shell::theme(headers), request_id };
        (status, Html(page.render().unwrap_or_default())).into_response()
    }
}

/// The layer around the pages ([`super::guard`]) writes the page of a failure.
impl IntoResponse for UiError {
    fn into_response(self) -> Response {
        let failure = match self {
            Self::SignedOut { next, is_part } => {
                let next: String = url::form_urlencoded::byte_serialize(next.as_bytes()).collect();
                let path = format!("/ui/login?next={next}");
                return if is_part {
                    (StatusCode::UNAUTHORIZED, [("hx-redirect", path)]).into_response()
                } else {
                    Redirect::to(&path).into_response()
                };
            }
            Self::Failed(failure) => failure,
        };
        let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
        response.extensions_mut().insert(failure);
        response
    }
}
