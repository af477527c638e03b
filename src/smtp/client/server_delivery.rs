//! One message to one server: a connection permit, a session, the transaction.

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

/// No attempt was made: every connection stayed in use, or the message was canceled. Contains the reason.
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
    /// No attempt was made, and no other server is to be tried.
    NotBegun(NotBegun),
    /// No attempt was made; the next server may be tried.
    Busy(NotBegun),
    /// No session could be opened; the next server may be tried.
    Refused(Refusal),
}

impl From<NotBegun> for Failure {
    fn from(not_begun: NotBegun) -> Self {
        Self::NotBegun(not_begun)
    }
}

/// The delivery of a message to the servers of one destination, one after the other.
#[derive(Clone, Copy)]
pub(in crate::smtp) struct ServerDelivery<'a> {
    pub pools: &'a Arc<Pools>,
    pub message: OutgoingMessage<'a>,
    pub terms: &'a SendOptions<'a>,
    /// The lane, if it has its own connections.
    pub lane: Option<&'a Arc<Lane>>,
    /// Until when the message waits for a free connection.
    pub patience: Instant,
    /// How long it waits if there is another server to try.
    pub patience_or_next: Duration,
    /// When the delivery began.
    pub started: Instant,
    /// The MTA-STS policy to report in outcomes.
    pub sts: Option<&'a sts::Policy>,
}

/// The wait for a connection to one server.
pub(in crate::smtp) struct Wait<'a> {
    pub until: Instant,
    /// Returns whether the server was found unreachable in the meantime.
    pub is_vain: &'a (dyn Fn() -> bool + Sync),
}

impl ServerDelivery<'_> {
    /// Sends the message to one server, in as many transactions as its recipient limit requires.
    pub async fn deliver(
        &self,
        destination: &Destination,
        policy: &Arc<Policy>,
        wait: Wait<'_>,
        limit: &RecipientLimit,
    ) -> Result<(Peer, Vec<Judgement>), Failure> {
        let pool = self.pools.pool(destination, policy, self.lane);
        let (pool, gate) = pool.map_err(|error| refusal(destination, policy, error.to_string()))?;
        let pass = self.pools.before_mail(timeout_at(wait.until, gate.enter(self.terms.urgent))).await?;
        let _pass = pass.map_err(|_| busy(destination, policy))?.map_err(|_| stopping())?;
        if (wait.is_vain)() {
            let why = format!("{} became unreachable during the wait", destination.host);
            return Err(Failure::Busy(NotBegun::because(why)));
        }
        let mut results = TransactionResults::new(self.message.envelope.to.len());
        loop {
            match self.one_transaction(&pool, destination, policy, &mut results, limit).await {
                Ok(()) if results.may_go_on => self.settle(&mut results),
                Ok(()) => return Ok(results.into_all()),
                // Judged recipients are final, whatever happens to the others.
                Err(_) if results.has_begun() => return Ok(results.into_all()),
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Reports the recipients judged by the last transaction to the send guard.
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

    /// Runs one transaction for the recipients that have no judgement yet.
    async fn one_transaction(
        &self,
        pool: &Pool,
        destination: &Destination,
        policy: &Arc<Policy>,
        results: &mut TransactionResults,
        limit: &RecipientLimit,
    ) -> Result<(), Failure> {
        loop {
            // Boxed once: it would otherwise be moved, and stored, several times.
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
                // The session timed out on the server: not an attempt. The other idle sessions have probably timed out
                // too, so the next one is new. Each round uses up an idle session, so the loop ends.
                Ending::HungUp(_) if was_idle => drop(take_idle(pool, |_| false)),
                Ending::HungUp(reply) => {
                    results.stop(peer, &Judgement::new(Verdict::Temporary, Stage::Mail, reply));
                    return Ok(());
                }
            }
        }
    }

    /// Returns the same judgement for all recipients.
    pub fn everyone(&self, peer: Peer, judgement: Judgement) -> (Peer, Vec<Judgement>) {
        (peer, vec![judgement; self.message.envelope.to.len()])
    }

    /// Returns a judgement for all recipients if no server accepted a session or the transaction.
    pub fn refused(&self, Refusal { peer, stage, reply }: Refusal) -> (Peer, Vec<Judgement>) {
        self.everyone(peer, Judgement::new(Verdict::Temporary, stage, reply))
    }

    /// Returns a session that may carry this message, and its slot in the pool.
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
                    refusal(destination, policy, "could not open a connection".into())
                }
            })?;
            let Some(mut session) = slot.0.take() else { continue };
            session.most_mails = self.terms.limits.mails_per_connection;
            // A session may have been used by a lane with a higher limit.
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

/// Results for a message's recipients over several transactions.
struct TransactionResults {
    judged: Vec<Option<Judgement>>,
    /// The recipients judged by the last transaction.
    fresh: Vec<usize>,
    /// The recipients without a judgement.
    places: Vec<usize>,
    /// Their judgements if no further transaction follows.
    left: Vec<Judgement>,
    /// Whether a further transaction follows.
    may_go_on: bool,
    peer: Peer,
}

impl TransactionResults {
    fn new(recipients: usize) -> Self {
        let (judged, places) = (vec![None; recipients], (0..recipients).collect());
        Self { judged, fresh: Vec::new(), places, left: Vec::new(), may_go_on: false, peer: Peer::default() }
    }

    /// Returns whether a transaction has judged a recipient, or lowered the limit.
    fn has_begun(&self) -> bool {
        !self.left.is_empty()
    }

    /// Adds the result of a transaction with at most `most` recipients. Another one follows if this one made progress:
    /// judgements, or a lower limit.
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

    /// Gives this judgement to all recipients that have none.
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
    NotBegun::because("the message is no longer to be sent").into()
}
