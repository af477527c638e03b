//! Limits per client: concurrent connections and messages per minute from one address, or from one /64 of IPv6.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::super::Settings;
use super::super::data::DataFault;
use crate::domain::limits::gcra::Gcra;
use crate::domain::network;
use crate::limiter::peers::PeerCounts;
use crate::telemetry::RateLimitedLog;

/// Period of the message limit. A network may send all messages of a period at once.
const MINUTE: TimeDelta = TimeDelta::minutes(1);
/// While evicted sessions are closing, the session limit may be exceeded by the limit divided by this number, plus one.
pub(in crate::smtp::inbound) const EXCESS_DIVISOR: usize = 8;
/// Once this many networks are tracked, those with an unused limit are removed.
const TRACKED_NETWORKS: usize = 4_096;

/// The limits of each client's network.
#[derive(Debug)]
pub(in crate::smtp::inbound) struct ClientLimits {
    /// The configuration section of the listener.
    section: &'static str,
    max_connections: usize,
    /// The message limit of a network that has sent no message yet; `None` if messages are not limited.
    initial_limit: Option<Gcra>,
    /// The instant that [`ClientLimits::time`] counts from.
    started: Instant,
    state: Mutex<State>,
    rejected_clients: RateLimitedLog,
    refused_messages: RateLimitedLog,
    refused_contents: RateLimitedLog,
}

#[derive(Debug, Default)]
struct State {
    connections: PeerCounts,
    /// The message limit of each network that has sent messages recently.
    messages: HashMap<IpAddr, Gcra>,
}

/// A client's connection, counted until dropped.
#[derive(Debug)]
pub(in crate::smtp::inbound) struct ClientConnection {
    limits: Arc<ClientLimits>,
    network: IpAddr,
}

impl ClientLimits {
    pub(in crate::smtp::inbound) fn new(settings: &Settings) -> Arc<Self> {
        Arc::new(Self {
            section: settings.section,
            max_connections: settings.max_per_peer,
            initial_limit: settings.messages_per_minute.map(per_minute),
            started: Instant::now(),
            state: Mutex::default(),
            rejected_clients: RateLimitedLog::default(),
            refused_messages: RateLimitedLog::default(),
            refused_contents: RateLimitedLog::default(),
        })
    }

