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
use crate::telemetry::RateLimitedLog;

/// Period over which the messages of one address are counted: all of them may come at once.
const MINUTE: TimeDelta = TimeDelta::minutes(1);
/// The limit of sessions may be exceeded by one part in this many, plus one, while other sessions are ending.
pub(super) const LEAVING: usize = 8;
/// Number of addresses above which those without state are forgotten.
const REMEMBERED: usize = 4_096;

/// Counts of current and recent clients.
#[derive(Debug)]
pub(super) struct Peers {
    max_connections: usize,
    /// The limit on the messages of an address that sent none.
    unused: Option<Gcra>,
    /// Where [`Peers::time`] begins.
    started: Instant,
    seen: Mutex<HashMap<IpAddr, Seen>>,
    turned_away: RateLimitedLog,
    refused: RateLimitedLog,
}

#[derive(Debug)]
struct Seen {
    connections: usize,
    /// The limit on the address's messages.
    messages: Option<Gcra>,
}

/// The connection's entry in the counts; dropping it removes it.
#[derive(Debug)]
pub(super) struct Guest {
    peers: Arc<Peers>,
    address: IpAddr,
}

impl Peers {
    pub(super) fn new(settings: &Settings) -> Arc<Self> {
        Arc::new(Self {
            max_connections: settings.max_per_peer,
            unused: settings.mails_per_minute.map(unused),
            started: Instant::now(),
            seen: Mutex::default(),
            turned_away: RateLimitedLog::default(),
            refused: RateLimitedLog::default(),
        })
    }

    /// Counts one more connection from this address, if the limit allows it or `make_room` ends a session of the
    /// address's network, which takes a moment to close.
    pub(super) fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        make_room: impl FnOnce(IpAddr) -> bool,
        now: Instant,
    ) -> Option<Guest> {
        let address = network::owner(address);
        let mut all = self.seen();
        if all.len() >= REMEMBERED {
            all.retain(|_, seen| seen.connections > 0 || !self.is_unused(seen, now));
        }
        let seen = all.entry(address).or_insert(Seen { connections: 0, messages: self.unused });
        let most = self.max_connections;
        if seen.connections >= most && (seen.connections > most + most / LEAVING || !make_room(address)) {
            return None;
        }
        seen.connections += 1;
        Some(Guest { peers: self.clone(), address })
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

    fn is_unused(&self, seen: &Seen, now: Instant) -> bool {
        seen.messages.is_none_or(|messages| messages.is_unused(self.time(now)))
    }

    /// Returns the time for the limits: that of the monotonic clock, so that no change of the system's time affects them.
    fn time(&self, now: Instant) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + now.saturating_duration_since(self.started)
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<IpAddr, Seen>> {
        self.seen.lock()
    }
}

impl Guest {
    /// Returns the network that the connection counts for.
    pub(super) fn network(&self) -> IpAddr {
        self.address
    }

    /// Logs that a message was refused before its text.
    pub(super) fn note_refusal(&self, peer: SocketAddr, why: &str) {
        if let Some(count) = self.peers.refused.note(Instant::now()) {
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
        let mut all = self.peers.seen();
        let Some(messages) = all.get_mut(&self.address).and_then(|seen| seen.messages.as_mut()) else { return true };
        let now = self.peers.time(now);
        let may = messages.available(now) > 0;
        if may {
            *messages = messages.take(1, now);
        }
        may
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut all = self.peers.seen();
        if let Some(seen) = all.get_mut(&self.address) {
            seen.connections = seen.connections.saturating_sub(1);
            if seen.connections == 0 && self.peers.is_unused(seen, Instant::now()) {
                all.remove(&self.address);
            }
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

    fn peers(max_per_peer: usize, mails_per_minute: Option<u32>) -> Arc<Peers> {
        Peers::new(&Settings { max_per_peer, mails_per_minute, ..Settings::default() })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn enter(peers: &Arc<Peers>, text: &str, now: Instant) -> Option<Guest> {
        peers.enter(ip(text), |_| false, now)
    }

    #[test]
    fn each_network_has_its_own_connection_limit() {
        let (peers, now) = (peers(1, None), Instant::now());
        let first = enter(&peers, "2001:db8::1", now).expect("a place");
        assert!(enter(&peers, "2001:db8::2", now).is_none(), "the same network");
        assert!(enter(&peers, "2001:db8:0:1::1", now).is_some());
        assert!(enter(&peers, "::ffff:192.0.2.1", now).is_some());
        drop(first);
        assert!(enter(&peers, "2001:db8::2", now).is_some());
        assert!(peers.seen().is_empty(), "no connections and no state are left");
    }

    #[test]
    fn a_session_of_the_same_network_makes_room() {
        let (peers, now) = (peers(1, None), Instant::now());
        let makes_room = |network| network == ip("2001:db8::");
        let first = peers.enter(ip("2001:db8::1"), |_| panic!("there is room"), now).expect("a place");
        let second = peers.enter(ip("2001:db8::2"), makes_room, now).expect("the place of the first");
        assert_eq!(second.network(), ip("2001:db8::"));
        assert!(peers.enter(ip("2001:db8::3"), makes_room, now).is_none(), "the first has not left");
        drop(first);
        assert!(peers.enter(ip("2001:db8::3"), makes_room, now).is_some());
    }

    #[test]
    fn the_message_rate_counts_all_connections_of_an_address() {
        let (peers, now) = (peers(9, Some(3)), Instant::now());
        let enter = |text| enter(&peers, text, now).unwrap();
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
            let (peers, now) = (peers(1, Some(mails)), Instant::now());
            let guest = enter(&peers, "192.0.2.1", now).unwrap();
            let sent = (0..2 * mails).filter(|_| guest.may_send(now)).count();
            assert_eq!(sent, usize::try_from(mails).unwrap());
        }
    }

    #[test]
    fn the_number_of_remembered_addresses_is_bounded() {
        let (peers, mut now) = (peers(9, Some(60)), Instant::now());
        for n in 0..20_000_u32 {
            assert!(peers.enter(IpAddr::from(n.to_be_bytes()), |_| false, now).unwrap().may_send(now));
            now += Duration::from_millis(1);
        }
        assert!(peers.seen().len() <= REMEMBERED);
    }
}
