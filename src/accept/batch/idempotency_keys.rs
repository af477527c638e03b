//! Decides for each message of a call that has an idempotency key whether it is new, replayed or refused. One query
//! looks up all keys.

use std::collections::HashMap;

use super::BatchCall;
use crate::accept::request::batch::{BatchMessage, MessageKey, Refused};
use crate::accept::reserved_keys::KeyGuard;
use crate::accept::{AcceptError, Acceptor};
use crate::db::messages::idempotency;
use crate::domain::api::fault::{Code, Fault};
use crate::domain::id::MessageId;

/// What happens with a message of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It is committed.
    New,
    /// It was accepted earlier.
    Replayed(MessageId),
    /// It is the same as an earlier message of the call, given by its position in `messages` and its index in the
    /// request.
    SameAs { position: usize, index: usize },
    /// Its key cannot be used.
    Refused { code: Code, message: &'static str },
}

impl State {
    pub(super) fn is_refused(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }

    pub(super) fn is_in_flight(&self) -> bool {
        matches!(self, Self::Refused { code: Code::IdempotencyKeyInFlight, .. })
    }
}

/// The key is that of the whole call.
const IS_CALL_KEY: State =
    State::Refused { code: Code::DuplicateValue, message: "must differ from the `Idempotency-Key` of the call" };
/// Two messages of the call have the key, and differ.
const IS_DUPLICATE: State = State::Refused {
    code: Code::DuplicateValue,
    message: "must be unique: another message of this call has the same key and differs from this one",
};
/// The key was used for another message.
const IS_REUSED: State = State::Refused {
    code: Code::IdempotencyKeyReused,
    message: "was used with a different message; use another key for another message",
};
/// Another request with the key is in progress.
const IS_IN_FLIGHT: State = State::Refused {
    code: Code::IdempotencyKeyInFlight,
    message: "a request with this key is still in progress; repeat this message later",
};

impl Acceptor {
    /// Returns what happens with each message of a call, and the guards of the keys of new messages.
    pub(super) async fn resolve_keys(&self, call: &BatchCall) -> Result<(Vec<State>, Vec<KeyGuard>), AcceptError> {
        let mut states = vec![State::New; call.messages.len()];
        let mut guards = Vec::new();
        let mut first_uses: HashMap<&str, (usize, &MessageKey)> = HashMap::new();
        let call_key = call.key.as_ref().map(|key| key.key.as_str());
        for (position, BatchMessage { key, .. }) in call.messages.iter().enumerate() {
            let Some(key) = key else { continue };
            states[position] = if call_key == Some(&key.value) {
                IS_CALL_KEY
            } else if let Some((first, first_key)) = first_uses.get(key.value.as_str()) {
                let same = State::SameAs { position: *first, index: call.messages[*first].index };
                if first_key.digest == key.digest { same } else { IS_DUPLICATE }
            } else {
                first_uses.insert(&key.value, (position, key));
                match self.reserved_keys.reserve(call.owner, &key.value) {
                    Some(guard) => {
                        guards.push(guard);
                        State::New
                    }
                    None => IS_IN_FLIGHT,
                }
            };
        }
        let (positions, keys): (Vec<usize>, Vec<&MessageKey>) =
            first_uses.into_values().filter(|(position, _)| states[*position] == State::New).unzip();
        if !keys.is_empty() {
            let values: Vec<&str> = keys.iter().map(|key| key.value.as_str()).collect();
            for (n, used) in idempotency::find_all(&self.db, call.tenant, call.owner, &values).await? {
                let (Some(position), Some(key)) = (positions.get(n), keys.get(n)) else { continue };
                let is_same = used.digest.as_deref() == Some(&key.digest[..]);
                states[*position] = if is_same { State::Replayed(MessageId(used.message_id)) } else { IS_REUSED };
            }
        }
        for position in 0..states.len() {
            if let State::SameAs { position: first, .. } = states[position]
                && states[first] != State::New
            {
                states[position] = states[first];
            }
        }
        Ok((states, guards))
    }
}

/// Returns the messages whose keys cannot be used, with their faults.
pub(super) fn refused(call: &BatchCall, states: &[State]) -> Vec<Refused> {
    let refused = |(message, state): (&BatchMessage, &State)| match state {
        State::Refused { code, message: why } => {
            let pointer = format!("{}/{}/idempotency_key", call.list, message.index);
            let fault = Fault { pointer, code: code.as_str(), message: (*why).into() };
            Some(Refused { index: message.index, errors: vec![fault] })
        }
        _ => None,
    };
    call.messages.iter().zip(states).filter_map(refused).collect()
}
