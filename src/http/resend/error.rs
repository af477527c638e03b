//! Errors in Resend's form: `{"statusCode", "name", "message"}`.
//!
//! Resend's SDKs choose the class of an error by its status and name, and some of them fail on an unknown name. So this
//! module uses only names that all SDKs know, even where Resend's documentation has newer ones.

use axum::extract::Request;
use axum::http::{StatusCode, header};
use serde::Serialize;

use super::is_path;
use crate::domain::api::fault::{Code, Fault};
use crate::http::auth::LACKS_SCOPE;
use crate::http::{Problem, ProblemCode};

/// Formats the errors of one request.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct ErrorFormat {
    /// Whether the request has an API key, valid or not.
    has_key: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Body {
    #[serde(rename = "statusCode")]
    status: u16,
    name: &'static str,
    message: String,
}

impl ErrorFormat {
    /// Returns the format for a request; `None` if its path is not one of Resend's API.
    pub(in crate::http) fn new(request: &Request) -> Option<Self> {
        is_path(request.uri().path()).then(|| Self { has_key: request.headers().contains_key(header::AUTHORIZATION) })
    }

    /// Returns the status and the body of an error.
    pub(in crate::http) fn write(self, problem: &Problem) -> (StatusCode, Vec<u8>) {
        let body = self.body(problem);
        let status = StatusCode::from_u16(body.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, serde_json::to_vec(&body).unwrap_or_default())
    }

    fn body(self, problem: &Problem) -> Body {
        let (status, name) = match problem.code {
            ProblemCode::InvalidRequest | ProblemCode::Forbidden if !problem.errors.is_empty() => {
                return invalid(&problem.errors);
            }
            ProblemCode::Unauthorized if self.has_key => (403, "invalid_api_key"),
            ProblemCode::Unauthorized => (401, "missing_api_key"),
            ProblemCode::Forbidden if problem.detail.starts_with(LACKS_SCOPE) => (401, "restricted_api_key"),
            ProblemCode::Forbidden => (403, "validation_error"),
            ProblemCode::NotFound
            | ProblemCode::ContentDeleted
            | ProblemCode::NotAccepted
            | ProblemCode::MessageRejected => (404, "not_found"),
            ProblemCode::MethodNotAllowed => (405, "method_not_allowed"),
            ProblemCode::IdempotencyKeyInFlight => (409, "concurrent_idempotent_requests"),
            ProblemCode::IdempotencyKeyReused => (409, "invalid_idempotent_request"),
            ProblemCode::TooLarge => (422, "invalid_attachment"),
            // Several SDKs do not know 503; all of them retry after 500.
            ProblemCode::Unavailable | ProblemCode::NotReady | ProblemCode::ReadOnly => (500, "internal_server_error"),
            ProblemCode::InternalError => (500, "application_error"),
            _ => match problem.status {
                429 if problem.code.as_str().contains("quota") => (429, "daily_quota_exceeded"),
                429 => (429, "rate_limit_exceeded"),
                400 | 408 | 415 | 421 => (400, "validation_error"),
                403 => (403, "validation_error"),
                500.. => (500, "application_error"),
                _ => (422, "validation_error"),
            },
        };
        Body { status, name, message: problem.detail.clone().into_owned() }
    }
}

/// Returns the error of an invalid request: its first fault, and how many more there are.
fn invalid(faults: &[Fault]) -> Body {
    let Some(first) = faults.first() else {
        return Body { status: 422, name: "validation_error", message: "The request is not valid.".into() };
    };
    let (status, name) = status_and_name(first);
    let mut message = message(&first.pointer, first.code, &first.message);
    if faults.len() > 1 {
        message = format!("{message} … and {} more.", faults.len() - 1);
    }
    Body { status, name, message }
}

fn status_and_name(fault: &Fault) -> (u16, &'static str) {
    let is = |code: Code| fault.code == code.as_str();
    if fault.pointer.eq_ignore_ascii_case("idempotency-key") {
        return (400, "invalid_idempotency_key");
    }
    if is(Code::UnverifiedDomain) || is(Code::Forbidden) {
        return (403, "validation_error");
    }
    if fault.pointer.split('/').any(|part| part == "attachments") {
        return (422, "invalid_attachment");
    }
    if is(Code::Required) { (422, "missing_required_field") } else { (422, "validation_error") }
}

