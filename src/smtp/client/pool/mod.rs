//! Keeps idle sessions in `deadpool` pools: one per destination, and one more for each lane with its own limits. A
//! background task ends sessions that have been idle for too long.

pub(in crate::smtp) mod connection_limiter;
pub(in crate::smtp) mod lane;

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use deadpool::managed::{self, Metrics, QueueMode, RecycleError, RecycleResult};
use futures_util::future::join_all;
use parking_lot::{Mutex, MutexGuard};
use tokio::net::lookup_host;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::connection::handshake::{self, Policy, Refusal};
use super::connection::session::Session;
use super::connection::transcript::Transcript;
use super::connection::words;
use super::server_delivery::NotAttempted;
use crate::dns;
use crate::domain::delivery::conversation::Conversation;
use crate::domain::outcome::{Peer, Reply, Stage};
use crate::metrics::labels::DnsKind;
use connection_limiter::ConnectionLimiter;
use lane::{ConnectionPermit, Lane};

/// Interval at which idle sessions are checked.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of a relay's addresses to try.
const MAX_RELAY_ADDRESSES: usize = 5;

/// Minimum number of servers or addresses to try, regardless of how long each takes (RFC 5321 §5.1).
pub(in crate::smtp) const MIN_TRIED: usize = 2;

/// The key of a pool: messages with the same destination share sessions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::smtp) struct Destination {
    pub host: String,
    pub port: u16,
    /// The address to connect to, or `None` for any address of `host`.
    pub ip: Option<IpAddr>,
    /// [`Policy::id`]: the TLS requirements and credentials.
    pub policy: u32,
}

/// A slot of a pool. It is empty while a call uses the session, so that a call dropped midway closes its connection and
/// leaves no session in an unknown state.
pub(in crate::smtp) struct Slot(pub Option<Session>);

/// Opens the sessions of one pool, and checks them before reuse.
pub(in crate::smtp) struct Connector {
    destination: Destination,
    policy: Arc<Policy>,
    lane: Option<Arc<Lane>>,
    pools: Weak<Pools>,
}

pub(in crate::smtp) type Pool = managed::Pool<Connector>;

/// Why no session was returned.
#[derive(Debug)]
pub(in crate::smtp) enum NoSession {
    /// The session could not be opened. Contains the conversations with all addresses that were tried.
    Refused(Refusal, Conversation),
    /// The lane's connections stayed in use.
    LaneBusy,
}

impl managed::Manager for Connector {
    type Type = Slot;
    type Error = NoSession;

    async fn create(&self) -> Result<Slot, NoSession> {
        // Boxed: most messages find an idle session, and each would otherwise carry the size of this future.
        Box::pin(self.open()).await
    }

    async fn recycle(&self, slot: &mut Slot, _: &Metrics) -> RecycleResult<NoSession> {
        let unfit = Err(RecycleError::message("not usable for another message"));
        let Some(session) = slot.0.as_mut() else { return unfit };
        if session.broken || !session.wire.is_quiet() {
            return unfit;
        }
        if session.must_close(&self.policy) {
            session.quit(&self.policy).await;
            return unfit;
        }
        if session.must_reset && !session.reset(&self.policy).await {
            return unfit;
        }
        Ok(())
    }
}

impl Connector {
    /// Opens a session with the first of the destination's addresses that accepts one.
    async fn open(&self) -> Result<Slot, NoSession> {
        let permit = match &self.lane {
            Some(lane) => Some(self.acquire_permit(lane).await?),
            None => None,
        };
        let host = &self.destination.host;
        let (started, time_limit) = (Instant::now(), self.policy.timeouts.session);
        let (transcript, mut last) = (Transcript::default(), None);
        let refused = |refusal| NoSession::Refused(refusal, transcript.take());
        for (tried, address) in self.addresses().await.map_err(refused)?.into_iter().enumerate() {
            if tried >= MIN_TRIED && started.elapsed() >= time_limit {
                break;
            }
            let deadline = Instant::now() + time_limit;
            match handshake::open_counted(host, address, &self.policy, deadline, &transcript).await {
                Ok(session) => return Ok(Slot(Some(session.with_permit(permit)))),
                Err(refusal) => last = Some(refusal),
            }
        }
        Err(refused(last.unwrap_or_else(|| self.refusal(format!("{host} has no address")))))
    }

    /// Acquires a connection permit of the lane. If none is free, ends one of the lane's idle sessions with another
    /// server.
    async fn acquire_permit(&self, lane: &Arc<Lane>) -> Result<ConnectionPermit, NoSession> {
        let permit = async {
            loop {
                if let Some(permit) = lane.try_acquire_connection() {
                    return permit;
                }
                let idle = self.pools.upgrade().and_then(|pools| pools.take_idle_of_lane(lane.id, 1).pop());
                match idle {
                    Some(idle) => quit(vec![idle]).await,
                    None => lane.connection_available().await,
                }
            }
        };
        timeout(self.policy.timeouts.slot, permit).await.map_err(|_| NoSession::LaneBusy)
    }

