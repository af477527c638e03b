//! An open session, which carries one message after the other.

use lettre::transport::smtp::commands::{Quit, Rset};
use tokio::time::{Instant, timeout};

use super::ehlo::Capabilities;
use super::handshake::Policy;
use super::wire::Wire;
use crate::domain::outcome::{Peer, Reply};
use crate::smtp::client::pool::lane::Place;

/// An open session. It is owned by the call that uses it, so that a dropped call closes the connection.
pub(in crate::smtp) struct Session {
    pub wire: Wire,
    pub offer: Capabilities,
    pub peer: Peer,
    /// Messages begun over this connection.
    pub mails: u32,
    /// Maximum messages, if different from the policy's.
    pub most_mails: Option<u32>,
    /// Whether a transaction was begun and not ended: RSET must precede the next one.
    pub must_reset: bool,
    /// Why there is no TLS although the server offers it.
    pub without_tls: Option<Reply>,
    /// Whether to end the session with QUIT although it carries no more messages.
    pub may_part: bool,
    /// Whether the connection is unusable.
    pub broken: bool,
    opened: Instant,
    used: Instant,
    /// Released when the connection is closed.
    _place: Option<Place>,
}

impl Session {
    pub fn new(wire: Wire, offer: Capabilities, peer: Peer) -> Self {
        let now = Instant::now();
        Self {
            wire,
            offer,
            peer,
            mails: 0,
            most_mails: None,
            must_reset: false,
            without_tls: None,
            may_part: false,
            broken: false,
            opened: now,
            used: now,
            _place: None,
        }
    }

    /// Returns the session with the reason why it was opened again in plain text.
    pub fn without_tls(self, why: Reply) -> Self {
        Self { without_tls: Some(why), ..self }
    }

    /// Returns the session with its permit of the lane.
    pub fn at(self, place: Option<Place>) -> Self {
        Self { _place: place, ..self }
    }

    /// Notes that a message is done.
    pub fn rest(&mut self) {
        self.used = Instant::now();
    }

    /// Returns whether the session has carried the maximum of messages, is too old or has been idle for too long.
    pub fn is_worn(&self, policy: &Policy) -> bool {
        let most = self.most_mails.unwrap_or(policy.mails);
        self.mails >= most || self.opened.elapsed() >= policy.age || self.used.elapsed() >= policy.idle
    }

    /// Ends a transaction that was left open; returns whether the session can continue.
    pub async fn reset(&mut self, policy: &Policy) -> bool {
        let reply = self.wire.ask(Rset, policy.timeouts.ehlo).await;
        self.must_reset = false;
        reply.is_ok_and(|reply| reply.is_positive())
    }

    /// Sends QUIT and waits, for a limited time, until the server has closed the connection, so that it never counts
    /// more of our connections than are open.
    pub async fn quit(&mut self, policy: &Policy) {
        self.broken = true;
        // The connection is closed whatever the reply is.
        let _ = timeout(policy.timeouts.quit, async {
            self.wire.ask(Quit, policy.timeouts.quit).await?;
            self.wire.end().await
        })
        .await;
    }
}
