//! Limits per client: concurrent connections and messages a minute from one address, or from one /64 of IPv6.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::Settings;
use crate::domain::gcra::Gcra;
use crate::domain::network;
use crate::limiter::peers::PeerCounts;
use crate::telemetry::RateLimitedLog;

/// Period over which the messages of one network are counted: all of them may come at once.
const MINUTE: TimeDelta = TimeDelta::minutes(1);
/// The limit of sessions may be exceeded by one part in this many, plus one, while other sessions are ending.
pub(super) const EXCESS_DIVISOR: usize = 8;
/// Number of networks above which those that may send a full minute's messages are forgotten.
const REMEMBERED: usize = 4_096;

/// The limits of each client's network.
#[derive(Debug)]
pub(super) struct ClientLimits {
    max_connections: usize,
    /// The limit on the messages of a network that sent none.
    unused: Option<Gcra>,
    /// Where [`ClientLimits::time`] begins.
    started: Instant,
    state: Mutex<State>,
    turned_away: RateLimitedLog,
    refused: RateLimitedLog,
}

#[derive(Debug, Default)]
struct State {
    connections: PeerCounts,
    /// The limit on each network's messages, until it is unused again.
    messages: HashMap<IpAddr, Gcra>,
}

/// A client's connection, counted until dropped.
#[derive(Debug)]
pub(super) struct ClientConnection {
    limits: Arc<ClientLimits>,
    network: IpAddr,
}

impl ClientLimits {
    pub(super) fn new(settings: &Settings) -> Arc<Self> {
        Arc::new(Self {
            max_connections: settings.max_per_peer,
            unused: settings.mails_per_minute.map(unused),
            started: Instant::now(),
            state: Mutex::default(),
            turned_away: RateLimitedLog::default(),
            refused: RateLimitedLog::default(),
        })
    }

    /// Counts one more connection from this address, if the limit allows it or `evict` ends a session of the address's
    /// network, which takes a moment to close.
    pub(super) fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        evict: impl FnOnce(IpAddr) -> bool,
    ) -> Option<ClientConnection> {
        let network = network::owner(address);
        let mut state = self.state();
        let (open, most) = (state.connections.get(network), self.max_connections);
        if open >= most && (open > most + most / EXCESS_DIVISOR || !evict(network)) {
            return None;
        }
        state.connections.add(network);
        Some(ClientConnection { limits: self.clone(), network })
    }

    /// Logs that a client was refused a session.
    pub(super) fn note_turned_away(&self, peer: SocketAddr, why: &str) {
        if let Some(count) = self.turned_away.note(Instant::now()) {
            tracing::warn!(
                event = "smtp_clients_refused",
                %peer,
                count,
                why,
                "refused SMTP clients, which may have had bounces; they should try again later"
            );
        }
    }

    /// Returns the time for the limits: that of the monotonic clock, so that no change of the system's time affects them.
    fn time(&self, now: Instant) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + now.saturating_duration_since(self.started)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl ClientConnection {
    /// Returns the network that the connection counts for.
    pub(super) fn network(&self) -> IpAddr {
        self.network
    }

    /// Logs that a message was refused before its text.
    pub(super) fn note_refusal(&self, peer: SocketAddr, why: &str) {
        if let Some(count) = self.limits.refused.note(Instant::now()) {
            tracing::warn!(
                event = "smtp_messages_refused",
                %peer,
                count,
                why,
                "refused messages, which may be bounces; if so, raise the limit"
            );
        }
    }

    /// Returns whether one more message may begin, and counts it.
    pub(super) fn may_send(&self, now: Instant) -> bool {
        let Some(unused) = self.limits.unused else { return true };
        let now = self.limits.time(now);
        let messages = &mut self.limits.state().messages;
        let limit = messages.get(&self.network).copied().unwrap_or(unused);
        let may = limit.available(now) > 0;
        if may {
            if messages.len() >= REMEMBERED {
                messages.retain(|_, limit| !limit.is_unused(now));
            }
            messages.insert(self.network, limit.take(1, now));
        }
        may
    }
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        let mut state = self.limits.state();
        state.connections.remove(self.network);
        let now = self.limits.time(Instant::now());
        if state.messages.get(&self.network).is_some_and(|limit| limit.is_unused(now)) {
            state.messages.remove(&self.network);
        }
    }
}

