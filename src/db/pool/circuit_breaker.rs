//! Circuit breaker of the database, so that calls fail at once during an outage instead of waiting for their timeouts.
//!
//! A call trips the breaker if neither it nor any other call gets a response for a while: a task then probes the
//! database with a separate connection. If the probe fails, every running call is aborted and every new call fails at
//! once. When a probe succeeds, calls use new connections. So requests usually get a 503 response in less than half of
//! the time limit, calls do not pile up, and calls succeed again soon after the cause of the outage ends.

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
use crate::metrics::METRICS;

/// Why a call was aborted.
#[derive(Debug)]
pub(in crate::db) enum CallAborted {
    /// The time limit was reached.
    TimedOut,
    /// The database was known to be unavailable before anything was sent.
    NotAttempted(Outage),
    /// The database was found to be unavailable during the call.
    Unavailable(Outage),
}

/// Number of circuit breakers of this process whose database is unavailable.
static UNAVAILABLE: Mutex<usize> = Mutex::new(0);

/// Records in the metrics that the database became available or unavailable to one circuit breaker.
fn note_availability(is_available: bool) {
    let mut unavailable = UNAVAILABLE.lock();
    *unavailable = if is_available { unavailable.saturating_sub(1) } else { *unavailable + 1 };
    METRICS.db_available.set(if *unavailable == 0 { 1.0 } else { 0.0 });
}

/// Circuit breaker for all calls of one [`crate::db::Db`].
#[derive(Debug)]
pub(in crate::db) struct CircuitBreaker {
    pool: Pool,
    /// Timeout for a new connection.
    acquire_timeout: Duration,
    /// Silence after which a call trips the breaker.
    silence_limit: Duration,
    /// Number of calls that got a response.
    responses: AtomicU64,
    is_probing: AtomicBool,
    /// The current outage, if any.
    outage: watch::Sender<Option<Outage>>,
    /// When and why the last probe failed, if it failed.
    refusal: Mutex<Option<(Instant, Outage)>>,
    /// When a statement last failed because the disk is full.
    disk_full: Mutex<Option<Instant>>,
}

impl CircuitBreaker {
    /// Fraction of the time limit that a call waits for a connection, and a probe for its response.
    pub(in crate::db) const ACQUIRE_TIMEOUT: f64 = 0.4;
    /// Fraction of the time limit without a response after which a call trips the breaker.
    const SILENCE_LIMIT: f64 = 0.05;
    /// How long the database counts as unable to accept messages after a statement failed because of a full disk.
    const DISK_FULL_PERIOD: Duration = Duration::from_secs(30);
    /// Pause between two probes during an outage.
    const PROBE_INTERVAL: Duration = Duration::from_millis(250);

