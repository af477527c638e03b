//! Commits the messages of a call of `POST /v1/messages/batch`.
//!
//! Guarantees:
//! - All new messages of a call are committed in one transaction, so either all of them are stored or none. With
//!   permissive validation, the refused messages are removed before.
//! - The idempotency keys of the call and of its messages are claimed in the same transaction.
//! - The number of statements does not depend on the number of messages, except for attachments and very large calls.

mod idempotency_keys;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::request::batch::{BatchMessage, Refused};
use super::reserved_keys::KeyGuard;
use super::{AcceptError, Acceptor, Resolved};
use crate::db;
use crate::db::messages::idempotency::CallUse;
use crate::db::messages::insert::batch::{BatchCommitted, BatchInsert, BatchSource, CallKey};
use crate::db::messages::insert::{Committed, IdempotencyKey, MessageInsert};
use crate::db::messages::stored;
use crate::domain::id::{KeyId, MessageId, RecipientId, TenantId};
use crate::domain::message::NewMessage;

use idempotency_keys::State;

/// Attachments of a call stay in memory for direct handoff if they have at most this many bytes together.
const MAX_KEPT_BYTES: u64 = 1 << 20;

/// A call whose messages are valid.
#[derive(Debug)]
pub struct BatchCall {
    /// The tenant.
    pub tenant: TenantId,
    /// The API key of the call.
    pub owner: KeyId,
    /// The idempotency key of the whole call.
    pub key: Option<IdempotencyKey>,
    /// Whether the whole call is refused if one of its messages is refused.
    pub is_strict: bool,
    /// The JSON pointer of the list of messages.
    pub list: &'static str,
    /// The valid messages, in the order of the request.
    pub messages: Vec<BatchMessage>,
    /// The messages that validation has refused, in the order of the request; none if the call is strict.
    pub refused: Vec<Refused>,
}

/// A call whose idempotency keys have been looked up. Until it is dropped, no other request of this process can use them.
#[derive(Debug)]
pub struct ReadyBatch {
    call: BatchCall,
    states: Vec<State>,
    _guards: Vec<KeyGuard>,
}

impl ReadyBatch {
    /// Returns the number of recipients of the new messages.
    pub fn new_recipients(&self) -> usize {
        let new = self.call.messages.iter().zip(&self.states).filter(|(_, state)| **state == State::New);
        new.map(|(message, _)| message.message.recipients.len()).sum()
    }
}

/// The result of a call.
#[derive(Debug)]
pub enum BatchAccepted {
    /// The messages were committed, or accepted earlier.
    Accepted {
        /// The result for each accepted message, with its index in the request.
        messages: Vec<(usize, BatchItem)>,
        /// The refused messages, in the order of the request.
        refused: Vec<Refused>,
    },
    /// The call is strict, and these messages were refused. Nothing was committed.
    Refused(Vec<Refused>),
    /// The same call was accepted earlier.
    Replayed(CallUse),
}

/// The result for an accepted message of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchItem {
    /// The message was committed by this call.
    New {
        /// Recipients to which nothing is sent, because their addresses are on the suppression list.
        suppressed: Vec<RecipientId>,
    },
    /// The same message was accepted earlier.
    Replayed(MessageId),
    /// The message repeats the one at this earlier index of the call.
    SameAs(usize),
}

/// The part of a call's response that cannot be derived from its new messages. Stored in
/// `idempotency_keys.batch_response`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct StoredResponse {
    /// The id of the message at each index of the request; `None` if all messages of the request are new.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<Option<Uuid>>>,
    /// The refused messages; `None` if the call was strict.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors: Option<Value>,
}

impl StoredResponse {
    /// Reads what was stored with a key.
    pub fn read(first: &CallUse) -> Self {
        // Parsing does not fail, because this service wrote the column.
        first.batch_response.as_ref().and_then(|stored| Self::deserialize(stored).ok()).unwrap_or_default()
    }

