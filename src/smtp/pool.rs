//! Sessions that wait for the next mail: one `deadpool` pool per destination, and the sweep that ends the idle ones.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use deadpool::managed::{self, Metrics, QueueMode, RecycleError, RecycleResult};
use futures_util::future::join_all;
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::handshake::{self, Policy, Refusal};
use super::session::Session;
use crate::domain::outcome::{Peer, Reply};

/// How often idle sessions are looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// The most addresses of a relay that are tried.
const RELAY_ADDRESSES: usize = 5;

/// What sessions are shared by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Destination {
    pub host: String,
    pub port: u16,
    /// The one address meant, or `None` for any that `host` has.
    pub ip: Option<IpAddr>,
}

/// A place in a pool. It is empty while somebody speaks over the session, so that a call which is dropped midway takes
/// its connection with it and leaves nothing that could be used again.
pub(super) struct Slot(pub Option<Session>);

/// Opens and checks the sessions of one pool.
pub(super) struct Connector {
    destination: Destination,
    policy: Arc<Policy>,
}

pub(super) type Pool = managed::Pool<Connector>;

impl managed::Manager for Connector {
    type Type = Slot;
    type Error = Refusal;

    async fn create(&self) -> Result<Slot, Refusal> {
        let host = &self.destination.host;
        let mut last = None;
        for address in self.addresses().await? {
            match handshake::open(host, address, &self.policy).await {
                Ok(session) => return Ok(Slot(Some(session))),
                Err(refusal) => last = Some(refusal),
            }
        }
        Err(last.unwrap_or_else(|| self.refusal(format!("{host} has no address"))))
    }

    async fn recycle(&self, slot: &mut Slot, _: &Metrics) -> RecycleResult<Refusal> {
        let unfit = Err(RecycleError::message("not fit for another mail"));
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
    async fn addresses(&self) -> Result<Vec<SocketAddr>, Refusal> {
        let Destination { host, port, ip } = &self.destination;
        if let Some(ip) = ip {
            return Ok(vec![SocketAddr::new(*ip, *port)]);
        }
        let failed = |reason: String| self.refusal(format!("the name {host} could not be resolved: {reason}"));
        let found = timeout(self.policy.timeouts.dns, lookup_host((host.as_str(), *port))).await;
        let found = found.map_err(|_| failed("it took too long".into()))?.map_err(|error| failed(error.to_string()))?;
        Ok(found.take(RELAY_ADDRESSES).collect())
    }

    fn refusal(&self, why: String) -> Refusal {
        let peer = Peer { mx: Some(self.destination.host.clone()), is_final: self.policy.is_final, ..Peer::default() };
        Refusal { peer, reply: Reply::ours_with(4, 4, 3, why) }
    }
}

/// All pools.
#[derive(Default)]
pub(super) struct Pools {
    by_destination: Mutex<HashMap<Destination, Pool>>,
    sweeping: OnceLock<()>,
}

impl Pools {
    /// The destination's pool, made where there is none.
    pub fn of(self: &Arc<Self>, destination: &Destination, policy: &Arc<Policy>) -> Result<Pool, managed::BuildError> {
        self.sweeping.get_or_init(|| drop(tokio::spawn(sweep(Arc::downgrade(self)))));
        let mut pools = self.lock();
        if let Some(pool) = pools.get(destination) {
            return Ok(pool.clone());
        }
        let connector = Connector { destination: destination.clone(), policy: policy.clone() };
        let pool = Pool::builder(connector)
            .max_size(policy.connections)
            .wait_timeout(Some(policy.timeouts.slot))
            // The one used last is the least likely to have been closed by the server, and the others can go idle.
            .queue_mode(QueueMode::Lifo)
            .runtime(deadpool::Runtime::Tokio1)
            .build()?;
        pools.insert(destination.clone(), pool.clone());
        Ok(pool)
    }

    /// Ends every session that is not in use, and takes no more mail.
    pub async fn close(&self) {
        let pools: Vec<Pool> = self.lock().values().cloned().collect();
        let idle: Vec<_> = pools.iter().flat_map(|pool| take_idle(pool, |_| false)).collect();
        for pool in &pools {
            pool.close();
        }
        part(idle).await;
    }

    /// Takes out what is worn, and forgets pools that nobody uses.
    fn take_worn(&self) -> Vec<(Session, Arc<Policy>)> {
        let mut worn = Vec::new();
        self.lock().retain(|_, pool| {
            let policy = pool.manager().policy.clone();
            worn.extend(take_idle(pool, |session| !session.is_worn(&policy)));
            let status = pool.status();
            pool.is_closed() || status.size > 0 || status.waiting > 0
        });
        worn
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Destination, Pool>> {
        self.by_destination.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the idle sessions that are not to be kept out of a pool.
pub(super) fn take_idle(pool: &Pool, keep: impl Fn(&Session) -> bool) -> Vec<(Session, Arc<Policy>)> {
    let removed = pool.retain(|slot, _| slot.0.as_ref().is_some_and(&keep)).removed;
    let policy = &pool.manager().policy;
    removed.into_iter().filter_map(|slot| Some((slot.0?, policy.clone()))).collect()
}

/// Says goodbye to all of them at once; bounded by the time-out for QUIT.
async fn part(sessions: Vec<(Session, Arc<Policy>)>) {
    join_all(sessions.into_iter().map(async |(mut session, policy)| session.quit(&policy).await)).await;
}

/// Runs until the pools are gone.
async fn sweep(pools: Weak<Pools>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(worn) = pools.upgrade().map(|pools| pools.take_worn()) else { return };
        part(worn).await;
    }
}
