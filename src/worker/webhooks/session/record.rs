//! Records outcomes: the attempts, the health of the endpoint, and the deliveries that must be retried. The times
//! at which they are retried come from `Health::failed` in `domain/webhook/retry.rs`, which has the schedule.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::task::JoinError;
use tokio::time::Instant;

use super::super::RETRY_PAUSE;
use super::{FinishedPost, Session};
use crate::db::webhooks;
use crate::db::webhooks::delivery::{Attempt, Endpoint, Hold, Progress, Retry};
use crate::domain::id::uuid_at;
use crate::domain::limits::gcra::Gcra;
use crate::domain::webhook::retry::Failure;
use crate::webhook::Verdict;

/// How long outcomes wait to be recorded together.
const RECORD_INTERVAL: Duration = Duration::from_millis(100);
/// How long an endpoint pauses after the database has refused its progress. Deliveries that were not recorded are
/// repeated.
const REFUSED_PAUSE: Duration = Duration::from_mins(1);

impl Session {
    /// Processes the outcome of a post.
    pub(super) fn note(&mut self, done: Result<FinishedPost, JoinError>) {
        let done = match done {
            Ok(done) => done,
            Err(error) if error.is_cancelled() => return,
            // The event stays above the cursor, and is posted again by the endpoint's next session.
            Err(_) => {
                tracing::error!(
                    event = "webhook_post_panicked",
                    "a webhook delivery panicked; repeating it in a new session"
                );
                self.is_aborted = true;
                return self.posts.abort_all();
            }
        };
        let Some(finished) = self.queue.finish(done.number) else { return };
        let now = self.cx.clock.now();
        let health = &mut self.endpoint.health;
        let was_down = health.is_down();
        let attempts = finished.attempts.saturating_add(1);
        let next_attempt_at = if done.outcome.verdict == Verdict::Success {
            health.succeeded(now);
            self.progress.is_back |= was_down;
            None
        } else {
            let failure = Failure {
                attempts: attempts.unsigned_abs().into(),
                is_probe: self.probe == Some(done.number),
                retry_after: done.outcome.retry_after,
                error: done.outcome.summary(),
            };
            let next_attempt_at = health.failed(failure, now, rand::random());
            let is_over = health.must_disable(now);
            if done.outcome.verdict == Verdict::Gone {
                self.disable("the endpoint responded 410 Gone, so it wants no more events".into());
            } else if is_over {
                let summary = done.outcome.summary();
                self.disable(format!("no post has succeeded for 5 days; the last one: {summary}"));
            }
            next_attempt_at
        };
        self.add_attempt(done, &finished.seqs, attempts, next_attempt_at);
        match next_attempt_at {
            Some(due_at) => {
                let retry = Retry { seqs: finished.seqs, attempts, due_at };
                self.progress.retries.insert(retry.seqs.first().copied().unwrap_or(0), retry);
            }
            None if finished.attempts > 0 => self.progress.settled.push(finished.seq()),
            None => {}
        }
    }

    /// Stops posting. Only the first reason is kept, however many posts were in flight.
    fn disable(&mut self, reason: String) {
        if !std::mem::replace(&mut self.is_disabled, true) {
            self.progress.disabled = Some(reason);
        }
    }

    fn add_attempt(&mut self, done: FinishedPost, seqs: &[i64], number: i16, next_attempt_at: Option<DateTime<Utc>>) {
        let outcome = done.outcome;
        self.record_at.get_or_insert_with(|| Instant::now() + RECORD_INTERVAL);
        self.progress.attempts.push(Attempt {
            id: uuid_at(done.started),
            seq: seqs.first().copied().unwrap_or(0),
            events: i16::try_from(seqs.len()).unwrap_or(i16::MAX),
            number,
            size: i32::try_from(done.size).unwrap_or(i32::MAX),
            status: outcome.status.and_then(|status| i16::try_from(status).ok()),
            response_body: outcome.response_body,
            error: outcome.error,
            duration_ms: i32::try_from(outcome.duration.as_millis()).unwrap_or(i32::MAX),
            next_attempt_at: next_attempt_at.filter(|_| !self.is_disabled),
        });
    }

    /// Records the progress, retrying until the database confirms it. Returns `false` if the endpoint is no longer
    /// leased to this worker.
    pub(super) async fn record(&mut self, hold: Hold) -> bool {
        let now = self.cx.clock.now();
        self.endpoint.cursor = self.queue.cursor();
        if let Some(rate) = self.rate.filter(|rate| hold == Hold::Release && rate.available(now) == 0) {
            let open_at = &mut self.endpoint.health.open_at;
            *open_at = (*open_at).max(Some(rate.opens_at(now)));
        }
        loop {
            let record =
                webhooks::delivery::record(&self.cx.db, self.worker, &self.endpoint, &self.progress, hold, now);
            match self.query(Box::pin(record)).await {
                Ok(Some(endpoint)) => {
                    self.update(endpoint);
                    return true;
                }
                Ok(None) => break,
                Err(error) if error.is_temporary() => {
                    tracing::debug!(
                        event = "webhook_record_failed",
                        %error,
                        "failed to record webhook deliveries; trying again"
                    );
                    if !self.cx.leases.identity.is_valid(self.worker) {
                        break;
                    }
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(error) => {
                    tracing::error!(
                        event = "webhook_record_refused",
                        %error,
                        endpoint = %self.endpoint.id,
                        "the database refuses webhook deliveries; repeating them in a minute"
                    );
                    tokio::time::sleep(REFUSED_PAUSE).await;
                    break;
                }
            }
        }
        self.is_aborted = true;
        self.posts.abort_all();
        false
    }

    /// Continues with the stored endpoint, whose settings may have changed.
    fn update(&mut self, endpoint: Endpoint) {
        if self.progress.is_back {
            // Failed deliveries are due now, and are delivered first.
            self.has_due = true;
        }
        self.rate = match (self.rate, endpoint.rate) {
            (Some(current), Some(rate)) => Some(current.with_rate(rate)),
            (_, rate) => rate.map(|rate| Gcra::restore(rate, endpoint.health.open_at)),
        };
        self.endpoint = endpoint;
        self.progress = Progress::default();
        self.record_at = None;
    }
}
