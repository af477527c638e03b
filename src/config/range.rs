//! Ranges of numbers and durations, checked in words an operator can act on.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::duration::Human;

/// Whether `value` lies in `range`; the error says both.
pub(super) fn within<T: Copy + PartialOrd + Display>(value: T, range: RangeInclusive<T>) -> Result<(), String> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(format!("must be between {} and {}, is {value}", range.start(), range.end()))
}

/// [`within`] for durations.
pub(super) fn within_time(value: Duration, range: RangeInclusive<Duration>) -> Result<(), String> {
    let (start, end) = range.into_inner();
    within(Human(value), Human(start)..=Human(end))
}
