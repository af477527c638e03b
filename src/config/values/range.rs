//! Range checks of numbers and durations.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::duration::Human;

/// Checks that `value` lies in `range`. The error names both.
pub(in crate::config) fn within<T: Copy + PartialOrd + Display>(
    value: T,
    range: RangeInclusive<T>,
) -> Result<(), String> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(format!("must be between {} and {}, is {value}", range.start(), range.end()))
}

/// Checks that a duration lies in `range`, like [`within`].
pub(in crate::config) fn within_time(value: Duration, range: RangeInclusive<Duration>) -> Result<(), String> {
    let (start, end) = range.into_inner();
    within(Human(value), Human(start)..=Human(end))
}
