//! Parses finished MIME: the body of `POST /v1/messages` with `Content-Type: message/rfc822`, and the query parameters
//! that take the place of the fields of a JSON body.
//!
//! A fault's pointer is the name of the parameter, or of the message's header field.

mod parameters;
mod recipients;
pub mod submitted;

use sha2::{Digest as _, Sha256};

pub use parameters::{PARAMETERS, Parameter, Parameters};

use super::message::attachments::with_digest;
use super::message::{address, send};
use super::{Context, Rejection, RequestHashes};
use crate::domain::address::Mailbox;
use crate::domain::api::fault::{Code, Faults};
use crate::domain::id::MessageId;
use crate::domain::message::{Attachment, AttachmentRole, Content, ENVELOPE_SENDER, Header, NewMessage, message_id};
use crate::mail::raw::{self, RawMessage};
use parameters::Envelope;
use recipients::mailboxes;

/// Maximum length of the stored value of a header field, in characters.
const MAX_STORED: usize = 8_000;

/// A valid message, and the domains of senders that the application named apart from `From`.
#[derive(Debug)]
pub struct MimeRequest {
    /// The message.
    pub message: NewMessage,
    /// The domains of the envelope sender and of `Sender`.
    pub sender_domains: Vec<String>,
}

/// Returns the hashes by which requests with the same `Idempotency-Key` are compared: of the body's bytes and of the
/// parameters.
pub fn hashes(body: &[u8], parameters: &Parameters) -> RequestHashes {
    let mut hash = Sha256::new();
    // Every part is prefixed with its length in 8 bytes. No JSON body can begin with these bytes.
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(b"message/rfc822");
    for (name, value) in parameters.iter() {
        part(name.as_bytes());
        part(value.as_bytes());
    }
    part(body);
    let hash: [u8; 32] = hash.finalize().into();
    RequestHashes { fingerprint: hash, digest: hash }
}

/// Parses a message of at most `max` bytes with CRLF line ends.
pub fn parse(
    body: Vec<u8>,
    max: u64,
    parameters: &Parameters,
    context: &Context<'_>,
) -> Result<MimeRequest, Rejection> {
    let mut faults = Faults::default();
    let envelope = Envelope::parse(parameters, context, &mut faults);
    // Of an invalid envelope, nothing is known: a fault more would be wrong.
    let is_utf8 = envelope.as_ref().is_none_or(Envelope::needs_smtputf8);
    let request =
        RawMessage::read(body, max, is_utf8, &mut faults).and_then(|raw| request(raw, envelope, context, &mut faults));
    match request {
        Some(request) if faults.is_empty() => Ok(request),
        _ => Err(Rejection::Invalid(faults.into_vec())),
    }
}

/// Returns the request of a message. `envelope` is `None` if the parameters have faults.
fn request(
    raw: RawMessage,
    envelope: Option<Envelope>,
    context: &Context<'_>,
    faults: &mut Faults,
) -> Option<MimeRequest> {
    let from = from(&raw, faults);
    let sender = raw.value_of("Sender").and_then(|value| field_sender(&raw, "Sender", &value, faults));
    let message_id = own_message_id(&raw, faults);
    refuse_unencoded_names(&raw, faults);
    let mut envelope = envelope?;
    let recipients = recipients::recipients(&raw, std::mem::take(&mut envelope.to), context, faults);
    let subject = raw.value_of("Subject").map(|value| raw::text(&value)).unwrap_or_default();
    let mut headers = stored_headers(&raw);
    let mut sender_domains: Vec<String> = sender.map(|sender| sender.address.domain().to_owned()).into_iter().collect();
    if let Some(from) = envelope.from {
        sender_domains.push(from.domain().to_owned());
        headers.push(Header { name: ENVELOPE_SENDER.into(), value: from.to_string() });
    }
    let message = NewMessage {
        id: MessageId::new(context.now),
        created_at: context.now,
        from: from?,
        recipients,
        reply_to: mailboxes(&raw, "Reply-To").into_iter().filter_map(Result::ok).collect(),
        subject: subject.chars().take(send::MAX_SUBJECT).collect(),
        content: Content { text: None, html: None, headers },
        attachments: vec![with_digest(description(), raw.into_sendable())],
        tags: envelope.tags,
        metadata: envelope.metadata,
        stream: envelope.stream,
        scheduled_at: envelope.window.scheduled_at,
        expires_at: envelope.window.expires_at,
        on_uncertain: envelope.on_uncertain,
        ignore_suppression: envelope.ignore_suppression,
        message_id,
        in_reply_to: None,
        bulk: None,
        relay: None,
        template: None,
        warnings: Vec::new(),
    };
    Some(MimeRequest { message, sender_domains })
}

