//! Values of a message's JSON columns.

use serde_json::{Value, json};

use crate::domain::address::Mailbox;
use crate::domain::message::NewMessage;

/// `contents.headers`: `[{"name", "value"}]`.
pub(in crate::db) fn headers(message: &NewMessage) -> Value {
    json!(message.content.headers)
}

/// `contents.attachments`: `[{"filename", "content_type", "content_id", "sha256", "size"}]`, and `role` unless it is a
/// file.
pub(in crate::db) fn attachments(message: &NewMessage) -> Value {
    message.attachments.iter().map(|attachment| json!(attachment.description)).collect()
}

/// `messages.reply_to`: `[{"email", "name"}]`.
pub(in crate::db) fn reply_to(mailboxes: &[Mailbox]) -> Value {
    mailboxes.iter().map(|mailbox| json!({"email": mailbox.address.to_string(), "name": mailbox.name})).collect()
}
