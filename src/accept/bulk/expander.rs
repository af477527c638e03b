//! Turns the recipients of bulks into messages, in the background of every process with the API.
//!
//! A process leases a bulk for a moment, inserts the messages of a few hundred recipients, and releases the bulk again, so
//! that several bulks take turns. It also holds or cancels recipients of paused and canceled bulks that were being sent when
//! the bulk was paused or canceled.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::shared::{Shared, Unreadable};
use crate::accept::{AcceptError, Acceptor, IDLE_POLL_INTERVAL};
use crate::clock::SharedClock;
use crate::db::messages::bulks::expand::{self, BulkPart, WaitingRow};
use crate::db::messages::bulks::{BulkRow, control};
use crate::db::messages::contents;
use crate::db::messages::insert::MessageInsert;
use crate::db::messages::insert::batch::{BatchInsert, BatchSource};
use crate::db::{DbError, RestoreGate};
use crate::domain::id::{BulkId, MessageId, TenantId};
use crate::domain::message::bulk::BulkState;
use crate::rendering::Renderer;
use crate::telemetry::RateLimitedLog;

/// Maximum number of messages in one transaction. Until it ends, the transaction locks the event counter, which single
/// messages need too.
const PART: i64 = 200;
/// Parts inserted before another bulk has its turn.
const PARTS_PER_TURN: usize = 5;
/// Time until a process looks for a bulk again after it could not lease one.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
/// How long a lease lasts. If a turn takes longer, another process may work on the bulk too, which is harmless; if the
/// process dies, another one continues after this time.
const LEASE: TimeDelta = TimeDelta::seconds(5);
/// Time until a paused or canceled bulk is looked at again.
const STRAGGLER_INTERVAL: TimeDelta = TimeDelta::seconds(1);
/// Time until a bulk whose messages could not be inserted is looked at again.
const RETRY_INTERVAL: TimeDelta = TimeDelta::seconds(5);

/// Turns recipients into messages.
#[derive(Debug)]
pub struct Expander {
    acceptor: Arc<Acceptor>,
    renderer: Arc<Renderer>,
    clock: SharedClock,
    gate: Arc<RestoreGate>,
}

/// Why the messages of a bulk cannot be inserted now.
#[derive(Debug, thiserror::Error)]
enum ExpandError {
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(transparent)]
    Accept(#[from] AcceptError),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}

/// When a bulk has its next turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    AtOnce,
    Later,
}

