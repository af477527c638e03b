//! Sends one message to one server: acquires a connection permit and a session, and runs the transactions.

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

/// No attempt was made: every connection stayed in use, the send guard withdrew the message, or the service is
/// stopping. Contains the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotAttempted(pub Reply);

impl NotAttempted {
    pub(in crate::smtp) fn because(why: impl Into<String>) -> Self {
        Self(Reply::local_error_with(4, 3, 2, why))
    }
}

/// Why a server did not get the message.
#[derive(Debug)]
pub(in crate::smtp) enum Failure {
    /// No attempt was made, and no other server is to be tried.
    NotAttempted(NotAttempted),
    /// No attempt was made; the next server may be tried.
    Busy(NotAttempted),
    /// No session could be opened; the next server may be tried.
    Refused(Refusal),
}

impl From<NotAttempted> for Failure {
    fn from(not_attempted: NotAttempted) -> Self {
        Self::NotAttempted(not_attempted)
    }
}

/// The delivery of a message to the servers of one destination, one after the other.
#[derive(Clone, Copy)]
pub(in crate::smtp) struct ServerDelivery<'a> {
    pub pools: &'a Arc<Pools>,
    pub message: OutgoingMessage<'a>,
    pub options: &'a SendOptions<'a>,
    /// The lane, if it has its own connections.
    pub lane: Option<&'a Arc<Lane>>,
    /// Deadline of the wait for a free connection.
    pub acquire_deadline: Instant,
    /// Maximum wait for a free connection if another server can be tried.
    pub failover_timeout: Duration,
    /// Start of the delivery.
    pub started: Instant,
    /// The MTA-STS policy to report in outcomes.
    pub sts: Option<&'a sts::Policy>,
}

/// The wait for a connection to one server.
pub(in crate::smtp) struct Wait<'a> {
    pub until: Instant,
    /// Returns whether the server was found unreachable during the wait.
    pub is_unreachable: &'a (dyn Fn() -> bool + Sync),
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
        let (pool, limiter) = pool.map_err(|error| refusal(destination, policy, error.to_string()))?;
        let permit = self.pools.unless_stopping(timeout_at(wait.until, limiter.acquire(self.options.urgent))).await?;
        let _permit = permit.map_err(|_| busy(destination, policy))?.map_err(|_| stopping())?;
        if (wait.is_unreachable)() {
            let why = format!("{} became unreachable during the wait", destination.host);
            return Err(Failure::Busy(NotAttempted::because(why)));
        }
        let mut results = TransactionResults::new(self.message.envelope.to.len());
        loop {
            match self.one_transaction(&pool, destination, policy, &mut results, limit).await {
                Ok(()) if results.has_next_transaction => self.report_judged(&mut results),
                Ok(()) => return Ok(results.into_all()),
                // Judged recipients are final, whatever happens to the others.
                Err(_) if results.is_continuation() => return Ok(results.into_all()),
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Reports the recipients judged by the last transaction to the send guard.
    fn report_judged(&self, results: &mut TransactionResults) {
        let newly_judged = std::mem::take(&mut results.newly_judged);
        let judged =
            newly_judged.into_iter().filter_map(|position| Some((position, results.judged[position].clone()?)));
        let (positions, mut judgements): (Vec<usize>, Vec<Judgement>) = judged.unzip();
        let mut peer = results.peer.clone();
        if let Some(sts) = self.sts {
            sts.report(&mut peer, &mut judgements);
        }
        let duration = self.started.elapsed();
        let outcome = |judgement: Judgement| judgement.into_outcome(peer.clone(), duration);
        self.options.guard.recipients_done(positions.into_iter().zip(judgements.into_iter().map(outcome)).collect());
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
            // Boxed, because the future would otherwise be moved and stored several times.
            let session = Box::pin(self.session(pool, destination, policy));
            let (mut slot, mut session) = self.pools.unless_stopping(session).await??;
            let was_idle = session.messages > 0;
            if !self.options.guard.may_start() {
                slot.0 = Some(session);
                return Err(withdrawn());
            }
            let max_recipients = limit.get(Instant::now());
            let batch =
                Batch { positions: &results.positions, max_recipients, is_continuation: results.is_continuation() };
            let ending =
                transaction::run(&mut session, self.message, batch, &policy.timeouts, self.options.guard).await;
            self.keep_conversation(&session, &ending, was_idle);
            let peer = session.peer.clone();
            if session.broken {
                if session.send_quit {
                    session.quit(policy).await;
                }
                drop(session);
                drop(Object::take(slot));
            } else {
                slot.0 = Some(session);
            }
            match ending {
                Ending::Judged(judged) => {
                    if let Some(accepted) = judged.limit {
                        limit.observe(accepted, Instant::now());
                    }
                    results.add(peer, judged, max_recipients);
                    return Ok(());
                }
                Ending::Withdrawn => return Err(withdrawn()),
                // The server closed the idle session, so no attempt was made. The server has probably closed the other
                // idle sessions too, so they are dropped. The loop ends, because each round uses up an idle session.
                Ending::ServerClosed(_) if was_idle => drop(take_idle(pool, |_| false)),
                Ending::ServerClosed(reply) => {
                    results.stop(peer, &Judgement::new(Verdict::Temporary, Stage::Mail, reply));
                    return Ok(());
                }
            }
        }
    }

    /// Passes the conversation to the send guard, if it keeps it, without the token of the return path, with which
    /// a reader could forge a bounce.
    fn keep_conversation(&self, session: &Session, ending: &Ending, was_idle: bool) {
        let guard = self.options.guard;
        let is_kept = match ending {
            Ending::Judged(judged) => judged.has_failure() || guard.is_traced(),
            // The server had closed the idle session, so no attempt was made.
            Ending::ServerClosed(_) => !was_idle,
            Ending::Withdrawn => false,
        };
        if is_kept {
            let mut conversation = session.take_conversation();
            if let Some(dsn) = &self.message.envelope.dsn {
                conversation.remove(&dsn.envelope_id);
            }
            guard.keep_conversation(conversation);
        }
    }

    /// Returns the same judgement for all recipients.
    pub fn same_for_all(&self, peer: Peer, judgement: Judgement) -> (Peer, Vec<Judgement>) {
        (peer, vec![judgement; self.message.envelope.to.len()])
    }

    /// Returns the judgement of all recipients if no server accepted a session or the transaction.
    pub fn refused(&self, Refusal { peer, stage, reply }: Refusal) -> (Peer, Vec<Judgement>) {
        self.same_for_all(peer, Judgement::new(Verdict::Temporary, stage, reply))
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
                PoolError::Backend(NoSession::Refused(refused, conversation)) => {
                    self.options.guard.keep_conversation(conversation);
                    Failure::Refused(refused)
                }
                PoolError::Backend(NoSession::LaneBusy) | PoolError::Timeout(TimeoutType::Wait) => {
                    busy(destination, policy)
                }
                PoolError::Closed => stopping(),
                PoolError::Timeout(_) | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => {
                    refusal(destination, policy, "could not open a connection".into())
                }
            })?;
            let Some(mut session) = slot.0.take() else { continue };
            session.max_messages = self.options.limits.messages_per_connection;
            // A session may have been used by a lane with a higher limit.
            if session.messages > 0 && session.must_close(policy) {
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
    /// The positions of the recipients judged by the last transaction.
    newly_judged: Vec<usize>,
    /// The positions of the recipients without a judgement.
    positions: Vec<usize>,
    /// The judgements that these recipients get if no further transaction follows.
    left: Vec<Judgement>,
    /// Whether a further transaction follows.
    has_next_transaction: bool,
    peer: Peer,
}

