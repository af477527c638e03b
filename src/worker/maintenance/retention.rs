//! Deletes data whose period has passed: weeks of content, messages, events and the webhook log, and old rows of other tables. Every
//! worker runs it; one at a time deletes. See [`crate::db::retention`] for what is protected.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::clock::SharedClock;
use crate::db::retention::content::Range;
use crate::db::retention::weeks::StoredWeek;
use crate::db::retention::{Class, Periods, Week, content, default_rows, protection, rows, runs, weeks};
use crate::db::{Db, DbError, RestoreGate};
use crate::metrics::METRICS;
use crate::telemetry::RateLimitedLog;

/// Interval between two runs.
const INTERVAL: Duration = Duration::from_hours(1);
/// Time from the start of a worker to its first run, so that a mistake in the configuration can be corrected.
const FIRST_RUN: Duration = Duration::from_mins(10);
/// How long a week that is protected is not examined again.
const KEPT_FOR: TimeDelta = TimeDelta::hours(6);
/// Maximum number of steps through the rows of a week in one run; the next run continues.
const MAX_STEPS: usize = 20_000;

/// What happens to a week.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Its period has not passed.
    Young,
    /// It is dropped.
    Drop,
    /// Its content is deleted row by row, except what these reasons protect.
    Rows(Vec<String>),
    /// It is kept, for these reasons.
    Protected(Vec<String>),
}

/// A week, and what happens to it.
#[derive(Debug, Clone)]
pub struct PlannedWeek {
    /// Kind of data.
    pub class: Class,
    /// The week, with its size.
    pub stored: StoredWeek,
    /// What happens to it.
    pub decision: Decision,
}

/// What a run has deleted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Deleted {
    /// Weeks that were dropped, in the order of [`Class::ALL`].
    pub weeks: [u64; 4],
    /// Contents that were deleted row by row.
    pub contents: u64,
    /// Other rows.
    pub rows: u64,
}

/// Deletes old data.
#[derive(Debug)]
pub struct Retention {
    db: Db,
    clock: SharedClock,
    periods: Periods,
    gate: Arc<RestoreGate>,
    /// Identifies this process in `retention_runs`.
    holder: Uuid,
    /// The content after which the next run continues in its week, if the last one did not reach the week's end.
    position: Mutex<Option<Uuid>>,
}

/// Deletes until `stop`.
pub(crate) async fn run(retention: Arc<Retention>, stop: CancellationToken) {
    stop.run_until_cancelled_owned(delete_regularly(&retention)).await;
    if let Err(error) = retention.release().await {
        tracing::debug!(%error, "failed to end the retention lease; other workers can delete old data once it expires, within 5 minutes");
    }
}

async fn delete_regularly(retention: &Retention) {
    let failures = RateLimitedLog::default();
    let mut ticks = tokio::time::interval_at(Instant::now() + FIRST_RUN, INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = retention.once(false).await
            && let Some(times) = failures.note(Instant::now())
        {
            tracing::warn!(event = "retention_failed", %error, times, "failed to delete old data; trying again in an hour");
        }
    }
}

impl Retention {
    /// Creates it with the configured periods. While the `gate` is closed, nothing is deleted: a database may have been restored
    /// because of the data that would be deleted.
    pub fn new(db: Db, clock: SharedClock, periods: Periods, gate: Arc<RestoreGate>) -> Self {
        Self { db, clock, periods, gate, holder: Uuid::new_v4(), position: Mutex::new(None) }
    }

    /// Deletes everything whose period has passed. Without `is_forced`, weeks that were kept a short time ago are not examined. Returns
    /// `None` if another process deletes, or the restore guard forbids deletion.
    pub async fn once(&self, is_forced: bool) -> Result<Option<Deleted>, DbError> {
        if !self.gate.is_open() || !runs::begin(&self.db, self.holder, self.clock.now()).await? {
            return Ok(None);
        }
        let mut deleted = Deleted::default();
        let ended = self.delete(is_forced, &mut deleted).await;
        let released = self.release().await;
        METRICS.retention_rows.increment(deleted.contents + deleted.rows);
        if deleted != Deleted::default() {
            let Deleted { weeks: [content, messages, events, webhook_log], contents, rows } = deleted;
            tracing::info!(
                event = "old_data_deleted",
                content_weeks = content,
                message_weeks = messages,
                event_weeks = events,
                webhook_log_weeks = webhook_log,
                contents,
                rows,
                "deleted data whose retention period has passed"
            );
        }
        match ended {
            Err(Stop::Failed(error)) => Err(error),
            Ok(()) | Err(Stop::Superseded) => released.map(|()| Some(deleted)),
        }
    }

