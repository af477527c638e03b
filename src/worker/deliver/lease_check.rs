//! Checks during a transaction whether the recipients are still leased to this worker. For messages that must not be
//! sent twice, also records that the message body is about to be sent.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};
use parking_lot::Mutex;

use super::DeliverContext;
use super::message::loaded_message::LoadedMessage;
use super::transition::{AttemptEnd, AttemptStart};
use crate::db::queue::attempt_markers::{self, AttemptMarker};
use crate::db::queue::{Claimed, Finished};
use crate::domain::delivery::conversation::Conversation;
use crate::domain::outcome::{OnUncertain, Outcome, Verdict};
use crate::smtp::SendGuard;

/// The check for one envelope of a message.
pub(crate) struct LeaseCheck<'a> {
    cx: &'a DeliverContext,
    message: &'a LoadedMessage,
    claimed: &'a [Claimed],
    start: AttemptStart,
    may_have_sent_body: AtomicBool,
    /// The positions of recipients whose outcomes are being recorded.
    recorded: Mutex<HashSet<usize>>,
    /// Whether conversations of successful attempts are kept too.
    is_traced: bool,
    /// The conversations so far, if they are kept.
    conversation: Mutex<Option<Arc<Conversation>>>,
}

impl<'a> LeaseCheck<'a> {
    pub(crate) fn new(
        cx: &'a DeliverContext,
        message: &'a LoadedMessage,
        claimed: &'a [Claimed],
        start: AttemptStart,
        is_traced: bool,
    ) -> Self {
        Self {
            cx,
            message,
            claimed,
            start,
            may_have_sent_body: AtomicBool::new(false),
            recorded: Mutex::default(),
            is_traced,
            conversation: Mutex::default(),
        }
    }

    /// Returns the conversation of an attempt with this outcome, if it is kept.
    pub(crate) fn conversation(&self, outcome: &Outcome) -> Option<Arc<Conversation>> {
        let is_kept = self.is_traced || outcome.verdict != Verdict::Accepted;
        self.conversation.lock().clone().filter(|_| is_kept)
    }

    /// Returns whether the outcome of the recipient at this position is being recorded.
    pub(crate) fn has_recorded(&self, position: usize) -> bool {
        self.recorded.lock().contains(&position)
    }

    /// Returns the recipients without an outcome.
    pub(crate) fn unrecorded(&self) -> Vec<Claimed> {
        let claimed = self.claimed.iter().enumerate().filter(|(position, _)| !self.has_recorded(*position));
        claimed.map(|(_, claimed)| claimed.clone()).collect()
    }

    /// Returns whether the message body, or a part of it, may have been sent.
    pub(crate) fn may_have_sent_body(&self) -> bool {
        self.may_have_sent_body.load(Ordering::Relaxed)
    }

    /// Returns the newest claims of the recipients at these positions.
    fn claims(&self, positions: impl Iterator<Item = usize>) -> Vec<Claimed> {
        let mut claims: Vec<Claimed> = positions.filter_map(|position| self.claimed.get(position).cloned()).collect();
        for row in &mut claims {
            self.cx.leases.in_flight.adopt_claim(row);
        }
        claims
    }

    fn all(&self) -> Vec<Claimed> {
        self.claims(0..self.claimed.len())
    }

    /// Records that the message body is about to be sent. Without the record it must not be sent, because after a crash
    /// it would be sent again.
    async fn record_data_start(&self, claims: Vec<Claimed>) -> bool {
        match attempt_markers::set(&self.cx.db, &claims, AttemptMarker::DataStarted).await {
            // The database may have been slow: the leases must still be valid.
            Ok(recorded) => recorded && self.cx.leases.are_valid(&claims),
            Err(error) => {
                tracing::warn!(
                    event = "data_mark_failed",
                    %error,
                    "failed to record that a message is about to be sent; releasing it"
                );
                false
            }
        }
    }
}

impl SendGuard for LeaseCheck<'_> {
    /// Checks everything again, because much time may have passed since the claim: another worker may have leased the
    /// recipients while this process was suspended, the deadline may have passed, the tenant may have been suspended, the
    /// database may have been restored, or this worker may be stopping.
    fn may_start(&self) -> bool {
        let (claims, now, leases) = (self.all(), self.cx.clock.now(), &self.cx.leases);
        let is_in_time = |row: &Claimed| now < self.cx.deadline(self.message, row);
        let is_suspended = |row: &Claimed| leases.suspended_tenants.contains(row.tenant_id);
        !self.cx.closing.is_cancelled()
            && leases.restore_gate.is_open()
            && leases.are_valid(&claims)
            && claims.iter().all(is_in_time)
            // All recipients of a message have the same tenant.
            && !claims.first().is_some_and(is_suspended)
    }

    /// Only recipients that the server accepted get the message body, so the record is made only for them.
    fn may_send_text<'a>(&'a self, accepted: &'a [usize]) -> BoxFuture<'a, bool> {
        let claims = self.claims(accepted.iter().copied());
        let may_go = match self.message.on_uncertain() {
            OnUncertain::Retry => ready(self.cx.leases.are_valid(&claims)).boxed(),
            OnUncertain::Hold | OnUncertain::Fail => self.record_data_start(claims).boxed(),
        };
        let note = |may_go: &bool| {
            self.may_have_sent_body.fetch_or(*may_go, Ordering::Relaxed);
        };
        may_go.inspect(note).boxed()
    }

    fn may_finish(&self) -> bool {
        self.cx.leases.restore_gate.is_open() && self.cx.leases.are_valid(&self.all())
    }

    /// Records outcomes at once, because a further transaction may take long and does not affect these recipients.
    fn recipients_done(&self, outcomes: Vec<(usize, Outcome)>) {
        let end = AttemptEnd::now(self.cx);
        let mut recorded = self.recorded.lock();
        let finished = outcomes.into_iter().filter_map(|(position, outcome)| {
            let claimed = self.claimed.get(position)?.clone();
            let conversation = self.conversation(&outcome);
            let finish =
                || Finished { conversation, ..self.cx.transition(self.message, claimed, outcome, self.start, end) };
            recorded.insert(position).then(finish)
        });
        let finished = finished.collect();
        self.cx.recorder.record(finished);
    }

    fn is_traced(&self) -> bool {
        self.is_traced
    }

    fn keep_conversation(&self, conversation: Conversation) {
        if conversation.lines.is_empty() {
            return;
        }
        let mut kept = self.conversation.lock();
        match &mut *kept {
            Some(earlier) => Arc::make_mut(earlier).append(conversation),
            None => *kept = Some(Arc::new(conversation)),
        }
    }
}
