//! Errors of client commands, and the exit code of each kind.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use hyper::StatusCode;
use serde::Deserialize;

use super::output::terminal::printable;

/// The kind of an error. `docs/cli.md` lists the exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Kind {
    /// Another error: a file cannot be read, or the response does not come from Postrider.
    Failed,
    /// The options are wrong or incomplete.
    Usage,
    /// There is no such object.
    NotFound,
    /// The API key is not valid, or does not allow the call.
    Denied,
    /// The API cannot be reached, or is overloaded or unavailable; trying again later may help.
    Unavailable,
    /// The API refused the request.
    Refused,
    /// The message was not delivered to at least one recipient.
    Undelivered,
    /// The time limit of `--wait` passed.
    Unfinished,
}

impl Kind {
    /// Returns the exit code.
    pub(in crate::cli) fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Denied => 4,
            Self::Unavailable => 5,
            Self::Refused => 6,
            Self::Undelivered => 7,
            Self::Unfinished => 8,
        }
    }
}

/// An error of a client command. It never contains an API key.
#[derive(Debug)]
pub(in crate::cli) struct ClientError {
    kind: Kind,
    message: String,
    /// The faults of an invalid request.
    faults: Vec<Fault>,
    hint: Option<String>,
    /// How long the server asks the client to wait before the next try.
    retry_after: Option<Duration>,
    /// Whether the request may have taken effect.
    is_ambiguous: bool,
    /// Whether the same request may succeed later.
    is_transient: bool,
}

/// The part of a problem document (RFC 9457) that is printed.
#[derive(Debug, Deserialize)]
struct Problem {
    detail: String,
    code: String,
    #[serde(default)]
    request_id: String,
    #[serde(default)]
    errors: Vec<Fault>,
}

#[derive(Debug, Deserialize)]
struct Fault {
    pointer: String,
    message: String,
}

impl ClientError {
    pub(super) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            faults: Vec::new(),
            hint: None,
            retry_after: None,
            is_ambiguous: false,
            is_transient: kind == Kind::Unavailable,
        }
    }

    pub(super) fn usage(message: impl Into<String>, hint: &str) -> Self {
        Self::new(Kind::Usage, message).with_hint(hint)
    }

    /// Returns the error for a file that cannot be read.
    pub(super) fn file(path: &Path, cause: &impl fmt::Display) -> Self {
        Self::new(Kind::Failed, format!("cannot read {}: {cause}", path.display()))
    }

    /// Returns the error for a connection that broke after the request may have been sent.
    pub(super) fn broken(message: String) -> Self {
        Self { is_ambiguous: true, ..Self::new(Kind::Unavailable, message) }
    }

    /// Returns the error for an error response.
    pub(super) fn response(base: &str, status: StatusCode, body: &[u8], retry_after: Option<Duration>) -> Self {
        let Ok(problem) = serde_json::from_slice::<Problem>(body) else {
            let kind = if status.is_server_error() { Kind::Unavailable } else { Kind::Failed };
            return Self {
                retry_after,
                is_ambiguous: status.is_server_error(),
                ..Self::new(kind, format!("{base} returned {status}"))
            }
            .with_hint("check that --url or POSTRIDER_URL is the address of a Postrider API");
        };
        let kind = match status.as_u16() {
            401 | 403 => Kind::Denied,
            404 => Kind::NotFound,
            408 | 429 | 500.. => Kind::Unavailable,
            _ => Kind::Refused,
        };
        let message = if status.is_server_error() && !problem.request_id.is_empty() {
            format!("{} (request {})", problem.detail, problem.request_id)
        } else {
            problem.detail
        };
        // The detail already contains a single fault.
        let faults = if problem.errors.len() > 1 { problem.errors } else { Vec::new() };
        let error = Self {
            faults,
            retry_after,
            is_ambiguous: status.is_server_error(),
            is_transient: kind == Kind::Unavailable || problem.code == "idempotency_key_in_flight",
            ..Self::new(kind, message)
        };
        match problem.code.as_str() {
            "unauthorized" => error.with_hint("set POSTRIDER_API_KEY, or pass --key-file, with a valid key"),
            "forbidden" => error.with_hint("use another key; `postrider keys create` creates one with any scope"),
            "unavailable" => error.with_hint("try again later; `postrider doctor` finds the cause"),
            _ => error,
        }
    }

    pub(super) fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    pub(in crate::cli) fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns whether the request may have taken effect.
    pub(super) fn is_ambiguous(&self) -> bool {
        self.is_ambiguous
    }

    /// Returns whether the same request may succeed later.
    pub(super) fn is_transient(&self) -> bool {
        self.is_transient
    }

    /// Returns the wait that the server asks for.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Returns the error and its faults, one per line, without control characters.
    pub(in crate::cli) fn lines(&self) -> Vec<String> {
        let faults = self.faults.iter().map(|fault| format!("{}: {}", fault.pointer, fault.message));
        std::iter::once(self.message.clone()).chain(faults).map(|line| printable(&line).into_owned()).collect()
    }

    /// Returns how to fix the error, if that is known.
    pub(in crate::cli) fn hint(&self) -> Option<String> {
        self.hint.as_deref().map(|hint| printable(hint).into_owned())
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.message))
    }
}

impl std::error::Error for ClientError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, body: &str) -> ClientError {
        ClientError::response("http://api.test", StatusCode::from_u16(status).unwrap(), body.as_bytes(), None)
    }

    #[test]
    fn several_faults_are_listed_with_their_pointers() {
        let body = r#"{"detail": "The request has 2 faults; `errors` lists them.", "code": "invalid_request", "errors":
            [{"pointer": "/to/0", "message": "\u001b[31mnot an address"}, {"pointer": "/subject", "message": "required"}]}"#;
        let error = response(422, body);
        assert_eq!(
            error.lines(),
            [
                "The request has 2 faults; `errors` lists them.",
                "/to/0: \\u{1b}[31mnot an address",
                "/subject: required"
            ]
        );
        assert_eq!((error.kind().exit_code(), error.is_transient()), (6, false));
    }

    #[test]
    fn exit_code_depends_on_the_status() {
        let problem = r#"{"detail": "x", "code": "x", "request_id": "req_1"}"#;
        for (status, code) in [(400, 6), (401, 4), (403, 4), (404, 3), (409, 6), (422, 6), (429, 5), (500, 5), (503, 5)]
        {
            assert_eq!(response(status, problem).kind().exit_code(), code, "{status}");
        }
        assert_eq!(response(503, problem).lines(), ["x (request req_1)"]);
        // These are not responses of Postrider: a 404 does not mean that the object does not exist.
        assert_eq!(response(404, "<html>").kind().exit_code(), 1);
        assert_eq!(response(502, "<html>").kind().exit_code(), 5);
    }
}
