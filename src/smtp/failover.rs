//! The servers that a mail may go to: which is asked first, when the next one is, and what is said where none took it.
//!
//! A route's relays are asked in the order of the configuration, a domain's own servers in that of their preference; but
//! one that could not be reached is asked last for a while, so that it does not cost every mail a connection's time-out.
//! When that while is over one mail tries it again, and the others go on as before until it has been reached.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::hand_over::{Call, Failure, NotBegun, Wait};
use super::handshake::{Policy, Refusal};
use super::parcel::Judgement;
use super::pool::{AT_LEAST, Destination};
use super::recipient_limit::RecipientLimit;
use crate::domain::outcome::{Peer, Reply, Stage, Verdict};

/// How long a server that could not be reached is asked last, if finding out did not take longer.
const SHUNNED: Duration = Duration::from_secs(30);
/// Servers remembered before those in good standing are forgotten.
const REMEMBERED: usize = 10_000;

/// One relay.
pub(super) struct Server {
    /// As an operator knows it, without the password.
    pub name: String,
    pub destination: Destination,
    pub policy: Arc<Policy>,
    standing: Arc<Standing>,
}

impl Server {
    pub fn new(name: String, destination: Destination, policy: Arc<Policy>) -> Self {
        Self { name, destination, policy, standing: Arc::default() }
    }

    /// One of those to ask.
    pub fn candidate(&self) -> Candidate<'_> {
        Candidate { destination: &self.destination, policy: &self.policy, standing: self.standing.clone() }
    }
}

/// The standing of servers that are not configured but found.
#[derive(Default)]
pub(super) struct Standings(Mutex<HashMap<Destination, Arc<Standing>>>);

impl Standings {
    /// One of those to ask.
    pub fn candidate<'a>(&self, destination: &'a Destination, policy: &'a Arc<Policy>) -> Candidate<'a> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED && !known.contains_key(destination) {
            let now = Instant::now();
            known.retain(|_, standing| Arc::strong_count(standing) > 1 || standing.is_shunned(now));
        }
        Candidate { destination, policy, standing: known.entry(destination.clone()).or_default().clone() }
    }
}

/// A server that a mail may go to.
pub(super) struct Candidate<'a> {
    destination: &'a Destination,
    policy: &'a Arc<Policy>,
    standing: Arc<Standing>,
}

/// Whether a server could be reached of late, and what else is known of it.
#[derive(Debug, Default)]
pub(super) struct Standing {
    past: Mutex<Past>,
    recipients: RecipientLimit,
}

#[derive(Debug, Default)]
struct Past {
    /// Until when it is asked last.
    shunned: Option<Instant>,
    /// How often it could not be reached.
    failures: u64,
}

impl Standing {
    fn was_reached(&self) {
        self.past().shunned = None;
    }

    /// It could not be reached, and it took so long to find out.
    fn was_not_reached(&self, cost: Duration, now: Instant) {
        let mut past = self.past();
        past.shunned = Some(now + cost.max(SHUNNED));
        past.failures += 1;
    }

    /// Whether it is asked last. Where the time is over, whoever asks goes to see, and for the others it goes on.
    fn is_last(&self, now: Instant) -> bool {
        let mut past = self.past();
        match past.shunned {
            Some(end) if now < end => true,
            Some(_) => {
                past.shunned = Some(now + SHUNNED);
                false
            }
            None => false,
        }
    }

    fn is_shunned(&self, now: Instant) -> bool {
        self.past().shunned.is_some_and(|end| now < end)
    }

    fn failures(&self) -> u64 {
        self.past().failures
    }

