//! Circuit breaker of the database, so that calls fail at once while it is away instead of each waiting for a timeout.
//!
//! A call that gets no response for a while, while no other call gets one either, trips it: a task probes the database
//! with a separate connection. If the probe fails, every call under way is aborted and every new call fails at once.
//! When a probe succeeds, calls continue with fresh connections. Requests get their 503 within
//! [`CircuitBreaker::ACQUIRE_TIMEOUT`] of the time limit, nothing piles up, and an outage ends a moment after its
//! cause.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sqlx::Connection as _;
use tokio::sync::watch;

use super::Pool;
use super::error::{code, reason};
use super::outage::{Outage, Trouble};

/// Why a call was aborted.
#[derive(Debug)]
pub(in crate::db) enum GivenUp {
    /// The time limit was reached.
    TimedOut,
    /// The database was known to be unavailable before anything was sent.
    NotBegun(Outage),
    /// The database was found to be unavailable during the call.
    Away(Outage),
}

/// Circuit breaker for all calls of one [`crate::db::Db`].
#[derive(Debug)]
pub(in crate::db) struct CircuitBreaker {
    pool: Pool,
    /// Timeout for a new connection.
    patience: Duration,
    /// Silence after which a call trips the breaker.
    doubt: Duration,
    /// Number of calls that got a response.
    responses: AtomicU64,
    is_probing: AtomicBool,
    away: watch::Sender<Option<Outage>>,
    /// Why the last probe failed, if the database refused it.
    refusal: Mutex<Option<(Instant, Outage)>>,
    /// When a statement last failed because the disk is full.
    disk_full: Mutex<Option<Instant>>,
}

impl CircuitBreaker {
    /// Fraction of the time limit that a call waits for a connection, and a probe for its response.
    pub(in crate::db) const ACQUIRE_TIMEOUT: f64 = 0.4;
    /// Fraction of the time limit without a response after which a call trips the breaker.
    const DOUBT: f64 = 0.05;
    /// How long after a statement failed on a full disk the database counts as unable to accept messages.
    const DISK_FULL_FOR: Duration = Duration::from_secs(30);
    /// Pause between two probes while the database is away.
    const PAUSE: Duration = Duration::from_millis(250);

    pub(in crate::db) fn new(pool: Pool, limit: Duration) -> Arc<Self> {
        Arc::new(Self {
            pool,
            patience: limit.mul_f64(Self::ACQUIRE_TIMEOUT),
            doubt: limit.mul_f64(Self::DOUBT),
            responses: AtomicU64::new(0),
            is_probing: AtomicBool::new(false),
            away: watch::Sender::new(None),
            refusal: Mutex::default(),
            disk_full: Mutex::default(),
        })
    }

    /// Records that a statement failed because the disk is full.
    pub(in crate::db) fn note_disk_full(&self) {
        *self.disk_full.lock() = Some(Instant::now());
    }

    /// Returns whether a statement failed recently because the disk is full. Reads still succeed then, so a probe would
    /// not show it.
    pub(in crate::db) fn is_disk_full(&self) -> bool {
        let at = *self.disk_full.lock();
        at.is_some_and(|at| at.elapsed() < Self::DISK_FULL_FOR)
    }

    /// Runs one call until it ends, its time limit is reached, or the database is found to be unavailable.
    pub(in crate::db) async fn over<T>(
        self: &Arc<Self>,
        limit: Duration,
        mut work: impl Future<Output = Result<T, sqlx::Error>> + Unpin,
    ) -> Result<Result<T, sqlx::Error>, GivenUp> {
        let mut away = self.away.subscribe();
        if let Some(outage) = away.borrow_and_update().clone() {
            return Err(GivenUp::NotBegun(outage));
        }
        let (begun, at_begin) = (Instant::now(), self.responses());
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
                    let responses = self.responses();
                    if left <= doubt {
                        self.renew_if_silent(begun, at_begin);
                        return Err(GivenUp::TimedOut);
                    }
                    if responses == heard {
                        self.trip();
                    }
                    (heard, doubt) = (responses, doubt * 2);
                }
            }
        }
    }

    /// Returns why no connection was available, if the database told the last probe.
    pub(in crate::db) fn refusal(&self) -> Option<Outage> {
        let refusal = self.refusal.lock();
        refusal.as_ref().filter(|(at, _)| at.elapsed() < 2 * self.patience).map(|(_, outage)| outage.clone())
    }

    fn responses(&self) -> u64 {
        self.responses.load(Ordering::Relaxed)
    }

    fn learn<T>(self: &Arc<Self>, result: &Result<T, sqlx::Error>, begun: Instant, at_begin: u64) {
        match result {
            Err(sqlx::Error::PoolTimedOut) => {
                self.trip();
                self.renew_if_silent(begun, at_begin);
            }
            // The pool was replaced while the call waited for a connection: this is not a response.
            Err(sqlx::Error::PoolClosed) => {}
            Err(error) if is_gone(error) => self.trip(),
            _ => drop(self.responses.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// Replaces the connections if no call got a response since this one began: they are dead, though new ones may work
    /// (for example, after a router lost its state). Connections opened since the call began are kept.
    fn renew_if_silent(&self, begun: Instant, at_begin: u64) {
        if self.responses() == at_begin {
            self.pool.renew_those_of(begun);
        }
    }

    /// Starts the probe task unless it is running.
    fn trip(self: &Arc<Self>) {
        if !self.is_probing.swap(true, Ordering::AcqRel) {
            tokio::spawn(probe(Arc::downgrade(self)));
        }
    }

    /// Probes once. Returns whether the database responds.
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
                let detail = format!("no response to a new connection within {} ms", self.patience.as_millis());
                Some((true, Outage::new(Trouble::Gone, detail)))
            }
        };
        let is_gone = outage.as_ref().is_some_and(|(is_gone, _)| *is_gone);
        let outage = outage.map(|(_, outage)| outage);
        self.publish(outage.clone().filter(|_| is_gone));
        *self.refusal.lock() = outage.map(|outage| (Instant::now(), outage));
        !is_gone
    }

    /// Publishes the state to all calls.
    fn publish(&self, outage: Option<Outage>) {
        let was_away = self.away.borrow().is_some();
        match (&outage, was_away) {
            // If there was never a response, the failed call reports the error itself.
            (Some(outage), false) if self.responses() > 0 => {
                tracing::warn!(event = "database_away", %outage, "database unavailable; failing calls until it responds");
            }
            (None, true) => {
                tracing::warn!(event = "database_back", "database available again; opening fresh connections");
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

/// Returns whether the error means that the server is unreachable, not that it returned an error.
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
    async fn replaced_pool_is_not_a_response() {
        let limit = Duration::from_secs(10);
        let watch = CircuitBreaker::new(Pool::new(PgConnectOptions::new(), None, PgPoolOptions::new()), limit);
        let closed = watch.over(limit, ready(Err::<(), _>(sqlx::Error::PoolClosed))).await;
        assert!(matches!(closed, Ok(Err(sqlx::Error::PoolClosed))));
        assert_eq!(watch.responses(), 0);
        let answered = watch.over(limit, ready(Err::<(), _>(sqlx::Error::RowNotFound))).await;
        assert!(answered.is_ok() && watch.responses() == 1);
    }
}
