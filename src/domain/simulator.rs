//! Simulator addresses: `SCRIPT[+label]@simulator.postrider.test`. The script says how the attempts of a recipient end.
//! `.test` does not exist in the DNS (RFC 6761), so no message can leave by mistake.
//!
//! ```text
//! script = step *7("." step)        ; case-insensitive; a letter follows the dot
//! step   = name *("-" argument)     ; bounce-550-5.7.1, defer-2-451-4.7.1, complaint-1h
//! ```
//!
//! A step after which the message is retried, such as `drop-rcpt`, applies to one attempt; `defer-N` applies to N
//! attempts. If the last step is such a step, the next attempt delivers the message. Every other step ends the message,
//! so it must be the last one. `greylist` applies to all attempts until a minute has passed, so only a step that ends
//! the message can follow it.

mod syntax;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use chrono::TimeDelta;

use super::address::Address;
use super::outcome::EnhancedCode;

/// The domain of simulator addresses.
pub const DOMAIN: &str = "simulator.postrider.test";

/// The scripts, for error messages and the documentation.
pub const SCRIPTS: &str = "`delivered`, `relayed`, `bounce`, `bounce-550-5.7.1`, `bounce-data-554`, `dsn`, `dsn-5.2.2`, `defer-N`, \
    `defer-N-451-4.7.1`, `greylist`, `expired`, `drop-after-dot`, `drop-connect`, `drop-rcpt`, `tls-fail`, `dns-fail`, \
    `slow-Ns`, `complaint`, `complaint-1h`, `auto-reply`, `suppressed`, `unsubscribe`";

/// Maximum number of steps of a script.
const MAX_STEPS: usize = 8;
/// Maximum number of attempts that `defer-N` defers.
const MAX_DEFERRALS: u32 = 99;
/// Maximum wait of `slow-Ns`.
const MAX_WAIT: Duration = Duration::from_mins(1);
/// Maximum delay of a complaint.
const MAX_DELAY: Duration = Duration::from_hours(7 * 24);
/// How long `greylist` defers, from the time at which the message was due.
const GREYLIST: TimeDelta = TimeDelta::seconds(60);

/// Returns whether a domain, in the form of [`Address::domain`], is that of the simulator.
pub fn is_domain(domain: &str) -> bool {
    domain == DOMAIN
}

/// Returns whether an address is a simulator address that counts as suppressed.
pub fn is_suppressed(address: &str) -> bool {
    let local = address.strip_suffix(DOMAIN).and_then(|rest| rest.strip_suffix('@'));
    local.is_some_and(|local| Script::parse(local).is_ok_and(|script| script.steps == [Step::Suppressed]))
}

/// What happens to a recipient at its attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    steps: Vec<Step>,
}

/// What happens at one attempt, or at several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The recipient's server accepts the message.
    Delivered,
    /// A relay accepts the message.
    Relayed,
    /// RCPT is refused permanently.
    Bounce(Refusal),
    /// The message is refused permanently after the final dot.
    BounceData(Refusal),
    /// The message is accepted, and a bounce (RFC 3464) with this status comes back.
    Dsn(EnhancedCode),
    /// RCPT is refused temporarily at this many attempts.
    Defer(u32, Refusal),
    /// RCPT is refused with the reply of a greylisting server until a minute has passed.
    Greylist,
    /// RCPT is refused temporarily at every attempt.
    Expired,
    /// The connection drops after the final dot.
    DropAfterDot,
    /// No connection can be opened.
    DropConnect,
    /// The connection drops at RCPT.
    DropRcpt,
    /// The TLS handshake fails.
    TlsFail,
    /// The DNS lookup fails.
    DnsFail,
    /// The reply to the final dot takes this long.
    Slow(Duration),
    /// The message is accepted, and a complaint (RFC 5965) follows after this time.
    Complaint(Duration),
    /// The message is accepted, and an automatic reply (RFC 3834) comes back.
    AutoReply,
    /// The address counts as suppressed.
    Suppressed,
    /// The message is accepted, and the recipient uses its unsubscribe link.
    Unsubscribe,
}

