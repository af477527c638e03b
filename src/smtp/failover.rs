//! The relays of a route: which is asked first, and what is said where none took the mail.
//!
//! They are asked in the order of the configuration, but one that could not be reached is asked last for a while, so that
//! it does not cost every mail a connection's time-out. When that while is over one mail tries it again, and the others
//! go on as before until it has been reached.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::handshake::{Policy, Refusal};
use super::pool::Destination;
use super::transaction::Judgement;
use crate::domain::outcome::{Peer, Reply, Stage, Verdict};

/// How long a relay that could not be reached is asked last.
const SHUNNED: Duration = Duration::from_secs(30);

/// One relay.
pub(super) struct Server {
    /// As an operator knows it, without the password.
    pub name: String,
    pub destination: Destination,
    pub policy: Arc<Policy>,
    standing: Standing,
}

impl Server {
    pub fn new(name: String, destination: Destination, policy: Arc<Policy>) -> Self {
        Self { name, destination, policy, standing: Standing::default() }
    }

    /// Notes that it could be reached, or could not.
    pub fn was_reached(&self, reached: bool) {
        self.standing.note(reached, Instant::now());
    }
}

/// Until when a relay is asked last, if it is.
#[derive(Debug, Default)]
struct Standing(Mutex<Option<Instant>>);

impl Standing {
    fn note(&self, reached: bool, now: Instant) {
        *self.lock() = (!reached).then(|| now + SHUNNED);
    }

    /// Whether it is asked last. Where the time is over, whoever asks goes to see, and for the others it goes on.
    fn is_last(&self, now: Instant) -> bool {
        let mut until = self.lock();
        match *until {
            Some(end) if now < end => true,
            Some(_) => {
                *until = Some(now + SHUNNED);
                false
            }
            None => false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The relays in the order in which to ask them now.
pub(super) fn in_turn(relays: &[Arc<Server>]) -> Vec<&Arc<Server>> {
    let now = Instant::now();
    let (shunned, others): (Vec<_>, Vec<_>) =
        relays.iter().partition(|relay| relays.len() > 1 && relay.standing.is_last(now));
    others.into_iter().chain(shunned).collect()
}

/// What a server said that would not have the mail as a whole, for now; another one may. `None` where it has judged
/// anybody.
pub(super) fn refusal(peer: &Peer, judgements: &[Judgement]) -> Option<Refusal> {
    let is_whole = |one: &Judgement| one.verdict == Verdict::Temporary && one.stage <= Stage::Mail;
    let first = judgements.first().filter(|_| judgements.iter().all(is_whole))?;
    Some(Refusal { peer: peer.clone(), stage: first.stage, reply: first.reply.clone() })
}

/// What the relays said that did not take the mail.
#[derive(Default)]
pub(super) struct Failures(Vec<(String, Refusal)>);

impl Failures {
    pub fn push(&mut self, destination: &Destination, refusal: Refusal) {
        self.0.push((format!("{}:{}", destination.host, destination.port), refusal));
    }

    /// One refusal with the words of all. It is that of the server that was come closest to: its reply tells most.
    pub fn into_one(self) -> Refusal {
        let text = self.0.iter().map(|(name, refusal)| format!("{name}: {}", words(&refusal.reply)));
        let text = text.collect::<Vec<_>>().join("; ");
        let count = self.0.len();
        let mut refusals = self.0.into_iter().map(|(_, refusal)| refusal);
        let first = refusals.next().unwrap_or_else(Refusal::by_nobody);
        let closest = refusals.fold(first, |best, next| if next.stage > best.stage { next } else { best });
        if count < 2 {
            return closest;
        }
        let Refusal { peer, stage, reply } = closest;
        Refusal { peer, stage, reply: reply.in_words(text) }
    }
}

fn words(reply: &Reply) -> String {
    let code = reply.code.map(|code| format!("{code} ")).unwrap_or_default();
    let enhanced = reply.enhanced.filter(|_| reply.code.is_some()).map(|code| format!("{code} ")).unwrap_or_default();
    format!("{code}{enhanced}{}", reply.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failures(said: &[(&str, Stage, Reply)]) -> Refusal {
        let mut failures = Failures::default();
        for (host, stage, reply) in said {
            let destination = Destination { host: (*host).into(), port: 25, ip: None, policy: 1 };
            failures.push(&destination, Refusal { peer: Peer::default(), stage: *stage, reply: reply.clone() });
        }
        failures.into_one()
    }

    #[test]
    fn each_relay_is_named_with_its_words_and_the_one_that_spoke_last_gives_the_code() {
        let dead = || ("a.test", Stage::Connect, Reply::ours_with(4, 4, 1, "could not connect"));
        let busy = || ("b.test", Stage::Session, Reply::from_lines(421, ["4.3.2 busy"].into_iter()));
        for said in [[dead(), busy()], [busy(), dead()]] {
            let one = failures(&said);
            assert_eq!((one.stage, one.reply.code), (Stage::Session, Some(421)));
            assert!(one.reply.text.contains("a.test:25: could not connect"), "{}", one.reply.text);
            assert!(one.reply.text.contains("b.test:25: 421 4.3.2 busy"), "{}", one.reply.text);
        }
        assert_eq!(failures(&[busy()]).reply.text, "busy", "a single relay speaks for itself");
    }

    #[test]
    fn after_a_while_one_mail_goes_to_see_and_the_others_wait_for_its_word() {
        let (standing, start) = (Standing::default(), Instant::now());
        assert!(!standing.is_last(start));
        standing.note(false, start);
        assert!(standing.is_last(start + SHUNNED / 2));
        let later = start + SHUNNED;
        assert_eq!([standing.is_last(later), standing.is_last(later)], [false, true]);
        standing.note(true, later);
        assert!(!standing.is_last(later));
    }
}
