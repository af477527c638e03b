//! Sends a message: route → servers → session → transaction → one outcome per recipient.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::chosen_servers::ChosenServers;
use super::connection::handshake::Refusal;
use super::failover::{self, Server};
use super::mx::Resolver;
use super::mx::direct::{Direct, MxPlan};
use super::outgoing_message::{EightBit, Judgement, OutgoingMessage};
use super::policies::Policies;
use super::pool::Pools;
use super::route::{Envelope, Route};
use super::send_options::{Limits, SendOptions};
use super::server_delivery::{NotAttempted, ServerDelivery};
use super::settings::{Settings, SetupError};
use crate::domain::outcome::{Outcome, Peer, Reply, Stage, Verdict};
use crate::domain::routing::RouteName;
use crate::domain::routing::relay::Relay;

/// Sends messages. Shared by reference or in an `Arc`; calls may run concurrently.
///
/// Must be used inside a Tokio runtime.
pub struct Sender {
    pub(in crate::smtp) relays: HashMap<RouteName, Vec<Arc<Server>>>,
    /// Direct delivery, or why it is unavailable. Only a sender with a relay can be created without direct delivery.
    direct: Result<Direct, String>,
    chosen: ChosenServers,
    pools: Arc<Pools>,
    /// How long a message waits for a free connection.
    acquire_timeout: Duration,
    /// How long a message waits for a free connection if another server can be tried.
    failover_timeout: Duration,
}

/// The server that was used, and the judgement of each recipient.
type Delivered = (Peer, Vec<Judgement>);

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("routes", &self.relays.keys()).finish_non_exhaustive()
    }
}

impl Sender {
    /// Checks the settings and reads certificates; opens no connection.
    pub fn new(settings: Settings) -> Result<Self, SetupError> {
        for (count, what) in [
            (settings.connections, "connections"),
            (settings.messages_per_connection as usize, "messages_per_connection"),
        ] {
            if count == 0 {
                return Err(SetupError::Zero(what));
            }
        }
        let (acquire_timeout, failover_timeout) = (settings.timeouts.slot, settings.timeouts.slot_or_next);
        let mut policies = Policies::new(settings)?;
        let (relays, mx) = (policies.relays()?, policies.mx()?);
        let settings = policies.settings();
        let direct = match Resolver::new(settings) {
            Ok(resolver) => Ok(Direct::new(settings, resolver, mx)),
            Err(error) if settings.relay.is_some() => Err(error.to_string()),
            Err(error) => return Err(SetupError::Dns(error.to_string())),
        };
        let chosen = ChosenServers::new(policies);
        Ok(Self { relays, direct, chosen, pools: Arc::default(), acquire_timeout, failover_timeout })
    }

    /// Sends one message to all recipients of the envelope, which must share the route. Returns one outcome per
    /// recipient, in the envelope's order.
    ///
    /// `mime` must have CRLF line ends. Dropping the future closes its connection; whether the server accepted the
    /// message is then unknown.
    pub async fn send(&self, route: &Route, envelope: &Envelope, mime: &[u8]) -> Vec<Outcome> {
        let options = SendOptions { urgent: true, limits: Limits::default(), guard: &|| true };
        self.send_if(route, envelope, mime, &options).await.unwrap_or_else(|NotAttempted(reply)| {
            let (verdict, stage, duration) = (Verdict::Temporary, Stage::Connect, Duration::ZERO);
            vec![Outcome { verdict, reply, peer: Peer::default(), duration, stage }; envelope.to.len()]
        })
    }

    /// Sends like [`Sender::send`], with these options. Returns an error, and makes no attempt, if the send guard
    /// withdraws the message, no session becomes free in time, or the sender is stopping.
    pub async fn send_if(
        &self,
        route: &Route,
        envelope: &Envelope,
        mime: &[u8],
        options: &SendOptions<'_>,
    ) -> Result<Vec<Outcome>, NotAttempted> {
        let started = Instant::now();
        if envelope.to.is_empty() {
            return Ok(Vec::new());
        }
        let message = OutgoingMessage { envelope, mime, eight_bit: EightBit::detect(mime) };
        let (peer, judgements) = self.deliver(route, message, options).await?;
        let duration = started.elapsed();
        Ok(judgements.into_iter().map(|judgement| judgement.into_outcome(peer.clone(), duration)).collect())
    }

    /// Returns whether `peer` is a server of this route: one of its relays, or a mail exchanger.
    pub fn route_includes(&self, route: &RouteName, peer: &Peer) -> bool {
        let is_relay = |mx: &String| {
            self.relays.get(route).is_some_and(|relays| relays.iter().any(|relay| relay.destination.host == *mx))
        };
        let is_server = |mx: &String| is_relay(mx) || self.chosen.has_host(route, mx);
        if route.is_mx() { peer.is_final } else { !peer.is_final && peer.mx.as_ref().is_none_or(is_server) }
    }