/// Returns the sentence about a fault, in Resend's wording if Resend has the same error.
pub(super) fn message(pointer: &str, code: &str, message: &str) -> String {
    if code == Code::UnverifiedDomain.as_str() {
        let domain = message.split(" is not ").next().unwrap_or_default();
        return format!("The {domain} domain is not verified. Add and verify it with POST /domains.");
    }
    let field = field(pointer);
    if code == Code::Required.as_str() && is_field_name(&field) {
        // A message needs `html` or `text`.
        if field.rsplit('.').next() == Some("text") {
            return "Missing `html` or `text` field.".into();
        }
        return format!("Missing `{field}` field.");
    }
    let sentence = message.trim_end_matches('.');
    if field.is_empty() {
        let mut chars = sentence.chars();
        let first: String = chars.next().map(|first| first.to_uppercase().collect()).unwrap_or_default();
        return format!("{first}{}.", chars.as_str());
    }
    format!("Invalid `{field}` field: {sentence}.")
}

/// Returns whether the field is a member of an object, and not an item of a list.
fn is_field_name(field: &str) -> bool {
    !field.is_empty() && !field.ends_with(']')
}

/// Returns a JSON pointer in the notation of Resend's messages, such as `attachments[0].content`.
fn field(pointer: &str) -> String {
    // A batch is an array in Resend's API, but an object with the array `messages` in Postrider's.
    let pointer = pointer.strip_prefix("/messages/").unwrap_or(pointer);
    let mut field = String::new();
    for part in pointer.split('/').filter(|part| !part.is_empty()) {
        if part.bytes().all(|byte| byte.is_ascii_digit()) {
            field.push('[');
            field.push_str(part);
            field.push(']');
        } else {
            if !field.is_empty() {
                field.push('.');
            }
            field.push_str(&part.replace("~1", "/").replace("~0", "~"));
        }
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names that every SDK knows.
    const KNOWN: [&str; 21] = [
        "application_error",
        "concurrent_idempotent_requests",
        "daily_quota_exceeded",
        "internal_server_error",
        "invalid_access",
        "invalid_api_key",
        "invalid_attachment",
        "invalid_from_address",
        "invalid_idempotency_key",
        "invalid_idempotent_request",
        "invalid_parameter",
        "invalid_region",
        "method_not_allowed",
        "missing_api_key",
        "missing_required_field",
        "monthly_quota_exceeded",
        "not_found",
        "rate_limit_exceeded",
        "restricted_api_key",
        "security_error",
        "validation_error",
    ];

    fn fault(pointer: &str, code: Code, message: &str) -> Fault {
        Fault { pointer: pointer.into(), code: code.as_str(), message: message.into() }
    }

    #[test]
    fn every_error_has_a_name_that_all_sdks_know() {
        for code in ProblemCode::ALL {
            for has_key in [false, true] {
                let body = ErrorFormat { has_key }.body(&Problem::new(code, "", "Why.", Vec::new()));
                assert!(KNOWN.contains(&body.name), "{code:?}: {}", body.name);
                assert!((400..=500).contains(&body.status), "{code:?}: {}", body.status);
                assert_eq!(body.message, "Why.");
            }
        }
        for code in Code::ALL {
            let body = invalid(&[fault("/to/0", code, "why")]);
            assert!(KNOWN.contains(&body.name) && (400..500).contains(&body.status), "{code:?}: {body:?}");
        }
    }

    #[test]
    fn faults_are_described_in_the_words_of_resend() {
        for (pointer, code, text, status, name, message) in [
            ("/to", Code::Required, "x", 422, "missing_required_field", "Missing `to` field."),
            ("/messages/3/subject", Code::Required, "x", 422, "missing_required_field", "Missing `[3].subject` field."),
            ("/text", Code::Required, "x", 422, "missing_required_field", "Missing `html` or `text` field."),
            ("/to/1", Code::InvalidAddress, "bad", 422, "validation_error", "Invalid `to[1]` field: bad."),
            ("", Code::InvalidType, "expected an object.", 422, "validation_error", "Expected an object."),
            (
                "/attachments/0/content",
                Code::Required,
                "x",
                422,
                "invalid_attachment",
                "Missing `attachments[0].content` field.",
            ),
            (
                "/from",
                Code::UnverifiedDomain,
                "acme.test is not registered; register it",
                403,
                "validation_error",
                "The acme.test domain is not verified. Add and verify it with POST /domains.",
            ),
        ] {
            let expected = Body { status, name, message: message.into() };
            assert_eq!(invalid(&[fault(pointer, code, text)]), expected);
        }
        let two = [fault("/to", Code::Required, "x"), fault("/subject", Code::Required, "x")];
        assert_eq!(invalid(&two).message, "Missing `to` field. … and 1 more.");
    }
}
