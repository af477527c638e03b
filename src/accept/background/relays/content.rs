//! Makes the messages: the one that passes a received message on, and the report of its failure.

use std::net::IpAddr;

use chrono::{DateTime, Utc};

use crate::accept::request::message::attachments::with_digest;
use crate::db::messages::relays::{EndRow, RelayRow, STREAM, SourceRow};
use crate::domain::address::srs::Srs;
use crate::domain::address::{Address, Mailbox};
use crate::domain::delivery::Status;
use crate::domain::id::{InboundRouteId, MessageId, ReceivedId, RecipientId};
use crate::domain::message::{
    Attachment, AttachmentRole, Content, ENVELOPE_SENDER, Header, NewMessage, NewRecipient, RecipientKind, RelayOf,
};
use crate::domain::outcome::OnUncertain;
use crate::mail::failure_report::FailureReport;

/// Bytes of a received message that are read for a report, which has only its header.
pub(super) const MAX_RETURNED: i32 = 64 << 10;
/// Maximum characters of a subject.
const MAX_SUBJECT: usize = 998;
/// Maximum length of a Message-ID by which the message is found.
const MAX_MESSAGE_ID: usize = 500;
/// Maximum characters of a client's name in `Received`.
const MAX_HELO: usize = 255;

/// Returns the message that passes a received message on, with a sender that `srs` has rewritten; `None` if the recipient is no
/// address, which the server that received it does not accept.
pub(super) fn relayed(
    row: &RelayRow,
    source: SourceRow,
    (hostname, srs): (&str, Option<&Srs>),
    now: DateTime<Utc>,
) -> Option<NewMessage> {
    let recipient: Address = row.recipient.parse().ok()?;
    let mime = [received_field(row, &source, hostname).as_bytes(), &source.raw, line_end(&source.raw)].concat();
    // The address in `From` is shown, and used for nothing else. There may be none.
    let from = source.from_address.as_deref().and_then(|address| address.parse().ok());
    let from = from.or_else(|| row.reverse_path.parse().ok()).or_else(|| mailer_daemon(&recipient))?;
    let sender = row.reverse_path.parse().ok();
    let rewritten = srs.zip(sender).and_then(|(srs, sender)| srs.rewrite(&sender, now));
    let sender = rewritten.map_or_else(|| row.reverse_path.clone(), |address| address.to_string());
    let route = row.route_id.map(InboundRouteId);
    let relay = RelayOf { received: ReceivedId(row.received_id), route };
    Some(NewMessage {
        subject: source.subject.chars().take(MAX_SUBJECT).collect(),
        message_id: source.internet_message_id.filter(|id| id.is_ascii() && id.len() <= MAX_MESSAGE_ID),
        // The address of a route is the tenant's own: what other messages to it led to is no reason to keep this one from it.
        ignore_suppression: row.route_id.is_some(),
        relay: Some(relay),
        ..message(
            Mailbox { address: from, name: source.from_name },
            recipient,
            (sender, AttachmentRole::Relayed, mime),
            now,
        )
    })
}

/// Returns the report of a failed message to the sender of the received message; `None` if there is nobody to tell, if the message has
/// not failed, or if SPF says that the sender is forged: then somebody else would get the report.
pub(super) fn report(
    row: &RelayRow,
    (failed, end): (MessageId, &EndRow),
    source: Option<&SourceRow>,
    hostname: &str,
    now: DateTime<Utc>,
) -> Option<NewMessage> {
    let has_status = |status: Status| end.status == status.as_str();
    let is_failed = has_status(Status::Bounced) || has_status(Status::Expired);
    if !is_failed || source.is_some_and(|source| source.spf.as_deref() == Some("fail")) {
        return None;
    }
    // That of the null sender is empty.
    let to: Address = row.reverse_path.parse().ok()?;
    let from = mailer_daemon(&row.recipient.parse().ok()?)?;
    let mime = FailureReport {
        hostname,
        from: &from,
        to: &to,
        recipient: &row.recipient,
        received_at: ReceivedId(row.received_id).time(),
        is_expired: has_status(Status::Expired),
        code: end.response_code,
        enhanced: end.response_enhanced.as_deref(),
        reply: end.response_text.as_deref(),
        server: end.mx.as_deref(),
        last_attempt_at: end.last_attempt_at,
        message_id: source.and_then(|source| source.internet_message_id.as_deref()),
        message: source.map_or(&[][..], |source| &source.raw),
        unique: &failed.0.simple().to_string(),
    }
    .write();
    let from = Mailbox { address: from, name: Some("Mail Delivery System".into()) };
    Some(NewMessage {
        subject: "Undelivered message returned to sender".into(),
        ..message(from, to, (String::new(), AttachmentRole::Mime, mime), now)
    })
}

/// Returns a message to one recipient, with this envelope sender and MIME.
fn message(
    from: Mailbox,
    to: Address,
    (envelope_sender, role, mime): (String, AttachmentRole, Vec<u8>),
    now: DateTime<Utc>,
) -> NewMessage {
    let mailbox = Mailbox { address: to, name: None };
    let description = Attachment {
        filename: "message.eml".into(),
        content_type: "message/rfc822".into(),
        role,
        ..Attachment::default()
    };
    NewMessage {
        id: MessageId::new(now),
        created_at: now,
        from,
        recipients: vec![NewRecipient { id: RecipientId::new(now), kind: RecipientKind::To, mailbox }],
        reply_to: Vec::new(),
        subject: String::new(),
        content: Content {
            headers: vec![Header { name: ENVELOPE_SENDER.into(), value: envelope_sender }],
            ..Content::default()
        },
        attachments: vec![with_digest(description, mime)],
        tags: Vec::new(),
        metadata: serde_json::Map::new(),
        stream: STREAM.into(),
        scheduled_at: None,
        expires_at: None,
        on_uncertain: OnUncertain::default(),
        ignore_suppression: false,
        message_id: None,
        in_reply_to: None,
        template: None,
        bulk: None,
        relay: None,
        warnings: Vec::new(),
    }
}