    /// Returns whether a relay of any configured route has this host name. What users of the API chose does not count: it would change
    /// the statistics of other tenants.
    pub fn is_relay(&self, host: &str) -> bool {
        self.relays.values().flatten().any(|relay| relay.destination.host.eq_ignore_ascii_case(host))
    }

    /// Returns the number of connections that a lane with [`Limits::lane`] has open or is opening, including idle ones.
    pub fn open_connections(&self, lane: i64) -> usize {
        self.pools.open_connections(lane)
    }

    /// Stops starting messages: calls that wait for a connection, and new calls, fail at once. Messages being sent are
    /// not interrupted.
    pub fn stop_starting(&self) {
        self.pools.stop_starting();
    }

    /// Stops starting messages, and ends idle sessions within the time-out for QUIT.
    pub async fn close(&self) {
        self.pools.close().await;
    }

    async fn deliver(
        &self,
        route: &Route,
        message: OutgoingMessage<'_>,
        options: &SendOptions<'_>,
    ) -> Result<Delivered, NotAttempted> {
        let acquire_deadline = Instant::now() + self.acquire_timeout;
        let lane = options.limits.lane.map(|id| self.pools.lane(id, options.limits.connections));
        let _permit = match &lane {
            Some(lane) => {
                let permit = self.pools.unless_stopping(timeout_at(acquire_deadline, lane.acquire_message())).await?;
                Some(permit.map_err(|_| NotAttempted::because("all connections of its lane stayed in use"))?)
            }
            None => None,
        };
        let failover_timeout = self.failover_timeout;
        let (pools, lane, started) = (&self.pools, lane.as_ref(), Instant::now());
        let call =
            ServerDelivery { pools, message, options, lane, acquire_deadline, failover_timeout, started, sts: None };
        match route {
            Route::Relay(name) => self.send_to_relays(name, &call).await,
            Route::Server { name, relay } => self.send_to_chosen(name, relay, &call).await,
            Route::Mx { domain } => self.send_to_mx(domain, &call).await,
        }
    }

    /// Sends to the first of a route's relays that accepts the transaction.
    async fn send_to_relays(&self, name: &RouteName, call: &ServerDelivery<'_>) -> Result<Delivered, NotAttempted> {
        let relays = self.relays.get(name).map(Vec::as_slice).unwrap_or_default();
        if relays.is_empty() {
            let why = format!("no relay is configured for {name}");
            return Ok(call.same_for_all(Peer::default(), unavailable(why)));
        }
        let relays = relays.iter().map(|relay| relay.candidate()).collect();
        Ok(failover::deliver(relays, call).await?.unwrap_or_else(|refusal| call.refused(refusal)))
    }

    /// Sends to the server that users of the API chose for a route.
    async fn send_to_chosen(
        &self,
        name: &RouteName,
        relay: &Arc<Relay>,
        call: &ServerDelivery<'_>,
    ) -> Result<Delivered, NotAttempted> {
        let server = match self.chosen.get(name, relay) {
            Ok(server) => server,
            Err(error) => return Ok(call.same_for_all(Peer::default(), unavailable(error.to_string()))),
        };
        Ok(failover::deliver(vec![server.candidate()], call).await?.unwrap_or_else(|refusal| call.refused(refusal)))
    }

    /// Sends to the first of a domain's mail exchangers that accepts the transaction.
    async fn send_to_mx(&self, domain: &str, call: &ServerDelivery<'_>) -> Result<Delivered, NotAttempted> {
        let for_all = |judgement| call.same_for_all(Peer { is_final: true, ..Peer::default() }, judgement);
        let direct = match &self.direct {
            Ok(direct) => direct,
            Err(reason) => return Ok(for_all(unavailable(reason.clone()))),
        };
        let MxPlan { servers, policy, sts } = match self.pools.unless_stopping(direct.plan(domain)).await? {
            Ok(plan) => plan,
            Err(judgement) => return Ok(for_all(judgement)),
        };
        let servers = servers.iter().map(|destination| direct.server_health.candidate(destination, &policy)).collect();
        let call = &ServerDelivery { sts: sts.as_deref(), ..*call };
        match failover::deliver(servers, call).await? {
            Ok((mut peer, mut judgements)) => {
                if let Some(sts) = &sts {
                    sts.report(&mut peer, &mut judgements);
                }
                Ok((peer, judgements))
            }
            Err(Refusal { peer, stage, reply }) => {
                let reply = sts.iter().fold(reply, |reply, sts| sts.explain(reply));
                Ok(call.refused(Refusal { peer, stage, reply }))
            }
        }
    }
}

/// A failure of this service's setup, unrelated to the destination.
fn unavailable(why: String) -> Judgement {
    Judgement::new(Verdict::Temporary, Stage::Mail, Reply::local_error_with(4, 3, 5, why))
}
