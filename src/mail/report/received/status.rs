//! Parses SMTP replies that reports quote within text.

use crate::domain::outcome::{EnhancedCode, Reply};

use super::fields::cut;

/// Maximum bytes of a diagnostic that are examined.
const LIMIT: usize = 8_000;

/// Parses the reply that a text quotes. `status` is the `Status` field of the report. The enhanced code in the text,
/// which the other server sent, takes precedence, unless it is generic (x.0.0) or of another class.
pub(in crate::mail::report) fn reply(text: &str, status: Option<EnhancedCode>) -> Reply {
    read(text, status, true)
}

/// Parses a refusal in the same way, but ignores positive replies to earlier commands (`250 ok`).
pub(in crate::mail::report) fn refusal(text: &str, status: Option<EnhancedCode>) -> Reply {
    read(text, status, false)
}

fn read(text: &str, status: Option<EnhancedCode>, may_succeed: bool) -> Reply {
    let text = cut(text, LIMIT);
    let (code, reply) = match code(text, may_succeed) {
        Some((code, at)) => (Some(code), &text[at..]),
        None => (None, text),
    };
    let enhanced = |text| enhanced(text, may_succeed);
    let own = enhanced(reply).or_else(|| enhanced(text)).filter(|own| {
        let Some(status) = status else { return true };
        let is_specific = (own.subject, own.detail) != (0, 0) || (status.subject, status.detail) == (0, 0);
        is_specific && own.class == status.class
    });
    Reply { code, enhanced: own.or(status), ..Reply::local_error(plain(text, code)) }
}

/// Returns the three digits of a reply and their position: the first number that can be a code.
fn code(text: &str, may_succeed: bool) -> Option<(u16, usize)> {
    let bytes = text.as_bytes();
    bytes.windows(3).enumerate().find_map(|(at, digits)| {
        let before = at.checked_sub(1).and_then(|before| bytes.get(before));
        let after = bytes.get(at + 3);
        let is_alone = before.is_none_or(|b| !b.is_ascii_alphanumeric() && !b".@_/$+-=&%".contains(b))
            && after.is_none_or(|b| b.is_ascii_whitespace() || b"-:;,)]".contains(b));
        let code = is_alone.then(|| std::str::from_utf8(digits).ok()?.parse::<u16>().ok()).flatten()?;
        // A number with a unit is not a code, except at the start of a line: `550 messages from you are refused`.
        let is_first = before.is_none_or(|byte| *byte == b'\n');
        let is_quantity = !is_first
            && [" sec", " min", " hour", " day", " messages", " byte", " kb", " mb", " users", " recipients", " times"]
                .iter()
                .any(|unit| text.get(at + 3..).is_some_and(|rest| rest.starts_with(unit)));
        let is_code = matches!(code, 421..=479 | 500..=579) || may_succeed && matches!(code, 250..=252);
        (is_code && !is_quantity).then_some((code, at))
    })
}

/// Returns the first enhanced code in a text that is not part of a longer word, such as an IP address.
pub(in crate::mail::report) fn enhanced(text: &str, may_succeed: bool) -> Option<EnhancedCode> {
    text.match_indices(['2', '4', '5']).find_map(|(at, _)| {
        if text[..at].ends_with(|c: char| c.is_alphanumeric() || "._/=+@&".contains(c)) {
            return None;
        }
        let rest = &text[at..];
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (code, after) = rest.split_at(end);
        let is_alone = !after.starts_with(|c: char| c.is_alphanumeric() || "@/_".contains(c));
        let code: Option<EnhancedCode> = code.trim_end_matches('.').parse().ok();
        code.filter(|code| is_alone && (may_succeed || code.class != 2))
    })
}

/// Returns the text of a reply without the codes at the beginning of each line.
fn plain(text: &str, code: Option<u16>) -> String {
    let digits = code.map(|code| code.to_string()).unwrap_or_default();
    let strip = |line: &str| {
        let line = line.trim();
        let Some(rest) = line.strip_prefix(&digits).filter(|_| !digits.is_empty()) else { return line.to_owned() };
        let rest = rest.trim_start_matches(['-', ' ', ':']);
        let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
        let is_code = word.trim_start_matches('#').trim_end_matches([':', ')']).parse::<EnhancedCode>().is_ok();
        if is_code { after.trim() } else { rest }.to_owned()
    };
    // Some servers join the lines of a reply into one.
    let joined = digits.len() == 3;
    let lines: Vec<String> = text
        .split('\n')
        .flat_map(|line| match line.find(&format!(" {digits}-")).filter(|_| joined) {
            Some(_) => line
                .split(&format!(" {digits}"))
                .map(|part| format!("{digits}{}", part.trim_start_matches(&digits)))
                .collect(),
            None => vec![line.to_owned()],
        })
        .map(|line| strip(&line))
        .filter(|line| !line.is_empty())
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str, status: &str) -> (Option<u16>, String, String) {
        let reply = reply(text, status.parse().ok());
        (reply.code, reply.enhanced.map(|code| code.to_string()).unwrap_or_default(), reply.text)
    }

    #[test]
    fn codes_are_found_within_text() {
        for (text, status, code, enhanced, plain) in [
            ("550 5.1.1 no such user", "", Some(550), "5.1.1", "no such user"),
            ("550-5.1.1 no such\n550 5.1.1 user", "5.1.1", Some(550), "5.1.1", "no such\nuser"),
            ("550-5.1.1 no such 550-5.1.1 user 550 5.1.1 here", "5.0.0", Some(550), "5.1.1", "no such\nuser\nhere"),
            (
                "host mx[192.0.2.5] said: 550 5.7.1 spam",
                "5.0.0",
                Some(550),
                "5.7.1",
                "host mx[192.0.2.5] said: 550 5.7.1 spam",
            ),
            (
                "Sorry, no mailbox here by that name. (#5.1.1)",
                "",
                None,
                "5.1.1",
                "Sorry, no mailbox here by that name. (#5.1.1)",
            ),
            ("550 no", "5.1.1", Some(550), "5.1.1", "no"),
            ("450 user unknown", "5.0.0", Some(450), "5.0.0", "user unknown"),
            ("550 messages are refused", "", Some(550), "", "messages are refused"),
            ("said: 450 recipient unknown", "", Some(450), "", "said: 450 recipient unknown"),
            ("sent to 450 recipients", "", None, "", "sent to 450 recipients"),
            ("550 5.0.0 no", "5.1.1", Some(550), "5.1.1", "no"),
            ("450 4.1.1 unknown", "5.4.7", Some(450), "5.4.7", "unknown"),
            (
                "waited 450 seconds for 192.0.2.25 (5.1.1.9)",
                "4.4.1",
                None,
                "4.4.1",
                "waited 450 seconds for 192.0.2.25 (5.1.1.9)",
            ),
            ("<mx.test #5.1.1 smtp;550 5.1.1 gone>", "", Some(550), "5.1.1", "<mx.test #5.1.1 smtp;550 5.1.1 gone>"),
            ("", "5.1.1", None, "5.1.1", ""),
        ] {
            assert_eq!(parts(text, status), (code, enhanced.into(), plain.into()), "{text}");
        }
    }
}
