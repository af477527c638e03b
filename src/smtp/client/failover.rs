//! The servers that a message may go to: which is asked first, when the next one is, and what is said where none took
//! it.
//!
//! A route's relays are asked in the order of the configuration, a domain's own servers in that of their preference;
//! but one that could not be reached is asked last for a while, so that it does not cost every message a connection's
//! time-out. When that while is over one message tries it again, and the others go on as before until it has been
//! reached.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::connection::handshake::{Policy, Refusal};
use super::outgoing_message::Judgement;
use super::pool::{AT_LEAST, Destination};
use super::server_delivery::{Failure, NotBegun, ServerDelivery, Wait};
use super::transaction::recipient_limit::RecipientLimit;
use crate::domain::outcome::{Peer, Reply, Stage, Verdict};

/// How long a server that could not be reached is asked last, if finding out did not take longer.
const DEPRIORITISED_FOR: Duration = Duration::from_secs(30);
/// Servers remembered before those in good health are forgotten.
const REMEMBERED: usize = 10_000;

/// One relay.
pub(in crate::smtp) struct Server {
    /// As an operator knows it, without the password.
    pub name: String,
    pub destination: Destination,
    pub policy: Arc<Policy>,
    health: Arc<ServerHealth>,
}

impl Server {
    pub fn new(name: String, destination: Destination, policy: Arc<Policy>) -> Self {
        Self { name, destination, policy, health: Arc::default() }
    }

    /// One of those to ask.
    pub fn candidate(&self) -> Candidate<'_> {
        Candidate { destination: &self.destination, policy: &self.policy, health: self.health.clone() }
    }
}

/// The health of servers that are not configured but found.
#[derive(Default)]
pub(in crate::smtp) struct ServerHealthMap(Mutex<HashMap<Destination, Arc<ServerHealth>>>);

impl ServerHealthMap {
    /// One of those to ask.
    pub fn candidate<'a>(&self, destination: &'a Destination, policy: &'a Arc<Policy>) -> Candidate<'a> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED && !known.contains_key(destination) {
            let now = Instant::now();
            known.retain(|_, health| Arc::strong_count(health) > 1 || health.is_deprioritised(now));
        }
        Candidate { destination, policy, health: known.entry(destination.clone()).or_default().clone() }
    }
}

/// A server that a message may go to.
pub(in crate::smtp) struct Candidate<'a> {
    destination: &'a Destination,
    policy: &'a Arc<Policy>,
    health: Arc<ServerHealth>,
}

/// Whether a server could be reached of late, and what else is known of it.
#[derive(Debug, Default)]
pub(in crate::smtp) struct ServerHealth {
    past: Mutex<Past>,
    recipients: RecipientLimit,
}

#[derive(Debug, Default)]
struct Past {
    /// Until when it is asked last.
    deprioritised: Option<Instant>,
    /// How often it could not be reached.
    failures: u64,
}

impl ServerHealth {
    fn was_reached(&self) {
        self.past().deprioritised = None;
    }

    /// It could not be reached, and it took so long to find out.
    fn was_not_reached(&self, cost: Duration, now: Instant) {
        let mut past = self.past();
        past.deprioritised = Some(now + cost.max(DEPRIORITISED_FOR));
        past.failures += 1;
    }

    /// Whether it is asked last. Where the time is over, whoever asks goes to see, and for the others it goes on.
    fn is_last(&self, now: Instant) -> bool {
        let mut past = self.past();
        match past.deprioritised {
            Some(end) if now < end => true,
            Some(_) => {
                past.deprioritised = Some(now + DEPRIORITISED_FOR);
                false
            }
            None => false,
        }
    }

    fn is_deprioritised(&self, now: Instant) -> bool {
        self.past().deprioritised.is_some_and(|end| now < end)
    }

    fn failures(&self) -> u64 {
        self.past().failures
    }