    /// Returns the destination's addresses, without those that may not be connected to. They are checked at every connection, so that
    /// a change of the DNS cannot lead to a forbidden address.
    async fn addresses(&self) -> Result<Vec<SocketAddr>, Refusal> {
        let mut found = self.lookup().await?;
        let Some(allowed) = &self.policy.allowed else { return Ok(found) };
        let host = &self.destination.host;
        let first = found.first().map(SocketAddr::ip);
        found.retain(|address| {
            let ip = address.ip();
            let is_own = || !allowed.private && !allowed.this_machine_only && dns::is_local_address(ip);
            allowed.names(host, ip) || allowed.admits_server(host, ip) && !is_own()
        });
        match first {
            Some(ip) if found.is_empty() => Err(self.refusal(format!(
                "{host} is at {ip}, which is not a public address of another machine: only `inbound.allow_private_relays` can \
                 permit that"
            ))),
            _ => Ok(found),
        }
    }

    async fn lookup(&self) -> Result<Vec<SocketAddr>, Refusal> {
        let Destination { host, port, ip, .. } = &self.destination;
        if let Some(ip) = ip {
            return Ok(vec![SocketAddr::new(*ip, *port)]);
        }
        let failed = |reason: String| self.refusal(format!("the name {host} could not be resolved: {reason}"));
        if let Some(resolver) = self.policy.dns.as_ref().filter(|_| is_name(host)) {
            let lookup = resolver.lookup_ip(format!("{}.", host.trim_end_matches('.')));
            let found = timeout(self.policy.timeouts.dns, dns::counted(DnsKind::Address, lookup)).await;
            let found = found
                .map_err(|_| failed("it took too long".into()))?
                .map_err(|error| failed(dns::describe_error(&error)))?;
            return Ok(found.iter().take(MAX_RELAY_ADDRESSES).map(|ip| SocketAddr::new(ip, *port)).collect());
        }
        let found = timeout(self.policy.timeouts.dns, lookup_host((host.as_str(), *port))).await;
        let found = found.map_err(|_| failed("it took too long".into()))?.map_err(|error| failed(words::io(&error)))?;
        Ok(found.take(MAX_RELAY_ADDRESSES).collect())
    }

    fn refusal(&self, why: String) -> Refusal {
        let peer = Peer { mx: Some(self.destination.host.clone()), is_final: self.policy.is_final, ..Peer::default() };
        Refusal { peer, stage: Stage::Connect, reply: Reply::local_error_with(4, 4, 3, why) }
    }
}

/// Returns whether the DNS must be queried for `host`: it is neither an IP address nor `localhost`.
fn is_name(host: &str) -> bool {
    host.parse::<IpAddr>().is_err() && !host.trim_end_matches('.').eq_ignore_ascii_case("localhost")
}

/// All pools of a sender.
#[derive(Default)]
pub(in crate::smtp) struct Pools {
    destinations: Mutex<HashMap<Destination, DestinationPools>>,
    lanes: Mutex<HashMap<i64, Arc<Lane>>>,
    sweeping: OnceLock<()>,
    /// Cancelled when no more messages may start.
    stopping: CancellationToken,
}

/// The pools of one destination.
struct DestinationPools {
    limiter: Arc<ConnectionLimiter>,
    /// The pools of lanes with their own connections; the shared pool has the key `None`.
    pools: HashMap<Option<i64>, Pool>,
}

impl Pools {
    /// Returns the pool of this lane at the destination, or the shared one, with the destination's connection limiter;
    /// creates them if needed.
    pub fn pool(
        self: &Arc<Self>,
        destination: &Destination,
        policy: &Arc<Policy>,
        lane: Option<&Arc<Lane>>,
    ) -> Result<(Pool, Arc<ConnectionLimiter>), managed::BuildError> {
        self.sweeping.get_or_init(|| drop(tokio::spawn(sweep(Arc::downgrade(self)))));
        let key = lane.map(|lane| lane.id);
        let mut destinations = self.lock();
        if let Some(entry) = destinations.get(destination)
            && let Some(pool) = entry.pools.get(&key)
        {
            return Ok((pool.clone(), entry.limiter.clone()));
        }
        let entry = destinations.entry(destination.clone()).or_insert_with(|| DestinationPools {
            limiter: Arc::new(ConnectionLimiter::new(policy.connections)),
            pools: HashMap::new(),
        });
        let connector = Connector {
            destination: destination.clone(),
            policy: policy.clone(),
            lane: lane.cloned(),
            pools: Arc::downgrade(self),
        };
        let pool = Pool::builder(connector)
            .max_size(policy.connections)
            .wait_timeout(Some(policy.timeouts.slot))
            // The most recently used session is the least likely to have been closed by the server. The others can
            // become idle and be ended.
            .queue_mode(QueueMode::Lifo)
            .runtime(deadpool::Runtime::Tokio1)
            .build()?;
        entry.pools.insert(key, pool.clone());
        Ok((pool, entry.limiter.clone()))
    }

