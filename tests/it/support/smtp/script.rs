//! What the server has been told to answer.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::Shared;

/// Where in the dialogue an answer belongs.
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

/// One answer.
#[derive(Debug, Clone)]
pub enum Action {
    /// This reply; what follows depends on its first digit.
    Reply(String),
    /// The same after a while, where the time that passes is the point.
    ReplyAfter(String, Duration),
    /// These octets, taken for a reply by their first digit.
    Octets(Vec<u8>),
    /// The same, and the connection closed.
    OctetsThenDrop(Vec<u8>),
    /// These octets, each piece in a packet of its own.
    Pieces(&'static [&'static str]),
    /// These octets over and over until the client hangs up.
    Endless(&'static [u8]),
    /// These octets over and over, one every so often, until the client hangs up.
    Trickle(&'static [u8], Duration),
    /// No word, and the connection closed.
    Drop,
    /// A reply, and the connection closed.
    ReplyThenDrop(String),
    /// For DATA: 354, then these words and the connection closed after so many octets of the mail.
    DropAfterReading(usize, &'static str),
    /// For DATA: 354, and then not an octet of the mail is read.
    StopReading,
    /// No answer before the test opens the gate; then the usual one.
    Stall(Gate),
}

impl From<&str> for Action {
    fn from(reply: &str) -> Self {
        Self::Reply(reply.to_owned())
    }
}

pub(super) type Scripts = HashMap<Stage, VecDeque<Action>>;

/// The script of one stage, to be added to.
pub struct Script<'a> {
    pub(super) shared: &'a Shared,
    pub(super) stage: Stage,
}

impl Script<'_> {
    /// Answers these, one each time.
    pub fn replies<const N: usize>(self, replies: [&str; N]) {
        self.does(replies.map(Action::from));
    }

    /// The same with other things than replies among them.
    pub fn does<const N: usize>(self, actions: [Action; N]) {
        self.shared.log().scripts.entry(self.stage).or_default().extend(actions);
    }

    /// Says nothing until the gate is opened.
    pub fn stalls(self) -> Gate {
        let gate = Gate::default();
        self.does([Action::Stall(gate.clone())]);
        gate
    }
}

/// Holds the server at one place.
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
    /// Waits until the server is there.
    pub async fn reached(&self) {
        self.arrived.acquire().await.unwrap().forget();
    }

    /// Lets it go on.
    pub fn open(&self) {
        self.opened.add_permits(1);
    }

    pub(in crate::support) async fn pass(&self) {
        self.arrived.add_permits(1);
        self.opened.acquire().await.unwrap().forget();
    }
}
