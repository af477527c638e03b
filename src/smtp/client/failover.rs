//! Chooses between the servers of a destination: which is tried first, when the next one is tried, and the reply if
//! none accepts the message.
//!
//! A route's relays are tried in the configured order, a domain's servers by preference. A server that could not be
//! reached is tried last for some time, so that it does not cost every message a connection time-out. Then one message
//! probes it, and all other messages continue to try it last until it has been reached.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::connection::handshake::{Policy, Refusal};
use super::outgoing_message::Judgement;
use super::pool::{Destination, MIN_TRIED};
use super::server_delivery::{Failure, NotAttempted, ServerDelivery, Wait};
use super::transaction::recipient_limit::RecipientLimit;
use crate::domain::outcome::{Peer, Reply, Stage, Verdict};

/// How long a server that could not be reached is tried last, unless the failed attempt took longer.
const DEPRIORITISED_FOR: Duration = Duration::from_secs(30);
/// Number of tracked servers above which the healthy ones are removed.
const TRACKED_SERVERS: usize = 10_000;

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
        let mut servers = self.0.lock();
        if servers.len() >= TRACKED_SERVERS && !servers.contains_key(destination) {
            let now = Instant::now();
            servers.retain(|_, health| Arc::strong_count(health) > 1 || health.is_deprioritised(now));
        }
        Candidate { destination, policy, health: servers.entry(destination.clone()).or_default().clone() }
    }
}

/// A server that a message may be sent to.
pub(in crate::smtp) struct Candidate<'a> {
    destination: &'a Destination,
    policy: &'a Arc<Policy>,
    health: Arc<ServerHealth>,
}

/// Reachability and recipient limit of a server.
#[derive(Debug, Default)]
pub(in crate::smtp) struct ServerHealth {
    reachability: Mutex<Reachability>,
    recipients: RecipientLimit,
}

#[derive(Debug, Default)]
struct Reachability {
    /// End of the time during which the server is tried last.
    deprioritised: Option<Instant>,
    /// Number of times that the server could not be reached.
    failures: u64,
}

impl ServerHealth {
    fn record_reached(&self) {
        self.reachability().deprioritised = None;
    }

    /// Records that the server could not be reached, and how long the attempt took.
    fn record_unreachable(&self, attempt: Duration, now: Instant) {
        let mut state = self.reachability();
        state.deprioritised = Some(now + attempt.max(DEPRIORITISED_FOR));
        state.failures += 1;
    }

    /// Returns whether to try the server last. When the time is over, one caller gets `false` and probes the server;
    /// for all others the time starts again.
    fn must_try_last(&self, now: Instant) -> bool {
        let mut state = self.reachability();
        match state.deprioritised {
            Some(end) if now < end => true,
            Some(_) => {
                state.deprioritised = Some(now + DEPRIORITISED_FOR);
                false
            }
            None => false,
        }
    }

    fn is_deprioritised(&self, now: Instant) -> bool {
        self.reachability().deprioritised.is_some_and(|end| now < end)
    }

    fn failures(&self) -> u64 {
        self.reachability().failures
    }

    /// Returns whether the server has failed since its count was `failures`, and has not been reached after that.
    fn has_failed_since(&self, failures: u64) -> bool {
        let state = self.reachability();
        state.deprioritised.is_some() && state.failures != failures
    }

    fn reachability(&self) -> MutexGuard<'_, Reachability> {
        self.reachability.lock()
    }
}

/// Returns the servers in the order in which to try them now.
fn ordered(servers: Vec<Candidate<'_>>) -> Vec<Candidate<'_>> {
    let (now, has_alternatives) = (Instant::now(), servers.len() > 1);
    let (deprioritised, others): (Vec<_>, Vec<_>) =
        servers.into_iter().partition(|server| has_alternatives && server.health.must_try_last(now));
    others.into_iter().chain(deprioritised).collect()
}

/// Delivers a message to the first of these servers that accepts the transaction. Once a server has judged a recipient,
/// no other is tried. If none accepts it, the refusal combines the replies of all servers that were tried.
pub(in crate::smtp) async fn deliver(
    servers: Vec<Candidate<'_>>,
    call: &ServerDelivery<'_>,
) -> Result<Result<(Peer, Vec<Judgement>), Refusal>, NotAttempted> {
    let servers: Vec<_> = ordered(servers).into_iter().map(|server| (server.health.failures(), server)).collect();
    let started = Instant::now();
    let (mut failures, mut busy) = (Failures::default(), None);
    for (tried, (before, server)) in servers.iter().enumerate() {
        let Candidate { destination, policy, health } = server;
        if tried >= MIN_TRIED && started.elapsed() >= policy.timeouts.session {
            break;
        }
        let (is_only_left, tried_at) = (tried + 1 == servers.len(), Instant::now());
        let is_unreachable = || !is_only_left && health.has_failed_since(*before);
        let until = if is_only_left {
            call.acquire_deadline
        } else {
            call.acquire_deadline.min(tried_at + call.failover_timeout)
        };
        match call
            .deliver(destination, policy, Wait { until, is_unreachable: &is_unreachable }, &health.recipients)
            .await
        {
            Ok((peer, judgements)) => {
                let refusal = whole_refusal(&peer, &judgements);
                match refusal.as_ref().map(|refusal| refusal.reply.code) {
                    Some(None | Some(421)) => health.record_unreachable(Duration::ZERO, Instant::now()),
                    _ => health.record_reached(),
                }
                match refusal {
                    Some(refusal) => failures.push(destination, refusal),
                    None => return Ok(Ok((peer, judgements))),
                }
            }
            Err(Failure::NotAttempted(why)) => return Err(why),
            Err(Failure::Busy(why)) => {
                if !is_only_left && !health.has_failed_since(*before) {
                    health.record_unreachable(Duration::ZERO, Instant::now());
                }
                busy = Some(why);
            }
            Err(Failure::Refused(refusal)) => {
                // For the last server, the time may include a long wait for a free connection, which is not its fault.
                let attempt = if is_only_left { Duration::ZERO } else { tried_at.elapsed() };
                health.record_unreachable(attempt, Instant::now());
                failures.push(destination, refusal);
            }
        }
    }
    match busy {
        Some(why) if failures.0.is_empty() => Err(why),
        _ => Ok(Err(failures.into_one())),
    }
}

/// Returns the refusal of a server that temporarily refused the whole message, which another server may accept. Returns
/// `None` if the server has judged any recipient.
fn whole_refusal(peer: &Peer, judgements: &[Judgement]) -> Option<Refusal> {
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
        let text = self.0.iter().map(|(name, refusal)| format!("{name}: {}", describe(&refusal.reply)));
        let text = text.collect::<Vec<_>>().join("; ");
        let count = self.0.len();
        let mut refusals = self.0.into_iter().map(|(_, refusal)| refusal);
        let first = refusals.next().unwrap_or_else(Refusal::no_server);
        let closest = refusals.fold(first, |best, next| if next.stage > best.stage { next } else { best });
        if count < 2 {
            return closest;
        }
        let Refusal { peer, stage, reply } = closest;
        Refusal { peer, stage, reply: reply.with_text(text) }
    }
}