    fn new(call: &BatchCall, states: &[State]) -> Self {
        let errors = (!call.is_strict).then(|| json!(call.refused));
        if call.refused.is_empty() && states.iter().all(|state| *state == State::New) {
            return Self { ids: None, errors };
        }
        let refused = call.refused.iter().map(|refused| refused.index);
        let last = call.messages.iter().map(|message| message.index).chain(refused).max();
        let mut ids = vec![None; last.map_or(0, |last| last + 1)];
        for (message, state) in call.messages.iter().zip(states) {
            ids[message.index] = match state {
                State::New => Some(message.message.id.0),
                State::Replayed(id) => Some(id.0),
                State::SameAs { position, .. } => call.messages.get(*position).map(|first| first.message.id.0),
                State::Refused { .. } => None,
            };
        }
        Self { ids: Some(ids), errors }
    }
}

impl Acceptor {
    /// Returns the first call that used this idempotency key of an API key for the whole request, if there is one.
    pub async fn first_call(&self, tenant: TenantId, owner: KeyId, key: &str) -> Result<Option<CallUse>, db::DbError> {
        db::messages::idempotency::find_call(&self.db, tenant, owner, key).await
    }

    /// Looks up the idempotency keys of a call.
    pub async fn resolve_batch(&self, mut call: BatchCall) -> Result<Resolved<ReadyBatch, BatchAccepted>, AcceptError> {
        let call_guard = match &call.key {
            Some(key) => {
                let guard = self.reserved_keys.reserve(call.owner, &key.key).ok_or(AcceptError::KeyInFlight)?;
                // Look the key up again under the guard: the request that created it may have ended since the last
                // lookup.
                if let Some(first) = self.first_call(call.tenant, call.owner, &key.key).await? {
                    return replayed(first, key).map(Resolved::Done);
                }
                Some(guard)
            }
            None => None,
        };
        let (states, mut guards) = self.resolve_keys(&call).await?;
        let is_any_refused = states.iter().any(State::is_refused);
        if call.is_strict && is_any_refused {
            if states.iter().filter(|state| state.is_refused()).all(State::is_in_flight) {
                return Err(AcceptError::KeyInFlight);
            }
            return Ok(Resolved::Done(BatchAccepted::Refused(idempotency_keys::refused(&call, &states))));
        }
        if is_any_refused {
            let refused = idempotency_keys::refused(&call, &states);
            call.refused.extend(refused);
            call.refused.sort_by_key(|refused| refused.index);
        }
        guards.extend(call_guard);
        Ok(Resolved::Ready(ReadyBatch { call, states, _guards: guards }))
    }

    /// Commits the messages of a call. Once this returns [`BatchAccepted::Accepted`], the service is responsible for
    /// them.
    pub async fn commit_batch(&self, ready: ReadyBatch) -> Result<BatchAccepted, AcceptError> {
        let ReadyBatch { call, states, _guards } = ready;
        let response = call.key.as_ref().map(|_| json!(StoredResponse::new(&call, &states)));
        let BatchCall { tenant, owner, key, messages, refused, .. } = call;
        let (mut indexes, mut new) = (Vec::with_capacity(messages.len()), Vec::new());
        for (BatchMessage { index, message, key }, state) in messages.into_iter().zip(states) {
            if state == State::New {
                let key = key.map(|key| key.into_idempotency_key(owner));
                new.push((message, key));
            }
            indexes.push((index, state));
        }
        let mut results = Vec::new();
        if !new.is_empty() {
            let call_key = key.clone().zip(response).map(|(key, response)| CallKey { key, response });
            let batch = self.prepare((tenant, Some(owner)), new, call_key).await?;
            match self.group_commit.accept_batch(batch).await.map_err(AcceptError::Db)? {
                BatchCommitted::Inserted(committed) => results = committed,
                BatchCommitted::NotInserted => return self.key_used(tenant, owner, key).await,
            }
        }
        let mut suppressed = results.into_iter().filter_map(|result| match result {
            Committed::New { suppressed, .. } => Some(suppressed),
            Committed::KeyUsed(_) => None,
        });
        let result = |(index, state)| match state {
            State::New => Some((index, BatchItem::New { suppressed: suppressed.next().unwrap_or_default() })),
            State::Replayed(id) => Some((index, BatchItem::Replayed(id))),
            State::SameAs { index: first, .. } => Some((index, BatchItem::SameAs(first))),
            State::Refused { .. } => None,
        };
        Ok(BatchAccepted::Accepted { messages: indexes.into_iter().filter_map(result).collect(), refused })
    }

