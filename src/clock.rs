//! Clocks. Callers pass a clock in, so that a test can run three days of retries in a millisecond.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};

/// A source of the current time. Postgres stores microseconds, so a clock never returns a finer time.
pub trait Clock: std::fmt::Debug + Send + Sync + 'static {
    /// Returns the current time, in whole microseconds.
    fn now(&self) -> DateTime<Utc>;

    /// Adjusts this clock to a reading of the database's clock. Returns how far the machine's clock is ahead of the
    /// database's, or `None` if this clock does not follow the database's.
    fn follow(&self, _reading: &Reading) -> Option<TimeDelta> {
        None
    }
}

/// A reading of the database's clock, taken between two moments of this machine.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// When the query was sent.
    pub query_sent: Uptime,
    /// When the result arrived.
    pub result_received: Uptime,
    /// The database's time.
    pub time: DateTime<Utc>,
}

/// A clock shared by all parts of one process.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the only code that reads the machine's clock")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now().trunc_subsecs(6)
    }
}

/// The database's clock, which all replicas share. The last reading is advanced by the uptime that has passed since it
/// was taken, so a machine clock that is wrong or jumps has no effect. Before the first reading, the machine's clock is
/// used.
#[derive(Debug)]
pub struct DatabaseClock {
    machine: SharedClock,
    /// The database's time minus the time since the machine started, in microseconds.
    offset: AtomicI64,
}

impl DatabaseClock {
    const UNKNOWN: i64 = i64::MIN;

    /// Creates a clock without a reading.
    pub fn new(machine: SharedClock) -> Self {
        Self { machine, offset: AtomicI64::new(Self::UNKNOWN) }
    }
}

impl Default for DatabaseClock {
    fn default() -> Self {
        Self::new(Arc::new(SystemClock))
    }
}

impl Clock for DatabaseClock {
    fn now(&self) -> DateTime<Utc> {
        match self.offset.load(Ordering::Relaxed) {
            Self::UNKNOWN => self.machine.now(),
            offset => {
                let micros = offset.saturating_add(Uptime::now().micros());
                DateTime::from_timestamp_micros(micros).unwrap_or_else(|| self.machine.now())
            }
        }
    }

    fn follow(&self, reading: &Reading) -> Option<TimeDelta> {
        let current = self.offset.load(Ordering::Relaxed);
        let current = Some(current).filter(|current| *current != Self::UNKNOWN);
        self.offset.store(corrected(current, reading), Ordering::Relaxed);
        Some(self.machine.now() - self.now())
    }
}

/// Returns the offset that is consistent with a reading and nearest to the current offset. A reading with a slow query
/// is imprecise, and changes the offset only if it proves the clock wrong.
fn corrected(current: Option<i64>, reading: &Reading) -> i64 {
    let time = reading.time.timestamp_micros();
    let (least, most) = (time - reading.result_received.micros(), time - reading.query_sent.micros());
    match current {
        Some(current) => current.clamp(least, most.max(least)),
        None => least + (most - least) / 2,
    }
}

/// The time since the machine started, including time in which it was suspended. `Instant` stops during suspension, but
/// a worker's lease does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uptime(Duration);

impl Uptime {
    /// Returns the current moment.
    pub fn now() -> Self {
        Self(since_start())
    }

    fn micros(self) -> i64 {
        i64::try_from(self.0.as_micros()).unwrap_or(i64::MAX)
    }

    /// Returns the time elapsed since this moment.
    pub fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }

    /// Returns the time between the machine's start and this moment. On Linux it is comparable between processes.
    pub fn since_boot(self) -> Duration {
        self.0
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn since_start() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Other systems use `Instant`, and count from the first call in this process.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn since_start() -> Duration {
    use std::time::Instant;
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    START.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(query_sent: u64, result_received: u64, time: i64) -> Reading {
        let at = |millis| Uptime(Duration::from_millis(millis));
        let time = DateTime::UNIX_EPOCH + TimeDelta::milliseconds(time);
        Reading { query_sent: at(query_sent), result_received: at(result_received), time }
    }

    #[test]
    fn slow_query_does_not_change_a_consistent_clock() {
        let offset = |current: Option<i64>, reading| corrected(current.map(|ms| ms * 1_000), &reading) / 1_000;
        assert_eq!(offset(None, reading(100, 102, 10_101)), 10_000);
        assert_eq!(
            offset(Some(10_000), reading(200, 9_000, 12_000)),
            10_000,
            "every offset from 3,000 to 11,800 is consistent"
        );
        assert_eq!(offset(Some(10_000), reading(200, 202, 10_205)), 10_003, "the clock is behind");
        assert_eq!(offset(Some(10_000), reading(200, 202, 10_150)), 9_950, "the clock is ahead");
    }

    #[derive(Debug)]
    struct HourAhead;

    impl Clock for HourAhead {
        fn now(&self) -> DateTime<Utc> {
            SystemClock.now() + TimeDelta::hours(1)
        }
    }

    #[test]
    fn first_reading_replaces_the_machines_clock() {
        let clock = DatabaseClock::new(Arc::new(HourAhead));
        let is_near = |delta: TimeDelta| delta.abs() < TimeDelta::minutes(1);
        assert!(is_near(clock.now() - SystemClock.now() - TimeDelta::hours(1)));
        let query_sent = Uptime::now();
        let skew = clock.follow(&Reading { query_sent, result_received: Uptime::now(), time: SystemClock.now() });
        assert!(is_near(clock.now() - SystemClock.now()));
        assert!(skew.is_some_and(|skew| is_near(skew - TimeDelta::hours(1))));
    }
}
