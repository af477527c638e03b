//! Passes received messages on, in the background of every process with the API.
//!
//! A received message is committed with a row in `relays` for each recipient, and only then does the sending server get `250`. A
//! process claims rows for some seconds, and inserts a message for each through the writer of batches, in the transaction that marks
//! the row. So each row becomes exactly one message, whenever a process dies. From there on it is a message like any other, in a lane
//! of its inbound route.
//!
//! If such a message bounces or expires, the transaction that records this marks its row again, and a process inserts the report to the
//! sender, in the same way and as exactly one message. Nobody gets a report about a message from the null sender, such as a report,
//! so reports cause none.

mod content;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::FutureExt as _;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::poll_loop::{self, Next, PollLoop};
use crate::accept::{AcceptError, Acceptor, IDLE_POLL_INTERVAL};
use crate::clock::SharedClock;
use crate::db::RestoreGate;
use crate::db::messages::insert::batch::BatchSource;
use crate::db::messages::relays::{self, RelayPart, RelayRow, RelayStep};
use crate::domain::address::srs::Srs;
use crate::domain::id::{MessageId, ReceivedId, TenantId};
use crate::domain::message::NewMessage;

/// Pause after a failure.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// How long rows are claimed. After it, another process continues, and this one inserts nothing. Longer than a request to the
/// object store takes by default, so that a row that waits for it does not keep the others from being processed.
const CLAIM: TimeDelta = TimeDelta::seconds(60);
/// Maximum number of rows in one claim. They are processed one after the other, because each may have tens of megabytes.
const ROWS: i64 = 5;

/// Inserts the messages that pass received messages on, and reports of their failures.
#[derive(Debug)]
pub struct RelayRunner {
    acceptor: Arc<Acceptor>,
    clock: SharedClock,
    gate: Arc<RestoreGate>,
    /// Notifies this task that there are rows to process.
    wake: Arc<Notify>,
    hostname: String,
    /// Rewrites the senders.
    srs: Option<Srs>,
}

impl RelayRunner {
    /// Creates the task of a process. While the `gate` is closed, nothing is passed on: in a restored database it may have been
    /// before. `hostname` is named in `Received` fields and in reports; `srs` rewrites the senders of messages that are passed on.
    pub fn new(
        acceptor: Arc<Acceptor>,
        clock: SharedClock,
        gate: Arc<RestoreGate>,
        wake: Arc<Notify>,
        (hostname, srs): (String, Option<Srs>),
    ) -> Self {
        Self { acceptor, clock, gate, wake, hostname, srs }
    }

    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let (gate, wake) = (self.gate.clone(), self.wake.clone());
        poll_loop::run(self, &gate, &wake, &stop).await;
    }

    /// Claims some rows, and processes them. Returns whether there may be more.
    async fn process_some(&self, stop: &CancellationToken) -> Result<bool, String> {
        let now = self.clock.now();
        let until = now + CLAIM;
        let rows = relays::claim(&self.acceptor.db, ROWS, now, until).await.map_err(|error| error.to_string())?;
        let is_full = i64::try_from(rows.len()).is_ok_and(|count| count >= ROWS);
        let mut result = Ok(is_full);
        for row in rows {
            if stop.is_cancelled() {
                break;
            }
            // A row that fails or panics does not keep the others from being processed.
            match AssertUnwindSafe(self.process(&row, until)).catch_unwind().await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => result = Err(error.to_string()),
                Err(_) => result = Err(format!("the work on {} panicked", ReceivedId(row.received_id))),
            }
        }
        result
    }

    async fn process(&self, row: &RelayRow, until: DateTime<Utc>) -> Result<(), AcceptError> {
        match row.message_id {
            None => Box::pin(self.pass_on(row, until)).await,
            Some(message) => Box::pin(self.report(row, MessageId(message), until)).await,
        }
    }

    /// Inserts the message that passes a received message on.
    async fn pass_on(&self, row: &RelayRow, until: DateTime<Utc>) -> Result<(), AcceptError> {
        let tenant = TenantId(row.tenant_id);
        let source = relays::source(&self.acceptor.db, tenant, row.received_id, None).await?;
        let message = source
            .and_then(|source| content::relayed(row, source, (&self.hostname, self.srs.as_ref()), self.clock.now()));
        let Some(message) = message else {
            // The received message was deleted, by request or with its tenant.
            return Ok(relays::remove(&self.acceptor.db, row).await?);
        };
        let id = message.id;
        if self.insert(row, message, RelayStep::Message, until).await? {
            tracing::info!(
                event = "received_message_relayed",
                received = %ReceivedId(row.received_id),
                message_id = %id,
                %tenant,
                "queued a received message to be passed on"
            );
        }
        Ok(())
    }

    /// Inserts the report of a failed message to the sender of the received message, unless there can be none.
    async fn report(&self, row: &RelayRow, failed: MessageId, until: DateTime<Utc>) -> Result<(), AcceptError> {
        let (db, tenant) = (&self.acceptor.db, TenantId(row.tenant_id));
        let source = relays::source(db, tenant, row.received_id, Some(content::MAX_RETURNED)).await?;
        let end = relays::end_of(db, tenant, failed.0).await?;
        let report =
            end.and_then(|end| content::report(row, (failed, &end), source.as_ref(), &self.hostname, self.clock.now()));
        let Some(report) = report else {
            tracing::info!(
                event = "relay_failed",
                message_id = %failed,
                %tenant,
                "a received message could not be passed on; its sender gets no report"
            );
            return Ok(relays::close(db, row, until).await?);
        };
        let id = report.id;
        if self.insert(row, report, RelayStep::Report, until).await? {
            tracing::info!(
                event = "relay_failed",
                message_id = %failed,
                report = %id,
                %tenant,
                "a received message could not be passed on; reporting it to the sender"
            );
        }
        Ok(())
    }

    /// Inserts a message and marks its row, in one transaction. Returns `false` if another process has claimed the row.
    async fn insert(
        &self,
        row: &RelayRow,
        message: NewMessage,
        step: RelayStep,
        claimed_until: DateTime<Utc>,
    ) -> Result<bool, AcceptError> {
        let tenant = TenantId(row.tenant_id);
        let part = RelayPart {
            tenant,
            received: row.received_id,
            position: row.position,
            message: message.id,
            step,
            claimed_until,
        };
        let batch = self.acceptor.prepare_from(tenant, vec![message], BatchSource::Relay(part)).await?;
        self.acceptor.insert_prepared(batch).await
    }
}

impl PollLoop for RelayRunner {
    const FAILURE_PAUSE: Duration = RETRY_PAUSE;

    async fn process_claimed(&mut self, stop: &CancellationToken) -> Result<Next, String> {
        let has_more = self.process_some(stop).await?;
        Ok(if has_more { Next::Now } else { Next::UntilWoken(IDLE_POLL_INTERVAL) })
    }

    fn log_failure(error: &str, times: u64) {
        tracing::warn!(event = "relays_failed", error, times, "failed to pass received messages on; trying again");
    }
}
