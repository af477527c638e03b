//! Time, passed in rather than asked for, so that a test can let three days of retries go by in a millisecond.

use std::sync::Arc;

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
