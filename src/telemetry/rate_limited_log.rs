//! Limits a log line that may occur often to one per minute, with the number of occurrences.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Minimum time between two lines.
const LINE_INTERVAL: Duration = Duration::from_mins(1);

/// Counts the occurrences that are not logged.
#[derive(Debug, Default)]
pub struct RateLimitedLog(Mutex<(Option<Instant>, u64)>);

impl RateLimitedLog {
    /// Counts an occurrence. If it is to be logged now, returns the number of occurrences since the last line.
    pub fn note(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        let (last, count) = &mut *state;
        *count += 1;
        if last.is_some_and(|last| now < last + LINE_INTERVAL) {
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
    fn one_line_per_minute_has_the_count() {
        let (log, now) = (RateLimitedLog::default(), Instant::now());
        assert_eq!(log.note(now), Some(1));
        assert_eq!(log.note(now), None);
        assert_eq!(log.note(now + LINE_INTERVAL - Duration::from_millis(1)), None);
        assert_eq!(log.note(now + LINE_INTERVAL), Some(3));
    }
}
