//! Idle sessions: `deadpool` pools, one per destination and one more for each lane with its own limits, and the sweep
//! that ends sessions idle for too long.

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
use super::connection::words;
use super::server_delivery::NotBegun;
use crate::dns;
use crate::domain::outcome::{Peer, Reply, Stage};
use connection_limiter::ConnectionLimiter;
use lane::{Lane, Place};

/// How often idle sessions are checked.
const SWEEP: Duration = Duration::from_secs(1);
/// Maximum addresses of a relay that are tried.
const RELAY_ADDRESSES: usize = 5;

/// Servers or addresses that are tried in any case, however long each takes (RFC 5321 §5.1).
pub(in crate::smtp) const AT_LEAST: usize = 2;

/// The key by which sessions are shared.
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

/// Opens and checks the sessions of one pool.
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
    /// The session could not be opened.
    Refused(Refusal),
    /// The lane's connections stayed in use.
    NoPlace,
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
        if session.is_worn(&self.policy) {
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
        let place = match &self.lane {
            Some(lane) => Some(self.place(lane).await?),
            None => None,
        };
        let host = &self.destination.host;
        let (started, most) = (Instant::now(), self.policy.timeouts.session);
        let mut last = None;
        for (tried, address) in self.addresses().await.map_err(NoSession::Refused)?.into_iter().enumerate() {
            if tried >= AT_LEAST && started.elapsed() >= most {
                break;
            }
            match handshake::open(host, address, &self.policy, Instant::now() + most).await {
                Ok(session) => return Ok(Slot(Some(session.at(place)))),
                Err(refusal) => last = Some(refusal),
            }
        }
        Err(NoSession::Refused(last.unwrap_or_else(|| self.refusal(format!("{host} has no address")))))
    }

    /// Acquires a place of the lane, and may end an idle session with another server for it.
    async fn place(&self, lane: &Arc<Lane>) -> Result<Place, NoSession> {
        let place = async {
            loop {
                if let Some(place) = lane.place() {
                    return place;
                }
                let idle = self.pools.upgrade().and_then(|pools| pools.take_idle_of(lane.id, 1).pop());
                match idle {
                    Some(idle) => quit(vec![idle]).await,
                    None => lane.has_place().await,
                }
            }
        };
        timeout(self.policy.timeouts.slot, place).await.map_err(|_| NoSession::NoPlace)
    }

    async fn addresses(&self) -> Result<Vec<SocketAddr>, Refusal> {
        let Destination { host, port, ip, .. } = &self.destination;
        if let Some(ip) = ip {
            return Ok(vec![SocketAddr::new(*ip, *port)]);
        }
        let failed = |reason: String| self.refusal(format!("the name {host} could not be resolved: {reason}"));
        if let Some(resolver) = self.policy.dns.as_ref().filter(|_| is_name(host)) {
            let found =
                timeout(self.policy.timeouts.dns, resolver.lookup_ip(format!("{}.", host.trim_end_matches('.')))).await;
            let found =
                found.map_err(|_| failed("it took too long".into()))?.map_err(|error| failed(dns::words(&error)))?;
            return Ok(found.iter().take(RELAY_ADDRESSES).map(|ip| SocketAddr::new(ip, *port)).collect());
        }
        let found = timeout(self.policy.timeouts.dns, lookup_host((host.as_str(), *port))).await;
        let found = found.map_err(|_| failed("it took too long".into()))?.map_err(|error| failed(words::io(&error)))?;
        Ok(found.take(RELAY_ADDRESSES).collect())
    }

    fn refusal(&self, why: String) -> Refusal {
        let peer = Peer { mx: Some(self.destination.host.clone()), is_final: self.policy.is_final, ..Peer::default() };
        Refusal { peer, stage: Stage::Connect, reply: Reply::ours_with(4, 4, 3, why) }
    }
}

/// Returns whether the DNS is to be queried: not for IP addresses and `localhost`.
fn is_name(host: &str) -> bool {
    host.parse::<IpAddr>().is_err() && !host.trim_end_matches('.').eq_ignore_ascii_case("localhost")
}

