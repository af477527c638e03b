//! Turns the outcome of an attempt into the transition of each recipient, by the retry policy of its stream.

use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Utc};

use super::DeliverContext;
use super::message::loaded_message::LoadedMessage;
use crate::db::queue::{Claimed, Finished};
use crate::domain::delivery::retry::{Attempt, Policy};
use crate::domain::delivery::{Status, Transition};
use crate::domain::id::MessageId;
use crate::domain::outcome::Outcome;

/// When an attempt started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttemptStart {
    pub at: DateTime<Utc>,
    /// The same moment on a monotonic clock.
    pub clock: Instant,
}

/// When an attempt ended, and the jitter of its retry. All recipients of an envelope share the jitter, so that they are
/// retried together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttemptEnd {
    pub at: DateTime<Utc>,
    jitter: f64,
}

impl AttemptStart {
    pub(crate) fn now(cx: &DeliverContext) -> Self {
        Self { at: cx.clock.now(), clock: Instant::now() }
    }
}

impl AttemptEnd {
    pub(crate) fn now(cx: &DeliverContext) -> Self {
        Self { at: cx.clock.now(), jitter: rand::random() }
    }
}

impl DeliverContext {
    /// Returns the transition to which an outcome leads for a recipient.
    pub(crate) fn transition(
        &self,
        message: &LoadedMessage,
        claimed: Claimed,
        outcome: Outcome,
        start: AttemptStart,
        end: AttemptEnd,
    ) -> Finished {
        let attempt = Attempt {
            number: u32::try_from(claimed.attempts).unwrap_or(0) + 1,
            deadline: self.deadline(message, &claimed),
            on_uncertain: message.on_uncertain(),
        };
        let transition = outcome.next(&attempt, &self.retry_policy(message), end.at, end.jitter);
        tracing::debug!(
            event = "attempt_finished",
            message_id = %MessageId(claimed.message_id),
            attempt = attempt.number,
            status = %transition.status(),
            reply = outcome.reply.text,
            "attempt finished"
        );
        Finished {
            claimed,
            outcome: Some(outcome),
            transition,
            started_at: start.at,
            is_alone: false,
            may_be_relayed: message.stored.row.inbound_route_id.is_some(),
            conversation: None,
        }
    }

    /// Returns the time after which no attempt starts. Retry windows are suspended while a lane or stream is paused.
    pub(crate) fn deadline(&self, message: &LoadedMessage, claimed: &Claimed) -> DateTime<Utc> {
        let row = &message.stored.row;
        let stream = (row.tenant_id, row.stream.as_str());
        self.retry_policies.deadline(stream, claimed.lane_id, claimed.first_due_at, row.expires_at, &*self.clock)
    }

    fn retry_policy(&self, message: &LoadedMessage) -> Arc<Policy> {
        self.retry_policies.get(message.stored.row.tenant_id, &message.stored.row.stream)
    }

    /// Completes recipients that expired while they waited.
    pub(crate) fn expire(&self, claimed: Vec<Claimed>) {
        let now = self.clock.now();
        self.recorder.record(claimed.into_iter().map(|claimed| expired(claimed, now)).collect());
    }
}

/// Finishes a recipient whose deadline has passed as `expired`.
pub(crate) fn expired(claimed: Claimed, started_at: DateTime<Utc>) -> Finished {
    let transition = Transition::End(Status::Expired);
    // Recipients in closed lanes expire without their message being read.
    Finished {
        claimed,
        outcome: None,
        transition,
        started_at,
        is_alone: false,
        may_be_relayed: true,
        conversation: None,
    }
}
