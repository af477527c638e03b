//! What came of the posts: what it says of the endpoint, what is tried again and when, and all of it into the database.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::task::JoinError;
use tokio::time::Instant;

use super::super::PAUSE;
use super::{Done, Session};
use crate::db::notify::{self, Attempt, Endpoint, Hold, Progress, Retry};
use crate::domain::gcra::Gcra;
use crate::domain::id::uuid_at;
use crate::domain::webhook::Failure;
use crate::webhook::Verdict;

/// Outcomes are recorded when the first is so old.
const EVERY: Duration = Duration::from_millis(100);
/// Before an endpoint is taken in hand again whose progress the database refuses: what is not recorded is posted again.
const PARKED: Duration = Duration::from_mins(1);

impl Session {
    pub(super) fn note(&mut self, done: Result<Done, JoinError>) {
        let done = match done {
            Ok(done) => done,
            Err(error) if error.is_cancelled() => return,
            // The event stays above the cursor, and is posted again when the endpoint is read anew.
            Err(error) => {
                tracing::error!(%error, "a post to a webhook ended in a panic");
                self.is_lost = true;
                return self.posts.abort_all();
            }
        };
        let Some(flight) = self.line.land(done.flight) else { return };
        let now = self.parts.clock.now();
        let health = &mut self.endpoint.health;
        let was_down = health.is_down();
        let tries = flight.tries.saturating_add(1);
        let again = if done.outcome.verdict == Verdict::Success {
            health.succeeded(now);
            self.progress.is_back |= was_down;
            None
        } else {
            let failure = Failure {
                tries: tries.unsigned_abs().into(),
                is_probe: self.probe == Some(done.flight),
                asked: done.outcome.retry_after,
                error: done.outcome.words(),
            };
            let again = health.failed(failure, now, rand::random());
            let is_over = health.is_over(now);
            if done.outcome.verdict == Verdict::Gone {
                self.disable("the endpoint answered 410 Gone: it wants no more events".into());
            } else if is_over {
                let words = done.outcome.words();
                self.disable(format!("no post has succeeded for 5 days; the last one: {words}"));
            }
            again
        };
        self.log(done, &flight.seqs, tries, again);
        match again {
            Some(due_at) => {
                let retry = Retry { seqs: flight.seqs, attempts: tries, due_at };
                self.progress.retries.insert(retry.seqs.first().copied().unwrap_or(0), retry);
            }
            None if flight.tries > 0 => self.progress.settled.push(flight.seq()),
            None => {}
        }
    }

    /// Posts no more. Said once, however many were in flight.
    fn disable(&mut self, reason: String) {
        if !std::mem::replace(&mut self.is_disabled, true) {
            self.progress.disabled = Some(reason);
        }
    }

    fn log(&mut self, done: Done, seqs: &[i64], number: i16, again: Option<DateTime<Utc>>) {
        let outcome = done.outcome;
        self.record_at.get_or_insert_with(|| Instant::now() + EVERY);
        self.progress.attempts.push(Attempt {
            id: uuid_at(done.begun),
            seq: seqs.first().copied().unwrap_or(0),
            events: i16::try_from(seqs.len()).unwrap_or(i16::MAX),
            number,
            size: i32::try_from(done.size).unwrap_or(i32::MAX),
            status: outcome.status.and_then(|status| i16::try_from(status).ok()),
            answer: outcome.answer,
            error: outcome.error,
            duration_ms: i32::try_from(outcome.duration.as_millis()).unwrap_or(i32::MAX),
            next_attempt_at: again.filter(|_| !self.is_disabled),
        });
    }

    /// Records what was done, for as long as it takes. Answers `false` where that is no longer ours to do.
    pub(super) async fn record(&mut self, hold: Hold) -> bool {
        let now = self.parts.clock.now();
        self.endpoint.cursor = self.line.cursor();
        if let Some(turns) = self.turns.filter(|turns| hold == Hold::Release && turns.available(now) == 0) {
            let open_at = &mut self.endpoint.health.open_at;
            *open_at = (*open_at).max(Some(turns.opens_at(now)));
        }
        loop {
            let call = notify::record(&self.parts.db, self.worker, &self.endpoint, &self.progress, hold, now);
            match self.call(Box::pin(call)).await {
                Ok(Some(endpoint)) => {
                    self.take_over(endpoint);
                    return true;
                }
                Ok(None) => break,
                Err(error) if error.is_passing() => {
                    tracing::debug!(%error, "could not record what was posted; trying again");
                    if !self.parts.identity.holds(self.worker) {
                        break;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => {
                    tracing::error!(%error, endpoint = %self.endpoint.id, "what was posted to a webhook cannot be recorded; in a minute it is posted again");
                    tokio::time::sleep(PARKED).await;
                    break;
                }
            }
        }
        self.is_lost = true;
        self.posts.abort_all();
        false
    }

    /// Goes on with the endpoint as it now is: its settings may have been changed.
    fn take_over(&mut self, endpoint: Endpoint) {
        if self.progress.is_back {
            // What waits for another try is due now, and comes first.
            self.has_due = true;
        }
        self.turns = match (self.turns, endpoint.rate) {
            (Some(turns), Some(rate)) => Some(Gcra { rate, ..turns }),
            (_, rate) => rate.map(|rate| Gcra::since(rate, endpoint.health.open_at)),
        };
        self.endpoint = endpoint;
        self.progress = Progress::default();
        self.record_at = None;
    }
}
