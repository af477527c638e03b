//! Parses the body of `POST /v1/messages/batch`: `{"messages": […], "validation": …}`, or the bare array of messages.
//!
//! The messages are first located without parsing them ([`Layout`]), and then parsed one by one with the parser of a
//! single message, so that the JSON tree of only one message is in memory. Each message has its own faults, with
//! pointers into the whole body.

mod layout;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::mem::size_of;

use memchr::memmem;
use serde::Serialize;
use serde_json_borrow::Value;
use sha2::{Digest as _, Sha256};

use super::files::{self, Files, UnusedParts};
use super::json::pointer::Pointer;
use super::json::walk::Node;
use super::message::send;
use super::{Context, Rejection, RequestHashes, digest, json};
use crate::db::messages::insert::IdempotencyKey;
use crate::domain::api::fault::{Code, Fault, Faults};
use crate::domain::id::KeyId;
use crate::domain::message::{NewMessage, NewRecipient};

pub use layout::Layout;

/// Maximum number of messages in one call.
pub const MAX_MESSAGES: usize = 1_000;
/// Number of faults that a response lists for all messages together. Once it is reached, each further refused message
/// lists at most `MIN_FAULTS_PER_MESSAGE`.
pub const MAX_FAULTS: usize = 1_000;
/// Maximum number of faults listed for a message once the messages before it have [`MAX_FAULTS`].
const MIN_FAULTS_PER_MESSAGE: usize = 3;
/// Maximum length of an idempotency key.
const MAX_KEY: usize = 256;

/// The fields of a call's body.
pub const FIELDS: &[&str] = &["messages", "validation"];

/// What happens with the valid messages of a call if others are not valid.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = BatchValidation)]
pub enum Validation {
    /// Nothing is accepted: the response is 422 with the faults of all messages.
    #[default]
    Strict,
    /// They are accepted: the response is 202 and lists the accepted and the refused messages.
    Permissive,
}

/// The messages of a call.
#[derive(Debug)]
pub struct Batch {
    /// The valid messages, in the order of the request.
    pub messages: Vec<BatchMessage>,
    /// The messages that are not valid.
    pub refused: Vec<Refused>,
    /// The hashes of the whole call, if requested.
    pub hashes: Option<RequestHashes>,
}

/// A valid message of a call.
#[derive(Debug)]
pub struct BatchMessage {
    /// Its position in the request, from 0.
    pub index: usize,
    /// The message.
    pub message: NewMessage,
    /// Its own idempotency key.
    pub key: Option<MessageKey>,
}

/// The idempotency key of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageKey {
    /// The key.
    pub value: String,
    /// SHA-256 of the parsed message without its key; the same as for a request with this message alone.
    pub digest: [u8; 32],
}

impl MessageKey {
    /// Returns the key as it is stored. The message has no body of its own, so both hashes are the same.
    pub fn into_idempotency_key(self, owner: KeyId) -> IdempotencyKey {
        IdempotencyKey { key: self.value, owner, fingerprint: self.digest, digest: self.digest }
    }
}

/// A message that was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = RefusedMessage)]
pub struct Refused {
    /// The message's position in the request, from 0.
    #[schema(example = 17)]
    pub index: usize,
    /// Its faults. The pointers refer to the whole request body, as in `/messages/17/to/0`.
    pub errors: Vec<Fault>,
}

impl Batch {
    /// Returns an upper bound of the memory that a call takes until it is committed, in bytes.
    pub fn max_memory(body: usize, messages: usize, max_recipients: usize) -> u64 {
        // The shortest address in JSON, with its comma.
        const SHORTEST: usize = "\"a@b\",".len();
        memory(body, messages, (messages * max_recipients).min(body / SHORTEST))
    }

    /// Returns the memory that the call takes until it is committed, in bytes, if its body has this size.
    pub fn memory(&self, body: usize) -> u64 {
        memory(body, self.messages.len(), self.messages.iter().map(|one| one.message.recipients.len()).sum())
    }
}

/// Returns the memory for the texts and files, which are never longer than in the JSON, and for the structures: each
/// message and recipient exists as a struct, as a row of several columns, and in the response. Files in other parts of
/// a form are not in memory.
fn memory(body: usize, messages: usize, recipients: usize) -> u64 {
    (body + messages * 2 * size_of::<NewMessage>() + recipients * 4 * size_of::<NewRecipient>()) as u64
}

