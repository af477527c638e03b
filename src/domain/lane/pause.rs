//! Pauses. A pause suspends the retry window, but not the `expires_at` that the application set: after that time, the
//! message is useless to the application.

use chrono::{DateTime, TimeDelta, Utc};

/// A pause of a lane or of its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    /// The time at which the pause started.
    pub from: DateTime<Utc>,
    /// The time at which the pause ended; `None` while it lasts.
    pub until: Option<DateTime<Utc>>,
}

/// Returns the total time of these pauses between `since` and `now`, counting overlaps once. The pauses must be ordered
/// by their start.
pub fn paused_time(pauses: impl Iterator<Item = Pause>, since: DateTime<Utc>, now: DateTime<Utc>) -> TimeDelta {
    let (mut sum, mut counted_to) = (TimeDelta::zero(), since);
    for pause in pauses {
        let (from, until) = (pause.from.max(counted_to), pause.until.unwrap_or(now).min(now));
        if until > from {
            sum += until - from;
            counted_to = until;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hour: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::hours(hour)
    }

    #[test]
    fn overlapping_pauses_count_once() {
        let pause = |from, until: Option<i64>| Pause { from: at(from), until: until.map(at) };
        let hours = |pauses: &[Pause], since, now| paused_time(pauses.iter().copied(), at(since), at(now)).num_hours();
        assert_eq!(hours(&[], 0, 9), 0);
        assert_eq!(hours(&[pause(1, Some(3))], 0, 9), 2);
        assert_eq!(hours(&[pause(1, Some(3))], 2, 9), 1, "time before does not count");
        assert_eq!(hours(&[pause(1, Some(3))], 4, 9), 0);
        assert_eq!(hours(&[pause(1, Some(3)), pause(2, Some(5)), pause(4, None)], 0, 9), 8);
        assert_eq!(hours(&[pause(1, Some(8)), pause(2, Some(5))], 0, 9), 7);
        assert_eq!(hours(&[pause(7, None)], 8, 9), 1);
        assert_eq!(hours(&[pause(7, None)], 9, 8), 0, "a start in the future");
    }
}
