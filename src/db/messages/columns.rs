//! Values of a message's JSON columns.

use serde_json::{Value, json};

use crate::domain::address::Mailbox;
use crate::domain::message::{Attachment, Header, NewMessage};

/// `contents.headers`: `[{"name", "value"}]`.
pub(in crate::db) fn headers(headers: &[Header]) -> Value {
    json!(headers)
}

/// `contents.attachments`: `[{"filename", "content_type", "content_id", "sha256", "size"}]`, with `role` for
/// attachments that are not files.
pub(in crate::db) fn attachments<'a>(attachments: impl IntoIterator<Item = &'a Attachment>) -> Value {
    attachments.into_iter().map(|attachment| json!(attachment)).collect()
}

/// `contents.attachments` of a new message.
pub(in crate::db) fn attachments_of(message: &NewMessage) -> Value {
    attachments(message.attachments.iter().map(|attachment| &attachment.description))
}

/// `messages.reply_to`: `[{"email", "name"}]`.
pub(in crate::db) fn reply_to(mailboxes: &[Mailbox]) -> Value {
    mailboxes.iter().map(|mailbox| json!({"email": mailbox.address.to_string(), "name": mailbox.name})).collect()
}
