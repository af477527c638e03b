//! Addresses at which the inbox simulates failures: `SCRIPT[+label]@simulator.postrider.test`, to test bounces and
//! retries in `postrider dev`.
//!
//! | script | effect |
//! |---|---|
//! | `delivered`, `relayed` | the message is accepted |
//! | `bounce`, `bounce-550-5.7.1` | the recipient is refused permanently, with 550 5.1.1 or with the given reply |
//! | `bounce-data`, `bounce-data-554` | the message is refused permanently, after its content |
//! | `defer-2`, `defer-2-451-4.7.1` | the first two attempts are deferred, the third is accepted |
//! | `greylist` | the first attempt is deferred with a greylisting reply |
//! | `expired` | every attempt is deferred |

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use quick_cache::sync::Cache;

use crate::domain::outcome::EnhancedCode;
use crate::smtp::inbound::SmtpRefusal;

/// The domain of these addresses.
const DOMAIN: &str = "simulator.postrider.test";

/// Maximum number of pairs of return path and recipient whose attempts are counted.
const COUNTED: usize = 10_000;

/// Simulates failures by the recipients' addresses. Counts attempts in memory only.
#[derive(Debug)]
pub(super) struct Simulator {
    attempts: Cache<(String, String), Arc<AtomicU32>>,
}

impl Default for Simulator {
    fn default() -> Self {
        Self { attempts: Cache::new(COUNTED) }
    }
}

/// The behaviour that an address selects.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Script {
    Accept,
    RefuseRecipient(SmtpRefusal),
    RefuseMessage(SmtpRefusal),
    /// Defers this many attempts, then accepts.
    Defer(u32, SmtpRefusal),
}

impl Simulator {
    /// Returns the refusal of a recipient, if its script has one. `from` is the return path, which differs for each
    /// message.
    pub(super) fn rcpt(&self, from: &str, to: &str) -> Result<(), SmtpRefusal> {
        match script(to) {
            None | Some(Ok(Script::Accept | Script::RefuseMessage(_))) => Ok(()),
            Some(Ok(Script::RefuseRecipient(refusal)) | Err(refusal)) => Err(refusal),
            Some(Ok(Script::Defer(count, refusal))) => {
                if self.count_attempt(from, to) <= count {
                    Err(refusal)
                } else {
                    Ok(())
                }
            }
        }
    }

    /// Returns the refusal of a message to these recipients, if a script has one.
    pub(super) fn data(to: &[String]) -> Result<(), SmtpRefusal> {
        let refusal = to.iter().find_map(|to| match script(to) {
            Some(Ok(Script::RefuseMessage(refusal))) => Some(refusal),
            _ => None,
        });
        refusal.map_or(Ok(()), Err)
    }

