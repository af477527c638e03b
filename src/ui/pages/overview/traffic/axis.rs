//! The axes of the charts: round numbers beside the grid, and round times below it.

use chrono::{DateTime, Datelike as _, TimeDelta, Timelike as _, Utc};

use crate::ui::format::{milliseconds, span};

/// The number of rows of the grid.
const ROWS: i64 = 4;
const SECOND_MS: i64 = 1_000;
const MINUTE_MS: i64 = 60 * SECOND_MS;
const HOUR_MS: i64 = 60 * MINUTE_MS;
/// Heights of a row of the grid: times whose multiples are round.
const TIME_ROWS_MS: [i64; 24] = [
    1,
    2,
    5,
    10,
    20,
    50,
    100,
    200,
    500,
    SECOND_MS,
    2 * SECOND_MS,
    5 * SECOND_MS,
    10 * SECOND_MS,
    15 * SECOND_MS,
    MINUTE_MS,
    2 * MINUTE_MS,
    5 * MINUTE_MS,
    10 * MINUTE_MS,
    15 * MINUTE_MS,
    HOUR_MS,
    2 * HOUR_MS,
    6 * HOUR_MS,
    12 * HOUR_MS,
    24 * HOUR_MS,
];

/// A time below a chart.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) struct Tick {
    /// The place from the left, in percent of the width.
    pub percent: usize,
    pub text: String,
}

/// Returns the top of a chart of numbers: 4, 8, 20, 40, 80, 200 and so on.
pub(super) fn top_of_counts(highest: i64) -> i64 {
    let steps = (0..16).flat_map(|exponent| [1, 2, 5].map(|digit| digit * 10_i64.pow(exponent)));
    let mut tops = steps.map(|step| step * ROWS);
    tops.find(|top| *top >= highest).unwrap_or(highest)
}

/// Returns the top of a chart of times in milliseconds.
pub(super) fn top_of_times(highest_ms: i64) -> i64 {
    let mut tops = TIME_ROWS_MS.into_iter().map(|row| row * ROWS);
    // Above that, whole days.
    tops.find(|top| *top >= highest_ms).unwrap_or_else(|| {
        let day = 24 * HOUR_MS * ROWS;
        highest_ms.saturating_add(day - 1) / day * day
    })
}

/// Returns the values of the lines of the grid, from the top to 0.
pub(super) fn scale(top: i64) -> impl Iterator<Item = i64> {
    (0..=ROWS).rev().map(move |row| top * row / ROWS)
}

/// Returns a round time for people.
pub(super) fn time_text(ms: i64) -> String {
    let is_whole = ms >= SECOND_MS && ms % SECOND_MS == 0;
    match ms {
        0 => "0".to_owned(),
        _ if is_whole => span(TimeDelta::milliseconds(ms)),
        _ => milliseconds(ms),
    }
}

/// Returns the times that stand below a chart of this length: round ones, and not so near the edges that they are cut off.
pub(super) fn ticks(length: TimeDelta, times: &[DateTime<Utc>]) -> Vec<Tick> {
    let is_round = |(n, at): (usize, &DateTime<Utc>)| match length.num_hours() {
        ..2 => at.minute().is_multiple_of(10),
        2..48 => at.hour().is_multiple_of(4),
        48..240 => at.hour() == 0,
        _ => (times.len() - n).is_multiple_of(5),
    };
    let text = |at: &DateTime<Utc>| match length.num_hours() {
        ..48 => at.format("%H:%M").to_string(),
        _ => format!("{} {}", at.day(), at.format("%b")),
    };
    // A day is named below the middle of its bar, other times where their bar starts.
    let offset = usize::from(length.num_hours() >= 240);
    let round = times.iter().enumerate().filter(|(n, at)| is_round((*n, at)));
    let ticks = round.map(|(n, at)| Tick { percent: (2 * n + offset) * 50 / times.len(), text: text(at) });
    ticks.filter(|tick| (3..=97).contains(&tick.percent)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tops_are_round_and_not_below_the_highest() {
        for (highest, top) in [(0, 4), (4, 4), (5, 8), (9, 20), (3_514, 4_000), (4_001, 8_000)] {
            assert_eq!(top_of_counts(highest), top);
        }
        for (highest, top) in [(0, 4), (278, 400), (3_500, 4_000), (46_600, 60_000), (HOUR_MS, HOUR_MS)] {
            assert_eq!(top_of_times(highest), top);
        }
        assert_eq!(top_of_times(97 * HOUR_MS), 8 * 24 * HOUR_MS);
    }

    #[test]
    fn grid_has_round_times() {
        let texts = |highest| scale(top_of_times(highest)).map(time_text).collect::<Vec<_>>();
        assert_eq!(texts(46_600), ["1 min", "45 s", "30 s", "15 s", "0"]);
        assert_eq!(texts(1_500), ["2 s", "1.5 s", "1 s", "500 ms", "0"]);
    }

    #[test]
    fn ticks_are_at_round_times() {
        let start = DateTime::UNIX_EPOCH + TimeDelta::hours(7);
        let times: Vec<_> = (0..25).map(|hour| start + TimeDelta::hours(hour)).collect();
        let ticks = ticks(TimeDelta::hours(24), &times);
        let shown: Vec<_> = ticks.iter().map(|tick| (tick.percent, tick.text.as_str())).collect();
        assert_eq!(shown, [(4, "08:00"), (20, "12:00"), (36, "16:00"), (52, "20:00"), (68, "00:00"), (84, "04:00")]);
    }
}
