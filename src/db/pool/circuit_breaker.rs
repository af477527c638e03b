//! Circuit breaker of the database, so that calls fail at once while it is away instead of each waiting for a timeout.
//!
//! A call that gets no response for a while, while no other call gets one either, trips it: a task probes the database with a
//! connection of its own. If the probe fails, every call under way is given up and every new call fails at once. When a probe
//! succeeds, calls go on with fresh connections. Requests get their 503 within
//! [`CircuitBreaker::ACQUIRE_TIMEOUT`] of the time limit, nothing piles up, and an outage ends a moment after its cause.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use sqlx::Connection as _;
use tokio::sync::watch;

use super::Pool;
use super::error::{code, reason};
use super::outage::{Outage, Trouble};

/// Why a call was given up.
#[derive(Debug)]
pub(in crate::db) enum GivenUp {
    /// Its time was over.
    TimedOut,
    /// The database is not there, as was known before anything was sent.
    NotBegun(Outage),
    /// The database was found not to be there.
    Away(Outage),
}

/// Watches over every call of one [`crate::db::Db`].
#[derive(Debug)]
pub(in crate::db) struct CircuitBreaker {
    pool: Pool,
    /// For how long a new connection may take.
    patience: Duration,
    /// Silence after which a call trips the breaker.
    doubt: Duration,
    /// Calls that were answered so far.
    answers: AtomicU64,
    is_probing: AtomicBool,
    away: watch::Sender<Option<Outage>>,
    /// Why the last probe failed, if the database refused it.
    refusal: Mutex<Option<(Instant, Outage)>>,
    /// When a statement last failed because the disk is full.
    disk_full: Mutex<Option<Instant>>,
}

impl CircuitBreaker {
    /// Of the time limit: how long a call waits for a connection, and a probe for its response.
    pub(in crate::db) const ACQUIRE_TIMEOUT: f64 = 0.4;
    /// Of the time limit: how long a silence is none.
    const DOUBT: f64 = 0.05;
    /// For how long after a statement failed on a full disk the database counts as unable to take messages.
    const DISK_FULL_FOR: Duration = Duration::from_secs(30);
    /// Pause between two probes while the database is away.
    const PAUSE: Duration = Duration::from_millis(250);

    pub(in crate::db) fn new(pool: Pool, limit: Duration) -> Arc<Self> {
        Arc::new(Self {
            pool,
            patience: limit.mul_f64(Self::ACQUIRE_TIMEOUT),
            doubt: limit.mul_f64(Self::DOUBT),
            answers: AtomicU64::new(0),
            is_probing: AtomicBool::new(false),
            away: watch::Sender::new(None),
            refusal: Mutex::default(),
            disk_full: Mutex::default(),
        })
    }

