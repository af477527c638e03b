//! On which terms a message is sent: how urgent it is, what its lane allows, and who is asked on the way.

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};

use crate::domain::outcome::Outcome;

/// The terms of one call.
#[derive(Clone)]
pub struct SendOptions<'a> {
    /// Whether the message may use the last connections to a destination, which are kept for such message.
    pub urgent: bool,
    /// What its lane allows.
    pub limits: Limits,
    /// Asked before the message is begun, before its text, and before the end of a long one.
    pub watch: &'a dyn SendGuard,
}

/// What a lane allows. The default is what the settings say, over connections that all lanes share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Where set, this lane has connections of its own.
    pub lane: Option<i64>,
    /// The most connections that the lane may have open over all its servers, idle ones included; at least 1. Beside
    /// it each destination keeps to the settings' limit. Counts for a `lane` only; the last call's holds.
    pub connections: Option<usize>,
    /// The most messages over one connection, in place of the settings' number.
    pub mails_per_connection: Option<u32>,
}

/// Asked on the way whether the message is still to go. A closure stands for [`SendGuard::go`].
pub trait SendGuard: Sync {
    /// Asked once a session is at hand and nothing has been said of this message.
    fn go(&self) -> bool;

    /// Awaited once, when the server waits for the text, before its first byte. `accepted` are the places in the envelope
    /// of the recipients that it took, at least one. `false` closes the connection instead, and no attempt was made.
    fn before_text<'a>(&'a self, accepted: &'a [usize]) -> BoxFuture<'a, bool> {
        let _ = accepted;
        ready(true).boxed()
    }

    /// Asked before the write that ends a text of several writes, which may have taken long. `false` closes the connection
    /// instead, and no attempt was made: the server has not seen the end.
    fn before_end(&self) -> bool {
        true
    }

    /// Told of recipients, by their places in the envelope, that are done with while others go in a further transaction. The
    /// call returns their outcomes again in the end; should this process die before, they must not get a second copy.
    fn settled(&self, outcomes: Vec<(usize, Outcome)>) {
        let _ = outcomes;
    }
}

impl<F: Fn() -> bool + Sync> SendGuard for F {
    fn go(&self) -> bool {
        self()
    }
}
