//! Joins the parts: route → servers → session → transaction → one outcome per recipient.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use deadpool::managed::{Object, PoolError, TimeoutType};
use lettre::transport::smtp::extension::ClientId;
use tokio::time::Instant;

use super::handshake::{Policy, Refusal};
use super::mx::Resolver;
use super::pool::{Destination, Pools, take_idle};
use super::relay::{Relay, TlsMode};
use super::route::{Envelope, Route};
use super::settings::{Settings, SetupError};
use super::tls::Tls;
use super::transaction::{self, Ending, Judgement, Parcel};
use crate::domain::outcome::{Outcome, Peer, Reply, Verdict};

/// Sends mail. Shared by reference or in an `Arc`; every call may run at the same time as any other.
///
/// Must be used inside a Tokio runtime.
pub struct Sender {
    relay: Option<(Destination, Arc<Policy>)>,
    mx: Arc<Policy>,
    mx_port: u16,
    /// Or why there is none; only a sender with a relay can do without.
    resolver: Result<Resolver, String>,
    pools: Arc<Pools>,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("relay", &self.relay.as_ref().map(|(relay, _)| relay)).finish_non_exhaustive()
    }
}

impl Sender {
    /// Checks the settings and reads certificates; opens no connection.
    pub fn new(settings: Settings) -> Result<Self, SetupError> {
        for (count, what) in
            [(settings.connections, "connections"), (settings.mails_per_connection as usize, "mails_per_connection")]
        {
            if count == 0 {
                return Err(SetupError::Zero(what));
            }
        }
        let client = client_id(&settings.hostname)?;
        let resolver = Resolver::new(&settings).map_err(|error| error.to_string());
        if let (Err(reason), None) = (&resolver, &settings.relay) {
            return Err(SetupError::Dns(reason.clone()));
        }
        let policy = |mode, ca_file| -> Result<Policy, SetupError> {
            Ok(Policy {
                client: client.clone(),
                mode,
                implicit_tls: false,
                tls: Tls::new(mode, ca_file)?,
                credentials: None,
                is_final: true,
                connections: settings.connections,
                mails: settings.mails_per_connection,
                age: settings.connection_age,
                idle: settings.mx_idle,
                timeouts: settings.timeouts.clone(),
            })
        };
        let mx = Arc::new(policy(TlsMode::Opportunistic, None)?);
        let relay = match settings.relay {
            Some(Relay { host, port, implicit_tls, tls, credentials, ca_file }) => {
                let idle = settings.relay_idle;
                let policy = policy(tls, ca_file.as_deref())?;
                let policy = Policy { implicit_tls, credentials, is_final: false, idle, ..policy };
                Some((Destination { host, port, ip: None }, Arc::new(policy)))
            }
            None => None,
        };
        Ok(Self { relay, mx, mx_port: settings.mx_port, resolver, pools: Arc::default() })
    }

    /// Whether there is a relay behind [`Route::Relay`].
    pub fn has_relay(&self) -> bool {
        self.relay.is_some()
    }

    /// Sends one mail to all recipients of the envelope, which must share the route. Answers one outcome for each, in
    /// the envelope's order.
    ///
    /// `mime` must have CRLF line ends. A call that is dropped closes its connection; whether the mail was taken is then
    /// unknown.
    pub async fn send(&self, route: &Route, envelope: &Envelope, mime: &[u8]) -> Vec<Outcome> {
        self.send_if(route, envelope, mime, &|| true).await.unwrap_or_else(|not_begun| {
            let duration = Duration::ZERO;
            let outcome = Outcome { verdict: Verdict::Temporary, reply: not_begun.0, peer: Peer::default(), duration };
            vec![outcome; envelope.to.len()]
        })
    }

