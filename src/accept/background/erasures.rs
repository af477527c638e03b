//! Erases everything about an address, in the background of every process with the API (`leased_jobs`).
//!
//! Messages that are being sent, or that still go to other recipients, are erased once they have ended: the erasure examines
//! them again until then.

use std::fmt::Display;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::leased_jobs::{self, FailedTurn, JobError, LeasedJobs, Next, TURN, pause};
use crate::accept::Acceptor;
use crate::clock::SharedClock;
use crate::db::erasures::{self, ErasureRow, Job, Lease, NewErasure, Step};
use crate::db::{DbError, RestoreGate};
use crate::domain::address::Address;
use crate::domain::id::{ErasureId, TenantId};
use crate::domain::records::erasure::{ErasedAddress, ErasedCounts, ErasurePhase};

/// How long a lease lasts, longer than a turn and a step usually take. After it, another process continues; a step of this
/// process then erases nothing.
const LEASE: TimeDelta = TimeDelta::seconds(30);
/// Time until messages that have not ended are examined again: a part of the age of the erasure, within these limits.
const MIN_REPEAT: TimeDelta = TimeDelta::seconds(2);
const MAX_REPEAT: TimeDelta = TimeDelta::minutes(10);

impl Acceptor {
    /// Stores an erasure and starts to work on it.
    pub async fn start_erasure(&self, erasure: &NewErasure<'_>) -> Result<(), DbError> {
        erasures::insert(&self.db, erasure).await?;
        self.erasure_wake.notify_one();
        Ok(())
    }
}

/// Works off erasures.
#[derive(Debug)]
pub struct ErasureRunner {
    acceptor: Arc<Acceptor>,
    clock: SharedClock,
    gate: Arc<RestoreGate>,
}

impl ErasureRunner {
    /// Creates the runner of a process. While the `gate` is closed, nothing is erased: the database may have been restored because
    /// of what would be.
    pub fn new(acceptor: Arc<Acceptor>, clock: SharedClock, gate: Arc<RestoreGate>) -> Self {
        Self { acceptor, clock, gate }
    }

    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        leased_jobs::run(&self, &self.clock, &self.acceptor.erasure_wake, &stop).await;
    }
}

impl LeasedJobs for ErasureRunner {
    type Row = ErasureRow;
    type Lease = Lease;

    async fn lease(&self, now: DateTime<Utc>) -> Result<Option<(ErasureRow, Lease)>, DbError> {
        if !self.gate.is_open() {
            return Ok(None);
        }
        let until = now + LEASE;
        let Some(row) = erasures::lease(&self.acceptor.db, now, until).await? else { return Ok(None) };
        let lease = Lease { tenant: TenantId(row.tenant_id), id: ErasureId(row.id), until };
        Ok(Some((row, lease)))
    }

    async fn work(&self, row: ErasureRow, lease: Lease, stop: &CancellationToken) -> Result<Next, JobError> {
        let created_at = row.created_at;
        let unreadable = || JobError::Unreadable("the stored erasure cannot be read".into());
        let mut job = job(row, lease).ok_or_else(unreadable)?;
        let deadline = Instant::now() + TURN;
        loop {
            let (started, phase) = (Instant::now(), job.phase);
            let step = erasures::step(&self.acceptor.db, &mut job, self.clock.now()).await?;
            if step == Step::Lost {
                return Ok(Next::Lost);
            }
            if step == Step::PhaseEnded {
                // The first time, everything else is examined, too, while some messages wait for their end.
                let must_wait = job.waiting > 0 && (phase == ErasurePhase::Texts || job.is_repeated);
                if must_wait && matches!(phase, ErasurePhase::Messages | ErasurePhase::Texts) {
                    return Ok(Next::Later(repeat_interval(created_at, self.clock.now())));
                }
                if phase == ErasurePhase::Texts {
                    return Ok(Next::Done);
                }
            }
            pause(started, stop).await;
            if stop.is_cancelled() || Instant::now() >= deadline {
                return Ok(Next::AtOnce);
            }
        }
    }

    async fn release(&self, lease: Lease, from: DateTime<Utc>) -> Result<(), DbError> {
        erasures::release(&self.acceptor.db, lease, from).await
    }

    async fn repeat(&self, lease: Lease, from: DateTime<Utc>) -> Result<(), DbError> {
        erasures::repeat(&self.acceptor.db, lease, from).await
    }

    async fn finish(&self, lease: Lease, now: DateTime<Utc>) -> Result<(), DbError> {
        erasures::finish(&self.acceptor.db, lease, now).await?;
        tracing::info!(event = "erasure_done", erasure = %lease.id, "erased everything about an address");
        Ok(())
    }

    async fn fail(&self, lease: Lease, failed: FailedTurn<'_>) -> Result<bool, DbError> {
        let FailedTurn { error, is_temporary, now, from } = failed;
        let has_ended = erasures::fail(&self.acceptor.db, lease, (error, is_temporary), now, from).await?;
        if has_ended {
            tracing::error!(
                event = "erasure_failed",
                erasure = %lease.id,
                error,
                "gave up erasing an address; request it again once the cause is fixed"
            );
        }
        Ok(has_ended)
    }

    fn log_interrupted(lease: Option<Lease>, error: &dyn Display, times: u64) {
        tracing::warn!(
            event = "erasure_interrupted",
            erasure = lease.map(|lease| tracing::field::display(lease.id)),
            %error,
            times,
            "failed to continue the erasure of an address; trying again"
        );
    }
}

/// Returns what a stored erasure works on.
fn job(row: ErasureRow, lease: Lease) -> Option<Job> {
    let address: Address = row.address?.parse().ok()?;
    Some(Job {
        lease,
        created_at: row.created_at,
        address: ErasedAddress::from(&address),
        pseudonym: row.pseudonym,
        phase: ErasurePhase::from_column(&row.phase)?,
        position: row.position,
        is_repeated: row.is_repeated,
        waiting: row.waiting.unsigned_abs(),
        counts: ErasedCounts::from_column(row.counts)?,
    })
}

fn repeat_interval(created_at: DateTime<Utc>, now: DateTime<Utc>) -> TimeDelta {
    ((now - created_at) / 4).clamp(MIN_REPEAT, MAX_REPEAT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_examined_again_less_and_less_often() {
        let start = DateTime::UNIX_EPOCH;
        for (age, interval) in [(0, 2), (8, 2), (40, 10), (86_400, 600)] {
            let waited = repeat_interval(start, start + TimeDelta::seconds(age));
            assert_eq!(waited, TimeDelta::seconds(interval), "{age}");
        }
    }
}
