//! Why the inbox has no answer, and how that reads over HTTP (RFC 9457).

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::domain::fault::Fault;
use crate::domain::problem::{Problem, ProblemCode};

/// What can go wrong with the inbox.
#[derive(Debug, thiserror::Error)]
pub enum InboxError {
    /// There is no mail of this number, or it has been deleted.
    #[error("there is no mail {n} in the inbox")]
    NoMail {
        /// The number asked for.
        n: u64,
    },
    /// No message is what was asked for.
    #[error("no such message is in the inbox")]
    NoMatch,
    /// The mail has fewer attachments.
    #[error("mail {n} has no attachment {i}")]
    NoAttachment {
        /// The mail.
        n: u64,
        /// The attachment asked for, counted from 0.
        i: usize,
    },
    /// Something in the path is not a number.
    #[error("there is nothing at this address: mails and attachments have numbers")]
    NoNumber,
    /// A query parameter is not valid.
    #[error("{}", .0.sentence())]
    Query(Fault),
    /// The files could not be read or written.
    #[error("the inbox's files: {0}")]
    Io(#[from] std::io::Error),
}

impl InboxError {
    /// The stable word of the response, which has a status.
    pub fn code(&self) -> ProblemCode {
        match self {
            Self::NoMail { .. } | Self::NoMatch | Self::NoAttachment { .. } | Self::NoNumber => ProblemCode::NotFound,
            Self::Query(_) => ProblemCode::InvalidRequest,
            Self::Io(_) => ProblemCode::InternalError,
        }
    }
}

impl IntoResponse for InboxError {
    /// The body is written by the layer that knows the request's id.
    fn into_response(self) -> Response {
        let code = self.code();
        let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let detail = if let Self::Io(error) = &self {
            tracing::error!(%error, "the inbox's files");
            "The inbox's files could not be read or written; the log says why.".to_owned()
        } else {
            self.to_string()
        };
        let mut response = status.into_response();
        response.extensions_mut().insert(Problem {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: detail.into(),
            code,
            request_id: String::new(),
            errors: if let Self::Query(fault) = self { vec![fault] } else { Vec::new() },
        });
        response
    }
}
