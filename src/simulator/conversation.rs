//! Determines how an SMTP conversation ends from the step of a script. Pure.

use std::time::Duration;

use crate::domain::bounce::verdict;
use crate::domain::outcome::{EnhancedCode, Outcome, Peer, Reply, Stage, Verdict};
use crate::domain::simulator::{DOMAIN, Refusal, Step};

/// The step for an address that has no valid script.
pub(super) const NO_SUCH_USER: Step =
    Step::Bounce(Refusal { code: 550, enhanced: EnhancedCode { class: 5, subject: 1, detail: 1 } });

/// The end of a conversation.
#[derive(Debug)]
pub(super) struct Conversation {
    pub verdict: Verdict,
    pub stage: Stage,
    pub reply: Reply,
    peer: Peer,
}

impl Conversation {
    /// Returns how the conversation ends at this step.
    pub fn new(step: Step) -> Self {
        let (stage, reply) = match step {
            Step::Bounce(codes) | Step::Defer(_, codes) => (Stage::Rcpt, refuse(codes)),
            Step::BounceData(codes) => (Stage::FinalDot, refuse(codes)),
            Step::Greylist => (Stage::Rcpt, smtp_reply(450, "4.2.0 Greylisted, try again in 60 seconds")),
            Step::Expired => (Stage::Rcpt, smtp_reply(451, "4.3.0 The simulator defers every attempt")),
            Step::DropAfterDot => {
                (Stage::FinalDot, failure(4, 2, "at the final dot: the simulator closed the connection"))
            }
            Step::DropRcpt => (Stage::Rcpt, failure(4, 2, "at RCPT: the simulator closed the connection")),
            Step::DropConnect => {
                (Stage::Connect, failure(4, 1, "could not connect: the simulator refused the connection"))
            }
            Step::TlsFail => {
                (Stage::Session, failure(7, 5, "TLS handshake failed: the simulator's certificate is invalid"))
            }
            Step::DnsFail => (Stage::Connect, failure(4, 3, "DNS lookup failed: the simulator answers SERVFAIL")),
            Step::Delivered
            | Step::Relayed
            | Step::Dsn(_)
            | Step::Slow(_)
            | Step::Complaint(_)
            | Step::AutoReply
            | Step::Suppressed
            | Step::Unsubscribe => (Stage::FinalDot, smtp_reply(250, "2.0.0 Accepted by the simulator")),
        };
        let verdict = match (step, reply.code) {
            (Step::DropAfterDot, _) => Verdict::Uncertain,
            (_, Some(200..=299)) => Verdict::Accepted,
            (_, Some(_)) => verdict::verdict(&reply),
            (_, None) => Verdict::Temporary,
        };
        Self { verdict, stage, reply, peer: peer(step) }
    }

    /// Returns how the conversation ends if the follow-up of the delivery cannot be stored.
    pub fn unavailable() -> Self {
        let reply = smtp_reply(451, "4.3.0 The simulator cannot store what follows the delivery");
        Self { verdict: Verdict::Temporary, reply, ..Self::new(Step::Delivered) }
    }

    /// Returns the outcome of an attempt that took this long.
    pub fn into_outcome(self, duration: Duration) -> Outcome {
        Outcome { verdict: self.verdict, reply: self.reply, peer: self.peer, duration, stage: self.stage }
    }
}

/// Returns the server that the step plays. If the DNS lookup fails, there is none.
fn peer(step: Step) -> Peer {
    let host = match step {
        Step::DnsFail => None,
        Step::Relayed => Some("relay"),
        _ => Some("mx"),
    };
    let mx = host.map(|host| format!("{host}.{DOMAIN}"));
    Peer { mx, is_final: step != Step::Relayed, ..Peer::default() }
}

fn smtp_reply(code: u16, text: &str) -> Reply {
    Reply::from_lines(code, std::iter::once(text))
}

/// Returns the reply of a refusal. Its text must not suggest a cause that the codes do not name.
fn refuse(codes: Refusal) -> Reply {
    let text = match (codes.code, codes.enhanced.to_string().as_str()) {
        (550, "5.1.1") => "No such user here",
        (500.., _) => "Simulated bounce",
        _ => "Simulated deferral",
    };
    smtp_reply(codes.code, &format!("{} {text}", codes.enhanced))
}

fn failure(subject: u16, detail: u16, text: &str) -> Reply {
    Reply::local_error_with(4, subject, detail, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::bounce::{self, Category};
    use crate::domain::simulator::Script;
    use chrono::TimeDelta;

    fn first(local: &str) -> Outcome {
        let step = Script::parse(local).unwrap().step(1, TimeDelta::zero());
        Conversation::new(step).into_outcome(Duration::ZERO)
    }

    #[test]
    fn verdict_follows_from_the_step() {
        for (local, verdict, stage) in [
            ("delivered", Verdict::Accepted, Stage::FinalDot),
            ("dsn", Verdict::Accepted, Stage::FinalDot),
            ("bounce", Verdict::Permanent, Stage::Rcpt),
            ("bounce-data", Verdict::Permanent, Stage::FinalDot),
            ("defer-1", Verdict::Temporary, Stage::Rcpt),
            ("drop-after-dot", Verdict::Uncertain, Stage::FinalDot),
            ("drop-rcpt", Verdict::Temporary, Stage::Rcpt),
            ("tls-fail", Verdict::Temporary, Stage::Session),
            ("dns-fail", Verdict::Temporary, Stage::Connect),
        ] {
            let outcome = first(local);
            assert_eq!((outcome.verdict, outcome.stage), (verdict, stage), "{local}");
            assert!(outcome.peer.is_final && !outcome.is_local(), "{local}");
        }
        assert!(!first("relayed").peer.is_final);
    }

    #[test]
    fn refusals_are_classified_by_their_codes() {
        for (local, category) in [
            ("bounce", Category::UnknownUser),
            ("bounce-552-5.2.2", Category::MailboxFull),
            ("bounce-550-5.7.1", Category::Policy),
        ] {
            assert_eq!(bounce::judge(&first(local).reply).category, category, "{local}");
        }
        assert!(first("greylist").reply.is_greylisting());
        assert!(!first("defer-1-451-4.7.1").reply.is_greylisting());
    }
}
