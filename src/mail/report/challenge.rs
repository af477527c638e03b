//! Challenges: automatic replies that ask the sender to confirm a message before the recipient receives it. Some are
//! written like bounces, and name an address for the confirmation.

use super::notice::formats::format;
use super::received::parts::ReceivedMessage;
use super::received::status;
use super::{notice, silent};
use crate::domain::bounce::report::{Report, ReportKind};

/// Phrases that occur only in challenges, in lower case.
const PHRASES: [&str; 27] = [
    "release your message for delivery",
    "to release your message",
    "in order to release your",
    "challenge/response",
    "challenge-response",
    "confirmation verifies that your message",
    "confirm that your message is",
    "confirm that you sent",
    "confirm that you are",
    "verify that you are",
    "prove that you are",
    "prove you are a",
    "confirm your message",
    "to confirm your email, reply",
    "only have to confirm",
    "only need to confirm",
    "protecting myself from",
    "list of approved senders, please",
    "have your address added to the recipient's allowed",
    "address added to my approved",
    "vous authentifier une seule fois",
    "veuillez vous authentifier",
    "bestätigen sie bitte ihre nachricht",
    "bitte bestätigen sie ihre nachricht",
    "confirme su mensaje",
    "confirme sua mensagem",
    "confermare il messaggio",
];

/// Phrases that say that a message waits, in lower case.
const HOLDS: [&str; 20] = [
    "is being held",
    "has been held",
    "was held",
    "is on hold",
    "on hold until",
    "held pending",
    "is pending",
    "pending your",
    "waiting for your",
    "awaiting your",
    "awaiting confirmation",
    "awaiting verification",
    "waitlisted",
    "waiting list",
    "guest list",
    "en attente",
    "zurückgehalten",
    "retenido",
    "retida",
    "in attesa di",
];

/// Phrases that ask the sender to act, in lower case.
const REQUESTS: [&str; 24] = [
    "has not been verified",
    "has not yet been verified",
    "send an empty message",
    "use your mailer's \"reply\"",
    "reply to this message",
    "reply to this email",
    "reply to this e-mail",
    "by replying to",
    "simply reply",
    "click the link below",
    "click on the link below",
    "click on the following link",
    "click the following link",
    "click here to",
    "use the link below",
    "confirm your",
    "verify your",
    "authenticate yourself",
    "authentifier",
    "cliquant sur",
    "bestätigen",
    "haga clic",
    "clique no",
    "confermare",
];

/// Phrases in the subjects of challenges, in lower case.
const SUBJECTS: [&str; 8] = [
    "confirm your message",
    "confirm your email to",
    "confirm your mail to",
    "confirmation required",
    "[verification]",
    "sender verification required",
    "demande d'authentification",
    "please confirm delivery",
];

/// Parses a challenge. A text that quotes a refusal, or says that a delivery failed, is a bounce.
pub(super) fn read(message: &ReceivedMessage<'_>) -> Option<Report> {
    let text = message.text();
    let (text, _) = notice::split(&text);
    let lower = notice::one_line(text);
    let subject = message.subject.to_lowercase();
    let has = |text: &str, phrases: &[&str]| phrases.iter().any(|words| text.contains(words));
    let is_challenge =
        has(&lower, &PHRASES) || has(&subject, &SUBJECTS) || has(&lower, &HOLDS) && has(&lower, &REQUESTS);
    if !is_challenge || message.fields.get("x-failed-recipients").is_some() {
        return None;
    }
    let quoted = status::refusal(text, None);
    let is_bounce =
        quoted.code.is_some() || quoted.enhanced.is_some() || format(&lower).is_some_and(|(_, fails)| fails);
    (!is_bounce).then(|| silent(ReportKind::AutoReply, "challenge", message))
}
