//! An open session, which carries one message after the other.

use lettre::transport::smtp::commands::{Quit, Rset};
use tokio::time::{Instant, timeout};

use super::ehlo::Capabilities;
use super::handshake::Policy;
use super::wire::Wire;
use crate::domain::delivery::conversation::{Conversation, Direction, Line};
use crate::domain::outcome::{Peer, Reply};
use crate::domain::provider::Provider;
use crate::metrics::METRICS;
use crate::smtp::client::pool::lane::ConnectionPermit;

/// An open session. It is owned by the call that uses it, so that a dropped call closes the connection.
pub(in crate::smtp) struct Session {
    pub wire: Wire,
    pub offer: Capabilities,
    pub peer: Peer,
    /// Number of messages started over this connection.
    pub messages: u32,
    /// Maximum messages, if different from the policy's.
    pub max_messages: Option<u32>,
    /// Whether a transaction was left open, so that RSET must precede the next one.
    pub must_reset: bool,
    /// Why there is no TLS although the server offers it.
    pub without_tls: Option<Reply>,
    /// Whether to send QUIT before a broken session is closed.
    pub send_quit: bool,
    /// Whether the connection is unusable.
    pub broken: bool,
    opened: Instant,
    used: Instant,
    /// Released when the connection is closed.
    _permit: Option<ConnectionPermit>,
    _counted: OpenConnection,
}

/// Counts an open connection until it is dropped.
struct OpenConnection(Provider);

impl OpenConnection {
    fn new(peer: &Peer) -> Self {
        let provider = peer.provider();
        METRICS.smtp_connections.get((provider,)).increment(1.0);
        Self(provider)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        METRICS.smtp_connections.get((self.0,)).decrement(1.0);
    }
}

impl Session {
    pub fn new(wire: Wire, offer: Capabilities, peer: Peer) -> Self {
        let now = Instant::now();
        Self {
            _counted: OpenConnection::new(&peer),
            wire,
            offer,
            peer,
            messages: 0,
            max_messages: None,
            must_reset: false,
            without_tls: None,
            send_quit: false,
            broken: false,
            opened: now,
            used: now,
            _permit: None,
        }
    }

    /// Returns the session with the reason why it was reopened in plain text.
    pub fn without_tls(self, why: Reply) -> Self {
        Self { without_tls: Some(why), ..self }
    }

    /// Returns the session with the connection permit that its lane granted.
    pub fn with_permit(self, permit: Option<ConnectionPermit>) -> Self {
        Self { _permit: permit, ..self }
    }

    /// Restarts the idle time, after a message.
    pub fn mark_used(&mut self) {
        self.used = Instant::now();
    }

    /// Returns the conversation about the current message, and forgets it.
    pub fn take_conversation(&self) -> Conversation {
        let conversation = self.wire.transcript.take();
        if self.messages < 2 {
            return conversation;
        }
        let Peer { mx, ip, tls, .. } = &self.peer;
        let host = mx.as_deref().unwrap_or_default();
        let ip = ip.map(|ip| format!(" at {ip}")).unwrap_or_default();
        let tls = tls.as_ref().map_or_else(|| "without TLS".to_owned(), |tls| format!("TLS: {tls}"));
        let note = format!("message {} over the open connection to {host}{ip}, {tls}", self.messages);
        let mut whole = Conversation::new(vec![Line::new(0, Direction::Note, &note)], 0, 0);
        whole.append(conversation);
        whole
    }

    /// Returns whether the session has carried the maximum number of messages, is too old or has been idle for too
    /// long.
    pub fn must_close(&self, policy: &Policy) -> bool {
        let max = self.max_messages.unwrap_or(policy.max_messages);
        self.messages >= max || self.opened.elapsed() >= policy.age || self.used.elapsed() >= policy.idle
    }

    /// Ends a transaction that was left open; returns whether the session can continue.
    pub async fn reset(&mut self, policy: &Policy) -> bool {
        let reply = self.wire.command(Rset, policy.timeouts.ehlo).await;
        self.must_reset = false;
        reply.is_ok_and(|reply| reply.is_positive())
    }

    /// Sends QUIT and waits, for a limited time, until the server has closed the connection, so that the server never
    /// counts more connections from this client than are open.
    pub async fn quit(&mut self, policy: &Policy) {
        self.broken = true;
        // The connection is closed whatever the reply is.
        let _ = timeout(policy.timeouts.quit, async {
            self.wire.command(Quit, policy.timeouts.quit).await?;
            self.wire.read_to_close().await
        })
        .await;
    }
}
