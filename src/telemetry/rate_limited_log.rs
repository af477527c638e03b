//! A line in the log that others may cause as often as they like: at most one a minute, which says how many there were.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// From one line to the next.
const PAUSE: Duration = Duration::from_mins(1);

/// Counts what is not logged.
#[derive(Debug, Default)]
pub struct RateLimitedLog(Mutex<(Option<Instant>, u64)>);

impl RateLimitedLog {
    /// Notes that it happened. Where it is to be logged now, answers how often it did since the last line.
    pub fn note(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, count) = &mut *state;
        *count += 1;
        if last.is_some_and(|last| now < last + PAUSE) {
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_minute_says_how_many_there_were() {
        let (seldom, now) = (RateLimitedLog::default(), Instant::now());
        assert_eq!(seldom.note(now), Some(1));
        assert_eq!(seldom.note(now), None);
        assert_eq!(seldom.note(now + PAUSE - Duration::from_millis(1)), None);
        assert_eq!(seldom.note(now + PAUSE), Some(3));
    }
}