    /// Returns the lane of this id, and sets its limit.
    pub fn lane(&self, id: i64, limit: Option<usize>) -> Arc<Lane> {
        let lane = self.lanes().entry(id).or_insert_with(|| Arc::new(Lane::new(id))).clone();
        lane.allow(limit.map_or(usize::MAX, |limit| limit.max(1)));
        lane
    }

    /// Returns the number of a lane's own connections, including idle ones.
    pub fn open_connections(&self, lane: i64) -> usize {
        self.lanes().get(&lane).map_or(0, |lane| lane.open())
    }

    /// Stops starting messages.
    pub fn stop_starting(&self) {
        self.stopping.cancel();
    }

    /// Awaits a step that precedes the sending of a message. Returns an error if the service is stopping.
    pub async fn unless_stopping<T>(&self, work: impl Future<Output = T>) -> Result<T, NotAttempted> {
        let done = self.stopping.run_until_cancelled(work).await;
        done.ok_or_else(|| NotAttempted::because("the service is stopping"))
    }

    /// Stops starting messages, and ends every idle session.
    pub async fn close(&self) {
        self.stop_starting();
        let mut idle = Vec::new();
        for entry in self.lock().values() {
            for pool in entry.pools.values() {
                idle.extend(take_idle(pool, |_| false));
                pool.close();
            }
            entry.limiter.close();
        }
        quit(idle).await;
    }

    /// Removes at most `max` idle sessions of a lane from its pools.
    fn take_idle_of_lane(&self, lane: i64, max: usize) -> Vec<(Session, Arc<Policy>)> {
        let mut taken = Vec::new();
        let pools: Vec<Pool> = self.lock().values().filter_map(|entry| entry.pools.get(&Some(lane)).cloned()).collect();
        for pool in pools {
            let mut remaining = max - taken.len();
            taken.extend(take_idle(&pool, |_| {
                let keep = remaining == 0;
                remaining = remaining.saturating_sub(1);
                keep
            }));
        }
        taken
    }

    /// Removes idle sessions that must close or exceed a lane's limit, and unused pools and lanes.
    fn take_expired(&self) -> Vec<(Session, Arc<Policy>)> {
        let mut expired = Vec::new();
        self.lock().retain(|_, entry| {
            entry.pools.retain(|_, pool| {
                let policy = pool.manager().policy.clone();
                expired.extend(take_idle(pool, |session| !session.must_close(&policy)));
                let status = pool.status();
                pool.is_closed() || status.size > 0 || status.waiting > 0
            });
            !entry.pools.is_empty() || Arc::strong_count(&entry.limiter) > 1
        });
        let lanes: Vec<Arc<Lane>> = {
            let mut lanes = self.lanes();
            lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
            lanes.values().cloned().collect()
        };
        expired.extend(lanes.iter().flat_map(|lane| self.take_idle_of_lane(lane.id, lane.excess())));
        expired
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Destination, DestinationPools>> {
        self.destinations.lock()
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<i64, Arc<Lane>>> {
        self.lanes.lock()
    }
}

/// Removes the idle sessions for which `keep` returns false from a pool.
pub(in crate::smtp) fn take_idle(pool: &Pool, mut keep: impl FnMut(&Session) -> bool) -> Vec<(Session, Arc<Policy>)> {
    let removed = pool.retain(|slot, _| slot.0.as_ref().is_some_and(&mut keep)).removed;
    let policy = &pool.manager().policy;
    removed.into_iter().filter_map(|slot| Some((slot.0?, policy.clone()))).collect()
}

/// Ends all sessions concurrently, within the time-out for QUIT.
async fn quit(sessions: Vec<(Session, Arc<Policy>)>) {
    join_all(sessions.into_iter().map(async |(mut session, policy)| session.quit(&policy).await)).await;
}

/// Ends expired sessions at intervals, until the pools are dropped.
async fn sweep(pools: Weak<Pools>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        let Some(expired) = pools.upgrade().map(|pools| pools.take_expired()) else { return };
        quit(expired).await;
    }
}