fn describe(reply: &Reply) -> String {
    let code = reply.code.map(|code| format!("{code} ")).unwrap_or_default();
    let enhanced = reply.enhanced.filter(|_| reply.code.is_some()).map(|code| format!("{code} ")).unwrap_or_default();
    format!("{code}{enhanced}{}", reply.text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::client::policies::Policies;
    use crate::smtp::client::settings::Settings;

    fn failures(refusals: &[(&str, Stage, Reply)]) -> Refusal {
        let mut failures = Failures::default();
        for (host, stage, reply) in refusals {
            let destination = Destination { host: (*host).into(), port: 25, ip: None, policy: 1 };
            failures.push(&destination, Refusal { peer: Peer::default(), stage: *stage, reply: reply.clone() });
        }
        failures.into_one()
    }

    #[test]
    fn each_relay_is_named_and_the_furthest_attempt_gives_the_code() {
        let unreachable = || ("a.test", Stage::Connect, Reply::local_error_with(4, 4, 1, "could not connect"));
        let busy = || ("b.test", Stage::Session, Reply::from_lines(421, ["4.3.2 busy"].into_iter()));
        for refusals in [[unreachable(), busy()], [busy(), unreachable()]] {
            let one = failures(&refusals);
            assert_eq!((one.stage, one.reply.code), (Stage::Session, Some(421)));
            assert!(one.reply.text.contains("a.test:25: could not connect"), "{}", one.reply.text);
            assert!(one.reply.text.contains("b.test:25: 421 4.3.2 busy"), "{}", one.reply.text);
        }
        assert_eq!(failures(&[busy()]).reply.text, "busy", "the text of a single relay is not prefixed");
    }

    #[test]
    fn one_message_probes_a_server_and_others_try_it_last() {
        let (health, start) = (ServerHealth::default(), Instant::now());
        assert!(!health.must_try_last(start));
        health.record_unreachable(Duration::ZERO, start);
        assert!(health.must_try_last(start + DEPRIORITISED_FOR / 2));
        let later = start + DEPRIORITISED_FOR;
        assert_eq!([health.must_try_last(later), health.must_try_last(later)], [false, true]);
        health.record_reached();
        assert!(!health.must_try_last(later));
    }

    #[test]
    fn a_slow_failure_deprioritises_for_longer() {
        let (health, start) = (ServerHealth::default(), Instant::now());
        health.record_unreachable(20 * DEPRIORITISED_FOR, start);
        assert!(
            health.must_try_last(start + 19 * DEPRIORITISED_FOR)
                && !health.must_try_last(start + 20 * DEPRIORITISED_FOR)
        );
    }

    #[test]
    fn only_failures_after_the_snapshot_count() {
        let (health, start) = (ServerHealth::default(), Instant::now());
        health.record_unreachable(Duration::ZERO, start);
        let before = health.failures();
        assert!(!health.must_try_last(start + DEPRIORITISED_FOR) && !health.has_failed_since(before));
        health.record_unreachable(Duration::ZERO, start + DEPRIORITISED_FOR);
        assert!(health.has_failed_since(before));
        health.record_reached();
        assert!(!health.has_failed_since(before));
    }

    #[test]
    fn server_health_is_bounded_and_keeps_unreachable_ones() {
        let (server_health, policy) = (ServerHealthMap::default(), policy());
        let destination = |n: usize| Destination { host: format!("{n}.test"), port: 25, ip: None, policy: 1 };
        server_health.candidate(&destination(0), &policy).health.record_unreachable(Duration::ZERO, Instant::now());
        for n in 1..=2 * TRACKED_SERVERS {
            server_health.candidate(&destination(n), &policy);
        }
        assert!(server_health.0.lock().len() <= TRACKED_SERVERS);
        assert!(server_health.candidate(&destination(0), &policy).health.is_deprioritised(Instant::now()));
    }

    fn policy() -> Arc<Policy> {
        Policies::new(Settings::default()).unwrap().mx().unwrap().verified
    }
}