    fn count_attempt(&self, from: &str, to: &str) -> u32 {
        let key = (from.to_owned(), to.to_owned());
        let Ok(count) = self.attempts.get_or_insert_with(&key, || Ok::<_, Infallible>(Arc::default()));
        count.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Returns the script of an address; `None` at other domains, an error if the script is unknown.
fn script(address: &str) -> Option<Result<Script, SmtpRefusal>> {
    let (local, domain) = address.rsplit_once('@')?;
    if !domain.eq_ignore_ascii_case(DOMAIN) {
        return None;
    }
    let name = local.split('+').next().unwrap_or_default().to_ascii_lowercase();
    Some(parse(&name).ok_or_else(|| {
        let known = "delivered, relayed, bounce, bounce-550-5.7.1, bounce-data, defer-2, greylist, expired";
        refusal(550, (5, 1, 1), &format!("The simulator has no such script; use one of {known}"))
    }))
}

fn parse(name: &str) -> Option<Script> {
    const NO_MAILBOX: &str = "No such mailbox here (simulated)";
    const LATER: &str = "Try again later (simulated)";
    let script = match name {
        "delivered" | "relayed" => Script::Accept,
        "bounce" => Script::RefuseRecipient(refusal(550, (5, 1, 1), NO_MAILBOX)),
        "bounce-data" => Script::RefuseMessage(refusal(554, (5, 6, 0), "The content is refused (simulated)")),
        "greylist" => {
            Script::Defer(1, refusal(450, (4, 7, 1), "Greylisted, please try again in 60 seconds (simulated)"))
        }
        "expired" => Script::Defer(u32::MAX, refusal(451, (4, 3, 0), LATER)),
        _ => {
            if let Some(reply) = name.strip_prefix("bounce-data-") {
                Script::RefuseMessage(simulated_reply(reply, 5, "The content is refused (simulated)")?)
            } else if let Some(reply) = name.strip_prefix("bounce-") {
                Script::RefuseRecipient(simulated_reply(reply, 5, "Refused (simulated)")?)
            } else {
                let (count, reply) =
                    name.strip_prefix("defer-").map(|rest| rest.split_once('-').unwrap_or((rest, "451-4.3.0")))?;
                Script::Defer(count.parse().ok().filter(|count| *count > 0)?, simulated_reply(reply, 4, LATER)?)
            }
        }
    };
    Some(script)
}

/// Parses `550` or `550-5.7.1`. Returns `None` if it is not of this class, the first digit.
fn simulated_reply(reply: &str, class: u8, text: &str) -> Option<SmtpRefusal> {
    let (code, enhanced) = reply.split_once('-').map_or((reply, None), |(code, enhanced)| (code, Some(enhanced)));
    let code: u16 = code.parse().ok().filter(|code| code / 100 == u16::from(class))?;
    let (subject, detail) = match enhanced {
        None => (0, 0),
        Some(enhanced) => {
            let numbers: Vec<u16> = enhanced.split('.').map(|number| number.parse().ok()).collect::<Option<_>>()?;
            match numbers.as_slice() {
                [first, subject, detail] if *first == u16::from(class) && *subject < 1_000 && *detail < 1_000 => {
                    (*subject, *detail)
                }
                _ => return None,
            }
        }
    };
    Some(refusal(code, (class, subject, detail), text))
}

fn refusal(code: u16, (class, subject, detail): (u8, u16, u16), text: &str) -> SmtpRefusal {
    SmtpRefusal::new(code, EnhancedCode { class, subject, detail }, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(local: &str) -> String {
        let to = format!("{local}@simulator.postrider.test");
        let simulator = Simulator::default();
        match simulator.rcpt("a@b.test", &to).and_then(|()| Simulator::data(&[to])) {
            Ok(()) => "accepted".into(),
            Err(refusal) => refusal.to_string(),
        }
    }

    #[test]
    fn local_part_selects_the_outcome() {
        for (local, start) in [
            ("delivered", "accepted"),
            ("bounce", "550 5.1.1 "),
            ("bounce+order-42", "550 5.1.1 "),
            ("BOUNCE-550-5.7.1", "550 5.7.1 "),
            ("bounce-552", "552 5.0.0 "),
            ("bounce-data", "554 5.6.0 "),
            ("bounce-data-550-5.7.9", "550 5.7.9 "),
            ("defer-2", "451 4.3.0 "),
            ("defer-1-450-4.7.1+x", "450 4.7.1 "),
            ("greylist", "450 4.7.1 "),
            ("bounce-450-4.7.1", "550 5.1.1 The simulator has no such script"),
            ("defer-0", "550 5.1.1 The simulator has no such script"),
            ("ann", "550 5.1.1 The simulator has no such script"),
        ] {
            let reply = reply(local);
            assert!(reply.starts_with(start), "{local}: {reply}");
        }
    }

    #[test]
    fn attempts_are_counted_for_each_message() {
        let (simulator, to) = (Simulator::default(), "defer-2@simulator.postrider.test");
        let outcomes = |from: &str| [0; 4].map(|_| simulator.rcpt(from, to).is_ok());
        assert_eq!(outcomes("b+one@return.test"), [false, false, true, true]);
        assert_eq!(outcomes("b+two@return.test"), [false, false, true, true]);
    }

    #[test]
    fn other_domains_are_never_refused() {
        let simulator = Simulator::default();
        assert!(simulator.rcpt("", "bounce@example.test").is_ok() && simulator.rcpt("", "postmaster").is_ok());
    }
}
