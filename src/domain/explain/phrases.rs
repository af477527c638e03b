//! Formats times, rates, counts and replies for sentences.

use chrono::{DateTime, SecondsFormat, Utc};

use super::{Count, SmtpReply};

/// Formats a time to the second, as the API does.
pub(in crate::domain) fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Formats a rate in the smallest time unit in which it is at least one, or per day.
pub(in crate::domain) fn rate(per_second: f64) -> String {
    let (number, unit) = [(1.0, "second"), (60.0, "minute"), (3_600.0, "hour"), (86_400.0, "day")]
        .map(|(seconds, unit)| (per_second * seconds, unit))
        .into_iter()
        .find(|(number, unit)| *number >= 1.0 || *unit == "day")
        .unwrap_or((per_second, "second"));
    let plural = if (number - 1.0).abs() < 0.005 { "message" } else { "messages" };
    format!("{} {plural} per {unit}", (number * 100.0).round() / 100.0)
}

/// Formats a destination's reply as the end of a sentence.
pub(in crate::domain) fn reply(text: Option<&str>) -> String {
    text.map_or_else(String::new, |text| format!(": “{}”", one_line(text)))
}

/// Joins the lines of a reply with slashes.
pub(in crate::domain) fn one_line(text: &str) -> String {
    text.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" / ")
}

/// Formats a reply with the server that sent it, or the local error if no server replied.
pub(super) fn server_reply(reply: Option<&SmtpReply>, mx: Option<&str>) -> String {
    let Some(reply) = reply else { return "no reply was received".into() };
    let text = one_line(&reply.text);
    let Some(code) = reply.code else {
        return mx.map_or_else(|| text.clone(), |mx| format!("{text} ({mx})"));
    };
    let enhanced = reply.enhanced.as_deref().map_or_else(String::new, |enhanced| format!(" {enhanced}"));
    format!("{} said “{code}{enhanced} {text}”", mx.unwrap_or("the server"))
}

/// Formats the reply that a delivery report quotes.
pub(super) fn quoted(reply: &SmtpReply) -> String {
    let code = reply.code.map_or_else(String::new, |code| format!("{code} "));
    let enhanced = reply.enhanced.as_deref().map_or_else(String::new, |enhanced| format!("{enhanced} "));
    format!("“{}”", format!("{code}{enhanced}{}", one_line(&reply.text)).trim_end())
}

/// Capitalises the first letter.
pub(in crate::domain) fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Formats a number of attempts: `1 attempt`, `3 attempts`.
pub(super) fn attempts(count: i16) -> String {
    if count == 1 { "1 attempt".into() } else { format!("{count} attempts") }
}

/// Formats how many messages are before a recipient, as a clause.
pub(super) fn before(ahead: Option<Count>) -> String {
    match ahead {
        None => "the messages before it in its lane were not counted".into(),
        Some(Count { number, is_more: true }) => format!("more than {number} messages of its lane are before it"),
        Some(Count { number: 0, .. }) => "it is the next of its lane".into(),
        Some(Count { number: 1, .. }) => "1 message of its lane is before it".into(),
        Some(Count { number, .. }) => format!("{number} messages of its lane are before it"),
    }
}

/// Formats a duration in one unit, rounded up: `40 s`, `12 min`, `3 h`.
pub(super) fn span(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{} s", s.ceil()),
        s if s < 7_200.0 => format!("{} min", (s / 60.0).ceil()),
        s if s < 172_800.0 => format!("{} h", (s / 3_600.0).ceil()),
        s => format!("{} days", (s / 86_400.0).ceil()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_has_a_unit_in_which_it_is_at_least_one() {
        for (per_second, text) in [
            (12.5, "12.5 messages per second"),
            (1.0, "1 message per second"),
            (0.5, "30 messages per minute"),
            (1.0 / 60.0, "1 message per minute"),
            (59.0 / 3_600.0, "59 messages per hour"),
            (1e-5, "0.86 messages per day"),
        ] {
            assert_eq!(rate(per_second), text);
        }
    }

    #[test]
    fn reply_is_one_line_with_its_server() {
        let formatted = |code, mx| {
            let text = "first line\n\n second line ".to_owned();
            server_reply(Some(&SmtpReply { code, enhanced: code.map(|_| "4.2.0".into()), text }), mx)
        };
        assert_eq!(formatted(Some(450), Some("mx.test")), "mx.test said “450 4.2.0 first line / second line”");
        assert_eq!(formatted(None, None), "first line / second line");
    }

    #[test]
    fn spans_are_rounded_up() {
        assert_eq!([0.2, 119.0, 121.0, 7_300.0, 200_000.0].map(span), ["1 s", "119 s", "3 min", "3 h", "3 days"]);
    }
}