impl TransactionResults {
    fn new(recipients: usize) -> Self {
        let (judged, positions) = (vec![None; recipients], (0..recipients).collect());
        Self {
            judged,
            newly_judged: Vec::new(),
            positions,
            left: Vec::new(),
            has_next_transaction: false,
            peer: Peer::default(),
        }
    }

    /// Returns whether an earlier transaction left recipients for the next one.
    fn is_continuation(&self) -> bool {
        !self.left.is_empty()
    }

    /// Adds the result of a transaction with at most `max_recipients` recipients. Another transaction follows only if
    /// this one made progress: it judged a recipient, or lowered the limit.
    fn add(&mut self, peer: Peer, judged: Judged, max_recipients: usize) {
        let Judged { done, left, has_next_transaction, limit } = judged;
        let made_progress = !done.is_empty() || limit.is_some_and(|limit| limit < max_recipients);
        for (position, judgement) in done {
            self.judged[position] = Some(judgement);
            self.newly_judged.push(position);
        }
        (self.positions, self.left) = left.into_iter().unzip();
        self.has_next_transaction = has_next_transaction && made_progress && !self.positions.is_empty();
        self.peer = peer;
    }

    /// Gives this judgement to all recipients that have none.
    fn stop(&mut self, peer: Peer, judgement: &Judgement) {
        self.left = vec![judgement.clone(); self.positions.len()];
        self.has_next_transaction = false;
        self.peer = peer;
    }

    fn into_all(mut self) -> (Peer, Vec<Judgement>) {
        for (position, judgement) in self.positions.into_iter().zip(self.left) {
            self.judged[position] = Some(judgement);
        }
        let unsent = || Judgement::new(Verdict::Temporary, Stage::Mail, Reply::local_error("not sent"));
        (self.peer, self.judged.into_iter().map(|judgement| judgement.unwrap_or_else(unsent)).collect())
    }
}

fn refusal(destination: &Destination, policy: &Policy, why: String) -> Failure {
    let (mx, ip) = (Some(destination.host.clone()), destination.ip);
    let peer = Peer { mx, ip, tls: None, is_final: policy.is_final };
    Failure::Refused(Refusal { peer, stage: Stage::Connect, reply: Reply::local_error_with(4, 3, 2, why) })
}

fn busy(destination: &Destination, policy: &Policy) -> Failure {
    let why = format!("all {} connections to {} stayed in use", policy.connections, destination.host);
    Failure::Busy(NotAttempted::because(why))
}

fn stopping() -> Failure {
    NotAttempted::because("the service is stopping").into()
}

fn withdrawn() -> Failure {
    NotAttempted::because("the message must no longer be sent").into()
}