    /// Remembers that a statement failed for want of room.
    pub(in crate::db) fn note_disk_full(&self) {
        *self.disk_full.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether that was a moment ago. Reads go on when the disk is full, so that asking the database would not tell.
    pub(in crate::db) fn is_disk_full(&self) -> bool {
        let at = *self.disk_full.lock().unwrap_or_else(PoisonError::into_inner);
        at.is_some_and(|at| at.elapsed() < Self::DISK_FULL_FOR)
    }

    /// Runs one call: to its end, until its time is over, or until the database is found to be away.
    pub(in crate::db) async fn over<T>(
        self: &Arc<Self>,
        limit: Duration,
        mut work: impl Future<Output = Result<T, sqlx::Error>> + Unpin,
    ) -> Result<Result<T, sqlx::Error>, GivenUp> {
        let mut away = self.away.subscribe();
        if let Some(outage) = away.borrow_and_update().clone() {
            return Err(GivenUp::NotBegun(outage));
        }
        let (begun, at_begin) = (Instant::now(), self.answers());
        let (mut heard, mut doubt) = (at_begin, self.doubt);
        loop {
            let left = limit.saturating_sub(begun.elapsed());
            tokio::select! {
                biased;
                result = &mut work => {
                    self.learn(&result, begun, at_begin);
                    return Ok(result);
                }
                _ = away.changed() => {
                    if let Some(outage) = away.borrow_and_update().clone() {
                        return Err(GivenUp::Away(outage));
                    }
                }
                () = tokio::time::sleep(doubt.min(left)) => {
                    let answers = self.answers();
                    if left <= doubt {
                        self.renew_if_silent(begun, at_begin);
                        return Err(GivenUp::TimedOut);
                    }
                    if answers == heard {
                        self.trip();
                    }
                    (heard, doubt) = (answers, doubt * 2);
                }
            }
        }
    }

    /// Why there was no connection to be had, if the last probe was told.
    pub(in crate::db) fn refusal(&self) -> Option<Outage> {
        let refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        refusal.as_ref().filter(|(at, _)| at.elapsed() < 2 * self.patience).map(|(_, outage)| outage.clone())
    }

    fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    fn learn<T>(self: &Arc<Self>, result: &Result<T, sqlx::Error>, begun: Instant, at_begin: u64) {
        match result {
            Err(sqlx::Error::PoolTimedOut) => {
                self.trip();
                self.renew_if_silent(begun, at_begin);
            }
            // Its connections were left behind while it waited for one: nobody has said a word.
            Err(sqlx::Error::PoolClosed) => {}
            Err(error) if is_gone(error) => self.trip(),
            _ => drop(self.answers.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// A call has waited in vain, and nobody else was answered meanwhile: these connections are dead, though new ones
    /// may not be (a router that forgot them, for example). Those made since the call began were not tried by it.
    fn renew_if_silent(&self, begun: Instant, at_begin: u64) {
        if self.answers() == at_begin {
            self.pool.renew_those_of(begun);
        }
    }

    /// Starts the probe task unless it runs.
    fn trip(self: &Arc<Self>) {
        if !self.is_probing.swap(true, Ordering::AcqRel) {
            tokio::spawn(probe(Arc::downgrade(self)));
        }
    }

    /// Knocks once. Answers whether the database is there.
    async fn is_there(&self) -> bool {
        let probed = tokio::time::timeout(self.patience, self.pool.connect()).await;
        let outage = match probed {
            Ok(Ok(connection)) => {
                tokio::spawn(tokio::time::timeout(self.patience, connection.close()));
                None
            }
            Ok(Err(error)) => {
                let trouble = code(&error).and_then(|code| Trouble::of_code(&code)).unwrap_or(Trouble::Gone);
                Some((is_gone(&error), Outage::new(trouble, reason(&error))))
            }
            Err(_) => {
                let detail = format!("no answer to a new connection within {} ms", self.patience.as_millis());
                Some((true, Outage::new(Trouble::Gone, detail)))
            }
        };
        let is_gone = outage.as_ref().is_some_and(|(is_gone, _)| *is_gone);
        let outage = outage.map(|(_, outage)| outage);
        self.tell(outage.clone().filter(|_| is_gone));
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = outage.map(|outage| (Instant::now(), outage));
        !is_gone
    }

    /// Lets every call know.
    fn tell(&self, outage: Option<Outage>) {
        let was_away = self.away.borrow().is_some();
        match (&outage, was_away) {
            // Whoever never heard it is told by the call that failed.
            (Some(outage), false) if self.answers() > 0 => tracing::warn!(%outage, "the database is away"),
            (None, true) => {
                tracing::warn!("the database is back");
                self.pool.renew();
            }
            _ => {}
        }
        if outage.is_some() || was_away {
            self.away.send_replace(outage);
        }
    }
}

async fn probe(breaker: Weak<CircuitBreaker>) {
    while let Some(breaker) = breaker.upgrade() {
        if breaker.is_there().await {
            breaker.is_probing.store(false, Ordering::Release);
            return;
        }
        drop(breaker);
        tokio::time::sleep(CircuitBreaker::PAUSE).await;
    }
}

/// Whether the error says that nobody is there to ask, rather than what he answered.
fn is_gone(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => true,
        // Shut down, crashed, starting.
        _ => code(error).is_some_and(|code| code.starts_with("57P0")),
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

    use super::*;

    #[tokio::test]
    async fn a_pool_that_was_left_behind_is_no_answer() {
        let limit = Duration::from_secs(10);
        let watch = CircuitBreaker::new(Pool::new(PgConnectOptions::new(), None, PgPoolOptions::new()), limit);
        let closed = watch.over(limit, ready(Err::<(), _>(sqlx::Error::PoolClosed))).await;
        assert!(matches!(closed, Ok(Err(sqlx::Error::PoolClosed))));
        assert_eq!(watch.answers(), 0);
        let answered = watch.over(limit, ready(Err::<(), _>(sqlx::Error::RowNotFound))).await;
        assert!(answered.is_ok() && watch.answers() == 1);
    }
}
