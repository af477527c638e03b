//! Plays the follow-ups of simulated deliveries: passes bounces, complaints and auto-replies to
//! [`Feedback`](crate::feedback::Feedback), as `POST /v1/inbound` does, and unsubscribes recipients, as the link in the
//! message does.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;

use super::Simulator;
use crate::db::simulator_followups::{self, Content, FollowUp};
use crate::db::{DbError, delivery_reports, suppressions};
use crate::domain::delivery::Status;
use crate::domain::id::{MessageId, TenantId};
use crate::domain::message::unsubscribe::Ticket;
use crate::feedback::Origin;

/// Poll interval. A new follow-up of this process does not wait for it.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// Pause before a follow-up whose delivery is not recorded yet is tried again.
const EARLY_PAUSE: Duration = Duration::from_millis(200);
/// How long a worker has to play a follow-up before another worker does.
const LEASE: TimeDelta = TimeDelta::minutes(1);
/// Time after which a follow-up that failed is tried again.
const RETRY_WAIT: TimeDelta = TimeDelta::minutes(1);
/// Maximum number of follow-ups claimed at a time.
const BATCH: i64 = 50;

/// The result of playing a follow-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// It took effect, or can no longer have an effect.
    Done,
    /// The outcome of its delivery is being recorded.
    Early,
    /// The recipient waits for another attempt: the worker died after the follow-up was stored.
    Waits,
}

impl Simulator {
    /// Plays follow-ups when they are due. Several processes may do so.
    pub async fn run(self: Arc<Self>) {
        loop {
            let pause = match self.play_due().await {
                Ok(true) => POLL_INTERVAL,
                Ok(false) => EARLY_PAUSE,
                Err(error) => {
                    warn_failed(&error);
                    POLL_INTERVAL
                }
            };
            // The pause ends early if a new follow-up is stored.
            let _ = tokio::time::timeout(pause, self.wake.notified()).await;
        }
    }

    /// Plays the follow-ups that are due. Returns `false` if some were too early: the outcomes of their deliveries are
    /// not recorded yet. A follow-up that fails is logged and tried again later; it does not stop the others.
    pub async fn play_due(&self) -> Result<bool, DbError> {
        let mut early = Vec::new();
        let mut result = self.play_batches(&mut early).await;
        for followup in &early {
            let released = simulator_followups::release(&self.db, followup).await;
            result = result.and(released);
        }
        result.map(|()| early.is_empty())
    }

    /// Plays the follow-ups that are due, and adds those that were too early to `early`.
    async fn play_batches(&self, early: &mut Vec<FollowUp>) -> Result<(), DbError> {
        loop {
            let now = self.clock.now();
            let due = simulator_followups::claim(&self.db, now, now + LEASE, BATCH).await?;
            if due.is_empty() {
                return Ok(());
            }
            for followup in due {
                match self.play_and_delete(&followup).await {
                    Ok(Progress::Early) => early.push(followup),
                    // A follow-up that waits is due again when its lease ends.
                    Ok(Progress::Done | Progress::Waits) => {}
                    Err(error) => {
                        warn_failed(&error);
                        // If this fails too, the database is unavailable, and the others are due again when their
                        // leases end.
                        let at = self.clock.now() + RETRY_WAIT;
                        simulator_followups::postpone(&self.db, &followup, at).await?;
                    }
                }
            }
        }
    }

    /// Plays a follow-up, and deletes it if it is done.
    async fn play_and_delete(&self, followup: &FollowUp) -> Result<Progress, DbError> {
        let progress = self.play(followup).await?;
        if progress == Progress::Done {
            simulator_followups::delete(&self.db, followup).await?;
        }
        Ok(progress)
    }

    async fn play(&self, followup: &FollowUp) -> Result<Progress, DbError> {
        let (tenant, message) = (TenantId(followup.tenant), MessageId(followup.message));
        let recipients = delivery_reports::addressees(&self.db, message, Some(tenant)).await?;
        // The message may have been deleted meanwhile.
        let Some(row) = recipients.iter().find(|row| row.id == followup.recipient) else { return Ok(Progress::Done) };
        match row.status.parse::<Status>() {
            Ok(Status::Delivered | Status::Relayed | Status::Uncertain | Status::Bounced) => {}
            // The delivery was not recorded, because the worker died, and no other attempt followed.
            Ok(Status::Canceled | Status::Expired | Status::Suppressed) => return Ok(Progress::Done),
            Ok(Status::Sending) => return Ok(Progress::Early),
            Ok(Status::Queued | Status::Deferred | Status::Scheduled) | Err(()) => return Ok(Progress::Waits),
        }
        match &followup.content {
            Content::Report { to, mime } => {
                let origin = Origin::Key { tenant, to: to.as_deref() };
                let outcome = self.feedback.process(mime.clone(), origin, false).await?;
                Ok(if outcome.is_early() { Progress::Early } else { Progress::Done })
            }
            Content::Unsubscribe { token } => {
                // The link may be of another site, or signed with a secret that is not configured any more.
                let ticket = self.links.as_ref().and_then(|links| links.verify(token));
                if let Some(ticket) = ticket.filter(|ticket| is_own_link(ticket, followup)) {
                    suppressions::unsubscribe::unsubscribe(&self.db, &ticket, self.clock.now()).await?;
                }
                Ok(Progress::Done)
            }
        }
    }
}

/// Returns whether an unsubscribe link is that of the delivered message. A sender can put the link of any other message
/// into a header.
fn is_own_link(ticket: &Ticket, followup: &FollowUp) -> bool {
    let (tenant, message, recipient) = (ticket.tenant.0, ticket.message.0, ticket.recipient.0);
    (tenant, message, recipient) == (followup.tenant, followup.message, followup.recipient)
}

fn warn_failed(error: &DbError) {
    tracing::warn!(
        event = "simulator_followups_failed",
        %error,
        "failed to play what follows simulated deliveries; trying again"
    );
}
