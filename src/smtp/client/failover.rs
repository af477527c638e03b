//! Chooses between the servers of a destination: which is tried first, when the next one is tried, and the reply if
//! none accepts the message.
//!
//! A route's relays are tried in the configured order, a domain's servers by preference; but a server that could not be
//! reached is tried last for a while, so that it does not cost every message a connection time-out. After that while
//! one message tries it again, and the others keep avoiding it until it has been reached.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::connection::handshake::{Policy, Refusal};
use super::outgoing_message::Judgement;
use super::pool::{AT_LEAST, Destination};
use super::server_delivery::{Failure, NotBegun, ServerDelivery, Wait};
use super::transaction::recipient_limit::RecipientLimit;
use crate::domain::outcome::{Peer, Reply, Stage, Verdict};

/// How long a server that could not be reached is tried last, unless the failed attempt took longer.
const DEPRIORITISED_FOR: Duration = Duration::from_secs(30);
/// Number of servers remembered before the healthy ones are forgotten.
const REMEMBERED: usize = 10_000;

/// A configured relay.
pub(in crate::smtp) struct Server {
    /// The relay's URL without its password.
    pub name: String,
    pub destination: Destination,
    pub policy: Arc<Policy>,
    health: Arc<ServerHealth>,
}

impl Server {
    pub fn new(name: String, destination: Destination, policy: Arc<Policy>) -> Self {
        Self { name, destination, policy, health: Arc::default() }
    }

    /// Returns the relay as a candidate for a delivery.
    pub fn candidate(&self) -> Candidate<'_> {
        Candidate { destination: &self.destination, policy: &self.policy, health: self.health.clone() }
    }
}

/// The health of servers found through the DNS.
#[derive(Default)]
pub(in crate::smtp) struct ServerHealthMap(Mutex<HashMap<Destination, Arc<ServerHealth>>>);

impl ServerHealthMap {
    /// Returns a server as a candidate for a delivery.
    pub fn candidate<'a>(&self, destination: &'a Destination, policy: &'a Arc<Policy>) -> Candidate<'a> {
        let mut known = self.0.lock();
        if known.len() >= REMEMBERED && !known.contains_key(destination) {
            let now = Instant::now();
            known.retain(|_, health| Arc::strong_count(health) > 1 || health.is_deprioritised(now));
        }
        Candidate { destination, policy, health: known.entry(destination.clone()).or_default().clone() }
    }
}

/// A server that a message may be sent to.
pub(in crate::smtp) struct Candidate<'a> {
    destination: &'a Destination,
    policy: &'a Arc<Policy>,
    health: Arc<ServerHealth>,
}

/// Whether a server could be reached recently, and its recipient limit.
#[derive(Debug, Default)]
pub(in crate::smtp) struct ServerHealth {
    past: Mutex<Past>,
    recipients: RecipientLimit,
}

#[derive(Debug, Default)]
struct Past {
    /// Until when the server is tried last.
    deprioritised: Option<Instant>,
    /// How often the server could not be reached.
    failures: u64,
}

impl ServerHealth {
    fn was_reached(&self) {
        self.past().deprioritised = None;
    }

    /// Records that the server could not be reached, and how long it took to find out.
    fn was_not_reached(&self, cost: Duration, now: Instant) {
        let mut past = self.past();
        past.deprioritised = Some(now + cost.max(DEPRIORITISED_FOR));
        past.failures += 1;
    }

    /// Returns whether the server is tried last. When the time is over, one caller gets `false` and tries the server;
    /// for the others the time starts again.
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

    /// Returns whether the server has failed again since its count was `failures`, and has not been reached after that.
    fn has_failed_since(&self, failures: u64) -> bool {
        let past = self.past();
        past.deprioritised.is_some() && past.failures != failures
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock()
    }
}

