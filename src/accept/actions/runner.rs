//! Works off actions on all messages that match a filter, in the background of every process with the API.
//!
//! A process leases an action for a moment, so that several actions take turns, and another process continues if this one
//! dies. It changes a few hundred recipients per transaction, and pauses after each statement for as long as it took, so that
//! accepting and sending messages stay fast.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use futures_util::FutureExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::parts::{self, PART};
use super::{CLOCK_DIFFERENCE, PAGE, examines_queue, examines_uncertain};
use crate::accept::{AcceptError, Acceptor};
use crate::clock::SharedClock;
use crate::db::DbError;
use crate::db::messages::actions::Requeued;
use crate::db::messages::actions::apply::{self, Part};
use crate::db::messages::actions::jobs::{self, ActionRow, Failure, Lease};
use crate::db::messages::actions::select::{self, ExaminedRow, Position, Selection, UncertainRow};
use crate::domain::id::{ActionId, MessageId, TenantId};
use crate::domain::message::action::{ActionFilter, ActionKind};
use crate::telemetry::RateLimitedLog;

/// How long a process works on an action before another action has its turn.
const TURN: Duration = Duration::from_secs(1);
/// How long a lease lasts, longer than a turn and a transaction usually take. After it, another process continues; a
/// transaction of this process then changes nothing.
const LEASE: TimeDelta = TimeDelta::seconds(10);
/// How often a process without work looks for actions that other processes started.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Time until an action continues after a failure.
const RETRY_INTERVAL: TimeDelta = TimeDelta::seconds(5);
/// Time until the queue is examined again for messages of bulks that were still being created.
const REPEAT_INTERVAL: TimeDelta = TimeDelta::seconds(1);
/// How long after its creation, or the end of its tenant's suspension, an action waits for such messages.
const MAX_REPEAT: TimeDelta = TimeDelta::minutes(10);

/// The names of the phases.
const QUEUE: &str = "queue";
const UNCERTAIN: &str = "uncertain";

/// Works off actions.
#[derive(Debug)]
pub struct ActionRunner {
    acceptor: Arc<Acceptor>,
    clock: SharedClock,
}

/// Why an action cannot continue now.
#[derive(Debug, thiserror::Error)]
enum ActionError {
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(transparent)]
    Accept(#[from] AcceptError),
    #[error("the stored action cannot be read: {0}")]
    Unreadable(String),
    #[error("it panicked")]
    Panicked,
}

impl ActionError {
    /// Returns whether the database is unavailable or overloaded, so that trying again helps.
    fn is_temporary(&self) -> bool {
        match self {
            Self::Db(error) => error.trouble().is_some(),
            Self::Accept(AcceptError::Db(error)) => error.trouble().is_some(),
            Self::Accept(_) | Self::Unreadable(_) | Self::Panicked => false,
        }
    }
}

/// What follows a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The action has another turn.
    AtOnce,
    /// The queue is examined again later.
    Later,
    /// Everything was examined.
    Done,
    /// The action was canceled, or another process works on it.
    Lost,
}

/// A leased action.
#[derive(Debug)]
struct Job {
    lease: Lease,
    kind: ActionKind,
    filter: ActionFilter,
    row: ActionRow,
    position: Position,
    /// The end of this turn.
    deadline: Instant,
}

impl Job {
    fn new(row: ActionRow, lease: Lease) -> Result<Self, ActionError> {
        let unreadable = || ActionError::Unreadable(format!("unknown action {}", row.action));
        let kind = row.action.parse().map_err(|()| unreadable())?;
        let filter = serde_json::from_value(row.filter.clone());
        let filter = filter.map_err(|error| ActionError::Unreadable(error.to_string()))?;
        let position = Position { message: row.last_message, recipient: row.last_recipient };
        Ok(Self { lease, kind, filter, row, position, deadline: Instant::now() + TURN })
    }

    fn selection(&self) -> Selection<'_> {
        Selection {
            tenant: self.lease.tenant,
            kind: self.kind,
            filter: &self.filter,
            sender_domains: self.row.sender_domains.as_deref(),
            accepted_before: self.row.created_at + CLOCK_DIFFERENCE,
        }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }

    fn part<'a>(&self, recipients: &'a [(Uuid, Uuid)], position: Position, examined: usize) -> Part<'a> {
        let examined = i64::try_from(examined).unwrap_or(i64::MAX);
        Part { lease: self.lease, kind: self.kind, recipients, position, examined }
    }
}

