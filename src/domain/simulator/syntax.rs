//! The syntax of one step, and the names that other services use for the same steps.

use std::time::Duration;

use super::{MAX_DEFERRALS, MAX_DELAY, MAX_WAIT, Refusal, SCRIPTS, ScriptError, Step};
use crate::domain::outcome::EnhancedCode;

/// The steps without arguments.
pub(super) const PLAIN: [(&str, Step); 12] = [
    ("delivered", Step::Delivered),
    ("relayed", Step::Relayed),
    ("greylist", Step::Greylist),
    ("expired", Step::Expired),
    ("drop-after-dot", Step::DropAfterDot),
    ("drop-connect", Step::DropConnect),
    ("drop-rcpt", Step::DropRcpt),
    ("tls-fail", Step::TlsFail),
    ("dns-fail", Step::DnsFail),
    ("auto-reply", Step::AutoReply),
    ("suppressed", Step::Suppressed),
    ("unsubscribe", Step::Unsubscribe),
];

/// Names that the simulators of SES, Resend and Postmark use, without underscores, and the steps that they stand for.
const ALIASES: [(&str, &str); 17] = [
    ("success", "delivered"),
    ("bounced", "bounce"),
    ("hardbounce", "bounce"),
    ("bademailaddress", "bounce-550-5.1.3"),
    ("blocked", "bounce-550-5.7.1"),
    ("spamnotification", "bounce-data-554-5.7.1"),
    ("softbounce", "expired"),
    ("transient", "expired"),
    ("defer-forever", "expired"),
    ("dnserror", "dns-fail"),
    ("complained", "complaint"),
    ("spamcomplaint", "complaint"),
    ("ooto", "auto-reply"),
    ("autoresponder", "auto-reply"),
    ("autoreply", "auto-reply"),
    ("suppressionlist", "suppressed"),
    ("unsubscribed", "unsubscribe"),
];

/// Splits a script into its steps, at each dot before a letter; other dots are part of an enhanced code.
pub(super) fn steps(script: &str) -> Vec<&str> {
    let (mut steps, mut start) = (Vec::new(), 0);
    let bytes = script.as_bytes();
    for (at, pair) in bytes.windows(2).enumerate() {
        if pair[0] == b'.' && pair[1].is_ascii_alphabetic() {
            steps.push(&script[start..at]);
            start = at + 1;
        }
    }
    steps.push(&script[start..]);
    steps
}

/// Parses a step in lower case.
pub(super) fn step(text: &str) -> Result<Step, ScriptError> {
    let plain = text.replace('_', "");
    let text = ALIASES.iter().find(|(alias, _)| *alias == plain).map_or(text, |(_, step)| step);
    if let Some((_, step)) = PLAIN.iter().find(|(name, _)| *name == text) {
        return Ok(*step);
    }
    with_arguments(text).ok_or_else(|| unknown(text))
}

fn with_arguments(text: &str) -> Option<Step> {
    let (name, arguments) = match text.strip_prefix("bounce-data") {
        Some(arguments) => ("bounce-data", arguments),
        None => text.split_at(text.find('-').unwrap_or(text.len())),
    };
    let arguments: Vec<&str> = match arguments.strip_prefix('-') {
        Some(arguments) => arguments.split('-').collect(),
        None if arguments.is_empty() => Vec::new(),
        None => return None,
    };
    match (name, arguments.as_slice()) {
        ("bounce", codes) => refusal(codes, 5, 550).map(Step::Bounce),
        ("bounce-data", codes) => refusal(codes, 5, 554).map(Step::BounceData),
        ("dsn", []) => Some(Step::Dsn(default_enhanced(550))),
        ("dsn", [status]) => {
            let status: EnhancedCode = status.parse().ok()?;
            (status.class != 2).then_some(Step::Dsn(status))
        }
        ("defer", [attempts, codes @ ..]) => {
            let attempts = number(attempts).filter(|attempts| (1..=MAX_DEFERRALS).contains(attempts))?;
            Some(Step::Defer(attempts, refusal(codes, 4, 451)?))
        }
        ("slow", [wait]) => {
            let wait = duration(wait).filter(|_| wait.ends_with('s'))?;
            (Duration::from_secs(1)..=MAX_WAIT).contains(&wait).then_some(Step::Slow(wait))
        }
        ("complaint", []) => Some(Step::Complaint(Duration::ZERO)),
        ("complaint", [delay]) => {
            let delay = duration(delay)?;
            (Duration::from_secs(1)..=MAX_DELAY).contains(&delay).then_some(Step::Complaint(delay))
        }
        _ => None,
    }
}

/// Parses the reply code and enhanced code of a refusal, both of this class; `code` is the default reply code.
fn refusal(codes: &[&str], class: u8, code: u16) -> Option<Refusal> {
    let (code, enhanced) = match codes {
        [] => (code, None),
        [code] => (self::code(code)?, None),
        [code, enhanced] => (self::code(code)?, Some(enhanced.parse::<EnhancedCode>().ok()?)),
        _ => return None,
    };
    let enhanced = enhanced.unwrap_or_else(|| default_enhanced(code));
    (code / 100 == u16::from(class) && enhanced.class == class).then_some(Refusal { code, enhanced })
}

/// Returns the enhanced code of a reply for which the script has none.
fn default_enhanced(code: u16) -> EnhancedCode {
    match code {
        550 => EnhancedCode { class: 5, subject: 1, detail: 1 },
        500.. => EnhancedCode { class: 5, subject: 0, detail: 0 },
        _ => EnhancedCode { class: 4, subject: 3, detail: 0 },
    }
}

fn code(text: &str) -> Option<u16> {
    if text.len() == 3 { u16::try_from(number(text)?).ok() } else { None }
}

/// Parses a number without a sign and without leading zeros.
fn number(text: &str) -> Option<u32> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    if is_plain { text.parse().ok() } else { None }
}

/// Parses `30s`, `5m`, `1h` or `2d`.
fn duration(text: &str) -> Option<Duration> {
    let (count, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    Some(Duration::from_secs(u64::from(number(count)?) * seconds))
}

pub(super) fn unknown(text: &str) -> ScriptError {
    ScriptError(format!(
        "`{text}` is not a script of the simulator; use one of {SCRIPTS}, or several joined with `.` for one attempt after \
         the other; a `+label` may follow"
    ))
}
