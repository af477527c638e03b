//! What the SMTP server for submission calls: API keys as passwords, and messages that are accepted like those of
//! `POST /v1/messages` with `Content-Type: message/rfc822`, by the same rules and within the same limits.

use std::net::IpAddr;

use super::auth::Caller;
use super::messages::create::{self, Committed};
use super::messages::finished;
use super::request::idempotency;
use super::{Api, ApiError};
use crate::accept::request::Context;
use crate::accept::request::mime::submitted::{self, SubmittedMessage};
use crate::db::messages::insert::IdempotencyKey;
use crate::domain::key::Scope;

pub use crate::accept::request::mime::submitted::field_of;

/// Maximum size in bytes of the `Received` field that is added to a message.
const MAX_RECEIVED: u64 = 1 << 10;
/// Maximum number of `Received` fields of a message; with more, it is in a loop (RFC 5321 §6.3).
const MAX_HOPS: usize = 50;

/// Accepts messages for an SMTP server.
#[derive(Debug, Clone)]
pub struct Submission {
    api: Api,
    /// The name of this host in `Received`.
    hostname: String,
}

/// A client that has signed in with an API key that may send.
#[derive(Debug)]
pub struct Submitter(Caller);

/// A message as received.
#[derive(Debug)]
pub struct ReceivedMime {
    /// The reverse path; empty for the null sender.
    pub from: String,
    /// The forward paths.
    pub to: Vec<String>,
    /// The protocol that it was received with, for `Received` (RFC 3848).
    pub protocol: &'static str,
    /// The message, with CRLF line ends.
    pub mime: Vec<u8>,
}

/// An accepted message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The id of the message.
    pub id: String,
    /// Whether the message was accepted earlier, with the same `Idempotency-Key`.
    pub is_replay: bool,
}

/// Why a message is not accepted.
#[derive(Debug)]
pub enum SubmissionError {
    /// It is refused for the same reason as a request.
    Refused(ApiError),
    /// It has passed too many servers.
    Loop,
}

impl<E: Into<ApiError>> From<E> for SubmissionError {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

impl Submission {
    /// Creates the entrance for messages that arrive over SMTP at the host with this name.
    pub fn new(api: &Api, hostname: String) -> Self {
        Self { api: api.clone(), hostname }
    }

    /// Returns the maximum number of recipients of a message.
    pub fn max_recipients(&self) -> usize {
        self.api.limits.recipients
    }

    /// Returns the maximum size of a message, in bytes.
    pub fn max_message(&self) -> u64 {
        self.api.bodies.max_message()
    }

    /// Checks an API key. A failure counts against the client's address, like that of a request.
    pub async fn sign_in(&self, secret: &str, client: IpAddr) -> Result<Submitter, ApiError> {
        let caller = Caller::sign_in(&self.api, secret, client).await?;
        caller.require(Scope::Send)?;
        Ok(Submitter(caller))
    }

    /// Counts a message that begins as a request of its key. Fails if the key is no longer valid, its tenant is suspended,
    /// or a rate is exceeded.
    pub async fn begin(&self, submitter: &Submitter) -> Result<(), ApiError> {
        let caller = submitter.0.refresh(&self.api).await?;
        caller.require(Scope::Send)?;
        if caller.key().has_limits() {
            self.api.allowances.admit(caller.key(), None).await?;
        }
        Ok(())
    }

    /// Checks the address of a recipient.
    pub fn check_recipient(&self, to: &str) -> Result<(), ApiError> {
        let context = Context::new(self.api.clock.now(), &self.api.limits, &[]);
        Ok(submitted::check_recipient(to, &context)?)
    }

    /// Commits a message. Once this returns `Ok`, the service is responsible for it.
    pub async fn accept(&self, submitter: &Submitter, message: ReceivedMime) -> Result<Receipt, SubmissionError> {
        let ReceivedMime { from, to, protocol, mime } = message;
        // The message may have taken minutes to arrive; the key may have been revoked in the meantime.
        let caller = submitter.0.refresh(&self.api).await?;
        caller.require(Scope::Send)?;
        let reservation = self.api.bodies.reserve_finished(Some(caller.requester()), mime.len() as u64).await?;
        let read = move |mime| SubmittedMessage::read(mime, &from, &to);
        let submitted = finished::process(mime, read).await??;
        if submitted.hops > MAX_HOPS {
            return Err(SubmissionError::Loop);
        }
        let (submitted, key) = match self.idempotency_key(&caller, submitted).await? {
            KeyUse::Earlier(first) => return Ok(receipt(&first)),
            KeyUse::New(submitted, key) => (submitted, key),
        };
        let SubmittedMessage { mut message, parameters, .. } = submitted;
        message.splice(..0, self.received(protocol).into_bytes());
        let max = self.max_message() + MAX_RECEIVED;
        let message = finished::parse(&self.api, &caller, message, parameters, max).await?;
        let committed = create::submit(&self.api, &caller, message, key, [reservation, None]).await?;
        Ok(receipt(&committed))
    }

    /// Returns the `Received` field of a message. It names neither the client nor its address: recipients must not learn where
    /// the message was written.
    fn received(&self, protocol: &str) -> String {
        let date = self.api.clock.now().format("%a, %d %b %Y %H:%M:%S +0000");
        format!("Received: by {} (Postrider) with {protocol};\r\n {date}\r\n", self.hostname)
    }

    /// Looks up the idempotency key of a message.
    async fn idempotency_key(&self, caller: &Caller, submitted: SubmittedMessage) -> Result<KeyUse, ApiError> {
        let Some(key) = idempotency::key_of_fields(&submitted.idempotency_keys)?.map(str::to_owned) else {
            return Ok(KeyUse::New(submitted, None));
        };
        let (size, hash) = (submitted.message.len(), |submitted: SubmittedMessage| (submitted.hashes(), submitted));
        let (hashes, submitted) = create::run(size, false, move || Ok(hash(submitted))).await?;
        if let Some(first) = self.api.acceptor.first_use(caller.tenant(), caller.key_id(), &key).await? {
            return Ok(KeyUse::Earlier(create::find_same(&self.api, caller, &first, hashes).await?));
        }
        let owner = caller.key_id();
        let key = IdempotencyKey { key, owner, fingerprint: hashes.fingerprint, digest: hashes.digest };
        Ok(KeyUse::New(submitted, Some(key)))
    }
}

/// The use of the idempotency key of a message.
enum KeyUse {
    /// The message was accepted earlier.
    Earlier(Committed),
    /// The message is new, and has this key.
    New(SubmittedMessage, Option<IdempotencyKey>),
}

fn receipt(committed: &Committed) -> Receipt {
    Receipt { id: committed.view.id.to_string(), is_replay: committed.is_replay }
}