/// Returns the servers in the order in which to try them now.
fn in_turn(servers: Vec<Candidate<'_>>) -> Vec<Candidate<'_>> {
    let (now, is_choice) = (Instant::now(), servers.len() > 1);
    let (deprioritised, others): (Vec<_>, Vec<_>) =
        servers.into_iter().partition(|server| is_choice && server.health.is_last(now));
    others.into_iter().chain(deprioritised).collect()
}

/// Delivers a message to the first of these servers that accepts the transaction. Once a server has judged a recipient,
/// no other is tried. The refusal combines the replies of all.
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
                // Waiting for a connection is not the server's fault; the wait is long only for the last server.
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

/// Returns the refusal of a server that temporarily refused the whole message; another server may accept it. Returns
/// `None` if the server has judged any recipient.
fn refusal(peer: &Peer, judgements: &[Judgement]) -> Option<Refusal> {
    let is_whole = |one: &Judgement| one.verdict == Verdict::Temporary && one.stage <= Stage::Mail;
    let first = judgements.first().filter(|_| judgements.iter().all(is_whole))?;
    Some(Refusal { peer: peer.clone(), stage: first.stage, reply: first.reply.clone() })
}

/// The refusals of the servers that did not accept the message.
#[derive(Default)]
struct Failures(Vec<(String, Refusal)>);

impl Failures {
    fn push(&mut self, destination: &Destination, refusal: Refusal) {
        self.0.push((format!("{}:{}", destination.host, destination.port), refusal));
    }

    /// Combines the refusals into one. It is based on the attempt that came furthest, whose reply is the most
    /// informative.
    fn into_one(self) -> Refusal {
        let text = self.0.iter().map(|(name, refusal)| format!("{name}: {}", words(&refusal.reply)));
        let text = text.collect::<Vec<_>>().join("; ");
        let count = self.0.len();
        let mut refusals = self.0.into_iter().map(|(_, refusal)| refusal);
        let first = refusals.next().unwrap_or_else(Refusal::no_server);
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
    fn each_relay_is_named_and_the_furthest_attempt_gives_the_code() {
        let dead = || ("a.test", Stage::Connect, Reply::ours_with(4, 4, 1, "could not connect"));
        let busy = || ("b.test", Stage::Session, Reply::from_lines(421, ["4.3.2 busy"].into_iter()));
        for said in [[dead(), busy()], [busy(), dead()]] {
            let one = failures(&said);
            assert_eq!((one.stage, one.reply.code), (Stage::Session, Some(421)));
            assert!(one.reply.text.contains("a.test:25: could not connect"), "{}", one.reply.text);
            assert!(one.reply.text.contains("b.test:25: 421 4.3.2 busy"), "{}", one.reply.text);
        }
        assert_eq!(failures(&[busy()]).reply.text, "busy", "the text of a single relay is not prefixed");
    }

    #[test]
    fn after_a_while_one_message_probes_and_the_others_wait() {
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
    fn a_slow_failure_is_remembered_longer() {
        let (health, start) = (ServerHealth::default(), Instant::now());
        health.was_not_reached(20 * DEPRIORITISED_FOR, start);
        assert!(health.is_last(start + 19 * DEPRIORITISED_FOR) && !health.is_last(start + 20 * DEPRIORITISED_FOR));
    }

    #[test]
    fn a_probe_is_held_back_by_a_later_failure_only() {
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
    fn server_memory_is_bounded_and_keeps_unreachable_ones() {
        let (server_health, policy) = (ServerHealthMap::default(), policy());
        let destination = |n: usize| Destination { host: format!("{n}.test"), port: 25, ip: None, policy: 1 };
        server_health.candidate(&destination(0), &policy).health.was_not_reached(Duration::ZERO, Instant::now());
        for n in 1..=2 * REMEMBERED {
            server_health.candidate(&destination(n), &policy);
        }
        assert!(server_health.0.lock().len() <= REMEMBERED);
        assert!(server_health.candidate(&destination(0), &policy).health.is_deprioritised(Instant::now()));
    }

    fn policy() -> Arc<Policy> {
        Policies::new(Settings::default()).unwrap().mx().unwrap().verified
    }
}
