//! Times, numbers and states as text for people.

use std::fmt;

use askama::filters::{Escaper as _, Html, HtmlSafe};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

/// A time as `<time>`: relative for people, with the absolute time on hover. `app.js` keeps the text current.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stamp {
    pub at: DateTime<Utc>,
    pub now: DateTime<Utc>,
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "<time datetime=\"{}\" title=\"{} UTC\">{}</time>",
            self.at.to_rfc3339_opts(SecondsFormat::Secs, true),
            self.at.format("%Y-%m-%d %H:%M:%S"),
            relative(self.at, self.now)
        )
    }
}

// Digits and fixed words only.
impl HtmlSafe for Stamp {}

/// A text of the API. Its times, which are in ISO 8601, become `<time>` with the time of day, and the date if it is another
/// day. `app.js` leaves them as they are, because relative times do not fit into every sentence.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prose<'a> {
    text: &'a str,
    now: DateTime<Utc>,
}

impl fmt::Display for Prose<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.text;
        while let Some((before, at, after)) = split_at_time(rest) {
            Html.write_escaped_str(&mut *f, before)?;
            let stamp = at.to_rfc3339_opts(SecondsFormat::Secs, true);
            let day = if at.date_naive() == self.now.date_naive() { "" } else { "%-d %b " };
            let text = at.format(&format!("{day}%H:%M:%S")).to_string();
            write!(
                f,
                "<time datetime=\"{stamp}\" data-absolute title=\"{}\">{text} UTC</time>",
                relative(at, self.now)
            )?;
            rest = after;
        }
        Html.write_escaped_str(f, rest)
    }
}

// The text is escaped when it is written.
impl HtmlSafe for Prose<'_> {}

/// Returns the first time in the text (`2026-11-30T07:11:40Z`), with what is before and after it.
fn split_at_time(text: &str) -> Option<(&str, DateTime<Utc>, &str)> {
    text.match_indices('Z').find_map(|(end, _)| {
        let start = end.checked_sub("2026-11-30T07:11:40".len())?;
        let at = DateTime::parse_from_rfc3339(text.get(start..=end)?).ok()?;
        Some((text.get(..start)?, at.to_utc(), text.get(end + 1..)?))
    })
}

/// The clock of a page.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock(pub DateTime<Utc>);

impl Clock {
    /// Shows a time relative to the page's time.
    pub(super) fn show(self, at: &DateTime<Utc>) -> Stamp {
        Stamp { at: *at, now: self.0 }
    }

    /// Shows a text of the API, with its times for people.
    pub(super) fn prose(self, text: &str) -> Prose<'_> {
        Prose { text, now: self.0 }
    }
}

/// Returns a time relative to now. `app.js` has the same rules.
pub(super) fn relative(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let delta = now - at;
    let text = span(delta.abs());
    if delta.abs() < TimeDelta::seconds(5) {
        "just now".to_owned()
    } else if delta > TimeDelta::zero() {
        format!("{text} ago")
    } else {
        format!("in {text}")
    }
}

/// Returns a duration in its largest unit.
pub(super) fn span(delta: TimeDelta) -> String {
    let seconds = delta.num_seconds().max(0);
    match seconds {
        ..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Returns a number with commas between thousands.
pub(super) fn number(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3 + 1);
    if value < 0 {
        text.push('-');
    }
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns a duration in milliseconds for people, with one decimal of a second.
pub(super) fn milliseconds(ms: i64) -> String {
    let ms = ms.max(0);
    match ms {
        ..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        _ => span(TimeDelta::milliseconds(ms)),
    }
}

/// Returns a size in bytes for people.
pub(super) fn bytes(size: i64) -> String {
    let size = size.max(0);
    match size {
        ..1_024 => format!("{size} B"),
        1_024..1_048_576 => format!("{} KiB", size.div_euclid(1_024)),
        // One decimal, without floating point.
        _ => format!("{}.{} MiB", size / 1_048_576, size % 1_048_576 * 10 / 1_048_576),
    }
}

/// Returns the colour of a state, as the end of a CSS class. Every state of messages, lanes, webhooks, domains and records, and
/// every verdict about a received message, has its own line here, so that a colour means the same on every page.
pub(super) fn tone(state: &str) -> &'static str {
    match state {
        "delivered" | "relayed" | "open" | "active" | "verified" | "ok" | "completed" | "published" | "done"
        | "alive" | "pass" => "good",
        "bounced" | "blocked" | "failing" | "disabled" | "wrong" | "missing" | "complained" | "failed"
        | "unverified" | "held" | "suspended" | "refused" | "dead" | "bad" | "fail" => "bad",
        "deferred" | "throttled" | "paused" | "uncertain" | "partial" | "pending" | "unanswered" | "expired"
        | "retiring" | "deleting" | "warn" | "softfail" | "temperror" | "permerror" => "warn",
        "sending" | "queued" | "scheduled" | "accepted" | "running" | "started" => "info",
        _ => "neutral",
    }
}

/// Returns a state of a lane as text: `blocked` of the API means that the destination is unreachable.
pub(super) fn state_text(state: &str) -> &str {
    if state == "blocked" { "unreachable" } else { state }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_relative_in_their_largest_unit() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
        for (seconds, text) in [
            (0, "just now"),
            (-4, "just now"),
            (59, "59 s ago"),
            (61, "1 min ago"),
            (7_200, "2 h ago"),
            (172_800, "2 d ago"),
            (-90, "in 1 min"),
        ] {
            assert_eq!(relative(now - TimeDelta::seconds(seconds), now), text);
        }
    }

    #[test]
    fn times_in_texts_are_marked_and_the_rest_is_escaped() {
        let now = DateTime::parse_from_rfc3339("2026-11-30T07:12:00Z").unwrap().to_utc();
        let show = |text| Clock(now).prose(text).to_string();
        assert_eq!(
            show("<b> at 2026-11-30T07:11:00Z, ends 2026-12-03T07:11:40Z."),
            "&#60;b&#62; at <time datetime=\"2026-11-30T07:11:00Z\" data-absolute title=\"1 min ago\">07:11:00 UTC</time>, \
             ends <time datetime=\"2026-12-03T07:11:40Z\" data-absolute title=\"in 2 d\">3 Dec 07:11:40 UTC</time>."
        );
        for text in ["", "Z", "2026-11-30", "2026-13-30T07:11:40Z", "ööööööööööööööööööZ"] {
            assert_eq!(show(text), text);
        }
    }

    #[test]
    fn numbers_have_commas_between_thousands() {
        for (value, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (-1_234_567, "-1,234,567")] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn durations_have_units() {
        for (ms, text) in [(0, "0 ms"), (999, "999 ms"), (1_250, "1.2 s"), (90_000, "1 min"), (7_200_000, "2 h")] {
            assert_eq!(milliseconds(ms), text);
        }
    }

    #[test]
    fn sizes_have_units() {
        for (size, text) in [(12, "12 B"), (2_048, "2 KiB"), (1_572_864, "1.5 MiB")] {
            assert_eq!(bytes(size), text);
        }
    }
}