/// Returns the description under which the MIME is stored.
fn description() -> Attachment {
    Attachment {
        filename: "message.eml".into(),
        content_type: "message/rfc822".into(),
        role: AttachmentRole::Mime,
        ..Attachment::default()
    }
}

/// Returns the sender in `From`.
fn from(raw: &RawMessage, faults: &mut Faults) -> Option<Mailbox> {
    let Some(value) = raw.value_of("From") else {
        faults.push("From", Code::Required, "the message has no field `From`");
        return None;
    };
    field_sender(raw, "From", &value, faults)
}

fn field_sender(raw: &RawMessage, field: &'static str, value: &str, faults: &mut Faults) -> Option<Mailbox> {
    let is_encoded = value.is_ascii() || raw.needs_smtputf8();
    let found = raw::sender(value).and_then(|mailbox| match address::unsafe_in_sender(&mailbox.address) {
        _ if !is_encoded => Err("must be ASCII; write the name as encoded-words (RFC 2047)".into()),
        Some(c) => Err(format!("has a quoted local part with `{c}`, which is not allowed in a sender's address")),
        None => Ok(mailbox),
    });
    found.map_err(|why| faults.push(field, Code::InvalidAddress, format!("the field `{field}` {why}"))).ok()
}

/// Adds a fault for each address field that contains UTF-8 although no address of the message needs it: many servers refuse
/// such a message.
fn refuse_unencoded_names(raw: &RawMessage, faults: &mut Faults) {
    if raw.needs_smtputf8() {
        return;
    }
    for field in ["Reply-To", "To", "Cc"] {
        if raw.value_of(field).is_some_and(|value| !value.is_ascii()) {
            let message = format!("the field `{field}` must be ASCII; write the names as encoded-words (RFC 2047)");
            faults.push(field, Code::InvalidHeader, message);
        }
    }
}

/// Returns the message's own Message-ID.
fn own_message_id(raw: &RawMessage, faults: &mut Faults) -> Option<String> {
    let value = raw.value_of("Message-ID")?;
    let id = message_id::only_id(&value).map(str::to_owned);
    if id.is_none() {
        let message = "the field `Message-ID` must have one id in angle brackets, such as `<1234@acme.test>`; leave it \
                       out, and Postrider adds one";
        faults.push("Message-ID", Code::InvalidHeader, message);
    }
    id
}

/// Returns the fields that matter for later replies and for unsubscribe links. They are stored like custom headers, and
/// are in the MIME already.
fn stored_headers(raw: &RawMessage) -> Vec<Header> {
    let thread = |name: &'static str| Some((name, message_id::thread(&raw.value_of(name)?)));
    let link = |name: &'static str| Some((name, raw.value_of(name)?.chars().take(MAX_STORED).collect::<String>()));
    let threads = ["In-Reply-To", "References"].into_iter().filter_map(thread).filter(|(_, ids)| !ids.is_empty());
    let links = ["List-Unsubscribe", "List-Unsubscribe-Post"].into_iter().filter_map(link);
    threads.chain(links).map(|(name, value)| Header { name: name.into(), value }).collect()
}

#[cfg(test)]
mod tests;
