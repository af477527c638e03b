//! Automatic replies (RFC 3834 and older forms) and read receipts (RFC 8098), which do not report a delivery result.

use super::received::fields::Fields;
use super::received::parts::ReceivedMessage;
use super::received::{address, status};
use super::{notice, silent};
use crate::domain::bounce;
use crate::domain::bounce::report::{Action, Report, ReportKind, ReportedRecipient};

/// Phrases in the subjects of vacation notices, in lower case.
const SUBJECTS: [&str; 26] = [
    "out of office",
    "out of the office",
    "out-of-office",
    "automatic reply",
    "automatic response",
    "automated reply",
    "autoreply",
    "auto-reply",
    "auto reply",
    "auto response",
    "auto-response",
    "autoresponse",
    "vacation",
    "abwesenheit",
    "automatische antwort",
    "réponse automatique",
    "absence du bureau",
    "respuesta automática",
    "risposta automatica",
    "resposta automática",
    "automatisch antwoord",
    "automatiskt svar",
    "autosvar",
    "автоответ",
    "自动回复",
    "自動回覆",
];

/// Parses a receipt for a message that was read, or deleted unread.
pub(super) fn receipt(message: &ReceivedMessage<'_>) -> Option<Report> {
    let part = message.part(&["message/disposition-notification", "message/global-disposition-notification"])?;
    rejected(message, &Fields::read(&part.text())).or_else(|| Some(silent(ReportKind::AutoReply, "rfc8098", message)))
}

/// Parses a refusal by the mailbox after the server accepted the message, which has the form of a receipt (RFC 5429
/// §2.1).
fn rejected(message: &ReceivedMessage<'_>, fields: &Fields) -> Option<Report> {
    let disposition = fields.get("disposition")?.to_ascii_lowercase();
    let text = message.text();
    let is_refusal = disposition.contains("automatic-action") && disposition.contains("deleted");
    if !is_refusal || !text.to_ascii_lowercase().contains("automatically rejected") {
        return None;
    }
    let named = ["final-recipient", "original-recipient"].iter().find_map(|name| fields.get(name));
    let recipient = address::typed(named?)?;
    let reply = status::refusal(&notice::lines_about(&text, &recipient, true).unwrap_or_default(), None);
    let judgement = Some(bounce::judge(&reply));
    let one = ReportedRecipient { recipient, original: None, behind: None, action: Action::Failed, reply, judgement };
    Some(Report { recipients: vec![one], ..silent(ReportKind::Dsn, "rfc5429", message) })
}

/// Returns whether a subject is that of a vacation notice.
pub(super) fn is_vacation(subject: &str) -> bool {
    let subject = subject.to_lowercase();
    SUBJECTS.iter().any(|words| subject.contains(words)) || subject.starts_with("auto: ")
}

/// Parses an automatic reply.
pub(super) fn read(message: &ReceivedMessage<'_>) -> Option<Report> {
    rule(message).map(|rule| silent(ReportKind::AutoReply, rule, message))
}

/// Returns the rule by which a message is an automatic reply.
pub(in crate::mail) fn rule(message: &ReceivedMessage<'_>) -> Option<&'static str> {
    let field = |name: &str| message.fields.get(name).map(|value| value.trim().to_ascii_lowercase());
    let is_yes = |name: &str| field(name).is_some_and(|value| value != "no");
    let is_reply = message.fields.get("in-reply-to").is_some() || message.fields.get("references").is_some();
    let rules = [
        ("auto-submitted", field("auto-submitted").is_some_and(|value| value.starts_with("auto-"))),
        (
            "x-autoreply",
            ["x-autoreply", "x-autorespond", "x-autoresponse", "x-auto-reply", "x-mail-autoreply"]
                .iter()
                .any(|n| is_yes(n)),
        ),
        (
            "precedence-auto-reply",
            field("precedence").is_some_and(|value| value == "auto_reply" || value == "auto-reply"),
        ),
        (
            "precedence-of-an-answer",
            is_reply && field("precedence").is_some_and(|value| value == "bulk" || value == "junk"),
        ),
        ("vacation-subject", is_vacation(&message.subject)),
    ];
    rules.into_iter().find(|(_, fits)| *fits).map(|(rule, _)| rule)
}
