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
    /// database's, if this clock follows the database's.
    fn follow(&self, _reading: &Reading) -> Option<TimeDelta> {
        None
    }
}

/// A reading of the database's clock, taken between two moments of this machine.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// When the query was sent.
    pub asked: Uptime,
    /// When the result arrived.
    pub answered: Uptime,
    /// The database's time.
    pub time: DateTime<Utc>,
}

/// A clock shared by all parts of one process.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the only place that reads the machine's clock")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now().trunc_subsecs(6)
    }
}

/// The database's clock, which all replicas share. The last reading is advanced by the time since the machine started,
/// so a machine clock that is wrong or jumps has no effect. Before the first reading, the machine's clock is used.
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
        let known = self.offset.load(Ordering::Relaxed);
        self.offset.store(corrected(Some(known).filter(|known| *known != Self::UNKNOWN), reading), Ordering::Relaxed);
        Some(self.machine.now() - self.now())
    }
}

/// Returns the offset that agrees with a reading and is nearest to the known one, so that a slow query does not move a
/// clock that it does not prove wrong.
fn corrected(known: Option<i64>, reading: &Reading) -> i64 {
    let time = reading.time.timestamp_micros();
    let (least, most) = (time - reading.answered.micros(), time - reading.asked.micros());
    match known {
        Some(known) => known.clamp(least, most.max(least)),
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

/// Other systems use `Instant`.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn since_start() -> Duration {
    use std::time::Instant;
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    START.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(asked: u64, answered: u64, time: i64) -> Reading {
        let at = |millis| Uptime(Duration::from_millis(millis));
        let time = DateTime::UNIX_EPOCH + TimeDelta::milliseconds(time);
        Reading { asked: at(asked), answered: at(answered), time }
    }

    #[test]
    fn a_slow_answer_moves_no_clock_that_agrees_with_it() {
        let offset = |known: Option<i64>, reading| corrected(known.map(|known| known * 1_000), &reading) / 1_000;
        assert_eq!(offset(None, reading(100, 102, 10_101)), 10_000);
        assert_eq!(offset(Some(10_000), reading(200, 9_000, 12_000)), 10_000, "anything from 3,000 to 11,800");
        assert_eq!(offset(Some(10_000), reading(200, 202, 10_205)), 10_003, "it is late");
        assert_eq!(offset(Some(10_000), reading(200, 202, 10_150)), 9_950, "it is ahead");
    }

    #[derive(Debug)]
    struct HourAhead;

    impl Clock for HourAhead {
        fn now(&self) -> DateTime<Utc> {
            SystemClock.now() + TimeDelta::hours(1)
        }
    }

    #[test]
    fn the_database_decides_once_it_has_spoken() {
        let clock = DatabaseClock::new(Arc::new(HourAhead));
        let is_near = |delta: TimeDelta| delta.abs() < TimeDelta::minutes(1);
        assert!(is_near(clock.now() - SystemClock.now() - TimeDelta::hours(1)));
        let asked = Uptime::now();
        let skew = clock.follow(&Reading { asked, answered: Uptime::now(), time: SystemClock.now() });
        assert!(is_near(clock.now() - SystemClock.now()));
        assert!(skew.is_some_and(|skew| is_near(skew - TimeDelta::hours(1))));
    }
}
