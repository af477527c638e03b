//! The lines of an export: a message as JSON, or its recipients as CSV.

use chrono::{DateTime, SecondsFormat, Utc};

use crate::accept::import::csv_cell;
use crate::http::messages::read::view::{Message, Recipient};

/// The columns of a CSV export.
const COLUMNS: [&str; 24] = [
    "message_id",
    "recipient_id",
    "created_at",
    "message_status",
    "stream",
    "from",
    "subject",
    "kind",
    "address",
    "status",
    "attempts",
    "last_attempt_at",
    "next_attempt_at",
    "finished_at",
    "held",
    "response_code",
    "response_enhanced",
    "response_text",
    "mx",
    "tls",
    "tags",
    "metadata",
    "bulk_id",
    "key_id",
];

/// Returns the first line of a CSV export.
pub(super) fn header() -> String {
    COLUMNS.join(",") + "\r\n"
}

/// Returns a message as one line of JSON.
pub(super) fn json(message: &Message) -> String {
    // Cannot fail: every map key is a string.
    serde_json::to_string(message).unwrap_or_default() + "\n"
}

/// Returns the recipients of a message as lines of CSV.
pub(super) fn csv(message: &Message) -> String {
    message
        .recipients
        .iter()
        .map(|recipient| cells(message, recipient).map(csv_cell::field).join(",") + "\r\n")
        .collect()
}

fn cells(message: &Message, recipient: &Recipient) -> [String; COLUMNS.len()] {
    let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    let optional_time = |at: Option<DateTime<Utc>>| at.map_or_else(String::new, time);
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let response = recipient.response.as_ref();
    [
        message.id.to_string(),
        recipient.id.to_string(),
        time(message.created_at),
        message.status.as_str().to_owned(),
        message.stream.clone(),
        message.from.email.clone(),
        message.subject.clone(),
        recipient.kind.clone(),
        recipient.address.clone(),
        recipient.status.as_str().to_owned(),
        recipient.attempts.to_string(),
        optional_time(recipient.last_attempt_at),
        optional_time(recipient.next_attempt_at),
        optional_time(recipient.finished_at),
        text(&recipient.held),
        response.and_then(|reply| reply.code).map_or_else(String::new, |code| code.to_string()),
        response.and_then(|reply| reply.enhanced.clone()).unwrap_or_default(),
        response.map(|reply| reply.text.clone()).unwrap_or_default(),
        text(&recipient.mx),
        text(&recipient.tls),
        message.tags.to_string(),
        message.metadata.to_string(),
        message.bulk_id.map_or_else(String::new, |id| id.to_string()),
        message.key_id.map_or_else(String::new, |id| id.to_string()),
    ]
}
