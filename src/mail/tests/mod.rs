//! Tests of whole messages: their structure, and that an independent parser returns every field.

mod reading;
mod roundtrip;
mod structure;

use chrono::DateTime;

use crate::domain::address::Mailbox;
use crate::domain::id::MessageId;
use crate::domain::message::{Attachment, Content, Draft, Header};

fn mailbox(address: &str) -> Mailbox {
    Mailbox { address: address.parse().unwrap(), name: None }
}

fn named(name: &str, address: &str) -> Mailbox {
    Mailbox { name: Some(name.into()), ..mailbox(address) }
}

pub(super) fn header(name: &str, value: &str) -> Header {
    Header { name: name.into(), value: value.into() }
}

fn file(filename: &str, content_type: &str, content_id: Option<&str>, data: &[u8]) -> (Attachment, Vec<u8>) {
    let description = Attachment {
        filename: filename.into(),
        content_type: content_type.into(),
        content_id: content_id.map(Into::into),
        sha256: "0".repeat(64),
        size: data.len() as u64,
        ..Attachment::default()
    };
    (description, data.to_vec())
}

pub(super) fn draft(text: Option<&str>, html: Option<&str>, attachments: Vec<(Attachment, Vec<u8>)>) -> Draft {
    Draft {
        id: "msg_0193661b3d007abc8def0123456789ab".parse::<MessageId>().unwrap(),
        date: DateTime::from_timestamp(1_795_000_000, 0).unwrap(),
        from: mailbox("billing@acme.test"),
        to: vec![mailbox("ann@example.test")],
        cc: Vec::new(),
        reply_to: Vec::new(),
        subject: "Your invoice".into(),
        content: Content { text: text.map(Into::into), html: html.map(Into::into), headers: Vec::new() },
        attachments,
    }
}