    /// Lets other processes delete, if this one was stopped while it did.
    pub async fn release(&self) -> Result<(), DbError> {
        runs::end(&self.db, self.holder, self.clock.now()).await
    }

    /// Returns all stored weeks, and what a run would do with each.
    pub async fn plan(&self) -> Result<Vec<PlannedWeek>, DbError> {
        let range = content::range(&self.db, &self.periods).await?;
        let mut planned = Vec::new();
        for class in Class::ALL {
            let mut first_kept: Option<Week> = None;
            for stored in weeks::stored(&self.db, class).await? {
                let mut decision = self.decide(class, stored.week, range).await?;
                if let Some(blocking) = first_kept.filter(|_| class == Class::Events && decision == Decision::Drop) {
                    decision = Decision::Protected(vec![format!("The week of {blocking} comes first.")]);
                }
                if let Decision::Protected(_) = decision {
                    first_kept = first_kept.or(Some(stored.week));
                }
                planned.push(PlannedWeek { class, stored, decision });
            }
        }
        Ok(planned)
    }

    async fn decide(&self, class: Class, week: Week, range: Range) -> Result<Decision, DbError> {
        let now = self.clock.now();
        let (least, most) = match class {
            Class::Content => (range.least, range.most),
            _ => (self.periods.get(class).seconds(), self.periods.get(class).seconds()),
        };
        let age = week.age(now);
        if age < least {
            return Ok(Decision::Young);
        }
        if matches!(class, Class::Content | Class::Messages)
            && let Some(reason) = protection::running_action(&self.db, now).await?
        {
            return Ok(Decision::Protected(vec![reason]));
        }
        if age < most {
            return Ok(Decision::Rows(vec!["Some streams keep their content for longer.".into()]));
        }
        let reasons = protection::reasons(&self.db, class, week, &self.periods, now).await?;
        Ok(match class {
            _ if reasons.is_empty() => Decision::Drop,
            Class::Content => Decision::Rows(reasons),
            _ => Decision::Protected(reasons),
        })
    }

    /// Deletes all classes, and then other rows. If one fails, the others are still deleted. Returns the first
    /// failure.
    async fn delete(&self, is_forced: bool, deleted: &mut Deleted) -> Result<(), Stop> {
        let range = content::range(&self.db, &self.periods).await?;
        let mut first_failure = Ok(());
        for (class, dropped) in Class::ALL.into_iter().zip(0..) {
            let kept = if is_forced {
                Vec::new()
            } else {
                weeks::kept_since(&self.db, class, self.clock.now() - KEPT_FOR).await?
            };
            let weeks = self.delete_weeks((class, dropped), &kept, range, deleted).await;
            first_failure = first_failure.and(failed(weeks)?);
            let rows = self.delete_default_rows(class, range, deleted).await;
            first_failure = first_failure.and(failed(rows)?);
        }
        for step in self.row_steps().await? {
            let rows = self.delete_all(step, deleted).await;
            first_failure = first_failure.and(failed(rows)?);
        }
        Ok(first_failure?)
    }

    async fn delete_weeks(
        &self,
        (class, dropped): (Class, usize),
        kept: &[Week],
        range: Range,
        deleted: &mut Deleted,
    ) -> Result<(), Stop> {
        // Events are deleted in order, so that the feed has no gap.
        let is_in_order = class == Class::Events;
        for StoredWeek { week, .. } in weeks::stored(&self.db, class).await? {
            if kept.contains(&week) {
                if is_in_order {
                    break;
                }
                continue;
            }
            self.renew().await?;
            match self.handle(class, week, range, deleted).await? {
                Handled::Dropped => {
                    deleted.weeks[dropped] += 1;
                    METRICS.retention_weeks.get((class,)).increment(1);
                }
                Handled::Kept if is_in_order => break,
                Handled::Kept => {}
                // Later weeks are younger still.
                Handled::Young => break,
            }
        }
        Ok(())
    }