    /// Counts one more connection from this address, if the limit allows it or `evict` ends another session of the same
    /// network. The limit may be exceeded for a short time, because an evicted session takes a moment to close.
    pub(in crate::smtp::inbound) fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        evict: impl FnOnce(IpAddr) -> bool,
    ) -> Option<ClientConnection> {
        let network = network::owner(address);
        let mut state = self.state();
        let (open, limit) = (state.connections.get(network), self.max_connections);
        if open >= limit && (open > limit + limit / EXCESS_DIVISOR || !evict(network)) {
            return None;
        }
        state.connections.add(network);
        Some(ClientConnection { limits: self.clone(), network })
    }

    /// Logs that a client was refused a session.
    pub(in crate::smtp::inbound) fn log_rejected_client(&self, peer: SocketAddr, why: &str) {
        if let Some(count) = self.rejected_clients.note(Instant::now()) {
            tracing::warn!(
                event = "smtp_clients_refused",
                %peer,
                count,
                why,
                server = self.section,
                "rejected SMTP clients; they should try again later"
            );
        }
    }

    /// Converts an instant to the time that the rate limits use. It is based on the monotonic clock, so changes of the
    /// system time do not affect the limits.
    fn time(&self, now: Instant) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + now.saturating_duration_since(self.started)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl ClientConnection {
    /// Returns the network that the connection counts for.
    pub(in crate::smtp::inbound) fn network(&self) -> IpAddr {
        self.network
    }

    /// Logs that a message was refused at MAIL or RCPT.
    pub(in crate::smtp::inbound) fn log_refused_message(&self, peer: SocketAddr, why: &str) {
        if let Some(count) = self.limits.refused_messages.note(Instant::now()) {
            tracing::warn!(
                event = "smtp_messages_refused",
                %peer,
                count,
                why,
                server = self.limits.section,
                "refused messages; raise the limit if they are legitimate"
            );
        }
    }

    /// Logs that a message was refused after it had been transferred; at most one line per minute, for all clients together.
    pub(in crate::smtp::inbound) fn log_refused_content(
        &self,
        peer: SocketAddr,
        fault: DataFault,
        (from, to): (&str, &[String]),
        now: Instant,
    ) {
        if let Some(count) = self.limits.refused_contents.note(now) {
            tracing::warn!(
                event = "smtp_message_refused",
                %peer,
                count,
                ?fault,
                from,
                ?to,
                server = self.limits.section,
                "refused messages that are too big, have bare line breaks, or found no memory"
            );
        }
    }

    /// Returns whether the limit allows one more message, and counts the message if so.
    pub(in crate::smtp::inbound) fn may_send(&self, now: Instant) -> bool {
        let Some(initial_limit) = self.limits.initial_limit else { return true };
        let now = self.limits.time(now);
        let messages = &mut self.limits.state().messages;
        let limit = messages.get(&self.network).copied().unwrap_or(initial_limit);
        let is_allowed = limit.available(now) > 0;
        if is_allowed {
            if messages.len() >= TRACKED_NETWORKS {
                messages.retain(|_, limit| !limit.is_unused(now));
            }
            messages.insert(self.network, limit.take(1, now));
        }
        is_allowed
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

/// Returns a limit of this many messages per minute, all of which may arrive at once.
fn per_minute(messages_per_minute: u32) -> Gcra {
    // The time that one message uses up, in whole microseconds, because `Gcra` rounds to them. It is rounded down, so
    // that all messages of a minute together use no more than the burst of one minute.
    let cost = (MINUTE.as_seconds_f64() * 1e6 / f64::from(messages_per_minute.max(1))).floor().max(1.0);
    Gcra::new(1e6 / cost, DateTime::<Utc>::MIN_UTC).with_burst(MINUTE)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limits(max_per_peer: usize, messages_per_minute: Option<u32>) -> Arc<ClientLimits> {
        ClientLimits::new(&Settings { max_per_peer, messages_per_minute, ..Settings::default() })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn enter(limits: &Arc<ClientLimits>, text: &str) -> Option<ClientConnection> {
        limits.enter(ip(text), |_| false)
    }

    /// The captured log.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn refused_messages_of_a_minute_are_one_line() {
        let (log, limits, start) = (Log::default(), limits(9, None), Instant::now());
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        // With a single subscriber, a test on another thread, which has none, would disable the line.
        let _second = tracing::Dispatch::new(tracing_subscriber::registry());
        tracing::callsite::rebuild_interest_cache();
        let clients = ["192.0.2.1", "192.0.2.2"].map(|address| enter(&limits, address).unwrap());
        let refuse = |seconds: u64| {
            for (client, fault) in clients.iter().zip([DataFault::BareLineBreak, DataFault::TooBig]) {
                let peer = SocketAddr::new(client.network(), 25);
                let envelope = ("ann@example.test", &["bo@acme.test".to_owned()][..]);
                client.log_refused_content(peer, fault, envelope, start + Duration::from_secs(seconds));
            }
        };
        // Six hours, with two refused messages per second.
        (0..6 * 3_600).for_each(refuse);
        let text = String::from_utf8(log.0.lock().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 6 * 60, "{:?}", lines.first());
        assert!(lines[0].contains(r#"event="smtp_message_refused""#) && lines[0].contains(" count=1 "), "{}", lines[0]);
        assert!(lines[1..].iter().all(|line| line.contains(" count=120 ")), "{}", lines[1]);
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
        let first = limits.enter(ip("2001:db8::1"), |_| panic!("no session has to end")).expect("a connection");
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
        assert!(!enter("192.0.2.1").may_send(later), "the count outlives the connections");
    }

    #[test]
    fn a_minute_of_messages_may_come_at_once() {
        for messages in [1, 7, 600, 999, 4_567] {
            let (limits, now) = (limits(1, Some(messages)), Instant::now());
            let client = enter(&limits, "192.0.2.1").unwrap();
            let sent = (0..2 * messages).filter(|_| client.may_send(now)).count();
            assert_eq!(sent, usize::try_from(messages).unwrap());
        }
    }

    #[test]
    fn the_number_of_tracked_networks_is_bounded() {
        let (limits, mut now) = (limits(9, Some(60)), Instant::now());
        for n in 0..20_000_u32 {
            assert!(limits.enter(IpAddr::from(n.to_be_bytes()), |_| false).unwrap().may_send(now));
            now += Duration::from_millis(1);
        }
        assert!(limits.state().messages.len() <= TRACKED_NETWORKS);
    }
}
