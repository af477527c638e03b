//! Works off actions on all messages that match a filter, in the background of every process with the API (`leased_jobs`).
//! A transaction changes a few hundred recipients.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::parts::{self, PART};
use super::{CLOCK_DIFFERENCE, PAGE, examines_queue, examines_uncertain};
use crate::accept::background::leased_jobs::{self, FailedTurn, JobError, LeasedJobs, Next, TURN, pause, pause_for};
use crate::accept::{AcceptError, Acceptor};
use crate::clock::SharedClock;
use crate::db::messages::actions::Requeued;
use crate::db::messages::actions::apply::{self, Part};
use crate::db::messages::actions::jobs::{self, ActionRow, Failure, Lease};
use crate::db::messages::actions::select::{self, ExaminedRow, Position, Selection, UncertainRow};
use crate::db::{DbError, RestoreGate};
use crate::domain::id::{ActionId, MessageId, TenantId};
use crate::domain::message::action::{ActionFilter, ActionKind};

/// How long a lease lasts, longer than a turn and a transaction usually take. After it, another process continues; a
/// transaction of this process then changes nothing.
const LEASE: TimeDelta = TimeDelta::seconds(10);
/// Time until the queue is examined again for messages of bulks that were still being created.
const REPEAT_INTERVAL: TimeDelta = TimeDelta::seconds(1);
/// How long after its creation, or the end of its tenant's suspension, an action waits for such messages.
const MAX_REPEAT: TimeDelta = TimeDelta::minutes(10);

/// Least time for each recipient of a part, until the next part begins: an action changes at most 3,850 recipients a second, so
/// that the messages of others keep about nine tenths of their rate.
const RECIPIENT_INTERVAL: Duration = Duration::from_micros(260);

/// The names of the phases.
const QUEUE: &str = "queue";
const UNCERTAIN: &str = "uncertain";