    /// As [`Sender::send`], asking `go` once a session is at hand and nothing has been said of this mail. Where it says
    /// no, or no session became free in time, no attempt was made.
    pub async fn send_if(
        &self,
        route: &Route,
        envelope: &Envelope,
        mime: &[u8],
        go: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Outcome>, NotBegun> {
        let started = Instant::now();
        if envelope.to.is_empty() {
            return Ok(Vec::new());
        }
        let parcel = Parcel { envelope, mime, eight_bit: !mime.is_ascii() };
        let (peer, judgements) = self.deliver(route, parcel, go).await?;
        let duration = started.elapsed();
        let outcome = |(verdict, reply)| Outcome { verdict, reply, peer: peer.clone(), duration };
        Ok(judgements.into_iter().map(outcome).collect())
    }

    /// Ends the sessions that are idle, within the time-out for QUIT; a mail that is on its way is not disturbed. Mail
    /// sent later to a destination that was in use is a temporary failure.
    pub async fn close(&self) {
        self.pools.close().await;
    }

    async fn deliver(
        &self,
        route: &Route,
        parcel: Parcel<'_>,
        go: &(dyn Fn() -> bool + Sync),
    ) -> Result<(Peer, Vec<Judgement>), NotBegun> {
        let everyone = |judgement: Judgement| vec![judgement; parcel.envelope.to.len()];
        let (destinations, policy) = match self.destinations(route).await {
            Ok(found) => found,
            Err(judgement) => {
                let is_final = matches!(route, Route::Mx { .. });
                return Ok((Peer { is_final, ..Peer::default() }, everyone(judgement)));
            }
        };
        let mut last = Refusal { peer: Peer::default(), reply: Reply::ours_with(4, 4, 4, "there is no server to try") };
        for destination in &destinations {
            match self.hand_over(destination, policy, parcel, go).await {
                Ok(done) => return Ok(done),
                Err(Failure::NotBegun(why)) => return Err(why),
                Err(Failure::Refused(refusal)) => last = refusal,
            }
        }
        Ok((last.peer, everyone((Verdict::Temporary, last.reply))))
    }

    async fn destinations(&self, route: &Route) -> Result<(Vec<Destination>, &Arc<Policy>), Judgement> {
        let unset = |why: &str| (Verdict::Temporary, Reply::ours_with(4, 3, 5, why));
        match route {
            Route::Relay => {
                let (destination, policy) = self.relay.as_ref().ok_or_else(|| unset("no relay is configured"))?;
                Ok((vec![destination.clone()], policy))
            }
            Route::Mx { domain } => {
                let resolver = self.resolver.as_ref().map_err(|reason| unset(reason))?;
                let found = resolver.exchangers(domain).await?.into_iter();
                let destination = found.map(|mx| Destination { host: mx.host, port: self.mx_port, ip: Some(mx.ip) });
                Ok((destination.collect(), &self.mx))
            }
        }
    }

    /// Hands the mail to one server. A refusal says that no session could be had, and the next server may be tried.
    async fn hand_over(
        &self,
        destination: &Destination,
        policy: &Arc<Policy>,
        parcel: Parcel<'_>,
        go: &(dyn Fn() -> bool + Sync),
    ) -> Result<(Peer, Vec<Judgement>), Failure> {
        let refusal = |why: String| {
            let peer =
                Peer { mx: Some(destination.host.clone()), ip: destination.ip, tls: None, is_final: policy.is_final };
            Failure::Refused(Refusal { peer, reply: Reply::ours_with(4, 3, 2, why) })
        };
        let not_begun = |why: String| Failure::NotBegun(NotBegun(Reply::ours_with(4, 3, 2, why)));
        let pool = self.pools.of(destination, policy).map_err(|error| refusal(error.to_string()))?;
        loop {
            let mut slot = pool.get().await.map_err(|error| match error {
                PoolError::Backend(refused) => Failure::Refused(refused),
                PoolError::Timeout(TimeoutType::Wait) => {
                    not_begun(format!("all {} connections to {} stayed in use", policy.connections, destination.host))
                }
                PoolError::Closed => not_begun("the service is stopping".into()),
                PoolError::Timeout(_) | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => {
                    refusal("no connection could be had".into())
                }
            })?;
            let Some(mut session) = slot.0.take() else { continue };
            let was_idle = session.mails > 0;
            if !go() {
                slot.0 = Some(session);
                return Err(not_begun("it was called off".into()));
            }
            let ending = transaction::run(&mut session, parcel, &policy.timeouts).await;
            let peer = session.peer.clone();
            if session.broken {
                drop(session);
                drop(Object::take(slot));
            } else {
                slot.0 = Some(session);
            }
            match ending {
                Ending::Judged(judgements) => return Ok((peer, judgements)),
                // It died of old age: not an attempt. Where one did the others have, so the next one is new; each round
                // costs a used session, so that there is an end.
                Ending::HungUp(_) if was_idle => drop(take_idle(&pool, |_| false)),
                Ending::HungUp(reply) => {
                    return Ok((peer, vec![(Verdict::Temporary, reply); parcel.envelope.to.len()]));
                }
            }
        }
    }
}

/// No attempt was made: every connection stayed in use, or the mail was called off. Says why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotBegun(pub Reply);

/// Why a server did not get the mail.
enum Failure {
    NotBegun(NotBegun),
    Refused(Refusal),
}

fn client_id(hostname: &str) -> Result<ClientId, SetupError> {
    match hostname.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => return Ok(ClientId::Ipv4(ip)),
        Ok(IpAddr::V6(ip)) => return Ok(ClientId::Ipv6(ip)),
        Err(_) => {}
    }
    let fits = (1..=255).contains(&hostname.len())
        && hostname.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if fits { Ok(ClientId::Domain(hostname.to_owned())) } else { Err(SetupError::Hostname(hostname.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_would_break_ehlo_is_refused() {
        assert_eq!(client_id("mail.acme.test").unwrap().to_string(), "mail.acme.test");
        assert_eq!(client_id("192.0.2.1").unwrap().to_string(), "[192.0.2.1]");
        assert_eq!(client_id("2001:db8::1").unwrap().to_string(), "[IPv6:2001:db8::1]");
        for name in ["", "a b", "a\r\nQUIT", "café.test"] {
            assert!(client_id(name).is_err(), "{name:?}");
        }
    }
}
