//! Messages that are received over SMTP: finished MIME with the envelope of the SMTP transaction, and with header fields
//! in the place of the query parameters.

use serde_json_borrow::Value;
use sha2::{Digest as _, Sha256};

use super::parameters::{Parameters, address_text};
use crate::accept::request::json::walk::Node;
use crate::accept::request::message::address;
use crate::accept::request::{Context, Rejection, RequestHashes};
use crate::domain::api::fault::{Code, Faults};
use crate::mail::raw::{self, Instructed};

/// The names of the header fields that instruct Postrider.
const STREAM: &str = "X-Postrider-Stream";
const TAG: &str = "X-Postrider-Tag";
const METADATA: &str = "X-Postrider-Metadata";
const SCHEDULE: &str = "X-Postrider-Schedule";
const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

/// The header field, or the part of the SMTP envelope, that takes the place of each parameter.
const FIELDS: [(&str, &str); 7] = [
    ("/from", "From"),
    ("from", "MAIL FROM"),
    ("to", "RCPT TO"),
    ("stream", STREAM),
    ("tag", TAG),
    ("metadata", METADATA),
    ("scheduled_at", SCHEDULE),
];

/// Returns the name under which a client of SMTP knows what a fault's pointer names.
pub fn field_of(pointer: &str) -> &str {
    FIELDS.iter().find(|(parameter, _)| *parameter == pointer).map_or(pointer, |(_, field)| field)
}

/// A message received over SMTP.
#[derive(Debug)]
pub struct SubmittedMessage {
    /// The message without the fields that instruct Postrider.
    pub message: Vec<u8>,
    /// The envelope and the instructions.
    pub parameters: Parameters,
    /// The values of `Idempotency-Key`.
    pub idempotency_keys: Vec<String>,
    /// How many servers the message has passed.
    pub hops: usize,
}

impl SubmittedMessage {
    /// Reads the instructions of a message with CRLF line ends. `from` is empty for the null sender; then the envelope
    /// sender is the address in `From`, as without the parameter `from`.
    pub fn read(message: Vec<u8>, from: &str, to: &[String]) -> Result<Self, Rejection> {
        let Instructed { message, fields, hops } =
            raw::take(message, &[STREAM, TAG, METADATA, SCHEDULE, IDEMPOTENCY_KEY]);
        let values = |name: &str| -> Vec<String> {
            let named = fields.iter().filter(|(found, _)| *found == name);
            named.map(|(_, value)| raw::text(value).trim().to_owned()).collect()
        };
        let mut faults = Faults::default();
        let tags = values(TAG).iter().filter_map(|value| pair(TAG, value, &mut faults)).collect();
        let metadata = values(METADATA).iter().flat_map(|value| metadata(value, &mut faults)).collect();
        let (mut tags, mut metadata): (Vec<String>, Vec<String>) = (tags, metadata);
        if !faults.is_empty() {
            return Err(Rejection::Invalid(faults.into_vec()));
        }
        let parameters = Parameters::new(|name| match name {
            "from" if !from.is_empty() => vec![from.to_owned()],
            "to" => to.to_vec(),
            "stream" => values(STREAM),
            "tag" => std::mem::take(&mut tags),
            "metadata" => std::mem::take(&mut metadata),
            "scheduled_at" => values(SCHEDULE),
            _ => Vec::new(),
        });
        Ok(Self { message, parameters, idempotency_keys: values(IDEMPOTENCY_KEY), hops })
    }

    /// Returns the hashes by which messages with the same `Idempotency-Key` are compared. An application that builds the
    /// same message again gets the same hashes.
    pub fn hashes(&self) -> RequestHashes {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        part(b"submission");
        for (name, value) in self.parameters.iter() {
            part(name.as_bytes());
            part(value.as_bytes());
        }
        raw::comparable(&self.message, |bytes| hash.update(bytes));
        let hash: [u8; 32] = hash.finalize().into();
        RequestHashes { fingerprint: hash, digest: hash }
    }
}

/// Checks the address of a recipient, as far as that is possible without the other parts of the message.
pub fn check_recipient(to: &str, context: &Context<'_>) -> Result<(), Rejection> {
    let mut faults = Faults::default();
    address::recipient(Node::root(address_text(to)), context, &mut faults);
    if faults.is_empty() { Ok(()) } else { Err(Rejection::Invalid(faults.into_vec())) }
}

/// Returns `name=value` in the form of a parameter, `name:value`.
fn pair(field: &'static str, text: &str, faults: &mut Faults) -> Option<String> {
    let Some((name, value)) = text.split_once('=') else {
        faults.push(field, Code::InvalidValue, "write `name=value`");
        return None;
    };
    parameter(field, name.trim(), value.trim(), faults)
}

fn parameter(field: &'static str, name: &str, value: &str, faults: &mut Faults) -> Option<String> {
    if name.contains(':') {
        faults.push(field, Code::InvalidValue, "a name must not contain `:`");
        return None;
    }
    Some(format!("{name}:{value}"))
}

