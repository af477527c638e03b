//! One message to one server: a place at its gate, a session, the transaction.

use std::sync::Arc;
use std::time::Duration;

use deadpool::managed::{Object, PoolError, TimeoutType};
use tokio::time::{Instant, timeout_at};

use super::connection::handshake::{Policy, Refusal};
use super::connection::session::Session;
use super::outgoing_message::{Batch, Ending, Judged, Judgement, OutgoingMessage};
use super::pool::lane::Lane;
use super::pool::{Destination, NoSession, Pool, Pools, take_idle};
use super::send_options::SendOptions;
use super::transaction;
use super::transaction::recipient_limit::RecipientLimit;
use crate::domain::outcome::{Peer, Reply, Stage, Verdict};
use crate::smtp::sts;

/// No attempt was made: every connection stayed in use, or the message was called off. Says why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotBegun(pub Reply);

impl NotBegun {
    pub(in crate::smtp) fn because(why: impl Into<String>) -> Self {
        Self(Reply::ours_with(4, 3, 2, why))
    }
}

/// Why a server did not get the message.
#[derive(Debug)]
pub(in crate::smtp) enum Failure {
    /// Nobody did, nor will now.
    NotBegun(NotBegun),
    /// It did not come to a try: the next server may be tried.
    Busy(NotBegun),
    /// No session could be had: the next server may be tried.
    Refused(Refusal),
}

impl From<NotBegun> for Failure {
    fn from(not_begun: NotBegun) -> Self {
        Self::NotBegun(not_begun)
    }
}

/// A message on its way to the servers of one destination after the other.
#[derive(Clone, Copy)]
pub(in crate::smtp) struct ServerDelivery<'a> {
    pub pools: &'a Arc<Pools>,
    pub message: OutgoingMessage<'a>,
    pub terms: &'a SendOptions<'a>,
    /// Where the lane has connections of its own.
    pub lane: Option<&'a Arc<Lane>>,
    /// Until when it waits for others to be done with their connections.
    pub patience: Instant,
    /// The same where there is another server to try.
    pub patience_or_next: Duration,
    /// When it began.
    pub started: Instant,
    /// The MTA-STS policy that is to be told of in outcomes.
    pub sts: Option<&'a sts::Policy>,
}

/// A wait at one server's gate.
pub(in crate::smtp) struct Wait<'a> {
    pub until: Instant,
    /// Whether others have found out meanwhile that it is not worth it.
    pub is_vain: &'a (dyn Fn() -> bool + Sync),
}

