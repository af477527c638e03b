//! Progress on standard error: a line for each step, and a line per second during the load.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::clock::Uptime;

/// Prints the current step.
pub(super) fn step(text: &str) {
    eprintln!("  {text}");
}

/// One second of a run.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Second {
    /// Seconds since the first request.
    pub at: f64,
    /// Accepted messages so far.
    pub accepted: u64,
    /// Recipients whose message has arrived so far.
    pub arrived: u64,
    /// Recipients of the backlog that have arrived so far.
    pub waiting: u64,
}

/// The progress of a run.
#[derive(Debug)]
pub(super) struct Progress {
    started: Uptime,
    seconds: Vec<Second>,
}

impl Progress {
    pub(super) fn start() -> Self {
        let zero = Second { at: 0.0, accepted: 0, arrived: 0, waiting: 0 };
        Self { started: Uptime::now(), seconds: vec![zero] }
    }

    /// Prints a line if a second has passed.
    pub(super) fn show(&mut self, accepted: u64, arrived: u64, waiting: u64) {
        let at = self.started.elapsed().as_secs_f64();
        let last = self.seconds.last().copied().filter(|last| at - last.at >= 1.0);
        let Some(last) = last else { return };
        let rate = |now: u64, before: u64| grouped(per_second(now.saturating_sub(before), at - last.at));
        let mut line = format!(
            "  {at:>5.0} s   accepted {:>11} ({:>7}/s)   arrived {:>11} ({:>7}/s)",
            grouped(accepted),
            rate(accepted, last.accepted),
            grouped(arrived),
            rate(arrived, last.arrived)
        );
        if waiting > 0 {
            let rate = rate(waiting, last.waiting);
            let _ = write!(line, "   backlog sent {} ({rate}/s)", grouped(waiting));
        }
        eprintln!("{line}");
        self.seconds.push(Second { at, accepted, arrived, waiting });
    }

    /// Returns every second of the run.
    pub(super) fn seconds(self) -> Vec<Second> {
        self.seconds
    }
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "for a reader")]
fn per_second(count: u64, seconds: f64) -> u64 {
    (count as f64 / seconds.max(Duration::from_millis(1).as_secs_f64())).round() as u64
}

/// Formats a number with commas: `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(per_second(10, 0.0), 10_000);
    }
}
