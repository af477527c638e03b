//! Calls the worker of this process before and after a commit (direct handoff).

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use chrono::{DateTime, Utc};

use super::{Confirmed, Signals};
use crate::db::messages::insert::{Committed, MessageInsert};
use crate::domain::id::RecipientId;

/// Offers messages to the worker before they are committed.
pub(super) fn reserve(signals: &Signals, inserts: &mut [MessageInsert], now: DateTime<Utc>) {
    let Some(consumer) = signals.consumer().filter(|_| !inserts.is_empty()) else { return };
    if guarded(|| consumer.reserve(inserts, now)).is_none() {
        for insert in inserts {
            insert.direct_consumer = None;
        }
    }
}

/// Calls the worker, catching panics so that the writer continues.
fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    let done = catch_unwind(AssertUnwindSafe(work)).ok();
    if done.is_none() {
        tracing::error!(
            event = "direct_handoff_panicked",
            "direct handoff panicked; its messages may stay leased until this process ends; restart it"
        );
    }
    done
}

/// The results of a commit for its messages, to be passed to the worker.
#[derive(Debug, Default)]
pub(super) struct Report {
    reserved: Vec<Confirmed>,
    is_any_waiting: bool,
}

impl Report {
    /// Adds the result for a message.
    pub(super) fn add(&mut self, confirmed: Confirmed) {
        self.is_any_waiting |= !confirmed.waiting.is_empty();
        if confirmed.insert.direct_consumer.is_some() {
            self.reserved.push(confirmed);
        }
    }

    /// Passes the results for reserved messages to the worker, and wakes workers if other messages wait in the queue.
    pub(super) fn send(self, signals: &Signals) {
        if let Some(consumer) = signals.consumer().filter(|_| !self.reserved.is_empty()) {
            guarded(|| consumer.confirm(self.reserved));
        }
        // Wake after confirming, when unreserved recipients are no longer in flight.
        if self.is_any_waiting {
            signals.wake();
        }
    }
}

/// Returns the result for a message, for the worker.
pub(super) fn confirmed(insert: MessageInsert, result: &Committed) -> Confirmed {
    let mut confirmed = not_committed(insert);
    if let Committed::New { suppressed, leased, unsubscribe } = result {
        confirmed.waiting = others(&confirmed.insert, suppressed, leased);
        (confirmed.leased, confirmed.unsubscribe) = (leased.clone(), *unsubscribe);
    }
    confirmed
}

/// Returns the result for a message that was not committed.
pub(super) fn not_committed(insert: MessageInsert) -> Confirmed {
    Confirmed { insert, leased: Vec::new(), waiting: Vec::new(), unsubscribe: false }
}

/// Reports to the worker that these messages were not committed or, with `may_be_done`, that it is unknown whether they
/// were.
pub(super) fn report_failure(signals: &Signals, inserts: impl IntoIterator<Item = MessageInsert>, may_be_done: bool) {
    let reserved: Vec<MessageInsert> = inserts.into_iter().filter(|insert| insert.direct_consumer.is_some()).collect();
    let Some(consumer) = signals.consumer().filter(|_| !reserved.is_empty()) else { return };
    guarded(|| {
        if may_be_done {
            consumer.unknown(reserved);
        } else {
            consumer.confirm(reserved.into_iter().map(not_committed).collect());
        }
    });
}

/// Returns the recipients of a message that are in neither list, and not canceled.
fn others(insert: &MessageInsert, suppressed: &[RecipientId], leased: &[RecipientId]) -> Vec<RecipientId> {
    let recipients = &insert.message.recipients;
    if insert.is_canceled || suppressed.len() + leased.len() == recipients.len() {
        return Vec::new();
    }
    let done: HashSet<&RecipientId> = suppressed.iter().chain(leased).collect();
    recipients.iter().map(|recipient| recipient.id).filter(|id| !done.contains(id)).collect()
}