    /// Stores the attachments of new messages, and finds their lanes. `owner` is the API key of the call; `None` if there is
    /// no call.
    pub(super) async fn prepare(
        &self,
        (tenant, owner): (TenantId, Option<KeyId>),
        new: Vec<(NewMessage, Option<IdempotencyKey>)>,
        call: Option<CallKey>,
    ) -> Result<BatchInsert, AcceptError> {
        let (mut messages, keys): (Vec<NewMessage>, Vec<Option<IdempotencyKey>>) = new.into_iter().unzip();
        let size = |message: &NewMessage| message.attachments.iter().map(|file| file.description.size).sum::<u64>();
        let is_small = messages.iter().map(size).sum::<u64>() <= MAX_KEPT_BYTES
            && messages.iter().all(|message| stored::fits_inline(message.size()));
        let mut attachments = Vec::new();
        for message in &mut messages {
            let id = message.id;
            attachments.extend(message.attachments.iter_mut().map(|attachment| (id, attachment)));
        }
        let keep_small = is_small && self.group_commit.has_consumer();
        self.blobs.store_all(tenant, attachments, keep_small).await?;
        let lanes = self.lanes.for_messages(tenant, &messages.iter().collect::<Vec<_>>()).await;
        let lanes = lanes.map_err(AcceptError::Db)?;
        let inserts = messages.into_iter().zip(lanes).zip(keys);
        let insert = |((message, lanes), idempotency)| MessageInsert {
            tenant,
            message,
            lanes,
            key: owner,
            idempotency,
            direct_consumer: None,
            is_canceled: false,
        };
        Ok(BatchInsert { messages: inserts.map(insert).collect(), call, source: None })
    }

    /// Prepares messages that come from rows of the database, and not from a request.
    pub(super) async fn prepare_from(
        &self,
        tenant: TenantId,
        messages: Vec<NewMessage>,
        source: BatchSource,
    ) -> Result<BatchInsert, AcceptError> {
        let new = messages.into_iter().map(|message| (message, None)).collect();
        Ok(BatchInsert { source: Some(source), ..self.prepare((tenant, None), new, None).await? })
    }

    /// Inserts prepared messages, and takes the rows that they come from. Returns `false` if nothing was inserted, because the rows
    /// could not be taken.
    pub(super) async fn insert_prepared(&self, batch: BatchInsert) -> Result<bool, AcceptError> {
        let committed = self.group_commit.accept_batch(batch).await.map_err(AcceptError::Db)?;
        Ok(matches!(committed, BatchCommitted::Inserted(_)))
    }

    /// Returns the result of a call that was not committed because a concurrent request of another replica used one of
    /// its idempotency keys.
    async fn key_used(
        &self,
        tenant: TenantId,
        owner: KeyId,
        key: Option<IdempotencyKey>,
    ) -> Result<BatchAccepted, AcceptError> {
        if let Some(key) = key
            && let Some(first) = self.first_call(tenant, owner, &key.key).await?
        {
            return replayed(first, &key);
        }
        Err(AcceptError::KeyInFlight)
    }
}

/// Returns the first use of the call's key, or an error if this call differs from the first.
fn replayed(first: CallUse, requested: &IdempotencyKey) -> Result<BatchAccepted, AcceptError> {
    let is_same = first.is_same_request(&requested.fingerprint, &requested.digest);
    if is_same { Ok(BatchAccepted::Replayed(first)) } else { Err(AcceptError::KeyReused) }
}
