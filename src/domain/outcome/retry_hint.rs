//! Parses the retry delay in the text of a refusal.
//!
//! No RFC has a field for it; greylisting servers and rate limiters use customary phrases: "Greylisted for 300
//! seconds", "please come back in 00:05:00", "try again in 5 minutes". Only a duration that follows such a phrase is
//! read, so the 60 seconds in "more than 100 messages in 60 seconds" are ignored. Pure, and never panics.

use std::time::Duration;

/// Phrases before a duration, in lower case.
const LEADS: [&str; 17] = [
    "again in",
    "again after",
    "retry in",
    "retry after",
    "retrying after",
    "retry-after",
    "come back in",
    "come back after",
    "back again in",
    "resend in",
    "resend after",
    "reconnect in",
    "reconnect after",
    "greylisted for",
    "greylisting for",
    "deferred for",
    "wait",
];

/// Words allowed between the phrase and the duration.
const FILLERS: [&str; 10] = ["at", "least", "about", "approximately", "another", "for", "a", "further", "up", "to"];

/// Returns whether the text mentions greylisting in any spelling: "Greylisted", "grey-listed", "gray listing".
pub fn mentions_greylisting(text: &str) -> bool {
    normalised(text).contains("greylist")
}

/// Normalises a text: lower case, one line, one spelling of greylisting. The lines of a reply are one sentence.
fn normalised(text: &str) -> String {
    let text = text.to_ascii_lowercase().replace(['\r', '\n', '\t'], " ").replace("gray", "grey");
    text.replace("grey-list", "greylist").replace("grey list", "greylist")
}

/// Returns how long the text asks the client to wait, the longest time if it names several; `None` if it names none.
/// The caller limits the result.
pub fn wait(text: &str) -> Option<Duration> {
    let text = normalised(text);
    LEADS.iter().filter_map(|lead| after(&text, lead)).max()
}

/// Returns the first duration that follows the phrase, where the phrase consists of whole words.
fn after(text: &str, lead: &str) -> Option<Duration> {
    text.match_indices(lead).find_map(|(at, _)| {
        let (before, rest) = (&text[..at], &text[at + lead.len()..]);
        let is_whole_word = !before.ends_with(char::is_alphanumeric) && !rest.starts_with(char::is_alphanumeric);
        is_whole_word.then(|| span(rest, lead == "retry-after")).flatten()
    })
}

/// Parses a duration at the start of the text: `00:05:00`, or numbers with units. If `bare`, a number without a unit
/// counts as seconds.
fn span(text: &str, bare: bool) -> Option<Duration> {
    let mut words = Words(text.trim_start_matches([' ', ':', '=']));
    while FILLERS.contains(&words.peek()) {
        // "a minute", but not "a while".
        if words.peek() == "a" {
            return words.skip().and_then(|rest| unit(rest.peek())).map(Duration::from_secs);
        }
        words = words.skip()?;
    }
    if let Some(clock) = clock(words.0) {
        return Some(clock);
    }
    if matches!(words.peek(), "an" | "one") {
        return words.skip().and_then(|rest| unit(rest.peek())).map(Duration::from_secs);
    }
    let mut total: Option<u64> = None;
    while let Some((number, rest)) = number(words.0) {
        let Some(seconds) = unit(rest.peek()) else {
            return total.or(bare.then_some(number)).map(Duration::from_secs);
        };
        total = Some(total.unwrap_or(0).saturating_add(number.saturating_mul(seconds)));
        let Some(next) = rest.skip() else { break };
        words = if next.peek() == "and" { next.skip().unwrap_or(next) } else { next };
    }
    total.map(Duration::from_secs)
}

/// The rest of a text, read word by word; a word is a run of letters.
#[derive(Clone, Copy)]
struct Words<'a>(&'a str);

impl<'a> Words<'a> {
    /// Returns the next word; empty if there is none.
    fn peek(self) -> &'a str {
        let end = self.0.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(self.0.len());
        &self.0[..end]
    }

    /// Skips that word and its separator; `None` at the end.
    fn skip(self) -> Option<Self> {
        let word = self.peek();
        let rest = self.0[word.len()..].trim_start_matches([' ', ',', '.', '(', ')']);
        (rest.len() < self.0.len()).then_some(Self(rest))
    }
}

/// Parses an integer and returns the rest. Fractions and tokens that only begin like a number are rejected.
fn number(text: &str) -> Option<(u64, Words<'_>)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number = text[..end].parse().ok()?;
    let rest = &text[end..];
    let after = rest.trim_start_matches(['.', ':', ',', '-', '/']);
    let is_whole = after.len() == rest.len() || !after.starts_with(|c: char| c.is_ascii_digit());
    is_whole.then(|| (number, Words(rest.trim_start_matches([' ', '-']))))
}

