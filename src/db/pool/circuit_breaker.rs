//! Whether the database is there, so that a call need not find out by waiting.
//!
//! A call that hears nothing for a while, while no other call is answered either, makes one task knock with a
//! connection of its own. Where that is not answered, everything under way is given up and every new call fails at
//! once, until the knocking is answered: then all go on, on fresh connections. Requests get their 503 within
//! [`CircuitBreaker::ACQUIRE_TIMEOUT`] of the time limit, nothing piles up, and an outage ends a moment after its cause.

use std::fmt::{self, Display};
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use sqlx::Connection as _;
use tokio::sync::watch;

use super::Pool;
use super::error::{DISK_FULL, FULL, LOCK_NOT_AVAILABLE, QUERY_CANCELED, READ_ONLY, code, reason};

/// What is wrong with the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It cannot be reached, is starting or stopping, or does not answer.
    Gone,
    /// It takes no more connections.
    Full,
    /// It takes no writes, as after a failover.
    ReadOnly,
    /// It did not answer this call in time.
    Slow,
    /// It has no room for more on its disk.
    DiskFull,
    /// It has no memory for this call.
    OutOfMemory,
    /// It is starting up or shutting down.
    Starting,
    /// It does not let us in, or not do what we have to: the role, its password or privileges, the database's name.
    Denied,
}

impl Trouble {
    /// In words that an operator can act upon, as the end of a sentence about the database.
    pub fn words(self) -> &'static str {
        match self {
            Self::Gone => "the database is not available",
            Self::Full => "the database takes no more connections",
            Self::ReadOnly => "the database is read-only, as after a failover",
            Self::Slow => "the database did not answer in time",
            Self::DiskFull => "the database's disk is full",
            Self::OutOfMemory => "the database is out of memory",
            Self::Starting => "the database is starting up or shutting down",
            Self::Denied => "the database denies access to this role",
        }
    }

    /// What a SQLSTATE says of the database.
    pub(in crate::db) fn of_code(code: &str) -> Option<Self> {
        Some(match code {
            FULL => Self::Full,
            READ_ONLY => Self::ReadOnly,
            QUERY_CANCELED | LOCK_NOT_AVAILABLE => Self::Slow,
            DISK_FULL => Self::DiskFull,
            "53200" => Self::OutOfMemory,
            "57P01" | "57P02" | "57P03" => Self::Starting,
            "3D000" | "42501" => Self::Denied,
            _ if code.starts_with("28") => Self::Denied,
            _ => return None,
        })
    }
}

/// Why no call is answered.
#[derive(Debug, Clone)]
pub struct Outage {
    /// What is wrong.
    pub trouble: Trouble,
    /// The same in the database's or the system's words.
    detail: Arc<str>,
}

impl Outage {
    pub(in crate::db) fn new(trouble: Trouble, detail: impl Display) -> Self {
        Self { trouble, detail: detail.to_string().into() }
    }
}

impl Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

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
    /// After how much silence we first knock.
    doubt: Duration,
    /// Calls that were answered so far.
    answers: AtomicU64,
    is_probing: AtomicBool,
    away: watch::Sender<Option<Outage>>,
    /// What the last knock was told, where the database was there and sent it away.
    refusal: Mutex<Option<(Instant, Outage)>>,
    /// When a statement last failed because the disk is full.
    disk_full: Mutex<Option<Instant>>,
}

impl CircuitBreaker {
    /// Of the time limit: how long a call waits for a connection, and a knock for its answer.
    pub(in crate::db) const ACQUIRE_TIMEOUT: f64 = 0.4;
    /// Of the time limit: how long a silence is none.
    const DOUBT: f64 = 0.05;
    /// For how long after a statement failed on a full disk the database counts as unable to take messages.
    const DISK_FULL_FOR: Duration = Duration::from_secs(30);
    /// Between two knocks while the database is away.
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

    /// Why there was no connection to be had, if the last knock was told.
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

    /// Starts knocking, unless that is being done.
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

    #[test]
    fn each_sqlstate_says_what_is_wrong_with_the_database() {
        for (code, trouble) in [
            ("53100", Trouble::DiskFull),
            ("53200", Trouble::OutOfMemory),
            ("53300", Trouble::Full),
            ("57P03", Trouble::Starting),
            ("25006", Trouble::ReadOnly),
            ("28P01", Trouble::Denied),
            ("3D000", Trouble::Denied),
            ("57014", Trouble::Slow),
        ] {
            assert_eq!(Trouble::of_code(code), Some(trouble), "{code}");
        }
        assert_eq!(Trouble::of_code("23505"), None);
    }
}