/// The codes of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The reply code.
    pub code: u16,
    /// The enhanced code, of the same class.
    pub enhanced: EnhancedCode,
}

/// Why a local part is not a script, and how to fix it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ScriptError(String);

impl Script {
    /// Parses the script of an address; `None` if it is not an address of the simulator.
    pub fn from_address(address: &Address) -> Option<Result<Self, ScriptError>> {
        is_domain(address.domain()).then(|| Self::parse(address.local()))
    }

    /// Parses a local part. A label, from the first `+` on, is ignored.
    pub fn parse(local: &str) -> Result<Self, ScriptError> {
        let script = local.split('+').next().unwrap_or_default().to_ascii_lowercase();
        let steps = syntax::steps(&script).into_iter().map(syntax::step).collect::<Result<Vec<_>, _>>()?;
        if steps.len() > MAX_STEPS {
            return Err(ScriptError(format!("a script has at most {MAX_STEPS} steps, joined with `.`")));
        }
        let (last, earlier) = steps.split_last().ok_or_else(|| syntax::unknown(&script))?;
        if let Some(end) = earlier.iter().find(|step| step.ends()) {
            let message = format!("the step `{end}` ends the message, so no step can follow it");
            return Err(ScriptError(message));
        }
        let mut pairs = earlier.iter().zip(steps.iter().skip(1));
        if let Some((_, next)) = pairs.find(|(step, next)| **step == Step::Greylist && !next.ends()) {
            return Err(ScriptError(format!(
                "`greylist` must be the last step before the one that ends the message, so `{next}` cannot follow it"
            )));
        }
        if *last == Step::Suppressed && !earlier.is_empty() {
            let message = "`suppressed` decides before the first attempt, so it must be the only step";
            return Err(ScriptError(message.into()));
        }
        Ok(Self { steps })
    }

    /// Returns what happens at attempt `number`, counted from 1. `waited` is the time since the first attempt was due.
    pub fn step(&self, number: u32, waited: TimeDelta) -> Step {
        let mut left = number.max(1);
        for step in &self.steps {
            match step.attempts(waited) {
                Some(attempts) if left > attempts => left -= attempts,
                _ => return *step,
            }
        }
        Step::Delivered
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, step) in self.steps.iter().enumerate() {
            write!(f, "{}{step}", if number == 0 { "" } else { "." })?;
        }
        Ok(())
    }
}

impl Step {
    /// Returns the number of attempts that the step applies to; `None` if it applies to all remaining attempts.
    fn attempts(self, waited: TimeDelta) -> Option<u32> {
        match self {
            Self::Defer(attempts, _) => Some(attempts),
            Self::Greylist if waited < GREYLIST => None,
            Self::Greylist
            | Self::DropAfterDot
            | Self::DropConnect
            | Self::DropRcpt
            | Self::TlsFail
            | Self::DnsFail => Some(1),
            _ => None,
        }
    }

    /// Returns whether the step ends the message.
    fn ends(self) -> bool {
        self.attempts(TimeDelta::MAX).is_none()
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bounce(refusal) => write!(f, "bounce-{refusal}"),
            Self::BounceData(refusal) => write!(f, "bounce-data-{refusal}"),
            Self::Dsn(status) => write!(f, "dsn-{status}"),
            Self::Defer(attempts, refusal) => write!(f, "defer-{attempts}-{refusal}"),
            Self::Slow(wait) => write!(f, "slow-{}s", wait.as_secs()),
            Self::Complaint(Duration::ZERO) => f.write_str("complaint"),
            Self::Complaint(delay) => write!(f, "complaint-{}s", delay.as_secs()),
            plain => f.write_str(syntax::PLAIN.iter().find(|(_, step)| step == plain).map_or("", |(name, _)| name)),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.code, self.enhanced)
    }
}