    /// Whether it could not be reached since there were so many failures, nor has been after that.
    fn has_failed_since(&self, failures: u64) -> bool {
        let past = self.past();
        past.shunned.is_some() && past.failures != failures
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The servers in the order in which to ask them now.
fn in_turn(servers: Vec<Candidate<'_>>) -> Vec<Candidate<'_>> {
    let (now, is_choice) = (Instant::now(), servers.len() > 1);
    let (shunned, others): (Vec<_>, Vec<_>) =
        servers.into_iter().partition(|server| is_choice && server.standing.is_last(now));
    others.into_iter().chain(shunned).collect()
}

/// Hands a mail to the first of these servers that has an ear for it. Once one has judged a recipient, no other is asked.
/// The refusal has the words of all.
pub(super) async fn hand_over(
    servers: Vec<Candidate<'_>>,
    call: &Call<'_>,
) -> Result<Result<(Peer, Vec<Judgement>), Refusal>, NotBegun> {
    let servers: Vec<_> = in_turn(servers).into_iter().map(|server| (server.standing.failures(), server)).collect();
    let started = Instant::now();
    let (mut failures, mut busy) = (Failures::default(), None);
    for (tried, (before, server)) in servers.iter().enumerate() {
        let Candidate { destination, policy, standing } = server;
        if tried >= AT_LEAST && started.elapsed() >= policy.timeouts.session {
            break;
        }
        let (is_only_left, asked) = (tried + 1 == servers.len(), Instant::now());
        let is_vain = || !is_only_left && standing.has_failed_since(*before);
        let until = if is_only_left { call.patience } else { call.patience.min(asked + call.patience_or_next) };
        match call.hand_over(destination, policy, Wait { until, is_vain: &is_vain }, &standing.recipients).await {
            Ok((peer, judgements)) => {
                let said = refusal(&peer, &judgements);
                match said.as_ref().map(|refusal| refusal.reply.code) {
                    Some(None | Some(421)) => standing.was_not_reached(Duration::ZERO, Instant::now()),
                    _ => standing.was_reached(),
                }
                match said {
                    Some(refusal) => failures.push(destination, refusal),
                    None => return Ok(Ok((peer, judgements))),
                }
            }
            Err(Failure::NotBegun(why)) => return Err(why),
            Err(Failure::Busy(why)) => {
                if !is_only_left && !standing.has_failed_since(*before) {
                    standing.was_not_reached(Duration::ZERO, Instant::now());
                }
                busy = Some(why);
            }
            Err(Failure::Refused(refusal)) => {
                // The wait for a place is no fault of the server's; it is long only for the last one.
                let cost = if is_only_left { Duration::ZERO } else { asked.elapsed() };
                standing.was_not_reached(cost, Instant::now());
                failures.push(destination, refusal);
            }
        }
    }
    match busy {
        Some(why) if failures.0.is_empty() => Err(why),
        _ => Ok(Err(failures.into_one())),
    }
}

/// What a server said that would not have the mail as a whole, for now; another one may. `None` where it has judged
/// anybody.
fn refusal(peer: &Peer, judgements: &[Judgement]) -> Option<Refusal> {
    let is_whole = |one: &Judgement| one.verdict == Verdict::Temporary && one.stage <= Stage::Mail;
    let first = judgements.first().filter(|_| judgements.iter().all(is_whole))?;
    Some(Refusal { peer: peer.clone(), stage: first.stage, reply: first.reply.clone() })
}

/// What the servers said that did not take the mail.
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
    use crate::smtp::policies::Policies;
    use crate::smtp::settings::Settings;

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
        standing.was_not_reached(Duration::ZERO, start);
        assert!(standing.is_last(start + SHUNNED / 2));
        let later = start + SHUNNED;
        assert_eq!([standing.is_last(later), standing.is_last(later)], [false, true]);
        standing.was_reached();
        assert!(!standing.is_last(later));
    }

    #[test]
    fn what_took_long_to_find_out_is_remembered_for_long() {
        let (standing, start) = (Standing::default(), Instant::now());
        standing.was_not_reached(20 * SHUNNED, start);
        assert!(standing.is_last(start + 19 * SHUNNED) && !standing.is_last(start + 20 * SHUNNED));
    }

    #[test]
    fn the_mail_that_goes_to_see_is_held_back_by_a_later_failure_only() {
        let (standing, start) = (Standing::default(), Instant::now());
        standing.was_not_reached(Duration::ZERO, start);
        let before = standing.failures();
        assert!(!standing.is_last(start + SHUNNED) && !standing.has_failed_since(before));
        standing.was_not_reached(Duration::ZERO, start + SHUNNED);
        assert!(standing.has_failed_since(before));
        standing.was_reached();
        assert!(!standing.has_failed_since(before));
    }

    #[test]
    fn what_is_remembered_of_servers_is_bounded_and_the_dead_are_kept() {
        let (standings, policy) = (Standings::default(), policy());
        let destination = |n: usize| Destination { host: format!("{n}.test"), port: 25, ip: None, policy: 1 };
        standings.candidate(&destination(0), &policy).standing.was_not_reached(Duration::ZERO, Instant::now());
        for n in 1..=2 * REMEMBERED {
            standings.candidate(&destination(n), &policy);
        }
        assert!(standings.0.lock().unwrap().len() <= REMEMBERED);
        assert!(standings.candidate(&destination(0), &policy).standing.is_shunned(Instant::now()));
    }

    fn policy() -> Arc<Policy> {
        Policies::new(Settings::default()).unwrap().mx().unwrap().verified
    }
}
