//! Errors of the inbox, and their HTTP responses (RFC 9457).

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::domain::api::fault::Fault;
use crate::domain::api::problem::{Problem, ProblemCode};

/// An error of the inbox.
#[derive(Debug, thiserror::Error)]
pub enum InboxError {
    /// There is no message with this number, or it has been deleted.
    #[error("The inbox has no message {n}.")]
    NoMessage {
        /// The requested number.
        n: u64,
    },
    /// No message matches the request.
    #[error("No message in the inbox matches.")]
    NoMatch,
    /// The message has fewer attachments.
    #[error("Message {n} has no attachment {i}.")]
    NoAttachment {
        /// The message's number.
        n: u64,
        /// The requested attachment, counted from 0.
        i: usize,
    },
    /// A part of the path is not a number.
    #[error("The path must have the number of a message or attachment.")]
    NoNumber,
    /// A query parameter is not valid.
    #[error("{}", .0.sentence())]
    Query(Fault),
    /// The files could not be read or written.
    #[error("cannot read or write the files of the inbox: {0}")]
    Io(#[from] std::io::Error),
}

impl InboxError {
    /// Returns the problem code of the response, which determines its status.
    pub fn code(&self) -> ProblemCode {
        match self {
            Self::NoMessage { .. } | Self::NoMatch | Self::NoAttachment { .. } | Self::NoNumber => {
                ProblemCode::NotFound
            }
            Self::Query(_) => ProblemCode::InvalidRequest,
            Self::Io(_) => ProblemCode::InternalError,
        }
    }
}

impl IntoResponse for InboxError {
    /// Builds the response; a layer that knows the request id writes its body.
    fn into_response(self) -> Response {
        let code = self.code();
        let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let detail = if let Self::Io(error) = &self {
            tracing::error!(event = "inbox_files_failed", %error, "inbox cannot access its files; check its directory");
            "The inbox failed to read or write its files; see the log.".to_owned()
        } else {
            self.to_string()
        };
        let mut response = status.into_response();
        let title = status.canonical_reason().unwrap_or("Error");
        let errors = if let Self::Query(fault) = self { vec![fault] } else { Vec::new() };
        response.extensions_mut().insert(Problem::new(code, title, detail, errors));
        response
    }
}