    async fn handle(&self, class: Class, week: Week, range: Range, deleted: &mut Deleted) -> Result<Handled, Stop> {
        let reasons = match self.decide(class, week, range).await? {
            Decision::Young => return Ok(Handled::Young),
            Decision::Drop => Vec::new(),
            Decision::Protected(reasons) => reasons,
            Decision::Rows(reasons) => {
                self.delete_rows_of(week, range, deleted).await?;
                if content::is_empty(&self.db, week).await? { Vec::new() } else { reasons }
            }
        };
        let now = self.clock.now();
        if !reasons.is_empty() {
            tracing::info!(
                event = "retention_week_kept",
                class = class.as_str(),
                %week,
                reasons = reasons.join(" "),
                "kept a week whose period has passed, because something in it is protected"
            );
            weeks::note_kept(&self.db, class, week, &reasons, now).await?;
            return Ok(Handled::Kept);
        }
        match class {
            Class::Content => {
                self.delete_contents_of_bulks(week, deleted).await?;
                protection::note_ended(&self.db, week, now).await?;
            }
            Class::Messages => {
                self.delete_all(RowStep::Conversations(week), deleted).await?;
            }
            Class::Events | Class::WebhookLog => {}
        }
        if weeks::drop_week(&self.db, class, week, now).await? {
            return Ok(Handled::Dropped);
        }
        tracing::warn!(
            event = "retention_week_in_use",
            class = class.as_str(),
            %week,
            "cannot drop a week, because other transactions use its tables; trying again in an hour; if this repeats, end long transactions (pg_stat_activity)"
        );
        Ok(Handled::Kept)
    }

    /// Deletes the content of a week row by row, unless an earlier run has left nothing that could be deleted.
    async fn delete_rows_of(&self, week: Week, range: Range, deleted: &mut Deleted) -> Result<(), Stop> {
        let (db, now) = (&self.db, self.clock.now());
        let age = week.age(now);
        let passed = content::passed(db, age, &self.periods).await?;
        if age < range.most && weeks::read_for(db, week).await?.as_ref() == Some(&passed) {
            return Ok(());
        }
        // After the longest period, `decide` has found something that is protected.
        let is_unprotected =
            age < range.most && protection::reasons(db, Class::Content, week, &self.periods, now).await?.is_empty();
        let is_complete = self.delete_contents(week.ids(), age, deleted).await?;
        self.delete_contents_of_bulks(week, deleted).await?;
        if is_complete && is_unprotected {
            weeks::note_read(db, week, &passed, now).await?;
        }
        Ok(())
    }

    /// Deletes the content of finished messages with an id in this range, whose period is at most `age` seconds. Returns whether it has
    /// read all of the range; if a run does not reach its end, the next one of this process continues.
    async fn delete_contents(&self, (first, end): (Uuid, Uuid), age: f64, deleted: &mut Deleted) -> Result<bool, Stop> {
        // Ranges do not overlap, so a position belongs to the range that it is in.
        let position = self.position.lock().take_if(|position| first < *position && *position < end);
        let mut after = position.unwrap_or(first);
        for _ in 0..MAX_STEPS {
            let started = Instant::now();
            let step = content::delete_step(&self.db, (after, end), age, &self.periods, self.clock.now()).await?;
            deleted.contents += step.deleted.unsigned_abs();
            let Some(last) = step.last else { return Ok(position.is_none()) };
            after = last;
            self.pause(started).await?;
        }
        *self.position.lock() = Some(after);
        Ok(false)
    }

    async fn delete_contents_of_bulks(&self, week: Week, deleted: &mut Deleted) -> Result<(), Stop> {
        for bulk in content::ended_bulks(&self.db, week, &self.periods, self.clock.now()).await? {
            let (mut after, mut started) = (Uuid::nil(), Instant::now());
            while let Some(last) = content::delete_bulk_step(&self.db, bulk, after, self.clock.now()).await? {
                self.pause(started).await?;
                (after, started) = (last, Instant::now());
            }
            deleted.contents += 1;
        }
        Ok(())
    }

    async fn delete_default_rows(&self, class: Class, range: Range, deleted: &mut Deleted) -> Result<(), Stop> {
        if class != Class::Content {
            return self.delete_all(RowStep::Default(class), deleted).await;
        }
        self.renew().await?;
        let mut after = Uuid::nil();
        while let Some(week) = default_rows::next_content_week(&self.db, after).await?
            && week.age(self.clock.now()) >= range.least
        {
            self.delete_contents(week.ids(), week.age(self.clock.now()), deleted).await?;
            self.delete_contents_of_bulks(week, deleted).await?;
            after = week.ids().1;
        }
        Ok(())
    }