impl ServerDelivery<'_> {
    /// Hands the message to one server, in as many transactions as the number of recipients that it takes in one makes
    /// necessary.
    pub async fn deliver(
        &self,
        destination: &Destination,
        policy: &Arc<Policy>,
        wait: Wait<'_>,
        limit: &RecipientLimit,
    ) -> Result<(Peer, Vec<Judgement>), Failure> {
        let pool = self.pools.of(destination, policy, self.lane);
        let (pool, gate) = pool.map_err(|error| refusal(destination, policy, error.to_string()))?;
        let pass = self.pools.before_mail(timeout_at(wait.until, gate.enter(self.terms.urgent))).await?;
        let _pass = pass.map_err(|_| busy(destination, policy))?.map_err(|_| stopping())?;
        if (wait.is_vain)() {
            let why = format!("{} could not be reached while it was waited for", destination.host);
            return Err(Failure::Busy(NotBegun::because(why)));
        }
        let mut results = TransactionResults::new(self.message.envelope.to.len());
        loop {
            match self.one_transaction(&pool, destination, policy, &mut results, limit).await {
                Ok(()) if results.may_go_on => self.settle(&mut results),
                Ok(()) => return Ok(results.into_all()),
                // Those that were judged are done with, whatever becomes of the others.
                Err(_) if results.has_begun() => return Ok(results.into_all()),
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Tells of those who were judged by the last transaction.
    fn settle(&self, results: &mut TransactionResults) {
        let fresh = std::mem::take(&mut results.fresh);
        let judged = fresh.into_iter().filter_map(|place| Some((place, results.judged[place].clone()?)));
        let (places, mut judgements): (Vec<usize>, Vec<Judgement>) = judged.unzip();
        let mut peer = results.peer.clone();
        if let Some(sts) = self.sts {
            sts.report(&mut peer, &mut judgements);
        }
        let duration = self.started.elapsed();
        let outcome = |judgement: Judgement| judgement.into_outcome(peer.clone(), duration);
        self.terms.watch.settled(places.into_iter().zip(judgements.into_iter().map(outcome)).collect());
    }

    /// One transaction for recipients that have no judgement yet.
    async fn one_transaction(
        &self,
        pool: &Pool,
        destination: &Destination,
        policy: &Arc<Policy>,
        results: &mut TransactionResults,
        limit: &RecipientLimit,
    ) -> Result<(), Failure> {
        loop {
            // Boxed once: it would be moved, and held, several times over.
            let session = Box::pin(self.session(pool, destination, policy));
            let (mut slot, mut session) = self.pools.before_mail(session).await??;
            let was_idle = session.mails > 0;
            if !self.terms.watch.go() {
                slot.0 = Some(session);
                return Err(called_off());
            }
            let most = limit.get(Instant::now());
            let batch = Batch { places: &results.places, most, is_further: results.has_begun() };
            let ending = transaction::run(&mut session, self.message, batch, &policy.timeouts, self.terms.watch).await;
            let peer = session.peer.clone();
            if session.broken {
                if session.may_part {
                    session.quit(policy).await;
                }
                drop(session);
                drop(Object::take(slot));
            } else {
                slot.0 = Some(session);
            }
            match ending {
                Ending::Judged(judged) => {
                    if let Some(taken) = judged.limit {
                        limit.learn(taken, Instant::now());
                    }
                    results.take(peer, judged, most);
                    return Ok(());
                }
                Ending::CalledOff => return Err(called_off()),
                // It died of old age: not an attempt. Where one did the others have, so the next one is new; each round
                // costs a used session, so that there is an end.
                Ending::HungUp(_) if was_idle => drop(take_idle(pool, |_| false)),
                Ending::HungUp(reply) => {
                    results.stop(peer, &Judgement::new(Verdict::Temporary, Stage::Mail, reply));
                    return Ok(());
                }
            }
        }
    }

    /// The same judgement of everyone.
    pub fn everyone(&self, peer: Peer, judgement: Judgement) -> (Peer, Vec<Judgement>) {
        (peer, vec![judgement; self.message.envelope.to.len()])
    }

    /// No server would have it.
    pub fn refused(&self, Refusal { peer, stage, reply }: Refusal) -> (Peer, Vec<Judgement>) {
        self.everyone(peer, Judgement::new(Verdict::Temporary, stage, reply))
    }

    /// A session that may carry this message, and its place in the pool.
    async fn session(
        &self,
        pool: &Pool,
        destination: &Destination,
        policy: &Arc<Policy>,
    ) -> Result<(Object<super::pool::Connector>, Session), Failure> {
        loop {
            let mut slot = pool.get().await.map_err(|error| match error {
                PoolError::Backend(NoSession::Refused(refused)) => Failure::Refused(refused),
                PoolError::Backend(NoSession::NoPlace) | PoolError::Timeout(TimeoutType::Wait) => {
                    busy(destination, policy)
                }
                PoolError::Closed => stopping(),
                PoolError::Timeout(_) | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => {
                    refusal(destination, policy, "no connection could be had".into())
                }
            })?;
            let Some(mut session) = slot.0.take() else { continue };
            session.most_mails = self.terms.limits.mails_per_connection;
            // Another lane may have been allowed more.
            if session.mails > 0 && session.is_worn(policy) {
                session.quit(policy).await;
                drop(session);
                drop(Object::take(slot));
                continue;
            }
            return Ok((slot, session));
        }
    }
}

/// What became of the recipients of a message so far, in one transaction after the other.
struct TransactionResults {
    judged: Vec<Option<Judgement>>,
    /// Those of them that the last transaction has judged.
    fresh: Vec<usize>,
    /// Those that have no judgement yet.
    places: Vec<usize>,
    /// What they get where there is no further transaction.
    left: Vec<Judgement>,
    /// Whether there is to be one.
    may_go_on: bool,
    peer: Peer,
}

impl TransactionResults {
    fn new(recipients: usize) -> Self {
        let (judged, places) = (vec![None; recipients], (0..recipients).collect());
        Self { judged, fresh: Vec::new(), places, left: Vec::new(), may_go_on: false, peer: Peer::default() }
    }

    /// Whether a transaction has judged somebody, or asked for less.
    fn has_begun(&self) -> bool {
        !self.left.is_empty()
    }

    /// Takes what came of a transaction with at most `most` recipients. There is another one where it brought something
    /// forward: judgements, or a lower limit.
    fn take(&mut self, peer: Peer, Judged { done, left, may_go_on, limit }: Judged, most: usize) {
        let is_forward = !done.is_empty() || limit.is_some_and(|limit| limit < most);
        for (place, judgement) in done {
            self.judged[place] = Some(judgement);
            self.fresh.push(place);
        }
        (self.places, self.left) = left.into_iter().unzip();
        self.may_go_on = may_go_on && is_forward && !self.places.is_empty();
        self.peer = peer;
    }

    /// Whoever has no judgement yet gets this one.
    fn stop(&mut self, peer: Peer, judgement: &Judgement) {
        self.left = vec![judgement.clone(); self.places.len()];
        self.may_go_on = false;
        self.peer = peer;
    }

    fn into_all(mut self) -> (Peer, Vec<Judgement>) {
        for (place, judgement) in self.places.into_iter().zip(self.left) {
            self.judged[place] = Some(judgement);
        }
        let unsent = || Judgement::new(Verdict::Temporary, Stage::Mail, Reply::ours("not sent"));
        (self.peer, self.judged.into_iter().map(|one| one.unwrap_or_else(unsent)).collect())
    }
}

fn refusal(destination: &Destination, policy: &Policy, why: String) -> Failure {
    let (mx, ip) = (Some(destination.host.clone()), destination.ip);
    let peer = Peer { mx, ip, tls: None, is_final: policy.is_final };
    Failure::Refused(Refusal { peer, stage: Stage::Connect, reply: Reply::ours_with(4, 3, 2, why) })
}

fn busy(destination: &Destination, policy: &Policy) -> Failure {
    let why = format!("all {} connections to {} stayed in use", policy.connections, destination.host);
    Failure::Busy(NotBegun::because(why))
}

fn stopping() -> Failure {
    NotBegun::because("the service is stopping").into()
}

fn called_off() -> Failure {
    NotBegun::because("it was called off").into()
}
