//! A connection that has been opened and greeted, from one message to the next.

use lettre::transport::smtp::commands::{Quit, Rset};
use tokio::time::{Instant, timeout};

use super::ehlo::Capabilities;
use super::handshake::Policy;
use super::wire::Wire;
use crate::domain::outcome::{Peer, Reply};
use crate::smtp::client::pool::lane::Place;

/// An open session. It is owned by whoever speaks over it, so that a dropped call closes it.
pub(in crate::smtp) struct Session {
    pub wire: Wire,
    pub offer: Capabilities,
    pub peer: Peer,
    /// Messages begun over this connection.
    pub mails: u32,
    /// How many it may carry, where that is not the policy's number.
    pub most_mails: Option<u32>,
    /// Whether a transaction was begun that nothing has ended: RSET comes before the next.
    pub must_reset: bool,
    /// Why there is no TLS although the server offers it.
    pub without_tls: Option<Reply>,
    /// Whether it is to be ended with QUIT although it carries no more message.
    pub may_part: bool,
    /// Whether nothing can be said over it any more.
    pub broken: bool,
    opened: Instant,
    used: Instant,
    /// Given back when the connection is closed.
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

    /// The same, which was opened again in plain text for this reason.
    pub fn without_tls(self, why: Reply) -> Self {
        Self { without_tls: Some(why), ..self }
    }

    /// The same in this place of its lane.
    pub fn at(self, place: Option<Place>) -> Self {
        Self { _place: place, ..self }
    }

    /// Notes that a message is done.
    pub fn rest(&mut self) {
        self.used = Instant::now();
    }

    /// Whether it has carried enough messages, is too old or has been idle for too long.
    pub fn is_worn(&self, policy: &Policy) -> bool {
        let most = self.most_mails.unwrap_or(policy.mails);
        self.mails >= most || self.opened.elapsed() >= policy.age || self.used.elapsed() >= policy.idle
    }

    /// Ends a transaction that was left open; returns whether the session can go on.
    pub async fn reset(&mut self, policy: &Policy) -> bool {
        let reply = self.wire.ask(Rset, policy.timeouts.ehlo).await;
        self.must_reset = false;
        reply.is_ok_and(|reply| reply.is_positive())
    }

    /// Says goodbye and waits until the server has hung up, so that it never counts more of us than there are; but not
    /// for long.
    pub async fn quit(&mut self, policy: &Policy) {
        self.broken = true;
        // The connection is closed whatever the answer is.
        let _ = timeout(policy.timeouts.quit, async {
            self.wire.ask(Quit, policy.timeouts.quit).await?;
            self.wire.end().await
        })
        .await;
    }
}
