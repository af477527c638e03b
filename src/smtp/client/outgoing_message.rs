//! Input and result of a transaction.

use std::time::Duration;

use super::route::Envelope;
use crate::domain::bounce::verdict::asks_for_tls;
use crate::domain::outcome::{Outcome, Peer, Reply, Stage, Verdict};

/// Result for one recipient.
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

    /// Converts the judgement into an outcome.
    pub fn into_outcome(self, peer: Peer, duration: Duration) -> Outcome {
        Outcome { verdict: self.verdict, reply: self.reply, peer, duration, stage: self.stage }
    }
}

/// How a transaction ended.
#[derive(Debug)]
pub(in crate::smtp) enum Ending {
    /// At least one recipient was judged, by the server or before anything was sent.
    Judged(Judged),
    /// The server closed the session before it replied to any command of this message. If the session was idle before,
    /// no attempt was made.
    ServerClosed(Reply),
    /// The send guard withdrew the message before its text was complete. No attempt was made.
    Withdrawn,
}

/// Results for the recipients of one transaction.
#[derive(Debug, Default)]
pub(in crate::smtp) struct Judged {
    /// Judgements, by position in the envelope.
    pub done: Vec<(usize, Judgement)>,
    /// Recipients beyond the server's limit, in the envelope's order, with the judgement that applies if no further
    /// transaction follows.
    pub left: Vec<(usize, Judgement)>,
    /// Whether another transaction for the remaining recipients may follow at once.
    pub has_next_transaction: bool,
    /// Number of recipients that the server accepted, if it refused more.
    pub limit: Option<usize>,
}

impl Judged {
    /// Returns whether any recipient was not accepted.
    pub fn has_failure(&self) -> bool {
        self.done.iter().chain(&self.left).any(|(_, judgement)| judgement.verdict != Verdict::Accepted)
    }

    /// Prefixes refusals that require TLS with the reason why there was none.
    pub fn explain_missing_tls(&mut self, why: &Reply) {
        for (_, Judgement { verdict, reply, .. }) in self.done.iter_mut().chain(&mut self.left) {
            if *verdict != Verdict::Accepted && asks_for_tls(reply) {
                *reply = reply.clone().after(why);
            }
        }
    }
}

/// A message and its envelope.
#[derive(Clone, Copy)]
pub(in crate::smtp) struct OutgoingMessage<'a> {
    pub envelope: &'a Envelope,
    pub mime: &'a [u8],
    /// Where `mime` has bytes above 127.
    pub eight_bit: EightBit,
}

/// The recipients of the envelope for one transaction.
#[derive(Clone, Copy)]
pub(in crate::smtp) struct Batch<'a> {
    /// Positions of the recipients in the envelope.
    pub positions: &'a [usize],
    /// Maximum recipients to send in RCPT.
    pub max_recipients: usize,
    /// Whether an earlier transaction was for other recipients of the envelope.
    pub is_continuation: bool,
}

/// Where a message has bytes above 127.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::smtp) enum EightBit {
    Nowhere,
    /// In the body only.
    Body,
    /// In header fields, so it is an internationalized message (RFC 6532).
    Header,
}

impl EightBit {
    pub fn detect(mime: &[u8]) -> Self {
        if mime.is_ascii() {
            return Self::Nowhere;
        }
        let header = memchr::memmem::find(mime, b"\r\n\r\n").map_or(mime, |end| &mime[..end]);
        if header.is_ascii() { Self::Body } else { Self::Header }
    }
}