impl ActionRunner {
    /// Creates the runner of a process.
    pub fn new(acceptor: Arc<Acceptor>, clock: SharedClock) -> Self {
        Self { acceptor, clock }
    }

    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let failed = RateLimitedLog::default();
        while !stop.is_cancelled() {
            let error = match Box::pin(self.turn(&stop, &failed)).await {
                Ok(true) => continue,
                Ok(false) => None,
                Err(error) => Some(error),
            };
            if let Some(error) = error {
                warn_of(&failed, None, &error);
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.acceptor.action_wake.notified() => {}
                () = tokio::time::sleep(POLL_INTERVAL) => {}
            }
        }
    }

    /// Works on one action for a moment. Returns `false` if there is none.
    async fn turn(&self, stop: &CancellationToken, failed: &RateLimitedLog) -> Result<bool, DbError> {
        let db = &self.acceptor.db;
        let now = self.clock.now();
        let until = now + LEASE;
        let Some(row) = jobs::lease(db, now, until).await? else { return Ok(false) };
        let lease = Lease { tenant: TenantId(row.tenant_id), id: ActionId(row.id), until };
        let worked = AssertUnwindSafe(Box::pin(self.work(row, lease, stop))).catch_unwind().await;
        let now = self.clock.now();
        match worked.unwrap_or(Err(ActionError::Panicked)) {
            Ok(Next::AtOnce) => jobs::release(db, lease, now).await?,
            Ok(Next::Later) => jobs::release(db, lease, now + REPEAT_INTERVAL).await?,
            Ok(Next::Done) => {
                jobs::finish(db, lease, now).await?;
                tracing::info!(event = "message_action_done", action = %lease.id, "finished an action on messages");
            }
            Ok(Next::Lost) => {}
            Err(error) => {
                let text = error.to_string();
                let failure = Failure { error: &text, is_temporary: error.is_temporary() };
                if jobs::fail(db, lease, failure, now, now + RETRY_INTERVAL).await? {
                    tracing::error!(
                        event = "message_action_failed",
                        action = %lease.id,
                        error = text,
                        "gave up an action on messages; start it again once the cause is fixed"
                    );
                } else {
                    warn_of(failed, Some(lease.id), &error);
                }
            }
        }
        Ok(true)
    }

    async fn work(&self, row: ActionRow, lease: Lease, stop: &CancellationToken) -> Result<Next, ActionError> {
        let mut job = Job::new(row, lease)?;
        if job.row.phase == QUEUE {
            self.expect_bulks(&mut job).await?;
            let next = if examines_queue(&job.filter) { self.examine_queue(&mut job, stop).await? } else { Next::Done };
            if next != Next::Done {
                return Ok(next);
            }
            if job.row.is_repeated && self.may_repeat(&job).await? {
                jobs::begin_phase(&self.acceptor.db, lease, QUEUE, jobs::start(&job.filter), false).await?;
                return Ok(Next::Later);
            }
            if !examines_uncertain(job.kind, &job.filter) {
                return Ok(Next::Done);
            }
            job.position = jobs::start(&job.filter);
            jobs::begin_phase(&self.acceptor.db, lease, UNCERTAIN, job.position, false).await?;
        }
        self.examine_uncertain(&mut job, stop).await
    }

    /// When the examination of the queue begins: notes whether it must be repeated, because recipients of bulks are still
    /// to become messages.
    async fn expect_bulks(&self, job: &mut Job) -> Result<(), DbError> {
        let is_beginning = job.row.examined == 0 && !job.row.is_repeated;
        if job.kind != ActionKind::Cancel || !is_beginning {
            return Ok(());
        }
        let db = &self.acceptor.db;
        if jobs::has_waiting_bulks(db, job.lease.tenant, job.selection().accepted_before).await? {
            job.row.is_repeated = true;
            jobs::begin_phase(db, job.lease, QUEUE, job.position, true).await?;
        }
        Ok(())
    }

    /// Returns whether the examination of the queue is repeated. While a tenant is suspended, its bulks wait, too.
    async fn may_repeat(&self, job: &Job) -> Result<bool, DbError> {
        let earliest = self.clock.now() - MAX_REPEAT;
        Ok(job.row.created_at > earliest || jobs::was_resumed(&self.acceptor.db, job.lease.tenant, earliest).await?)
    }

    async fn examine_queue(&self, job: &mut Job, stop: &CancellationToken) -> Result<Next, ActionError> {
        let db = &self.acceptor.db;
        let mut unrecorded = 0;
        loop {
            let started = Instant::now();
            let rows = select::queued(db, &job.selection(), job.position, PAGE, self.clock.now()).await?;
            pause(started, stop).await;
            let is_last = i64::try_from(rows.len()).is_ok_and(|length| length < PAGE);
            for part in parts::split(&rows) {
                job.position = part.position;
                unrecorded += part.examined;
                if part.recipients.is_empty() && !is_last && !job.is_over() {
                    // The position of rows that do not match is recorded later, with others.
                    continue;
                }
                let started = Instant::now();
                let done = job.part(&part.recipients, part.position, unrecorded);
                let Some(changed) = apply::apply(db, &done, self.clock.now()).await? else { return Ok(Next::Lost) };
                unrecorded = 0;
                self.wake(job.kind, changed);
                pause(started, stop).await;
                if stop.is_cancelled() || (job.is_over() && !(is_last && is_at_end(&rows, job.position))) {
                    return Ok(Next::AtOnce);
                }
            }
            if is_last {
                return Ok(Next::Done);
            }
        }
    }

    async fn examine_uncertain(&self, job: &mut Job, stop: &CancellationToken) -> Result<Next, ActionError> {
        let db = &self.acceptor.db;
        let limit = i64::try_from(PART).unwrap_or(i64::MAX);
        loop {
            let rows = select::uncertain(db, &job.selection(), job.position, limit).await?;
            let Some(last) = rows.last() else { return Ok(Next::Done) };
            let (position, is_last) = (last.position(), rows.len() < PART);
            let messages = self.requeueable(job.lease.tenant, rows).await?;
            let started = Instant::now();
            let done = job.part(&[], position, 0);
            let requeued = apply::requeue(db, &done, &messages, self.clock.now()).await?;
            let Some(changed) = requeued else { return Ok(Next::Lost) };
            job.position = position;
            self.wake(job.kind, changed);
            pause(started, stop).await;
            if is_last {
                return Ok(Next::Done);
            }
            if stop.is_cancelled() || job.is_over() {
                return Ok(Next::AtOnce);
            }
        }
    }

    /// Returns the recipients that match, by their messages, with the lanes that they are queued in again.
    async fn requeueable(
        &self,
        tenant: TenantId,
        rows: Vec<UncertainRow>,
    ) -> Result<Vec<(MessageId, Vec<Requeued>)>, AcceptError> {
        let domain = |address: &str| address.rsplit_once('@').map_or("", |(_, domain)| domain).to_owned();
        let mut messages: Vec<(MessageId, Vec<Requeued>)> = Vec::new();
        for row in rows {
            let (Some(stream), Some(from)) = (row.stream, row.from_address) else { continue };
            let lane_id = self.acceptor.lane(tenant, &stream, &domain(&from), &domain(&row.address)).await?;
            let (message, requeued) = (MessageId(row.message_id), Requeued { recipient_id: row.recipient_id, lane_id });
            match messages.last_mut() {
                Some((last, list)) if *last == message => list.push(requeued),
                _ => messages.push((message, vec![requeued])),
            }
        }
        Ok(messages)
    }

    /// Tells the workers about recipients that are due.
    fn wake(&self, kind: ActionKind, changed: usize) {
        if kind != ActionKind::Cancel && changed > 0 {
            self.acceptor.wake();
        }
    }
}

/// Pauses for as long as the work took that began at `started`.
async fn pause(started: Instant, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(started.elapsed()) => {}
    }
}

fn warn_of(failed: &RateLimitedLog, action: Option<ActionId>, error: &dyn std::fmt::Display) {
    if let Some(times) = failed.note(Instant::now()) {
        tracing::warn!(
            event = "message_action_interrupted",
            action = action.map(tracing::field::display),
            %error,
            times,
            "failed to continue an action on messages; trying again"
        );
    }
}

fn is_at_end(rows: &[ExaminedRow], position: Position) -> bool {
    rows.last().is_none_or(|last| last.position() == position)
}