impl Expander {
    /// Creates the expander of a process. While the `gate` is closed, no messages are created: in a restored database they
    /// may have been created, and sent, before.
    pub fn new(acceptor: Arc<Acceptor>, renderer: Arc<Renderer>, clock: SharedClock, gate: Arc<RestoreGate>) -> Self {
        Self { acceptor, renderer, clock, gate }
    }

    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let failed = RateLimitedLog::default();
        while !stop.is_cancelled() {
            let turn = async { if self.gate.is_open() { Box::pin(self.turn()).await } else { Ok(None) } };
            let worked = AssertUnwindSafe(turn).catch_unwind().await;
            let (bulk, error) = match worked {
                Ok(Ok(None)) => (None, None),
                Ok(Ok(Some((_, Ok(()))))) => continue,
                Ok(Ok(Some((bulk, Err(error))))) => (Some(bulk), Some(error.to_string())),
                Ok(Err(error)) => (None, Some(error.to_string())),
                Err(_) => (None, Some("it panicked".into())),
            };
            let pause = if error.is_some() { FAILURE_PAUSE } else { IDLE_POLL_INTERVAL };
            if let Some(error) = error
                && let Some(times) = failed.note(tokio::time::Instant::now())
            {
                tracing::warn!(
                    event = "bulk_expansion_failed",
                    bulk = bulk.map(tracing::field::display),
                    error,
                    times,
                    "failed to create the messages of a bulk; trying again"
                );
            }
            if bulk.is_some() {
                // Another bulk may succeed.
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.acceptor.bulk_wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Works on one bulk for a moment. Returns the bulk's id and the result; `None` if no bulk needs work.
    async fn turn(&self) -> Result<Option<(BulkId, Result<(), ExpandError>)>, DbError> {
        let now = self.clock.now();
        let lease = now + LEASE;
        let Some(bulk) = expand::lease(&self.acceptor.db, now, lease).await? else { return Ok(None) };
        let result = self.work(&bulk).await;
        let now = self.clock.now();
        let next = match &result {
            Ok(Next::AtOnce) => now,
            Ok(Next::Later) => now + STRAGGLER_INTERVAL,
            Err(_) => now + RETRY_INTERVAL,
        };
        expand::release(&self.acceptor.db, &bulk, lease, next).await?;
        Ok(Some((BulkId(bulk.id), result.map(|_| ()))))
    }

    async fn work(&self, bulk: &BulkRow) -> Result<Next, ExpandError> {
        let (db, now) = (&self.acceptor.db, self.clock.now());
        match bulk.state.parse() {
            Ok(BulkState::Paused) => control::hold(db, bulk).await?,
            Ok(BulkState::Canceled) => {
                if self.expand(bulk).await? == Next::AtOnce {
                    return Ok(Next::AtOnce);
                }
                control::cancel_queued(db, bulk, now).await?;
            }
            Ok(BulkState::Active) | Err(()) => {
                if bulk.resumed_from.is_some() {
                    // The request that resumed the bulk may have failed midway.
                    control::release_held(db, bulk, now).await?;
                }
                if self.expand(bulk).await? == Next::AtOnce {
                    return Ok(Next::AtOnce);
                }
                expand::settle(db, bulk, now).await?;
                return Ok(Next::Later);
            }
        }
        // A message that is being sent may be deferred, and then has to be held or canceled.
        if !control::is_sending(db, bulk).await? {
            expand::settle(db, bulk, now).await?;
        }
        Ok(Next::Later)
    }

    /// Inserts the next messages of a bulk. Returns `AtOnce` if there may be more.
    async fn expand(&self, bulk: &BulkRow) -> Result<Next, ExpandError> {
        let db = &self.acceptor.db;
        let mut shared = None;
        for _ in 0..PARTS_PER_TURN {
            let waiting = expand::waiting(db, bulk, PART).await?;
            if waiting.is_empty() {
                return Ok(Next::Later);
            }
            let shared = match &shared {
                Some(shared) => shared,
                None => shared.insert(self.load(bulk).await?),
            };
            if !self.insert(shared, waiting).await? {
                // The bulk's state was changed, or another process works on the bulk.
                return Ok(Next::AtOnce);
            }
        }
        Ok(Next::AtOnce)
    }

    async fn load(&self, bulk: &BulkRow) -> Result<Shared, ExpandError> {
        let content = contents(&self.acceptor.db, &(TenantId(bulk.tenant_id), bulk.content_id).into()).await?.pop();
        Ok(Shared::read(bulk, content, &self.renderer).await?)
    }

    /// Inserts the messages of these recipients. Returns `false` if nothing was inserted.
    async fn insert(&self, shared: &Shared, waiting: Vec<WaitingRow>) -> Result<bool, ExpandError> {
        let (tenant, now) = (shared.tenant, self.clock.now());
        let positions = waiting.iter().map(|row| row.position).collect();
        let mut messages = shared.messages(waiting, now).await?;
        // All messages have the same time; sorted ids keep them in the order of the request.
        let mut ids: Vec<Uuid> = messages.iter().map(|message| message.id.0).collect();
        ids.sort_unstable();
        for (message, id) in messages.iter_mut().zip(&ids) {
            message.id = MessageId(*id);
        }
        let part = BulkPart { tenant, bulk: shared.bulk, state: shared.state, positions, messages: ids };
        let lanes = self.acceptor.lanes.for_messages(tenant, &messages.iter().collect::<Vec<_>>()).await;
        let lanes = lanes.map_err(AcceptError::Db)?;
        let (key, is_canceled) = (shared.key, shared.state == BulkState::Canceled);
        let insert = |(message, lanes)| MessageInsert {
            tenant,
            message,
            lanes,
            key,
            idempotency: None,
            direct_consumer: None,
            is_canceled,
        };
        let messages = messages.into_iter().zip(lanes).map(insert).collect();
        let batch = BatchInsert { messages, call: None, source: Some(BatchSource::Bulk(part)) };
        Ok(self.acceptor.insert_prepared(batch).await?)
    }
}
