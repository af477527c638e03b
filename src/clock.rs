//! Time, passed in rather than asked for, so that a test can let three days of retries go by in a millisecond.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};

/// Tells the time of day. Postgres keeps microseconds, so a clock never answers anything finer.
pub trait Clock: std::fmt::Debug + Send + Sync + 'static {
    /// The current time, in whole microseconds.
    fn now(&self) -> DateTime<Utc>;
}

/// A clock shared by all parts of one process.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place that asks the machine")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now().trunc_subsecs(6)
    }
}

/// A moment since the machine started. Time in which the machine slept counts, as it does for everyone else: `Instant`
/// stands still meanwhile, and a worker must not believe that its lease did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uptime(Duration);

impl Uptime {
    /// The present moment.
    pub fn now() -> Self {
        Self(since_start())
    }

    /// How long ago it was.
    pub fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }

    /// How long the machine had run then: on Linux the same in all of its processes.
    pub fn since_boot(self) -> Duration {
        self.0
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn since_start() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Elsewhere `Instant` has to do.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn since_start() -> Duration {
    use std::time::Instant;
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    START.elapsed()
}