/// Returns the address from which reports about a recipient come.
fn mailer_daemon(recipient: &Address) -> Option<Address> {
    format!("MAILER-DAEMON@{}", recipient.domain()).parse().ok()
}

/// Returns the trace field that every server adds (RFC 5321 §4.4).
fn received_field(row: &RelayRow, source: &SourceRow, hostname: &str) -> String {
    let helo: String =
        source.helo.chars().filter(|c| c.is_ascii_graphic() && !"()\\\"<>;".contains(*c)).take(MAX_HELO).collect();
    let helo = if helo.is_empty() { "unknown" } else { &helo };
    let client = match source.remote_address.parse() {
        Ok(IpAddr::V6(ip)) => format!("[IPv6:{ip}]"),
        Ok(IpAddr::V4(ip)) => format!("[{ip}]"),
        Err(_) => "[unknown]".into(),
    };
    let at = source.received_at.format("%a, %d %b %Y %H:%M:%S +0000");
    let id = ReceivedId(row.received_id);
    format!("Received: from {helo} ({client})\r\n by {hostname} (Postrider) with ESMTP id {id};\r\n {at}\r\n")
}

/// Returns the line end that a message lacks at its end.
fn line_end(mime: &[u8]) -> &'static [u8] {
    if mime.ends_with(b"\r\n") { b"" } else { b"\r\n" }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::installation::keyring::Keyring;

    fn row() -> RelayRow {
        RelayRow {
            tenant_id: Uuid::nil(),
            received_id: Uuid::from_u128(1),
            position: 0,
            route_id: Some(Uuid::from_u128(2)),
            reverse_path: "ann@example.test".into(),
            recipient: "bob@acme.test".into(),
            message_id: None,
        }
    }

    fn source() -> SourceRow {
        SourceRow {
            received_at: DateTime::UNIX_EPOCH,
            helo: "mx.example.test".into(),
            remote_address: "192.0.2.7".into(),
            from_address: Some("ann@example.test".into()),
            from_name: Some("Ann".into()),
            subject: "Hello".into(),
            internet_message_id: Some("m1@example.test".into()),
            spf: None,
            raw: b"Subject: Hello\r\n\r\nBody".to_vec(),
        }
    }

    fn text(message: &NewMessage) -> String {
        String::from_utf8(message.attachments[0].data.clone()).unwrap()
    }

    #[test]
    fn message_gets_a_trace_field_and_nothing_else() {
        let relayed = super::relayed(&row(), source(), ("mail.acme.test", None), DateTime::UNIX_EPOCH).unwrap();
        assert_eq!(
            text(&relayed),
            "Received: from mx.example.test ([192.0.2.7])\r\n by mail.acme.test (Postrider) with ESMTP id \
             rcv_00000000000000000000000000000001;\r\n Thu, 01 Jan 1970 00:00:00 +0000\r\nSubject: Hello\r\n\r\nBody\r\n"
        );
        assert_eq!(relayed.content.headers[0].value, "ann@example.test");
        let srs = Srs::new(Keyring::new("one", []), "srs.acme.test");
        let rewritten = super::relayed(&row(), source(), ("mail.acme.test", Some(&srs)), DateTime::UNIX_EPOCH).unwrap();
        assert!(rewritten.content.headers[0].value.ends_with("=AA=example.test=ann@srs.acme.test"));
    }

    #[test]
    fn client_name_cannot_add_a_field() {
        let source =
            SourceRow { helo: "a b\r\nX: (y)\u{e9};".into(), remote_address: "2001:db8::1".into(), ..source() };
        let field = received_field(&row(), &source, "mail.acme.test");
        assert!(field.starts_with("Received: from abX:y ([IPv6:2001:db8::1])\r\n by"), "{field}");
    }

    #[test]
    fn message_without_a_readable_sender_is_passed_on_too() {
        let row = RelayRow { reverse_path: String::new(), ..row() };
        let source = SourceRow { from_address: Some("no address".into()), ..source() };
        let relayed = super::relayed(&row, source, ("mail.acme.test", None), DateTime::UNIX_EPOCH).unwrap();
        assert_eq!(relayed.from.address.to_string(), "MAILER-DAEMON@acme.test");
        assert!(relayed.has_null_sender());
    }

    #[test]
    fn null_and_forged_senders_get_no_report() {
        let end = EndRow {
            status: "bounced".into(),
            response_code: Some(550),
            response_enhanced: Some("5.1.1".into()),
            response_text: Some("No such mailbox".into()),
            mx: None,
            last_attempt_at: None,
        };
        let failed = MessageId(Uuid::from_u128(3));
        let report = |row: &RelayRow, end: &EndRow, source: Option<&SourceRow>| {
            super::report(row, (failed, end), source, "mail.acme.test", DateTime::UNIX_EPOCH)
        };
        let written = report(&row(), &end, Some(&source())).unwrap();
        assert!(written.has_null_sender() && text(&written).contains("Subject: Hello\r\n"));
        assert!(report(&row(), &end, None).is_some(), "the received message may have been deleted");
        assert!(report(&RelayRow { reverse_path: String::new(), ..row() }, &end, None).is_none());
        let forged = SourceRow { spf: Some("fail".into()), ..source() };
        assert!(report(&row(), &end, Some(&forged)).is_none());
        for status in ["relayed", "canceled", "uncertain", "queued"] {
            assert!(report(&row(), &EndRow { status: status.into(), ..end.clone() }, None).is_none(), "{status}");
        }
    }
}
