//! Parses notifications in JSON: those of Amazon SES for bounces, complaints and deliveries, as SNS sends them by
//! email.

use serde_json::Value;

use super::arf::complained;
use super::received::parts::ReceivedMessage;
use super::received::status;
use super::returned::Returned;
use crate::domain::bounce::report::{Action, Report, ReportKind, ReportedRecipient};
use crate::domain::bounce::{self, BounceType, Category, Judgement};

/// Maximum recipients of one notification.
const MAX_RECIPIENTS: usize = 100;

/// Parses a notification.
pub(super) fn read(message: &ReceivedMessage<'_>) -> Option<Report> {
    let text = message.text();
    let start = text.find('{')?;
    if !["notificationType", "eventType"].iter().any(|key| text.contains(key)) {
        return None;
    }
    // Servers break lines longer than 998 bytes; Sendmail inserts `!` at the break.
    let json = text[start..].replace("!\r\n ", "").replace("!\n ", "").replace(['\r', '\n'], "");
    let value = serde_json::Deserializer::from_str(&json).into_iter::<Value>().next()?.ok()?;
    // SNS may wrap the notification in a JSON string.
    let inner = value.get("Message").and_then(Value::as_str).and_then(|inner| serde_json::from_str(inner).ok());
    let value = inner.unwrap_or(value);
    let kind = value.get("notificationType").or_else(|| value.get("eventType"))?.as_str()?;
    let (kind, recipients) = match kind {
        "Bounce" => (ReportKind::Dsn, bounced(value.get("bounce")?)),
        "Complaint" => (ReportKind::Complaint, complaints(value.get("complaint")?)),
        "Delivery" => (ReportKind::Dsn, delivered(value.get("delivery")?)),
        _ => return None,
    };
    if recipients.is_empty() && kind == ReportKind::Dsn {
        return None;
    }
    let sent = value.get("mail").unwrap_or(&Value::Null);
    let source = sent.get("source").and_then(Value::as_str);
    Some(Report {
        kind,
        rule: "ses-json",
        recipients,
        references: Returned::default().references(message, source.into_iter()),
        original_message_id: message_id(sent),
    })
}

fn bounced(bounce: &Value) -> Vec<ReportedRecipient> {
    let is_permanent = bounce.get("bounceType").and_then(Value::as_str) == Some("Permanent");
    let detail = bounce.get("bounceSubType").and_then(Value::as_str).unwrap_or_default();
    let recipients = list(bounce, "bouncedRecipients").filter_map(|one| {
        let text = |name: &str| one.get(name).and_then(Value::as_str).unwrap_or_default();
        let code = text("diagnosticCode");
        let code = code.split_once(';').filter(|(kind, _)| !kind.contains(' ')).map_or(code, |(_, rest)| rest);
        let reply = status::refusal(code.trim(), text("status").parse().ok());
        let judgement = bounce::judge(&reply);
        // If the server's reply cannot be classified, the provider's bounce type is used.
        let judgement = if judgement.rule == "none" { by_type(is_permanent, detail) } else { judgement };
        Some(ReportedRecipient {
            recipient: address(&one, "emailAddress")?,
            original: None,
            behind: None,
            action: Action::Failed,
            reply,
            judgement: Some(judgement),
        })
    });
    recipients.collect()
}

fn by_type(is_permanent: bool, detail: &str) -> Judgement {
    let (kind, category) = match (is_permanent, detail) {
        (true, "NoEmail") => (BounceType::Hard, Category::UnknownUser),
        (true, _) => (BounceType::Hard, Category::Other),
        (false, "MailboxFull") => (BounceType::Soft, Category::MailboxFull),
        (false, "MessageTooLarge") => (BounceType::Soft, Category::Size),
        (false, "ContentRejected" | "AttachmentRejected") => (BounceType::Block, Category::SpamContent),
        (false, _) => (BounceType::Soft, Category::Other),
    };
    Judgement { kind, category, rule: "ses-bounce-type" }
}

fn complaints(complaint: &Value) -> Vec<ReportedRecipient> {
    let kind = complaint.get("complaintFeedbackType").and_then(Value::as_str).unwrap_or("abuse");
    let named = list(complaint, "complainedRecipients").filter_map(|one| address(&one, "emailAddress"));
    named.map(|recipient| complained(recipient, kind)).collect()
}

fn delivered(delivery: &Value) -> Vec<ReportedRecipient> {
    let response = delivery.get("smtpResponse").and_then(Value::as_str).unwrap_or_default();
    let named = list(delivery, "recipients").filter_map(|one| one.as_str().and_then(super::received::address::typed));
    let recipients = named.map(|recipient| ReportedRecipient {
        recipient,
        original: None,
        behind: None,
        action: Action::Delivered,
        reply: status::reply(response, None),
        judgement: None,
    });
    recipients.collect()
}

fn list(value: &Value, name: &str) -> impl Iterator<Item = Value> {
    let all = value.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    all.into_iter().take(MAX_RECIPIENTS)
}

fn address(value: &Value, name: &str) -> Option<String> {
    super::received::address::typed(value.get(name)?.as_str()?)
}

/// Returns the Message-ID that the message had when it was submitted.
fn message_id(sent: &Value) -> Option<String> {
    let headers = sent.get("headers").and_then(Value::as_array);
    let is_id = |field: &&Value| {
        field.get("name").and_then(Value::as_str).is_some_and(|name| name.eq_ignore_ascii_case("message-id"))
    };
    let id = headers.and_then(|headers| headers.iter().find(is_id)).and_then(|field| field.get("value"));
    let id = id.or_else(|| sent.get("commonHeaders").and_then(|common| common.get("messageId")))?.as_str()?;
    let id = id.trim().trim_matches(['<', '>']);
    (!id.is_empty() && id.len() <= 998 && !id.contains(char::is_control)).then(|| id.to_owned())
}
