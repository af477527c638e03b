//! Passes what the SMTP server receives to [`Submission`].

use super::replies::{Step, refusal};
use crate::http::{ReceivedMime, Submission, SubmissionError, Submitter};
use crate::metrics::METRICS;
use crate::metrics::labels::{LoginResult, SubmissionResult};
use crate::smtp::inbound::{Handler, Login, ReceivedMessage, SmtpRefusal};

/// Accepts the messages of clients that have signed in.
#[derive(Debug)]
pub(super) struct SubmissionHandler {
    submission: Submission,
}

impl SubmissionHandler {
    pub(super) fn new(submission: Submission) -> Self {
        Self { submission }
    }
}

impl Handler for SubmissionHandler {
    type Identity = Submitter;

    /// The user's name has no meaning: applications need some to be configured.
    async fn sign_in(&self, login: Login<'_>) -> Result<Submitter, SmtpRefusal> {
        let signed_in = self.submission.sign_in(login.password, login.peer.ip()).await;
        let signed_in = signed_in.map_err(|error| refusal(error, Step::SignIn));
        let result = match &signed_in {
            Ok(_) => LoginResult::Accepted,
            Err(refusal) if refusal.code() == 421 => LoginResult::Limited,
            Err(refusal) if refusal.is_temporary() => LoginResult::Unavailable,
            Err(_) => LoginResult::Refused,
        };
        METRICS.submission_logins.get((result,)).increment(1);
        signed_in
    }

    async fn mail(&self, submitter: Option<&Submitter>, _from: &str) -> Result<(), SmtpRefusal> {
        let begun = self.submission.begin(signed_in(submitter)?).await;
        begun.map_err(|error| counted(refusal(error, Step::Mail)))
    }

    async fn rcpt(&self, submitter: Option<&Submitter>, _from: &str, to: &str) -> Result<(), SmtpRefusal> {
        signed_in(submitter)?;
        self.submission.check_recipient(to).map_err(|error| refusal(error, Step::Recipient))
    }

    async fn message(&self, submitter: Option<&Submitter>, message: ReceivedMessage) -> Result<String, SmtpRefusal> {
        let protocol = protocol(&message);
        let ReceivedMessage { from, to, data: mime, .. } = message;
        let accepted = self.submission.accept(signed_in(submitter)?, ReceivedMime { from, to, protocol, mime }).await;
        match accepted {
            Ok(receipt) => {
                let result = if receipt.is_replay { SubmissionResult::Replayed } else { SubmissionResult::Accepted };
                METRICS.submission_messages.get((result,)).increment(1);
                Ok(format!("queued as {}", receipt.id))
            }
            Err(SubmissionError::Refused(error)) => Err(counted(refusal(error, Step::Message))),
            Err(SubmissionError::Loop) => Err(counted(SmtpRefusal::looping("Too many Received fields: a mail loop"))),
        }
    }
}

/// Returns the identity that the server has required before MAIL.
fn signed_in(submitter: Option<&Submitter>) -> Result<&Submitter, SmtpRefusal> {
    submitter.ok_or_else(|| SmtpRefusal::permanent(7, 0, "Authentication required"))
}

/// Counts a message that is refused.
fn counted(refusal: SmtpRefusal) -> SmtpRefusal {
    let result = if refusal.is_temporary() { SubmissionResult::Deferred } else { SubmissionResult::Refused };
    METRICS.submission_messages.get((result,)).increment(1);
    tracing::debug!(%refusal, "refused a submitted message");
    refusal
}

/// Returns the protocol for `Received` (RFC 3848, RFC 6531 §4.3).
fn protocol(message: &ReceivedMessage) -> &'static str {
    match (message.smtputf8, message.is_secure) {
        (false, false) => "ESMTPA",
        (false, true) => "ESMTPSA",
        (true, false) => "UTF8SMTPA",
        (true, true) => "UTF8SMTPSA",
    }
}
