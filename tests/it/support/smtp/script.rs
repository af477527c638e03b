//! The scripted replies of the server.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::Shared;

/// The stage of the conversation that a reply is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    Greeting,
    Ehlo,
    Starttls,
    Auth,
    AfterAuth,
    Mail,
    Rcpt(String),
    Data,
    FinalDot,
    Other,
}

/// One scripted reply.
#[derive(Debug, Clone)]
pub enum Action {
    /// This reply; what follows depends on its first digit.
    Reply(String),
    /// This reply, after a delay.
    ReplyAfter(String, Duration),
    /// These bytes, treated as a reply by their first digit.
    Bytes(Vec<u8>),
    /// These bytes; then the connection is closed.
    BytesThenDrop(Vec<u8>),
    /// These bytes, each piece in a separate packet.
    Pieces(&'static [&'static str]),
    /// These bytes repeatedly until the client disconnects.
    Endless(&'static [u8]),
    /// These bytes repeatedly, one byte per interval, until the client disconnects.
    Trickle(&'static [u8], Duration),
    /// No reply; the connection is closed.
    Drop,
    /// This reply; then the connection is closed.
    ReplyThenDrop(String),
    /// For DATA: 354; after this many bytes of the message, this reply, and the connection is closed.
    DropAfterReading(usize, &'static str),
    /// For DATA: 354; then the server stops reading.
    StopReading,
    /// No reply until the test opens the gate; then the usual reply.
    Stall(Gate),
}

impl From<&str> for Action {
    fn from(reply: &str) -> Self {
        Self::Reply(reply.to_owned())
    }
}

pub(super) type Scripts = HashMap<Stage, VecDeque<Action>>;

/// The script of one stage.
pub struct Script<'a> {
    pub(super) shared: &'a Shared,
    pub(super) stage: Stage,
}

impl Script<'_> {
    /// Adds these replies, one for each occurrence of the stage.
    pub fn replies<const N: usize>(self, replies: [&str; N]) {
        self.does(replies.map(Action::from));
    }

    /// Adds these actions, one for each occurrence of the stage.
    pub fn does<const N: usize>(self, actions: [Action; N]) {
        self.shared.state().scripts.entry(self.stage).or_default().extend(actions);
    }

    /// Adds an action that sends no reply until the gate is opened.
    pub fn stalls(self) -> Gate {
        let gate = Gate::default();
        self.does([Action::Stall(gate.clone())]);
        gate
    }
}

/// Stops the server at one stage.
#[derive(Debug, Clone)]
pub struct Gate {
    arrived: Arc<Semaphore>,
    opened: Arc<Semaphore>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { arrived: Arc::new(Semaphore::new(0)), opened: Arc::new(Semaphore::new(0)) }
    }
}

impl Gate {
    /// Waits until the server has reached the gate.
    pub async fn reached(&self) {
        self.arrived.acquire().await.unwrap().forget();
    }

    /// Lets the server continue.
    pub fn open(&self) {
        self.opened.add_permits(1);
    }

    pub(in crate::support) async fn pass(&self) {
        self.arrived.add_permits(1);
        self.opened.acquire().await.unwrap().forget();
    }
}