    /// Whether it could not be reached since there were so many failures, nor has been after that.
    fn has_failed_since(&self, failures: u64) -> bool {
        let past = self.past();
        past.deprioritised.is_some() && past.failures != failures
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The servers in the order in which to ask them now.
fn in_turn(servers: Vec<Candidate<'_>>) -> Vec<Candidate<'_>> {
    let (now, is_choice) = (Instant::now(), servers.len() > 1);
    let (deprioritised, others): (Vec<_>, Vec<_>) =
        servers.into_iter().partition(|server| is_choice && server.health.is_last(now));
    others.into_iter().chain(deprioritised).collect()
}

/// Hands a message to the first of these servers that has an ear for it. Once one has judged a recipient, no other is
/// asked. The refusal has the words of all.
pub(in crate::smtp) async fn deliver(
    servers: Vec<Candidate<'_>>,
    call: &ServerDelivery<'_>,
) -> Result<Result<(Peer, Vec<Judgement>), Refusal>, NotBegun> {
    let servers: Vec<_> = in_turn(servers).into_iter().map(|server| (server.health.failures(), server)).collect();
    let started = Instant::now();
    let (mut failures, mut busy) = (Failures::default(), None);
    for (tried, (before, server)) in servers.iter().enumerate() {
        let Candidate { destination, policy, health } = server;
        if tried >= AT_LEAST && started.elapsed() >= policy.timeouts.session {
            break;
        }
        let (is_only_left, asked) = (tried + 1 == servers.len(), Instant::now());
        let is_vain = || !is_only_left && health.has_failed_since(*before);
        let until = if is_only_left { call.patience } else { call.patience.min(asked + call.patience_or_next) };
        match call.deliver(destination, policy, Wait { until, is_vain: &is_vain }, &health.recipients).await {
            Ok((peer, judgements)) => {
                let said = refusal(&peer, &judgements);
                match said.as_ref().map(|refusal| refusal.reply.code) {
                    Some(None | Some(421)) => health.was_not_reached(Duration::ZERO, Instant::now()),
                    _ => health.was_reached(),
                }
                match said {
                    Some(refusal) => failures.push(destination, refusal),
                    None => return Ok(Ok((peer, judgements))),
                }
            }
            Err(Failure::NotBegun(why)) => return Err(why),
            Err(Failure::Busy(why)) => {
                if !is_only_left && !health.has_failed_since(*before) {
                    health.was_not_reached(Duration::ZERO, Instant::now());
                }
                busy = Some(why);
            }
            Err(Failure::Refused(refusal)) => {
                // The wait for a place is no fault of the server's; it is long only for the last one.
                let cost = if is_only_left { Duration::ZERO } else { asked.elapsed() };
                health.was_not_reached(cost, Instant::now());
                failures.push(destination, refusal);
            }
        }
    }
    match busy {
        Some(why) if failures.0.is_empty() => Err(why),
        _ => Ok(Err(failures.into_one())),
    }
}

/// What a server said that would not have the message as a whole, for now; another one may. `None` where it has judged
/// anybody.
fn refusal(peer: &Peer, judgements: &[Judgement]) -> Option<Refusal> {
    let is_whole = |one: &Judgement| one.verdict == Verdict::Temporary && one.stage <= Stage::Mail;
    let first = judgements.first().filter(|_| judgements.iter().all(is_whole))?;
    Some(Refusal { peer: peer.clone(), stage: first.stage, reply: first.reply.clone() })
}

/// What the servers said that did not take the message.
#[derive(Default)]
struct Failures(Vec<(String, Refusal)>);

impl Failures {
    fn push(&mut self, destination: &Destination, refusal: Refusal) {
        self.0.push((format!("{}:{}", destination.host, destination.port), refusal));
    }

    /// One refusal with the words of all. It is that of the server that was come closest to: its reply tells most.
    fn into_one(self) -> Refusal {
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
    use crate::smtp::client::policies::Policies;
    use crate::smtp::client::settings::Settings;

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
        let (health, start) = (ServerHealth::default(), Instant::now());
        assert!(!health.is_last(start));
        health.was_not_reached(Duration::ZERO, start);
        assert!(health.is_last(start + DEPRIORITISED_FOR / 2));
        let later = start + DEPRIORITISED_FOR;
        assert_eq!([health.is_last(later), health.is_last(later)], [false, true]);
        health.was_reached();
        assert!(!health.is_last(later));
    }

    #[test]
    fn what_took_long_to_find_out_is_remembered_for_long() {
        let (health, start) = (ServerHealth::default(), Instant::now());
        health.was_not_reached(20 * DEPRIORITISED_FOR, start);
        assert!(health.is_last(start + 19 * DEPRIORITISED_FOR) && !health.is_last(start + 20 * DEPRIORITISED_FOR));
    }

    #[test]
    fn the_mail_that_goes_to_see_is_held_back_by_a_later_failure_only() {
        let (health, start) = (ServerHealth::default(), Instant::now());
        health.was_not_reached(Duration::ZERO, start);
        let before = health.failures();
        assert!(!health.is_last(start + DEPRIORITISED_FOR) && !health.has_failed_since(before));
        health.was_not_reached(Duration::ZERO, start + DEPRIORITISED_FOR);
        assert!(health.has_failed_since(before));
        health.was_reached();
        assert!(!health.has_failed_since(before));
    }

    #[test]
    fn what_is_remembered_of_servers_is_bounded_and_the_dead_are_kept() {
        let (server_health, policy) = (ServerHealthMap::default(), policy());
        let destination = |n: usize| Destination { host: format!("{n}.test"), port: 25, ip: None, policy: 1 };
        server_health.candidate(&destination(0), &policy).health.was_not_reached(Duration::ZERO, Instant::now());
        for n in 1..=2 * REMEMBERED {
            server_health.candidate(&destination(n), &policy);
        }
        assert!(server_health.0.lock().unwrap().len() <= REMEMBERED);
        assert!(server_health.candidate(&destination(0), &policy).health.is_deprioritised(Instant::now()));
    }

    fn policy() -> Arc<Policy> {
        Policies::new(Settings::default()).unwrap().mx().unwrap().verified
    }
}
