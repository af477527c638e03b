//! Options for sending a message: its urgency, the limits of its lane, and callbacks.

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};

use crate::domain::outcome::Outcome;

/// Options of one call.
#[derive(Clone)]
pub struct SendOptions<'a> {
    /// Whether the message may use the last connections to a destination, which are reserved for urgent messages.
    pub urgent: bool,
    /// Limits of the message's lane.
    pub limits: Limits,
    /// Called before the message is begun, before its text, and before the end of a long one.
    pub watch: &'a dyn SendGuard,
}

/// Limits of a lane. The default is the settings' limits, over connections that all lanes share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Id of a lane with its own connections; `None` for shared ones.
    pub lane: Option<i64>,
    /// Maximum connections of the lane over all its servers, including idle ones; at least 1. Each destination also
    /// keeps to the settings' limit. Only used with `lane`; the last call's value applies.
    pub connections: Option<usize>,
    /// Maximum messages over one connection, instead of the settings' number.
    pub mails_per_connection: Option<u32>,
}

/// Decides whether a message is still to be sent. A closure implements [`SendGuard::go`].
pub trait SendGuard: Sync {
    /// Called once a session is open and before anything of this message is sent.
    fn go(&self) -> bool;

    /// Awaited once, when the server waits for the text, before its first byte. `accepted` are the envelope positions
    /// of the recipients that the server accepted, at least one. `false` closes the connection, and no attempt was
    /// made.
    fn before_text<'a>(&'a self, accepted: &'a [usize]) -> BoxFuture<'a, bool> {
        let _ = accepted;
        ready(true).boxed()
    }

    /// Called before the write that ends a text of several writes, which may have taken long. `false` closes the
    /// connection, and no attempt was made: the server has not received the end.
    fn before_end(&self) -> bool {
        true
    }

    /// Called with the outcomes of recipients, by envelope position, that are final while others go in a further
    /// transaction. The call returns them again at the end. The implementation must save them, so that these recipients
    /// get no duplicate if the process dies before.
    fn settled(&self, outcomes: Vec<(usize, Outcome)>) {
        let _ = outcomes;
    }
}

impl<F: Fn() -> bool + Sync> SendGuard for F {
    fn go(&self) -> bool {
        self()
    }
}