/// Parses and validates the messages of a call. `is_keyed` requests the hashes by which calls with the same
/// `Idempotency-Key` are compared. Fails, even with permissive validation, if no message uses a part of the form.
pub fn parse(body: &[u8], layout: &Layout, context: &Context<'_>, is_keyed: bool) -> Result<Batch, Rejection> {
    let text = json::text(body)?;
    look_up_blobs(text, layout, context)?;
    let mut batch = Batch { messages: Vec::new(), refused: Vec::new(), hashes: None };
    let mut hash = is_keyed.then(|| CallHash::new(layout));
    let mut unused_parts = UnusedParts::new(context.files);
    let mut listed = 0;
    for (index, range) in layout.messages.iter().enumerate() {
        let mut value = json::read_part(text, range.clone(), json::MAX_VALUES)?;
        unused_parts.remove_used(&value);
        let key = take_key(&mut value);
        let digest =
            if is_keyed || key.is_some() { digest::with_files(&value, context.files) } else { Default::default() };
        if let Some(hash) = &mut hash {
            hash.add(&digest, key.as_ref());
        }
        let mut faults =
            Faults::with_limit(MAX_FAULTS.saturating_sub(listed).clamp(MIN_FAULTS_PER_MESSAGE, Faults::LIMIT));
        match message(value, key, &layout.pointer(index), context, &mut faults) {
            Some((message, key)) if faults.is_empty() => {
                let key = key.map(|value| MessageKey { value, digest });
                batch.messages.push(BatchMessage { index, message, key });
            }
            _ => {
                let errors = faults.into_vec_at(layout.pointer(index).to_string());
                listed += errors.len();
                batch.refused.push(Refused { index, errors });
            }
        }
    }
    let missing = context.templates.take_missing();
    if !missing.is_empty() {
        return Err(Rejection::NeedsTemplates(missing));
    }
    let mut part_faults = Faults::default();
    unused_parts.report(&mut part_faults);
    if !layout.faults.is_empty() || !part_faults.is_empty() {
        let faults = [layout.faults.clone(), part_faults.into_vec()].concat();
        return Err(Rejection::Invalid(all_faults(faults, batch.refused)));
    }
    batch.hashes = hash.map(|hash| hash.finish(body, context.files));
    Ok(batch)
}

/// Fails if the blobs that the messages refer to must be looked up first.
fn look_up_blobs(text: &str, layout: &Layout, context: &Context<'_>) -> Result<(), Rejection> {
    if context.files.blobs.is_some() || memmem::find(text.as_bytes(), b"\"sha256\"").is_none() {
        return Ok(());
    }
    let mut digests = BTreeSet::new();
    for range in &layout.messages {
        digests.extend(files::digests(&json::read_part(text, range.clone(), json::MAX_VALUES)?));
    }
    if digests.is_empty() { Ok(()) } else { Err(Rejection::NeedsBlobs(digests.into_iter().collect())) }
}

/// Returns the hashes of a call without validating its messages, as [`super::hashes`] does.
pub fn hashes(body: &[u8], layout: &Layout, files: &Files) -> Result<RequestHashes, Rejection> {
    let text = json::text(body)?;
    let mut hash = CallHash::new(layout);
    for range in &layout.messages {
        let mut value = json::read_part(text, range.clone(), json::MAX_VALUES)?;
        let key = take_key(&mut value);
        hash.add(&digest::with_files(&value, files), key.as_ref());
    }
    Ok(hash.finish(body, files))
}

/// Returns the faults of all messages in one list of bounded length.
pub fn all_faults(mut faults: Vec<Fault>, refused: Vec<Refused>) -> Vec<Fault> {
    let mut all = Faults::with_limit(MAX_FAULTS);
    faults.extend(refused.into_iter().flat_map(|refused| refused.errors));
    for Fault { pointer, code, message } in faults {
        all.push(pointer, code, message);
    }
    all.into_vec()
}

/// Takes the idempotency key out of a message. The field's name stays, so that a duplicate field is reported like any
/// other.
fn take_key<'v>(message: &mut Value<'v>) -> Option<Value<'v>> {
    let Value::Object(object) = message else { return None };
    let key = object.get_mut(send::IDEMPOTENCY_KEY).map(std::mem::take)?;
    (!key.is_null()).then_some(key)
}

fn message(
    value: Value<'_>,
    key: Option<Value<'_>>,
    at: &Pointer<'_>,
    context: &Context<'_>,
    faults: &mut Faults,
) -> Option<(NewMessage, Option<String>)> {
    let key = key.map(|value| {
        let at = Pointer::Field(at, send::IDEMPOTENCY_KEY);
        idempotency_key(Node { value, at }, faults)
    });
    let message = send::batch_message(Node { value, at: *at }, context, faults)?;
    Some((message, key.flatten()))
}

/// Parses an idempotency key, which may have the characters that a header may have.
pub(super) fn idempotency_key(node: Node<'_, '_>, faults: &mut Faults) -> Option<String> {
    let at = node.at;
    let key = node.string(faults)?;
    if (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Some(key.into_owned());
    }
    let message = format_args!("must have 1 to {MAX_KEY} printable ASCII characters");
    at.fault(faults, Code::InvalidValue, message);
    None
}

/// The digest of a call. It depends on the messages, their keys and the validation, but not on how the JSON is written.
struct CallHash(Sha256);

impl CallHash {
    fn new(layout: &Layout) -> Self {
        let mut hash = Sha256::new_with_prefix(b"batch");
        hash.update([u8::from(layout.validation == Validation::Permissive)]);
        hash.update((layout.messages.len() as u64).to_be_bytes());
        Self(hash)
    }

    fn add(&mut self, message: &[u8; 32], key: Option<&Value<'_>>) {
        self.0.update(message);
        self.0.update(digest::digest(key.unwrap_or(&Value::Null)));
    }

    fn finish(self, body: &[u8], files: &Files) -> RequestHashes {
        RequestHashes::with_digest(self.0.finalize().into(), body, files)
    }
}