/// Returns a limit of this many messages a minute, all of which may come at once.
fn unused(mails_per_minute: u32) -> Gcra {
    // In whole microseconds, as the limit counts, so that a minute's messages fit into a minute.
    let cost = (MINUTE.as_seconds_f64() * 1e6 / f64::from(mails_per_minute.max(1))).floor().max(1.0);
    Gcra::new(1e6 / cost, DateTime::<Utc>::MIN_UTC).with_burst(MINUTE)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limits(max_per_peer: usize, mails_per_minute: Option<u32>) -> Arc<ClientLimits> {
        ClientLimits::new(&Settings { max_per_peer, mails_per_minute, ..Settings::default() })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn enter(limits: &Arc<ClientLimits>, text: &str) -> Option<ClientConnection> {
        limits.enter(ip(text), |_| false)
    }

    #[test]
    fn each_network_has_its_own_connection_limit() {
        let limits = limits(1, None);
        let first = enter(&limits, "2001:db8::1").expect("a connection");
        assert!(enter(&limits, "2001:db8::2").is_none(), "the same network");
        assert!(enter(&limits, "2001:db8:0:1::1").is_some());
        assert!(enter(&limits, "::ffff:192.0.2.1").is_some());
        drop(first);
        assert!(enter(&limits, "2001:db8::2").is_some());
        assert!(limits.state().connections.is_empty(), "no connections are left");
    }

    #[test]
    fn a_session_of_the_same_network_is_evicted() {
        let limits = limits(1, None);
        let evicts = |network| network == ip("2001:db8::");
        let first = limits.enter(ip("2001:db8::1"), |_| panic!("none has to end")).expect("a connection");
        let second = limits.enter(ip("2001:db8::2"), evicts).expect("instead of the first");
        assert_eq!(second.network(), ip("2001:db8::"));
        assert!(limits.enter(ip("2001:db8::3"), evicts).is_none(), "the first has not ended");
        drop(first);
        assert!(limits.enter(ip("2001:db8::3"), evicts).is_some());
    }

    #[test]
    fn the_message_rate_counts_all_connections_of_an_address() {
        let (limits, now) = (limits(9, Some(3)), Instant::now());
        let enter = |text| enter(&limits, text).unwrap();
        let (one, two) = (enter("192.0.2.1"), enter("192.0.2.1"));
        assert!(one.may_send(now) && two.may_send(now) && one.may_send(now));
        assert!(!one.may_send(now) && !two.may_send(now));
        assert!(enter("192.0.2.2").may_send(now));
        let later = now + Duration::from_secs(20);
        assert!(two.may_send(later) && !two.may_send(later));
        drop((one, two));
        assert!(!enter("192.0.2.1").may_send(later), "remembered beyond its connections");
    }

    #[test]
    fn a_minute_of_messages_may_come_at_once() {
        for mails in [1, 7, 600, 999, 4_567] {
            let (limits, now) = (limits(1, Some(mails)), Instant::now());
            let client = enter(&limits, "192.0.2.1").unwrap();
            let sent = (0..2 * mails).filter(|_| client.may_send(now)).count();
            assert_eq!(sent, usize::try_from(mails).unwrap());
        }
    }

    #[test]
    fn the_number_of_remembered_addresses_is_bounded() {
        let (limits, mut now) = (limits(9, Some(60)), Instant::now());
        for n in 0..20_000_u32 {
            assert!(limits.enter(IpAddr::from(n.to_be_bytes()), |_| false).unwrap().may_send(now));
            now += Duration::from_millis(1);
        }
        assert!(limits.state().messages.len() <= REMEMBERED);
    }
}
