//! The ids of spans that other processes link to: they follow from the id of a message, so that a worker knows them
//! without reading anything.

use std::cell::Cell;

use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

thread_local! {
    /// The ids of the next span that this thread starts.
    static NEXT: Cell<Option<(TraceId, SpanId)>> = const { Cell::new(None) };
}

/// Starts a span with these ids.
pub(super) fn with<T>(ids: (TraceId, SpanId), start: impl FnOnce() -> T) -> T {
    NEXT.set(Some(ids));
    let started = start();
    NEXT.set(None);
    started
}

/// Returns the ids of a message's span. They are hashed, because samplers read an id as a random number, and the ids of
/// messages contain their time.
pub(super) fn message(message: Uuid) -> (TraceId, SpanId) {
    let hash: [u8; 32] = Sha256::digest(message.as_bytes()).into();
    let number = u128::from_be_bytes(std::array::from_fn(|at| hash[at]));
    let span = u64::from_be_bytes(std::array::from_fn(|at| hash[16 + at]));
    (TraceId::from(number), SpanId::from(span))
}

/// Returns new ids for an attempt. A sampler that chooses a share of the traces reads the lower half of their ids, which
/// is that of the message's span: so either all attempts at a message are sampled, or none.
pub(super) fn attempt(message: Uuid) -> (TraceId, SpanId) {
    let (trace, _) = self::message(message);
    let low = u128::from_be_bytes(trace.to_bytes()) & u128::from(u64::MAX);
    (TraceId::from((u128::from(rand::random::<u64>()) << 64) | low), SpanId::from(rand::random::<u64>()))
}

/// Uses the ids of [`with`], and random ones otherwise.
#[derive(Debug, Default)]
pub(super) struct Ids(RandomIdGenerator);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        NEXT.get().map_or_else(|| self.0.new_trace_id(), |(trace, _)| trace)
    }

    fn new_span_id(&self) -> SpanId {
        NEXT.get().map_or_else(|| self.0.new_span_id(), |(_, span)| span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_share_the_sampled_half_with_their_message() {
        let id = Uuid::now_v7();
        let (message, span) = message(id);
        assert_eq!((message, span), super::message(id));
        let (first, second) = (attempt(id).0, attempt(id).0);
        assert_ne!(first, second);
        for trace in [first, second] {
            assert_eq!(trace.to_bytes()[8..], message.to_bytes()[8..]);
        }
    }

    #[test]
    fn ids_apply_to_one_start_only() {
        let ids = Ids::default();
        let wanted = message(Uuid::now_v7());
        assert_eq!(with(wanted, || (ids.new_trace_id(), ids.new_span_id())), wanted);
        assert_ne!(ids.new_trace_id(), wanted.0);
    }
}