/// Returns the entries of a field with metadata: `name=value`, or a JSON object of strings.
fn metadata(text: &str, faults: &mut Faults) -> Vec<String> {
    if !text.starts_with('{') {
        return pair(METADATA, text, faults).into_iter().collect();
    }
    let Ok(Value::Object(entries)) = serde_json::from_str::<Value<'_>>(text) else {
        faults.push(METADATA, Code::InvalidValue, "write a JSON object of strings, or `name=value`");
        return Vec::new();
    };
    let mut list = Vec::new();
    for (name, value) in entries.iter() {
        match value {
            Value::Str(value) => list.extend(parameter(METADATA, name, value, faults)),
            _ => faults.push(METADATA, Code::InvalidType, "the values of the JSON object must be strings"),
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::accept::request::Limits;
    use crate::accept::request::mime::{MimeRequest, parse};

    const MESSAGE: &str = "From: a@acme.test\r\nTo: ann@example.test\r\nSubject: Hi\r\n\r\nHello\r\n";

    fn read(fields: &str) -> Result<SubmittedMessage, Rejection> {
        let message = format!("{fields}{MESSAGE}").into_bytes();
        SubmittedMessage::read(message, "b@acme.test", &["ann@example.test".into()])
    }

    fn faults(fields: &str) -> Vec<String> {
        let Err(Rejection::Invalid(faults)) = read(fields) else { panic!("{fields:?} is accepted") };
        faults.into_iter().map(|fault| fault.pointer).collect()
    }

    #[test]
    fn header_fields_take_the_place_of_parameters() {
        let submitted = read(
            "X-Postrider-Stream: bulk\r\nX-Postrider-Tag: kind = invoice\r\nx-postrider-tag: month=May\r\n\
             X-Postrider-Metadata: order=42=a\r\nX-Postrider-Metadata: {\"a\": \"1\",\r\n \"b\": \"x:y\"}\r\n\
             X-Postrider-Schedule: 2026-12-01T09:00:00+01:00\r\nIdempotency-Key: k 1\r\n",
        )
        .unwrap();
        assert_eq!(String::from_utf8(submitted.message.clone()).unwrap(), MESSAGE);
        assert_eq!(submitted.idempotency_keys, ["k 1"]);
        let (limits, streams) = (Limits::default(), ["transactional".to_owned(), "bulk".to_owned()]);
        let context = Context::new("2026-11-23T12:00:00Z".parse().unwrap(), &limits, &streams);
        let MimeRequest { message, sender_domains } =
            parse(submitted.message, 1 << 20, &submitted.parameters, &context).unwrap();
        assert_eq!((message.stream.as_str(), sender_domains), ("bulk", vec!["acme.test".to_owned()]));
        let tags: Vec<_> = message.tags.iter().map(|tag| (tag.name.as_str(), tag.value.as_str())).collect();
        assert_eq!(tags[0], ("kind", "invoice"));
        let metadata = serde_json::to_value(&message.metadata).unwrap();
        assert_eq!(metadata, serde_json::json!({"order": "42=a", "a": "1", "b": "x:y"}));
        assert_eq!(message.scheduled_at.unwrap().to_rfc3339(), "2026-12-01T08:00:00+00:00");
    }

    #[test]
    fn malformed_instructions_are_reported() {
        assert_eq!(faults("X-Postrider-Tag: kind\r\nX-Postrider-Metadata: x\r\n"), [TAG, METADATA]);
        assert_eq!(faults("X-Postrider-Tag: a:b=c\r\n"), [TAG]);
        for value in ["{", "{\"a\": 1}", "{\"a\": {}}", "{\"a:b\": \"c\"}", "{\"a\": \"b\"} x"] {
            assert_eq!(faults(&format!("X-Postrider-Metadata: {value}\r\n")), [METADATA], "{value}");
        }
        assert_eq!(field_of("tag"), TAG);
        assert_eq!(field_of("From"), "From");
    }

    #[test]
    fn recipients_are_checked_like_those_of_requests() {
        let (limits, streams) = (Limits::default(), []);
        let context = Context::new("2026-11-23T12:00:00Z".parse().unwrap(), &limits, &streams);
        assert!(check_recipient("ann@example.test", &context).is_ok());
        for bad in ["postmaster", "ann@", "nothing@simulator.postrider.test"] {
            assert!(check_recipient(bad, &context).is_err(), "{bad}");
        }
    }

    #[test]
    fn hashes_differ_for_another_envelope_or_text() {
        let hash = |message: &str, to: &str| {
            let message = message.as_bytes().to_vec();
            SubmittedMessage::read(message, "a@acme.test", &[to.to_owned()]).unwrap().hashes()
        };
        let first = hash(MESSAGE, "ann@example.test");
        let dated = format!("Date: now\r\nMessage-ID: <1@acme.test>\r\nIdempotency-Key: k\r\n{MESSAGE}");
        assert_eq!(first, hash(&dated, "ann@example.test"));
        assert_ne!(first, hash(MESSAGE, "bo@example.test"));
        assert_ne!(first, hash(&MESSAGE.replace("Hello", "Hallo"), "ann@example.test"));
        assert_ne!(first, hash(&format!("X-Postrider-Stream: bulk\r\n{MESSAGE}"), "ann@example.test"));
    }

    proptest! {
        #[test]
        fn any_instruction_is_read_or_refused(value in "[{}\":=, a-z\\\\]{0,40}") {
            let fields = format!("X-Postrider-Metadata: {value}\r\nX-Postrider-Tag: {value}\r\n");
            if let Err(Rejection::Invalid(faults)) = read(&fields) {
                prop_assert!(!faults.is_empty());
            }
        }
    }
}