    async fn row_steps(&self) -> Result<Vec<RowStep>, DbError> {
        let (now, periods) = (self.clock.now(), &self.periods);
        let mut steps = Vec::new();
        steps.extend(periods.audit.cutoff(now).map(RowStep::Audit));
        steps.extend(periods.actions.cutoff(now).map(RowStep::Actions));
        steps.extend(periods.received.cutoff(now).map(RowStep::Received));
        steps.extend(periods.received.cutoff(now).map(RowStep::Relays));
        if let Some(before) = periods.messages.cutoff(now) {
            let gaps = weeks::gaps(&self.db, Class::Messages).await?;
            steps.extend(gaps.into_iter().map(|gap| RowStep::BulkMembers(before, gap)));
            steps.push(RowStep::Bulks(before));
        }
        Ok(steps)
    }

    /// Repeats a step until it deletes nothing.
    async fn delete_all(&self, step: RowStep, deleted: &mut Deleted) -> Result<(), Stop> {
        let db = &self.db;
        self.renew().await?;
        loop {
            let started = Instant::now();
            let rows = match step {
                RowStep::Conversations(week) => rows::delete_conversations(db, week).await?,
                RowStep::Audit(before) => rows::delete_audit(db, before).await?,
                RowStep::Actions(before) => rows::delete_actions(db, before).await?,
                RowStep::Received(before) => rows::delete_received(db, before).await?,
                RowStep::Relays(before) => rows::delete_relays(db, before).await?,
                RowStep::BulkMembers(before, range) => rows::delete_bulk_members(db, before, range).await?,
                RowStep::Bulks(before) => rows::delete_bulks(db, before).await?,
                RowStep::Default(class) => {
                    default_rows::delete_step(db, class, &self.periods, self.clock.now()).await?
                }
            };
            deleted.rows += rows;
            if rows == 0 {
                return Ok(());
            }
            self.pause(started).await?;
        }
    }

    /// Sleeps as long as the last step took, and renews the lease.
    async fn pause(&self, started: Instant) -> Result<(), Stop> {
        tokio::time::sleep(started.elapsed()).await;
        self.renew().await
    }

    /// Renews the lease; fails if another process has it, or if the restore guard holds.
    async fn renew(&self) -> Result<(), Stop> {
        let is_renewed = self.gate.is_open() && runs::renew(&self.db, self.holder, self.clock.now()).await?;
        is_renewed.then_some(()).ok_or(Stop::Superseded)
    }
}

/// Why a part of a run ends early.
#[derive(Debug)]
enum Stop {
    /// It failed.
    Failed(DbError),
    /// This process did not renew its lease in time, and another one deletes now; or the restore guard holds.
    Superseded,
}

impl From<DbError> for Stop {
    fn from(error: DbError) -> Self {
        Self::Failed(error)
    }
}

/// Returns the failure of a part; fails if the whole run ends.
fn failed(part: Result<(), Stop>) -> Result<Result<(), DbError>, Stop> {
    match part {
        Ok(()) => Ok(Ok(())),
        Err(Stop::Failed(error)) => Ok(Err(error)),
        Err(Stop::Superseded) => Err(Stop::Superseded),
    }
}

/// A step that deletes some rows of tables without weeks.
#[derive(Debug, Clone, Copy)]
enum RowStep {
    /// SMTP conversations of a week's messages.
    Conversations(Week),
    /// Entries of the audit log.
    Audit(DateTime<Utc>),
    /// Actions on many messages.
    Actions(DateTime<Utc>),
    /// Received messages.
    Received(DateTime<Utc>),
    /// What is known of received messages that were passed on.
    Relays(DateTime<Utc>),
    /// The lists of bulks' messages, in a range of ids without a week.
    BulkMembers(DateTime<Utc>, (Uuid, Uuid)),
    /// Bulks.
    Bulks(DateTime<Utc>),
    /// Rows of default partitions.
    Default(Class),
}

/// What happened to a week.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Handled {
    Young,
    Kept,
    Dropped,
}
