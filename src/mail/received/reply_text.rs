//! Finds what a person has written in a reply: the text without quoted messages, attributions and signature.
//!
//! This is a heuristic, as there is no standard. It errs on the side of too much text: quoted lines without a mark stay,
//! unless a separator of a known mail program precedes them.

/// Separators of mail programs, in lower case, after which only the earlier message follows.
const SEPARATORS: [&str; 8] = [
    "-----original message-----",
    "----- original message -----",
    "---- original message ----",
    "-----ursprüngliche nachricht-----",
    "-----message d'origine-----",
    "-----mensaje original-----",
    "-----messaggio originale-----",
    "---------- forwarded message",
];
/// The beginning and the end of attributions such as "On Monday, Ann wrote:", in lower case.
const ATTRIBUTIONS: [(&str, &str); 9] = [
    ("on ", "wrote:"),
    ("am ", "schrieb:"),
    ("am ", ":"),
    ("le ", "a écrit :"),
    ("le ", "a écrit:"),
    ("le ", "a écrit\u{a0}:"),
    ("el ", "escribió:"),
    ("il ", "ha scritto:"),
    ("op ", "schreef:"),
];
/// The beginnings of the lines with which Outlook introduces the earlier message: sender, then date.
const OUTLOOK: [(&str, &str); 4] = [("from:", "sent:"), ("from:", "date:"), ("von:", "gesendet:"), ("de :", "envoyé")];
/// Maximum number of lines that an attribution may have.
const ATTRIBUTION_LINES: usize = 3;
/// Maximum length of an attribution, in bytes.
const ATTRIBUTION_BYTES: usize = 500;

/// Returns what the sender of a reply has written. A text without anything else is returned without white space around it.
pub fn reply_text(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    let mut kept: Vec<&str> = Vec::new();
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        let rest = lines.get(at..).unwrap_or_default();
        if *line == "--" || is_separator(rest) {
            break;
        }
        if let Some(length) = attribution(rest) {
            let mut after = rest.iter().skip(length).filter(|line| !line.is_empty());
            match after.next() {
                // The quoted lines are left out one by one, because an answer may follow them.
                Some(next) if next.starts_with('>') => at += length,
                // The quoted message has no marks.
                _ => break,
            }
            continue;
        }
        if !line.starts_with('>') {
            kept.push(line);
        }
        at += 1;
    }
    let mut shown: Vec<&str> = Vec::new();
    for line in kept {
        // Where quoted lines were left out, empty lines come together.
        if !(line.is_empty() && shown.last().is_none_or(|last| last.is_empty())) {
            shown.push(line);
        }
    }
    shown.join("\n").trim().to_owned()
}

/// Returns whether the earlier message begins with these lines.
fn is_separator(lines: &[&str]) -> bool {
    let Some(first) = lines.first() else { return false };
    let lower = first.get(..first.floor_char_boundary(80)).unwrap_or_default().to_lowercase();
    if SEPARATORS.iter().any(|separator| lower.starts_with(separator)) {
        return true;
    }
    // Outlook draws a line above the fields; other clients of Microsoft do not.
    let is_rule = lower.len() >= 20 && lower.bytes().all(|byte| byte == b'_');
    let fields = if is_rule { lines.get(1..).unwrap_or_default() } else { lines };
    let begins = |line: Option<&&str>, with: &str| {
        line.is_some_and(|line| line.trim_start_matches('*').to_lowercase().starts_with(with))
    };
    let mut fields = fields.iter().skip_while(|line| is_rule && line.is_empty());
    let (one, two) = (fields.next(), fields.next());
    OUTLOOK.iter().any(|(sender, date)| begins(one, sender) && begins(two, date))
}