/// All pools of a sender.
#[derive(Default)]
pub(in crate::smtp) struct Pools {
    sites: Mutex<HashMap<Destination, Site>>,
    lanes: Mutex<HashMap<i64, Arc<Lane>>>,
    sweeping: OnceLock<()>,
    /// Cancelled when no more messages are begun.
    stopping: CancellationToken,
}

/// The pools of one destination.
struct Site {
    gate: Arc<ConnectionLimiter>,
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
        let mut sites = self.lock();
        if let Some(site) = sites.get(destination)
            && let Some(pool) = site.pools.get(&key)
        {
            return Ok((pool.clone(), site.gate.clone()));
        }
        let site = sites.entry(destination.clone()).or_insert_with(|| Site {
            gate: Arc::new(ConnectionLimiter::new(policy.connections)),
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
            // The session used last is the least likely to have been closed by the server, and the others can become
            // idle.
            .queue_mode(QueueMode::Lifo)
            .runtime(deadpool::Runtime::Tokio1)
            .build()?;
        site.pools.insert(key, pool.clone());
        Ok((pool, site.gate.clone()))
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

    /// Begins no more messages from now on.
    pub fn turn_away(&self) {
        self.stopping.cancel();
    }

    /// Awaits a step before a message is begun, unless the service is stopping.
    pub async fn before_mail<T>(&self, work: impl Future<Output = T>) -> Result<T, NotBegun> {
        let done = self.stopping.run_until_cancelled(work).await;
        done.ok_or_else(|| NotBegun::because("the service is stopping"))
    }

    /// Ends every idle session and begins no more messages.
    pub async fn close(&self) {
        self.turn_away();
        let mut idle = Vec::new();
        for site in self.lock().values() {
            for pool in site.pools.values() {
                idle.extend(take_idle(pool, |_| false));
                pool.close();
            }
            site.gate.close();
        }
        quit(idle).await;
    }

    /// Removes at most `most` idle sessions of a lane from its pools.
    fn take_idle_of(&self, lane: i64, most: usize) -> Vec<(Session, Arc<Policy>)> {
        let mut taken = Vec::new();
        let pools: Vec<Pool> = self.lock().values().filter_map(|site| site.pools.get(&Some(lane)).cloned()).collect();
        for pool in pools {
            let mut room = most - taken.len();
            taken.extend(take_idle(&pool, |_| {
                let keep = room == 0;
                room = room.saturating_sub(1);
                keep
            }));
        }
        taken
    }

    /// Removes sessions that are worn or exceed a lane's limit, and forgets unused pools and lanes.
    fn take_worn(&self) -> Vec<(Session, Arc<Policy>)> {
        let mut worn = Vec::new();
        self.lock().retain(|_, site| {
            site.pools.retain(|_, pool| {
                let policy = pool.manager().policy.clone();
                worn.extend(take_idle(pool, |session| !session.is_worn(&policy)));
                let status = pool.status();
                pool.is_closed() || status.size > 0 || status.waiting > 0
            });
            !site.pools.is_empty() || Arc::strong_count(&site.gate) > 1
        });
        let lanes: Vec<Arc<Lane>> = {
            let mut lanes = self.lanes();
            lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
            lanes.values().cloned().collect()
        };
        worn.extend(lanes.iter().flat_map(|lane| self.take_idle_of(lane.id, lane.excess())));
        worn
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Destination, Site>> {
        self.sites.lock()
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

/// Quits all sessions concurrently, within the time-out for QUIT.
async fn quit(sessions: Vec<(Session, Arc<Policy>)>) {
    join_all(sessions.into_iter().map(async |(mut session, policy)| session.quit(&policy).await)).await;
}

/// Runs until the pools are dropped.
async fn sweep(pools: Weak<Pools>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(worn) = pools.upgrade().map(|pools| pools.take_worn()) else { return };
        quit(worn).await;
    }
}
