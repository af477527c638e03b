//! What the worker has to say while a mail is under way: whether it is still ours to send, and, where the sender wants no
//! second copy, that its text is about to leave.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};

use super::attempt;
use super::attempt::{End, Start};
use super::loaded_message::LoadedMessage;
use crate::db::marks::{self, Mark};
use crate::db::queue::Claimed;
use crate::domain::outcome::{OnUncertain, Outcome};
use crate::smtp::SendGuard;
use crate::worker::Parts;

/// About one mail on one route.
pub(crate) struct LeaseCheck<'a> {
    parts: &'a Parts,
    mail: &'a LoadedMessage,
    claimed: &'a [Claimed],
    start: Start,
    text_left: AtomicBool,
    /// The places of those whose outcomes are on their way to the database.
    settled: Mutex<HashSet<usize>>,
}

impl<'a> LeaseCheck<'a> {
    pub(crate) fn new(parts: &'a Parts, mail: &'a LoadedMessage, claimed: &'a [Claimed], start: Start) -> Self {
        Self { parts, mail, claimed, start, text_left: AtomicBool::new(false), settled: Mutex::default() }
    }

    /// Whether the outcome of the recipient at this place has been handed over.
    pub(crate) fn has_settled(&self, place: usize) -> bool {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner).contains(&place)
    }

    /// Those whose outcomes have not been.
    pub(crate) fn unsettled(&self) -> Vec<Claimed> {
        let claimed = self.claimed.iter().enumerate().filter(|(place, _)| !self.has_settled(*place));
        claimed.map(|(_, claimed)| claimed.clone()).collect()
    }

    /// Whether the text, or some of it, may have left.
    pub(crate) fn has_passed_text(&self) -> bool {
        self.text_left.load(Ordering::Relaxed)
    }

    /// Those at these places, as they are claimed now.
    fn claims(&self, places: impl Iterator<Item = usize>) -> Vec<Claimed> {
        let mut claims: Vec<Claimed> = places.filter_map(|place| self.claimed.get(place).cloned()).collect();
        for row in &mut claims {
            self.parts.in_flight.adopt_claim(row);
        }
        claims
    }

    fn all(&self) -> Vec<Claimed> {
        self.claims(0..self.claimed.len())
    }

    /// Whether nobody else may have taken over. A process that was stopped for a while does not know of it, so it has to be
    /// asked at the last moment.
    fn are_ours(&self, claims: &[Claimed]) -> bool {
        claims.iter().all(|row| self.parts.identity.holds(row.lease))
    }

    /// Puts on record that the text leaves. Without the record it must not: after a crash it would be sent again.
    async fn record(&self, claims: Vec<Claimed>) -> bool {
        match marks::set(&self.parts.db, &claims, Mark::DataStarted).await {
            // The database may have taken its time: the lease must still stand.
            Ok(recorded) => recorded && self.are_ours(&claims),
            Err(error) => {
                tracing::warn!(%error, "could not put on record that a mail's text is sent; not sending it");
                false
            }
        }
    }
}

impl SendGuard for LeaseCheck<'_> {
    /// Asked maybe long after the claim: others may have taken over, time may have run out, the worker may be stopping.
    fn go(&self) -> bool {
        let (claims, now) = (self.all(), self.parts.clock.now());
        let is_in_time = |row: &Claimed| now < attempt::deadline(self.parts, self.mail, row);
        !self.parts.closing.is_cancelled() && self.are_ours(&claims) && claims.iter().all(is_in_time)
    }

    /// Only those that were accepted get the text, and only of them it is on record.
    fn before_text<'a>(&'a self, accepted: &'a [usize]) -> BoxFuture<'a, bool> {
        let claims = self.claims(accepted.iter().copied());
        let may_go = match self.mail.on_uncertain() {
            OnUncertain::Retry => ready(self.are_ours(&claims)).boxed(),
            OnUncertain::Hold | OnUncertain::Fail => self.record(claims).boxed(),
        };
        let note = |may_go: &bool| {
            self.text_left.fetch_or(*may_go, Ordering::Relaxed);
        };
        may_go.inspect(note).boxed()
    }

    fn before_end(&self) -> bool {
        self.are_ours(&self.all())
    }

    /// At once: a further transaction may take long, and nobody waits for it whose mail has arrived.
    fn settled(&self, outcomes: Vec<(usize, Outcome)>) {
        let end = End::now(self.parts);
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        let finished = outcomes.into_iter().filter_map(|(place, outcome)| {
            let claimed = self.claimed.get(place)?.clone();
            settled.insert(place).then(|| attempt::judge(self.parts, self.mail, claimed, outcome, self.start, end))
        });
        let finished = finished.collect();
        self.parts.completer.complete(finished);
    }
}