    pub(in crate::db) fn new(pool: Pool, limit: Duration) -> Arc<Self> {
        Arc::new(Self {
            pool,
            acquire_timeout: limit.mul_f64(Self::ACQUIRE_TIMEOUT),
            silence_limit: limit.mul_f64(Self::SILENCE_LIMIT),
            responses: AtomicU64::new(0),
            is_probing: AtomicBool::new(false),
            outage: watch::Sender::new(None),
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
        at.is_some_and(|at| at.elapsed() < Self::DISK_FULL_PERIOD)
    }

    /// Runs one call until it ends, its time limit is reached, or the database is found to be unavailable.
    pub(in crate::db) async fn run<T>(
        self: &Arc<Self>,
        limit: Duration,
        mut work: impl Future<Output = Result<T, sqlx::Error>> + Unpin,
    ) -> Result<Result<T, sqlx::Error>, CallAborted> {
        let mut current = self.outage.subscribe();
        if let Some(outage) = current.borrow_and_update().clone() {
            return Err(CallAborted::NotAttempted(outage));
        }
        let (started, at_start) = (Instant::now(), self.responses());
        let (mut seen, mut silence) = (at_start, self.silence_limit);
        loop {
            let left = limit.saturating_sub(started.elapsed());
            tokio::select! {
                biased;
                result = &mut work => {
                    self.note_result(&result, started, at_start);
                    return Ok(result);
                }
                _ = current.changed() => {
                    if let Some(outage) = current.borrow_and_update().clone() {
                        return Err(CallAborted::Unavailable(outage));
                    }
                }
                () = tokio::time::sleep(silence.min(left)) => {
                    let responses = self.responses();
                    if left <= silence {
                        self.renew_if_silent(started, at_start);
                        return Err(CallAborted::TimedOut);
                    }
                    if responses == seen {
                        self.trip();
                    }
                    (seen, silence) = (responses, silence * 2);
                }
            }
        }
    }

    /// Returns why the last probe failed, if that was recent.
    pub(in crate::db) fn refusal(&self) -> Option<Outage> {
        let refusal = self.refusal.lock();
        refusal.as_ref().filter(|(at, _)| at.elapsed() < 2 * self.acquire_timeout).map(|(_, outage)| outage.clone())
    }

    fn responses(&self) -> u64 {
        self.responses.load(Ordering::Relaxed)
    }

    fn note_result<T>(self: &Arc<Self>, result: &Result<T, sqlx::Error>, started: Instant, at_start: u64) {
        match result {
            Err(sqlx::Error::PoolTimedOut) => {
                self.trip();
                self.renew_if_silent(started, at_start);
            }
            // The pool was replaced while the call waited for a connection: this is not a response.
            Err(sqlx::Error::PoolClosed) => {}
            Err(error) if is_unreachable(error) => self.trip(),
            _ => drop(self.responses.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// Replaces the connections if no call got a response since this one started: they are dead, but new ones may work
    /// (for example, after a router lost its state). Connections opened since the call started are not replaced.
    fn renew_if_silent(&self, started: Instant, at_start: u64) {
        if self.responses() == at_start {
            self.pool.renew_older_than(started);
        }
    }

    /// Starts the probe task unless it is running.
    fn trip(self: &Arc<Self>) {
        if !self.is_probing.swap(true, Ordering::AcqRel) {
            tokio::spawn(probe(Arc::downgrade(self)));
        }
    }

    /// Probes once. Returns whether the database responds.
    async fn probe_once(&self) -> bool {
        let probed = tokio::time::timeout(self.acquire_timeout, self.pool.connect()).await;
        let outage = match probed {
            Ok(Ok(connection)) => {
                tokio::spawn(tokio::time::timeout(self.acquire_timeout, connection.close()));
                None
            }
            Ok(Err(error)) => {
                let trouble = code(&error).and_then(|code| Trouble::from_sqlstate(&code));
                let trouble = trouble.unwrap_or(Trouble::Unreachable);
                Some((is_unreachable(&error), Outage::new(trouble, reason(&error))))
            }
            Err(_) => {
                let detail = format!("no response to a new connection within {} ms", self.acquire_timeout.as_millis());
                Some((true, Outage::new(Trouble::Unreachable, detail)))
            }
        };
        let is_unreachable = outage.as_ref().is_some_and(|(is_unreachable, _)| *is_unreachable);
        let outage = outage.map(|(_, outage)| outage);
        self.publish(outage.clone().filter(|_| is_unreachable));
        *self.refusal.lock() = outage.map(|outage| (Instant::now(), outage));
        !is_unreachable
    }

    /// Publishes the state to all calls.
    fn publish(&self, outage: Option<Outage>) {
        let was_unavailable = self.outage.borrow().is_some();
        match (&outage, was_unavailable) {
            // If there was never a response, the failed call reports the error itself.
            (Some(outage), false) if self.responses() > 0 => {
                METRICS.db_outages.increment(1);
                tracing::warn!(event = "database_away", %outage, "database unavailable; failing calls until it responds");
            }
            (None, true) => {
                tracing::warn!(event = "database_back", "database available again; opening fresh connections");
                self.pool.renew();
            }
            _ => {}
        }
        if outage.is_some() != was_unavailable {
            note_availability(outage.is_none());
        }
        if outage.is_some() || was_unavailable {
            self.outage.send_replace(outage);
        }
    }
}

impl Drop for CircuitBreaker {
    fn drop(&mut self) {
        if self.outage.borrow().is_some() {
            note_availability(true);
        }
    }
}

async fn probe(breaker: Weak<CircuitBreaker>) {
    while let Some(breaker) = breaker.upgrade() {
        if breaker.probe_once().await {
            breaker.is_probing.store(false, Ordering::Release);
            return;
        }
        drop(breaker);
        tokio::time::sleep(CircuitBreaker::PROBE_INTERVAL).await;
    }
}

/// Returns whether the error means that the server is unreachable, not that it returned an error.
fn is_unreachable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => true,
        // 57P01 to 57P05: the server was shut down, has crashed or is starting up.
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
        let breaker = CircuitBreaker::new(Pool::new(PgConnectOptions::new(), None, PgPoolOptions::new(), None), limit);
        let closed = breaker.run(limit, ready(Err::<(), _>(sqlx::Error::PoolClosed))).await;
        assert!(matches!(closed, Ok(Err(sqlx::Error::PoolClosed))));
        assert_eq!(breaker.responses(), 0);
        let refused = breaker.run(limit, ready(Err::<(), _>(sqlx::Error::RowNotFound))).await;
        assert!(refused.is_ok() && breaker.responses() == 1);
    }
}