/// Parses `HH:MM:SS`. A time of day is not misread: it has two parts, or follows a word that is not in [`LEADS`].
fn clock(text: &str) -> Option<Duration> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != ':').unwrap_or(text.len());
    let mut parts = text[..end].split(':').map(|part| if part.len() <= 4 { part.parse::<u64>().ok() } else { None });
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    let fits = parts.next().is_none() && minutes < 60 && seconds < 60;
    fits.then(|| Duration::from_secs(hours * 3600 + minutes * 60 + seconds))
}

/// Returns the seconds in a unit.
fn unit(word: &str) -> Option<u64> {
    match word {
        "s" | "sec" | "secs" | "second" | "seconds" => Some(1),
        "m" | "min" | "mins" | "minute" | "minutes" => Some(60),
        "h" | "hr" | "hrs" | "hour" | "hours" => Some(3600),
        "d" | "day" | "days" => Some(86_400),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn customary_phrases_are_parsed() {
        for (text, seconds) in [
            // postgrey, milter-greylist, sqlgrey, SmarterMail, smf-grey, gld and similar software.
            (
                "<ann@example.test>: Recipient address rejected: Greylisted for 300 seconds (see http://isg.ee.ethz.ch/)",
                300,
            ),
            (
                "<ann@example.test>: Recipient address rejected: Greylisted for 5 minutes (see https://sqlgrey.test/)",
                300,
            ),
            ("Greylisting in action, please come back in 00:05:00", 300),
            ("Greylisting in action, please come back after 01:00:30", 3_630),
            ("Greylisted, please try again in 180 seconds", 180),
            ("You have been greylisted. Please try again in 4 minutes and 32 seconds.", 272),
            ("Greylisted: please retry in 1 hour, 5 min", 3_900),
            // Rate and connection limits.
            ("Server busy. Please try again in 10 minutes. (S3140)", 600),
            ("Too many connections; wait at least 60 secs before you reconnect", 60),
            ("Throttled, retry after 300 seconds", 300),
            ("Rate limit exceeded. Retry-After: 120", 120),
            ("rate limited, Retry-After=90s", 90),
            ("Too many messages, please resend after 15 minutes.", 900),
            ("Deferred for 2h", 7_200),
            ("try again in about an hour", 3_600),
            ("please try again in a minute", 60),
            ("Please wait 5min. and retry", 300),
            ("try again in 5-minutes", 300),
            ("greylisted for 60 second(s)", 60),
            ("Grey-listed for 10 minutes", 600),
            ("gray listing for 2 minutes", 120),
            ("Quota exceeded, try again\nin 10 minutes", 600),
            ("wait 10 seconds; greylisted for 300 seconds", 300),
        ] {
            assert_eq!(wait(text), Some(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn other_durations_and_times_are_ignored() {
        for text in [
            "",
            "Greylisted, see http://postgrey.schweikert.ch/help/example.test.html",
            "Try again later",
            "Greylisted, please try again a little later",
            "Server busy. Please try again later from [192.0.2.1]. (AS77713)",
            "Our system has detected an unusual rate of unsolicited mail; please resend your message at a later time.",
            "100 messages in 60 seconds exceeded",
            "Domain acme.test has exceeded the max emails per hour (120/100 (120%)) allowed; try again",
            "try again after 14:30",
            "try again in 2026-12-01",
            "Retry-After: Wed, 21 Oct 2026 07:28:00 GMT",
            "retry after 3 attempts",
            "try again in 5",
            "please wait",
            "await 5 minutes",
            "waiting 5 minutes",
            "try again in 1.5 hours",
            "try again in a while",
            "try again in 99999999999999999999999 seconds",
            "come back in 00:99:00",
        ] {
            assert_eq!(wait(text), None, "{text}");
        }
    }

    #[test]
    fn greylisting_is_recognised_in_all_spellings() {
        for text in [
            "<ann@example.test>: Recipient address rejected: Greylisted, see http://postgrey.schweikert.ch/help/acme.html",
            "You have been grey-listed",
            "Grey listing in effect",
            "GRAYLISTED",
            "gray-listing",
            "temporarily grey\nlisted",
        ] {
            assert!(mentions_greylisting(text), "{text}");
        }
        for text in ["", "Try again later", "on our black list", "grey mail"] {
            assert!(!mentions_greylisting(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_accepted(text in "\\PC*", lead in prop::sample::select(&LEADS[..]), tail in "[ :=0-9a-z.,()-]{0,40}") {
            let _ = wait(&text);
            let _ = wait(&format!("{text}{lead} {tail}{text}"));
        }

        #[test]
        fn seconds_are_parsed_exactly(seconds: u32) {
            let text = format!("4.7.1 Greylisted for {seconds} seconds");
            prop_assert_eq!(wait(&text), Some(Duration::from_secs(seconds.into())));
        }
    }
}
