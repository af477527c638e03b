//! The parameters of MAIL and RCPT: SIZE (RFC 1870), BODY (RFC 6152), SMTPUTF8 (RFC 6531), AUTH (RFC 4954 §5), and those of
//! DSN (RFC 3461 §4).

use super::{BAD_PARAMETER, CommandFault, MailCommand, UNKNOWN_PARAMETER};

/// Maximum length of ENVID (RFC 3461 §4.4).
const MAX_ENVID: usize = 100;
/// Maximum length of ORCPT (RFC 3461 §4.2).
const MAX_ORCPT: usize = 500;

/// The parameters of one command, with the names of those that were given, so that none is given twice.
struct Parameters<'a> {
    words: std::str::Split<'a, char>,
    given: Vec<String>,
}

impl<'a> Parameters<'a> {
    fn new(text: &'a str) -> Self {
        Self { words: text.split(' '), given: Vec::new() }
    }

    /// Returns the next parameter: its name in upper case and its value.
    fn next(&mut self) -> Option<Result<(String, Option<&'a str>), CommandFault>> {
        let word = self.words.by_ref().find(|word| !word.is_empty())?;
        let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
        let name = name.to_ascii_uppercase();
        if self.given.contains(&name) {
            return Some(Err(BAD_PARAMETER));
        }
        self.given.push(name.clone());
        Some(Ok((name, value)))
    }
}

/// Adds the parameters of MAIL to the command.
pub(super) fn mail(mut mail: MailCommand, text: &str) -> Result<MailCommand, CommandFault> {
    let mut parameters = Parameters::new(text);
    while let Some(parameter) = parameters.next() {
        match parameter? {
            (name, Some(value)) if name == "SIZE" => mail.size = Some(number(value).ok_or(BAD_PARAMETER)?),
            (name, Some(value)) if name == "BODY" => {
                if !["7BIT", "8BITMIME"].iter().any(|supported| supported.eq_ignore_ascii_case(value)) {
                    return Err(UNKNOWN_PARAMETER);
                }
            }
            // The original submitter. It is ignored: it only matters from trusted clients.
            (name, Some(_)) if name == "AUTH" => {}
            (name, None) if name == "SMTPUTF8" => mail.smtputf8 = true,
            (name, Some(value)) if name == "RET" && is_one_of(value, &["FULL", "HDRS"]) => mail.has_dsn = true,
            (name, Some(value)) if name == "ENVID" && (1..=MAX_ENVID).contains(&value.len()) && is_xtext(value) => {
                mail.has_dsn = true;
            }
            (name, _) if ["SIZE", "BODY", "AUTH", "SMTPUTF8", "RET", "ENVID"].contains(&name.as_str()) => {
                return Err(BAD_PARAMETER);
            }
            _ => return Err(UNKNOWN_PARAMETER),
        }
    }
    Ok(mail)
}

/// Checks the parameters of RCPT. Returns whether there are any, all of which are of DSN.
pub(super) fn rcpt(text: &str) -> Result<bool, CommandFault> {
    let (mut parameters, mut has_dsn) = (Parameters::new(text), false);
    while let Some(parameter) = parameters.next() {
        let is_valid = match parameter? {
            (name, value) if name == "NOTIFY" => value.is_some_and(is_notify),
            (name, value) if name == "ORCPT" => value.is_some_and(is_original_recipient),
            _ => return Err(UNKNOWN_PARAMETER),
        };
        if !is_valid {
            return Err(BAD_PARAMETER);
        }
        has_dsn = true;
    }
    Ok(has_dsn)
}

/// Parses up to 20 digits (RFC 1870 §3); a number too large for `u64` becomes `u64::MAX`.
pub(super) fn number(text: &str) -> Option<u64> {
    let is_number = (1..=20).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

fn is_one_of(value: &str, words: &[&str]) -> bool {
    words.iter().any(|word| word.eq_ignore_ascii_case(value))
}

/// Returns whether a value is `NEVER`, or a list of the other words without duplicates.
fn is_notify(value: &str) -> bool {
    let words: Vec<String> = value.split(',').map(str::to_ascii_uppercase).collect();
    let is_list = words.iter().enumerate().all(|(at, word)| {
        is_one_of(word, &["SUCCESS", "FAILURE", "DELAY"]) && !words.iter().take(at).any(|earlier| earlier == word)
    });
    is_list || value.eq_ignore_ascii_case("NEVER")
}

/// Returns whether a value is an address type and an address, such as `rfc822;ann@example.test`.
fn is_original_recipient(value: &str) -> bool {
    let Some((kind, address)) = value.split_once(';') else { return false };
    let is_kind = !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    // With `utf-8`, the address may be UTF-8 (RFC 6533 §3).
    let is_address = !address.is_empty() && (is_xtext(address) || kind.eq_ignore_ascii_case("utf-8"));
    value.len() <= MAX_ORCPT && is_kind && is_address
}

/// Returns whether a value is xtext (RFC 3461 §4): printable ASCII, in which `+` begins two upper-case hexadecimal digits.
fn is_xtext(value: &str) -> bool {
    let is_hex = |byte: &u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(byte);
    let bytes = value.as_bytes();
    bytes.iter().enumerate().all(|(at, byte)| match byte {
        b'+' => bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(is_hex)),
        byte => byte.is_ascii_graphic() && *byte != b'=',
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse_mail(text: &str) -> Result<MailCommand, CommandFault> {
        mail(MailCommand::default(), text)
    }

    #[test]
    fn dsn_parameters_are_checked() {
        assert!(parse_mail(" RET=hdrs ENVID=QQ+2B1").unwrap().has_dsn && !parse_mail(" SIZE=1").unwrap().has_dsn);
        for text in ["", " ", " NOTIFY=NEVER", " notify=success,delay ORCPT=rfc822;a+2Bb@c.test"] {
            assert_eq!(rcpt(text), Ok(!text.trim().is_empty()), "{text:?}");
        }
        for text in [" RET=ALL", " RET", " ENVID=", " ENVID=a+b", " ENVID=+2b", " RET=FULL RET=FULL", " ENVID=\u{e9}"] {
            assert_eq!(parse_mail(text), Err(BAD_PARAMETER), "{text:?}");
        }
        for text in [
            " NOTIFY",
            " NOTIFY=NEVER,DELAY",
            " NOTIFY=DELAY,DELAY",
            " NOTIFY=",
            " ORCPT=a@b",
            " ORCPT=;a",
            " ORCPT=a;",
        ] {
            assert_eq!(rcpt(text), Err(BAD_PARAMETER), "{text:?}");
        }
        assert_eq!(parse_mail(&format!(" ENVID={}", "a".repeat(101))), Err(BAD_PARAMETER));
        assert_eq!(rcpt(" RET=FULL"), Err(UNKNOWN_PARAMETER));
    }

    proptest! {
        #[test]
        fn any_text_gives_parameters_or_a_fault(text in "[ =;,+A-Za-z0-9é]{0,60}") {
            let found = parse_mail(&text);
            prop_assert!(found.is_ok() || matches!(found, Err(BAD_PARAMETER | UNKNOWN_PARAMETER)));
            let found = rcpt(&text);
            prop_assert!(found.is_ok() || matches!(found, Err(BAD_PARAMETER | UNKNOWN_PARAMETER)));
        }

        #[test]
        fn numbers_have_up_to_20_digits(text in "[0-9]{0,24}") {
            prop_assert_eq!(number(&text).is_some(), (1..=20).contains(&text.len()));
        }
    }
}
