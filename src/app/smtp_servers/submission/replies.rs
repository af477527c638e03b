//! The replies of submission: each error of the API has a reply code and an enhanced code (RFC 3463), and its text begins
//! with the code of the problem.

use std::borrow::Cow;

use crate::domain::outcome::EnhancedCode;
use crate::http::{ApiError, Problem, ProblemCode, field_of};
use crate::smtp::inbound::SmtpRefusal;

/// What the client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    SignIn,
    Mail,
    Recipient,
    Message,
}

/// Returns the reply for an error.
pub(super) fn refusal(error: ApiError, step: Step) -> SmtpRefusal {
    let wait = error.retry_after().map(|wait| wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
    let problem = error.into_problem();
    let (code, subject, detail) = codes(&problem, step);
    let enhanced = EnhancedCode { class: if code < 500 { 4 } else { 5 }, subject, detail };
    let mut text = format!("{}: {}", words(&problem), sentence(&problem));
    if let Some(wait) = wait.filter(|_| code < 500) {
        text = format!("{text} Try again in {} s.", wait.max(1));
    }
    SmtpRefusal::new(code, enhanced, text)
}

/// Returns the reply code, and the subject and the detail of the enhanced code.
fn codes(problem: &Problem, step: Step) -> (u16, u16, u16) {
    use ProblemCode as P;
    match (problem.code, step) {
        (P::TooManyAuthFailures, _) => (421, 7, 0),
        (P::RateLimitExceeded, _) => (450, 7, 1),
        (P::DailyQuotaExceeded, _) => (452, 7, 1),
        (P::IdempotencyKeyInFlight, _) => (450, 3, 2),
        (P::NotConfigured, _) => (451, 3, 5),
        // No fault of the client.
        (code, Step::SignIn) if code.status() >= 500 => (454, 7, 0),
        (code, _) if code.status() >= 500 => (451, 3, 0),
        (P::Unauthorized | P::Forbidden | P::TenantSuspended, Step::SignIn) => (535, 7, 8),
        (P::Unauthorized, Step::Mail) => (530, 7, 0),
        (P::Unauthorized | P::Forbidden | P::TenantSuspended, _) => (550, 7, 1),
        (P::TooLarge, _) => (552, 3, 4),
        (_, Step::Recipient) => (550, 1, 3),
        (P::InvalidRequest, _) => invalid(problem),
        _ => (550, 6, 0),
    }
}

/// Returns the codes for an invalid message, after its first fault.
fn invalid(problem: &Problem) -> (u16, u16, u16) {
    let first = problem.errors.first().map(|fault| (fault.pointer.as_str(), fault.code));
    match first {
        Some((_, "unverified_domain")) => (550, 7, 1),
        Some(("", "too_large")) => (552, 3, 4),
        Some(("from", _)) => (550, 1, 7),
        Some(("to", "too_many")) => (452, 5, 3),
        Some(("to", _)) => (550, 1, 3),
        _ => (550, 6, 0),
    }
}

/// Returns the code of the problem, and that of its first fault.
fn words(problem: &Problem) -> Cow<'static, str> {
    match problem.errors.first() {
        Some(fault) if fault.code != problem.code.as_str() => {
            format!("{} ({})", problem.code.as_str(), fault.code).into()
        }
        _ => problem.code.as_str().into(),
    }
}

/// Returns what is wrong: of several faults the first, and their number.
fn sentence(problem: &Problem) -> String {
    let Some((first, others)) = problem.errors.split_first() else {
        // The advice about requests is not for mail clients.
        let detail = problem.detail.as_ref();
        return detail.split_once(" Retry the request").map_or(detail, |(cause, _)| cause).to_owned();
    };
    let field = field_of(&first.pointer);
    let message = first.message.trim_end_matches('.');
    let subject = if field.is_empty() || message.contains(field) { String::new() } else { format!("{field}: ") };
    let more = if others.is_empty() { String::new() } else { format!(" (and {} more faults)", others.len()) };
    format!("{subject}{message}{more}.")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::api::fault::{Code, Fault};

    fn reply(error: ApiError, step: Step) -> String {
        refusal(error, step).to_string()
    }

    fn fault(pointer: &str, code: Code, message: &str) -> Fault {
        Fault { pointer: pointer.into(), code: code.as_str(), message: message.into() }
    }

    #[test]
    fn each_error_has_its_reply() {
        let limited = |code| ApiError::LimitExceeded {
            code,
            detail: "Too many.".into(),
            retry_after: Duration::from_millis(1_500),
        };
        for (error, step, expected) in [
            (ApiError::Unauthorized("Bad key."), Step::SignIn, "535 5.7.8 unauthorized: Bad key."),
            (ApiError::Unauthorized("Revoked."), Step::Mail, "530 5.7.0 unauthorized: Revoked."),
            (ApiError::Unauthorized("Revoked."), Step::Message, "550 5.7.1 unauthorized: Revoked."),
            (ApiError::Forbidden("No.".into()), Step::Message, "550 5.7.1 forbidden: No."),
            (
                limited(ProblemCode::TooManyAuthFailures),
                Step::SignIn,
                "421 4.7.0 too_many_auth_failures: Too many. Try again in 2 s.",
            ),
            (
                limited(ProblemCode::RateLimitExceeded),
                Step::Mail,
                "450 4.7.1 rate_limit_exceeded: Too many. Try again in 2 s.",
            ),
            (
                limited(ProblemCode::DailyQuotaExceeded),
                Step::Message,
                "452 4.7.1 daily_quota_exceeded: Too many. Try again in 2 s.",
            ),
            (ApiError::KeyReused, Step::Message, "550 5.6.0 idempotency_key_reused: "),
            (ApiError::Internal, Step::Message, "451 4.3.0 internal_error: "),
            (ApiError::ReadOnly, Step::Message, "451 4.3.0 read_only: "),
            (ApiError::ReadOnly, Step::SignIn, "454 4.7.0 read_only: "),
            (ApiError::TooLarge(1), Step::Message, "552 5.3.4 too_large: "),
        ] {
            let found = reply(error, step);
            assert!(found.starts_with(expected), "{found}");
        }
        let away =
            ApiError::Unavailable("The database cannot be reached. Retry the request; with an `Idempotency-Key` …");
        let found = reply(away, Step::Message);
        assert!(found.starts_with("451 4.3.0 unavailable: The database cannot be reached. Try again in "), "{found}");
    }

    #[test]
    fn faults_name_the_field_of_the_message() {
        let invalid = |faults| reply(ApiError::Invalid(faults), Step::Message);
        let unknown = fault("stream", Code::UnknownStream, "no such stream.");
        let found = invalid(vec![unknown.clone(), unknown]);
        let expected =
            "550 5.6.0 invalid_request (unknown_stream): X-Postrider-Stream: no such stream (and 1 more faults).";
        assert_eq!(found, expected);
        let from = invalid(vec![fault("/from", Code::UnverifiedDomain, "acme.test is not registered")]);
        assert!(from.starts_with("550 5.7.1 invalid_request (unverified_domain): "), "{from}");
        let large = invalid(vec![fault("", Code::TooLarge, "the message has 3 bytes")]);
        assert_eq!(large, "552 5.3.4 invalid_request (too_large): the message has 3 bytes.");
        let recipient = refusal(ApiError::Invalid(vec![fault("", Code::InvalidAddress, "no @")]), Step::Recipient);
        assert_eq!(recipient.to_string(), "550 5.1.3 invalid_request (invalid_address): no @.");
    }
}