/// Returns the number of lines of the attribution with which these lines begin.
fn attribution(lines: &[&str]) -> Option<usize> {
    let first = lines.first()?.trim_start().to_lowercase();
    if first.is_empty() || !ATTRIBUTIONS.iter().any(|(begin, _)| first.starts_with(begin)) {
        return None;
    }
    let mut text = String::new();
    for (count, line) in (1..=ATTRIBUTION_LINES).zip(lines) {
        if line.is_empty() || line.starts_with('>') {
            return None;
        }
        text.push_str(&line.trim().to_lowercase());
        if text.len() > ATTRIBUTION_BYTES {
            return None;
        }
        let is_attribution = |(begin, end): &(&str, &str)| {
            // "Am 1.2.2026 um 10:00 schrieb Ann Müller <ann@example.test>:"
            let fits = *end != ":" || text.contains(" schrieb ");
            text.starts_with(begin)
                && text.ends_with(end)
                && fits
                && text.bytes().any(|byte| byte.is_ascii_digit() || byte == b'@' || byte == b',')
        };
        if ATTRIBUTIONS.iter().any(is_attribution) {
            return Some(count);
        }
        text.push(' ');
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quoted_parts_are_removed() {
        for (text, expected) in [
            // Nothing is quoted.
            ("Thanks!\n", "Thanks!"),
            ("", ""),
            ("\n\nOne.\n\nTwo.\n\n\n", "One.\n\nTwo."),
            // Top posting, with an attribution in one line, two lines, or three.
            ("Yes.\n\nOn Mon, Nov 30, 2026 at 9:00 AM Acme <a@acme.test> wrote:\n> Is it?\n", "Yes."),
            (
                "Yes.\n\nOn Mon, Nov 30, 2026 at 9:00 AM Acme Billing\n<billing@acme.test> wrote:\n\n> Is it?\n>\n> Acme",
                "Yes.",
            ),
            ("Yes.\n\nOn Mon, Nov 30, 2026 at 9:00 AM\nAcme Billing\n<billing@acme.test> wrote:\n> Is it?", "Yes."),
            // An attribution whose message has no marks.
            ("Yes.\n\nOn Nov 30, 2026, at 09:00, Acme wrote:\n\nIs it?\n", "Yes."),
            // Other languages.
            ("Ja.\n\nAm 30.11.2026 um 09:00 schrieb Acme <a@acme.test>:\n> Ist es?\n", "Ja."),
            ("Oui.\n\nLe lun. 30 nov. 2026 à 09:00, Acme <a@acme.test> a écrit :\n> Alors ?\n", "Oui."),
            ("Sí.\n\nEl lun, 30 nov 2026 a las 9:00, Acme (<a@acme.test>) escribió:\n> ¿Es?\n", "Sí."),
            ("Sì.\n\nIl giorno lun 30 nov 2026 alle ore 09:00 Acme <a@acme.test> ha scritto:\n> È?\n", "Sì."),
            // Separators of mail programs.
            ("Yes.\n\n-----Original Message-----\nFrom: Acme\nIs it?", "Yes."),
            ("Yes.\n\n----- Original Message -----\nIs it?", "Yes."),
            ("Ja.\n-----Ursprüngliche Nachricht-----\nIst es?", "Ja."),
            (
                "Yes.\n\n________________________________\nFrom: Acme <a@acme.test>\nSent: Monday\nTo: Bo\n\nIs it?",
                "Yes.",
            ),
            ("Yes.\n\nFrom: Acme <a@acme.test>\nSent: Monday\nTo: Bo\nSubject: Q\n\nIs it?", "Yes."),
            ("Yes.\n\n*From:* Acme\n*Sent:* Monday\n\nIs it?", "Yes."),
            ("See below.\n\n---------- Forwarded message ---------\nFrom: Ann\n", "See below."),
            // Signatures.
            ("Yes.\n-- \nBo\nCEO", "Yes."),
            ("Yes.\n--\nBo", "Yes."),
            ("Yes -- no.\n--- a line ---\nEnd.", "Yes -- no.\n--- a line ---\nEnd."),
            // Answers between and below the quoted lines.
            ("On Mon, Acme <a@acme.test> wrote:\n> One?\nYes.\n> Two?\nNo.\n", "Yes.\nNo."),
            ("> Is it?\n\nYes.", "Yes."),
            (">>> deep\n>> less\n> one\nYes.", "Yes."),
            // Only a quotation.
            ("> Is it?\n", ""),
            // Sentences that look similar.
            ("On Monday I wrote: hello, 5 times.\nBye.", "On Monday I wrote: hello, 5 times.\nBye."),
            ("On the one hand, yes.\n\nOn the other, no.", "On the one hand, yes.\n\nOn the other, no."),
            ("From: here to there\nit is far.", "From: here to there\nit is far."),
            ("a > b\n  > c", "a > b\n  > c"),
            // Windows line ends.
            ("Yes.\r\n\r\nOn 30 Nov, Acme wrote:\r\n> Is it?\r\n", "Yes."),
        ] {
            assert_eq!(reply_text(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn result_has_only_lines_of_the_text(text in "([>a-c @,:-]|On |wrote:|\n|é|_){0,60}") {
            let reply = reply_text(&text);
            let lines: Vec<&str> = text.lines().map(str::trim).collect();
            prop_assert!(reply.lines().all(|line| line.is_empty() || lines.contains(&line.trim())));
        }
    }
}
