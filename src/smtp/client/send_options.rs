//! Options for sending a message: its urgency, the limits of its lane, and callbacks.

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};

use crate::domain::delivery::conversation::Conversation;
use crate::domain::outcome::Outcome;

/// Options of one call.
#[derive(Clone)]
pub struct SendOptions<'a> {
    /// Whether the message may use the last connections to a destination, which are reserved for urgent messages.
    pub urgent: bool,
    /// Limits of the message's lane.
    pub limits: Limits,
    /// Decides before MAIL, before the message text and before the end of a long text whether to continue.
    pub guard: &'a dyn SendGuard,
}

/// Limits of a lane. By default, the limits of the settings apply to connections that all lanes share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Id of a lane with its own connections; `None` for shared ones.
    pub lane: Option<i64>,
    /// Maximum connections of the lane over all its servers, including idle ones; at least 1. The limit of each
    /// destination applies too. Only used with `lane`; the last call's value applies.
    pub connections: Option<usize>,
    /// Maximum messages over one connection, instead of the settings' number.
    pub messages_per_connection: Option<u32>,
}

/// Decides whether a message is still to be sent. A closure implements [`SendGuard::may_start`].
pub trait SendGuard: Sync {
    /// Called when a session is open, before MAIL is sent. `false` withdraws the message, and does not count as an
    /// attempt.
    fn may_start(&self) -> bool;

    /// Awaited once per transaction, after the server's 354 and before the first byte of the message text. `accepted`
    /// are the envelope positions of the recipients that the server accepted, at least one. `false` closes the
    /// connection, and does not count as an attempt.
    fn may_send_text<'a>(&'a self, accepted: &'a [usize]) -> BoxFuture<'a, bool> {
        let _ = accepted;
        ready(true).boxed()
    }

    /// Called before the last write of a message text that takes several writes, because the earlier writes may have
    /// taken long. `false` closes the connection, and does not count as an attempt: the server has not received the end
    /// of the text.
    fn may_finish(&self) -> bool {
        true
    }

    /// Called before a further transaction for other recipients, with the outcomes that are already final, by envelope
    /// position. [`Sender::send_if`](crate::smtp::Sender::send_if) returns them again at the end. The implementation
    /// must save them at once, so that these recipients get no duplicate if the process dies before the end.
    fn recipients_done(&self, outcomes: Vec<(usize, Outcome)>) {
        let _ = outcomes;
    }

    /// Returns whether conversations are kept even if the server accepts the message.
    fn is_traced(&self) -> bool {
        false
    }

    /// Called after each conversation in which a server did not accept the message for all recipients, or did not open a
    /// session, and before [`recipients_done`](Self::recipients_done). If [`is_traced`](Self::is_traced), called after
    /// every conversation.
    fn keep_conversation(&self, conversation: Conversation) {
        let _ = conversation;
    }
}

impl<F: Fn() -> bool + Sync> SendGuard for F {
    fn may_start(&self) -> bool {
        self()
    }
}
