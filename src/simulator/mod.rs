//! The last hop of messages to simulator addresses ([`crate::domain::simulator`]), and of all test messages: instead of a
//! connection and an SMTP conversation, the script of the address decides. Everything before and after it is the same as
//! for other messages.
//!
//! Guarantees:
//! - no socket is opened and no name is looked up;
//! - a bounce, complaint, automatic reply or unsubscription that follows a delivery is committed before the delivery is
//!   reported, so that a crash loses none. It is processed like a real one: by [`Feedback`], or as a click on an
//!   unsubscribe link;
//! - each of these takes effect once, because a repeated report has no effect.

mod conversation;
mod followups;
mod reports;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use crate::clock::SharedClock;
use crate::db::simulator_followups::{self, Content, FollowUp};
use crate::db::{Db, DbError};
use crate::domain::address::Address;
use crate::domain::id::TenantId;
use crate::domain::message::unsubscribe::Links;
use crate::domain::outcome::{Outcome, Reply, Stage};
use crate::domain::simulator::{Script, Step};
use crate::feedback::Feedback;
use crate::smtp::{NotAttempted, SendGuard};
use conversation::Conversation;
use reports::OriginalMessage;

/// How long the delivery of a test message takes to an address that has no script.
const TEST_DELIVERY: Duration = Duration::from_millis(50);

/// The simulator. Each worker has one.
#[derive(Debug)]
pub struct Simulator {
    db: Db,
    clock: SharedClock,
    feedback: Arc<Feedback>,
    links: Option<Links>,
    /// Notifies [`Simulator::run`] of a new follow-up.
    wake: Notify,
}

/// One attempt at one recipient.
#[derive(Debug)]
pub struct Attempt<'a> {
    /// The tenant.
    pub tenant: Uuid,
    /// The message.
    pub message: Uuid,
    /// The recipient.
    pub recipient: Uuid,
    /// The recipient's address.
    pub to: &'a Address,
    /// The envelope's sender.
    pub return_path: Option<&'a Address>,
    /// The message as sent.
    pub mime: &'a [u8],
    /// The attempt's number, from 1.
    pub number: u32,
    /// When the first attempt was due.
    pub first_due_at: DateTime<Utc>,
}

impl Simulator {
    /// Creates the simulator. Without `links`, no unsubscribe link can be used.
    pub fn new(db: Db, clock: SharedClock, feedback: Arc<Feedback>, links: Option<Links>) -> Self {
        Self { db, clock, feedback, links, wake: Notify::new() }
    }

    /// Plays an attempt by the script of the recipient's address. A test message to an address outside of the simulator's
    /// domain is delivered after `TEST_DELIVERY`. An address without a script is refused as unknown.
    /// Like [`Sender::send_if`](crate::smtp::Sender::send_if), returns an error if `guard` withdraws the message.
    pub async fn send(&self, attempt: &Attempt<'_>, guard: &dyn SendGuard) -> Result<Outcome, NotAttempted> {
        let started = Instant::now();
        let waited = self.clock.now() - attempt.first_due_at;
        let step = match Script::from_address(attempt.to) {
            Some(Ok(script)) => script.step(attempt.number, waited),
            None if TenantId(attempt.tenant).is_test() => Step::Slow(TEST_DELIVERY),
            Some(Err(_)) | None => conversation::NO_SUCH_USER,
        };
        let mut conversation = Conversation::new(step);
        if conversation.stage > Stage::Session && !guard.may_start() {
            return Err(withdrawn());
        }
        if conversation.stage == Stage::FinalDot {
            if !guard.may_send_text(&[0]).await {
                return Err(withdrawn());
            }
            if let Step::Slow(wait) = step {
                tokio::time::sleep(wait).await;
            }
            if let Err(error) = self.store_followup(attempt, step).await {
                tracing::debug!(event = "simulator_store_failed", %error, "failed to store what follows a simulated delivery");
                conversation = Conversation::unavailable();
            }
        }
        Ok(conversation.into_outcome(started.elapsed()))
    }

    /// Stores the bounce, complaint, automatic reply or unsubscription that follows the delivery, if the step has one.
    async fn store_followup(&self, attempt: &Attempt<'_>, step: Step) -> Result<(), DbError> {
        let now = self.clock.now();
        let original = OriginalMessage { to: attempt.to, return_path: attempt.return_path, mime: attempt.mime };
        let report = |to: Option<&Address>, mime| Content::Report { to: to.map(ToString::to_string), mime };
        let (delay, content) = match step {
            Step::Dsn(status) => (Duration::ZERO, report(attempt.return_path, reports::bounce(&original, status, now))),
            Step::AutoReply => (Duration::ZERO, report(attempt.return_path, reports::auto_reply(&original, now))),
            // A complaint goes to the address of a feedback loop.
            Step::Complaint(delay) => (delay, report(None, reports::complaint(&original, now))),
            Step::Unsubscribe => match original.unsubscribe_token() {
                Some(token) => (Duration::ZERO, Content::Unsubscribe { token }),
                None => return Ok(()),
            },
            _ => return Ok(()),
        };
        let followup = FollowUp {
            tenant: attempt.tenant,
            message: attempt.message,
            recipient: attempt.recipient,
            due_at: now + delay,
            content,
        };
        simulator_followups::insert(&self.db, &followup).await?;
        self.wake.notify_one();
        Ok(())
    }
}

fn withdrawn() -> NotAttempted {
    NotAttempted(Reply::local_error("the message was withdrawn"))
}
