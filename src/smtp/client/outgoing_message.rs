//! What goes into a transaction, and what comes out of it.

use std::time::Duration;

use super::route::Envelope;
use crate::domain::outcome::{Outcome, Peer, Reply, Stage, Verdict};
use crate::domain::refusal;

/// What became of a recipient.
#[derive(Debug, Clone)]
pub(in crate::smtp) struct Judgement {
    pub verdict: Verdict,
    pub stage: Stage,
    pub reply: Reply,
}

impl Judgement {
    pub fn new(verdict: Verdict, stage: Stage, reply: Reply) -> Self {
        Self { verdict, stage, reply }
    }

    /// The same as others know it.
    pub fn into_outcome(self, peer: Peer, duration: Duration) -> Outcome {
        Outcome { verdict: self.verdict, reply: self.reply, peer, duration, stage: self.stage }
    }
}

/// How a transaction ended.
#[derive(Debug)]
pub(in crate::smtp) enum Ending {
    /// The server, or what is known of it, has judged at least one recipient.
    Judged(Judged),
    /// The server was gone before it said a word about this message: on a session that had been idle, not an attempt.
    HungUp(Reply),
    /// The watch did not want the text to be sent, or ended: not an attempt.
    CalledOff,
}

/// What became of the recipients of one transaction.
#[derive(Debug, Default)]
pub(in crate::smtp) struct Judged {
    /// By their places in the envelope.
    pub done: Vec<(usize, Judgement)>,
    /// Recipients beyond the server's limit, in the envelope's order, with what they get where there is no further
    /// transaction.
    pub left: Vec<(usize, Judgement)>,
    /// Whether there may be another transaction for those at once.
    pub may_go_on: bool,
    /// How many recipients the server took, where it said that these are all it takes.
    pub limit: Option<usize>,
}

impl Judged {
    /// Says why there was no TLS to whoever was refused for that.
    pub fn explain(&mut self, why: &Reply) {
        for (_, Judgement { verdict, reply, .. }) in self.done.iter_mut().chain(&mut self.left) {
            if *verdict != Verdict::Accepted && refusal::asks_for_tls(reply) {
                *reply = reply.clone().behind(why);
            }
        }
    }
}

/// One message.
#[derive(Clone, Copy)]
pub(in crate::smtp) struct OutgoingMessage<'a> {
    pub envelope: &'a Envelope,
    pub mime: &'a [u8],
    /// Which bytes above 127 `mime` has.
    pub eight_bit: EightBit,
}

/// For which recipients of the envelope a transaction is.
#[derive(Clone, Copy)]
pub(in crate::smtp) struct Batch<'a> {
    /// Their places.
    pub places: &'a [usize],
    /// The most of them that are named to the server.
    pub most: usize,
    /// Whether others of the envelope were named to the server before.
    pub is_further: bool,
}

/// Where a message has bytes above 127.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::smtp) enum EightBit {
    Nowhere,
    /// In the body alone.
    Body,
    /// In header fields, so that it is an internationalized message (RFC 6532).
    Header,
}

impl EightBit {
    pub fn of(mime: &[u8]) -> Self {
        if mime.is_ascii() {
            return Self::Nowhere;
        }
        let header = memchr::memmem::find(mime, b"\r\n\r\n").map_or(mime, |end| &mime[..end]);
        if header.is_ascii() { Self::Body } else { Self::Header }
    }
}
