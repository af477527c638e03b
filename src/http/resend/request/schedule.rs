//! Parses `scheduled_at`: a time in ISO 8601, or `in 5 minutes`.

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};

/// The accepted forms, for the error about a text in another form.
pub(in crate::http::resend) const FORMS: &str = "use a time in ISO 8601, such as 2026-12-01T09:00:00Z, or `in N minutes`, `in N hours` or \
                                `in N days`";

/// Parses a time; `None` if it has another form. A time without a zone is in UTC.
pub(in crate::http::resend) fn parse(text: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let text = text.trim();
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.to_utc());
    }
    // The form of times in Resend's responses.
    if let Ok(time) = DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z") {
        return Some(time.to_utc());
    }
    // The forms in which Python writes a time without a zone.
    for form in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"] {
        if let Ok(time) = NaiveDateTime::parse_from_str(text, form) {
            return Some(time.and_utc());
        }
    }
    relative(text).and_then(|wait| now.checked_add_signed(wait))
}

/// Parses `in N minutes` and the like.
fn relative(text: &str) -> Option<TimeDelta> {
    let lower = text.to_ascii_lowercase();
    let mut words = lower.split_ascii_whitespace();
    let (Some("in"), Some(number), unit) = (words.next(), words.next(), words.next()) else { return None };
    // The unit may follow the number without a space, as in `in 5min`.
    let digits = number.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = match (unit, number.split_at(digits)) {
        (Some(unit), (digits, "")) => (digits, unit),
        (None, parts) => parts,
        _ => return None,
    };
    let number: i64 = match number {
        "" => return None,
        digits => digits.parse().ok()?,
    };
    if words.next().is_some() {
        return None;
    }
    match unit {
        "s" | "sec" | "secs" | "second" | "seconds" => TimeDelta::try_seconds(number),
        "m" | "min" | "mins" | "minute" | "minutes" => TimeDelta::try_minutes(number),
        "h" | "hr" | "hrs" | "hour" | "hours" => TimeDelta::try_hours(number),
        "d" | "day" | "days" => TimeDelta::try_days(number),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_waits_are_parsed() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
        let parsed = |text: &str| parse(text, now).map(|time| (time - now).num_seconds());
        for (text, seconds) in [
            ("2024-10-04T00:00:01Z", 1),
            ("2024-10-04T02:00:01.5+02:00", 1),
            ("2024-10-04 00:00:01.000000+00", 1),
            ("2024-10-04T00:00:01.25", 1),
            ("2024-10-04 00:00:01", 1),
            ("in 5 minutes", 300),
            (" In 1 Hour ", 3_600),
            ("in 2 days", 172_800),
            ("in 1 min", 60),
            ("in 30min", 1_800),
            ("in 10 seconds", 10),
        ] {
            assert_eq!(parsed(text), Some(seconds), "{text}");
        }
        for text in [
            "",
            "in",
            "in 5",
            "in five minutes",
            "in 5 weeks",
            "in -5 minutes",
            "in 5 minutes please",
            "tomorrow at 9am",
            "Friday at 3pm ET",
            "in 9223372036854775807 days",
            "in 99999999999999999999 days",
            "2024-10-04",
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }
}