/// Works off actions.
#[derive(Debug)]
pub struct ActionRunner {
    acceptor: Arc<Acceptor>,
    clock: SharedClock,
    gate: Arc<RestoreGate>,
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
    fn new(row: ActionRow, lease: Lease) -> Result<Self, JobError> {
        let unreadable =
            || JobError::Unreadable(format!("the stored action cannot be read: unknown action {}", row.action));
        let kind = row.action.parse().map_err(|()| unreadable())?;
        let filter = serde_json::from_value(row.filter.clone());
        let filter =
            filter.map_err(|error| JobError::Unreadable(format!("the stored action cannot be read: {error}")))?;
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
    /// Creates the runner of a process. While the `gate` is closed, only recipients are canceled: those that others make due
    /// would count as due after the restore, and be sent again.
    pub fn new(acceptor: Arc<Acceptor>, clock: SharedClock, gate: Arc<RestoreGate>) -> Self {
        Self { acceptor, clock, gate }
    }

    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        leased_jobs::run(&self, &self.clock, &self.acceptor.action_wake, &stop).await;
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

    async fn examine_queue(&self, job: &mut Job, stop: &CancellationToken) -> Result<Next, JobError> {
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
                pause_after(started, part.recipients.len(), stop).await;
                if stop.is_cancelled() || (job.is_over() && !(is_last && is_at_end(&rows, job.position))) {
                    return Ok(Next::AtOnce);
                }
            }
            if is_last {
                return Ok(Next::Done);
            }
        }
    }

    async fn examine_uncertain(&self, job: &mut Job, stop: &CancellationToken) -> Result<Next, JobError> {
        let db = &self.acceptor.db;
        let limit = i64::try_from(PART).unwrap_or(i64::MAX);
        loop {
            let rows = select::uncertain(db, &job.selection(), job.position, limit).await?;
            let Some(last) = rows.last() else { return Ok(Next::Done) };
            let (position, matched, is_last) = (last.position(), rows.len(), rows.len() < PART);
            let messages = self.requeueable(job.lease.tenant, rows).await?;
            let started = Instant::now();
            let done = job.part(&[], position, 0);
            let requeued = apply::requeue(db, &done, &messages, self.clock.now()).await?;
            let Some(changed) = requeued else { return Ok(Next::Lost) };
            job.position = position;
            self.wake(job.kind, changed);
            pause_after(started, matched, stop).await;
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

impl LeasedJobs for ActionRunner {
    type Row = ActionRow;
    type Lease = Lease;

    async fn lease(&self, now: DateTime<Utc>) -> Result<Option<(ActionRow, Lease)>, DbError> {
        let until = now + LEASE;
        let row = jobs::lease(&self.acceptor.db, now, until, !self.gate.is_open()).await?;
        let Some(row) = row else { return Ok(None) };
        let lease = Lease { tenant: TenantId(row.tenant_id), id: ActionId(row.id), until };
        Ok(Some((row, lease)))
    }

    async fn work(&self, row: ActionRow, lease: Lease, stop: &CancellationToken) -> Result<Next, JobError> {
        let mut job = Job::new(row, lease)?;
        if job.row.phase == QUEUE {
            self.expect_bulks(&mut job).await?;
            let next = if examines_queue(&job.filter) { self.examine_queue(&mut job, stop).await? } else { Next::Done };
            if next != Next::Done {
                return Ok(next);
            }
            if job.row.is_repeated && self.may_repeat(&job).await? {
                jobs::begin_phase(&self.acceptor.db, lease, QUEUE, jobs::start(&job.filter), false).await?;
                return Ok(Next::Later(REPEAT_INTERVAL));
            }
            if !examines_uncertain(job.kind, &job.filter) {
                return Ok(Next::Done);
            }
            job.position = jobs::start(&job.filter);
            jobs::begin_phase(&self.acceptor.db, lease, UNCERTAIN, job.position, false).await?;
        }
        self.examine_uncertain(&mut job, stop).await
    }

    async fn release(&self, lease: Lease, from: DateTime<Utc>) -> Result<(), DbError> {
        jobs::release(&self.acceptor.db, lease, from).await
    }

    async fn repeat(&self, lease: Lease, from: DateTime<Utc>) -> Result<(), DbError> {
        jobs::release(&self.acceptor.db, lease, from).await
    }

    async fn finish(&self, lease: Lease, now: DateTime<Utc>) -> Result<(), DbError> {
        jobs::finish(&self.acceptor.db, lease, now).await?;
        tracing::info!(event = "message_action_done", action = %lease.id, "finished an action on messages");
        Ok(())
    }

    async fn fail(&self, lease: Lease, failed: FailedTurn<'_>) -> Result<bool, DbError> {
        let FailedTurn { error, is_temporary, now, from } = failed;
        let has_ended = jobs::fail(&self.acceptor.db, lease, Failure { error, is_temporary }, now, from).await?;
        if has_ended {
            tracing::error!(
                event = "message_action_failed",
                action = %lease.id,
                error,
                "gave up an action on messages; start it again once the cause is fixed"
            );
        }
        Ok(has_ended)
    }

    fn log_interrupted(lease: Option<Lease>, error: &dyn Display, times: u64) {
        tracing::warn!(
            event = "message_action_interrupted",
            action = lease.map(|lease| tracing::field::display(lease.id)),
            %error,
            times,
            "failed to continue an action on messages; trying again"
        );
    }
}

/// Pauses after a part with this many recipients that began at `started`: for as long as it took, and at least until the next one
/// may begin.
async fn pause_after(started: Instant, recipients: usize, stop: &CancellationToken) {
    let took = started.elapsed();
    let interval = RECIPIENT_INTERVAL * u32::try_from(recipients).unwrap_or(u32::MAX);
    pause_for(took.max(interval.saturating_sub(took)), stop).await;
}

fn is_at_end(rows: &[ExaminedRow], position: Position) -> bool {
    rows.last().is_none_or(|last| last.position() == position)
}
