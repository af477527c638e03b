//! The session of one endpoint: it reads events, posts them and records the outcomes, until there is nothing more to
//! deliver. No transaction is open during an HTTP request.

mod read;
mod record;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::ordered_queue::OrderedQueue;
use super::post::Post;
use super::{POLL_INTERVAL, WebhookContext};
use crate::db::DbError;
use crate::db::webhooks::delivery::{Endpoint, Hold, Progress};
use crate::domain::limits::gcra::Gcra;
use crate::domain::webhook::endpoint::{PostFormat, SecretError};
use crate::webhook::{self, Outcome};

/// Number of outcomes that are recorded together.
const RECORD_BATCH: usize = 256;

/// Delivers until there is nothing more to deliver now. Returns the time until which the endpoint is closed, if any.
pub(super) async fn run(
    cx: Arc<WebhookContext>,
    worker: Uuid,
    endpoint: Endpoint,
    stop: CancellationToken,
) -> Option<DateTime<Utc>> {
    let mut session = Session {
        queue: OrderedQueue::after(endpoint.cursor),
        rate: endpoint.rate.map(|rate| Gcra::restore(rate, endpoint.health.open_at)),
        progress: Progress::default(),
        record_at: None,
        posts: JoinSet::new(),
        probe: None,
        has_more: true,
        has_due: true,
        is_aborted: false,
        is_disabled: false,
        polled_at: Instant::now(),
        cx,
        worker,
        endpoint,
        stop,
    };
    while session.step().await {}
    if session.is_aborted || !session.record(Hold::Release).await {
        return None;
    }
    session.endpoint.health.open_at
}

#[allow(clippy::struct_excessive_bools, reason = "each changes independently of the others")]
struct Session {
    cx: Arc<WebhookContext>,
    worker: Uuid,
    endpoint: Endpoint,
    stop: CancellationToken,
    queue: OrderedQueue,
    rate: Option<Gcra>,
    progress: Progress,
    /// When the progress must be recorded.
    record_at: Option<Instant>,
    posts: JoinSet<FinishedPost>,
    /// The number of the post that probes whether the endpoint is available again.
    probe: Option<u64>,
    /// Whether there may be events that were not read yet.
    has_more: bool,
    /// Whether there may be failed deliveries that are due again.
    has_due: bool,
    /// Whether progress can no longer be recorded. The endpoint's next session repeats the deliveries.
    is_aborted: bool,
    /// Whether the endpoint was disabled, because it responded 410 Gone or has failed for too long.
    is_disabled: bool,
    /// When new events and due retries were last looked for.
    polled_at: Instant,
}

/// A finished post.
struct FinishedPost {
    number: u64,
    started: DateTime<Utc>,
    size: usize,
    outcome: Outcome,
}

impl Session {
    /// Starts the posts that may start, and waits for the next change. Returns `false` if there is nothing more to do.
    async fn step(&mut self) -> bool {
        if self.is_open() {
            let filled = if self.endpoint.health.is_down() { self.fill_with_probe().await } else { self.fill().await };
            if let Err(error) = filled {
                tracing::debug!(event = "webhook_read_failed", %error, "failed to read events for a webhook endpoint");
                return !self.posts.is_empty() && self.wait().await;
            }
            self.start();
        }
        !self.posts.is_empty() && self.wait().await
    }

    /// Returns whether any post may start.
    fn is_open(&self) -> bool {
        !self.stop.is_cancelled()
            && !self.is_aborted
            && !self.is_disabled
            && !self.endpoint.health.is_closed(self.cx.clock.now())
            && self.cx.leases.identity.is_valid(self.worker)
            && self.cx.leases.restore_gate.is_open()
    }

    /// Runs a query once one of the limited database calls of all sessions is free.
    async fn query<T>(&self, query: impl Future<Output = Result<T, DbError>>) -> Result<T, DbError> {
        let _permit = self.cx.database_calls.acquire().await;
        query.await
    }

    fn start(&mut self) {
        let now = self.cx.clock.now();
        let is_probe = self.endpoint.health.is_down();
        let max_posts = if is_probe { 1 } else { self.endpoint.concurrency };
        let mut free = max_posts.saturating_sub(self.posts.len());
        if let Some(rate) = &self.rate {
            free = free.min(rate.available(now));
        }
        let posts = self.queue.take(free, self.endpoint.batch);
        if let Some(rate) = &mut self.rate {
            *rate = rate.take(posts.len(), now);
        }
        for (number, post) in posts {
            self.probe = is_probe.then_some(number);
            self.post(number, &post, now);
        }
    }

    fn post(&mut self, number: u64, post: &Post, now: DateTime<Utc>) {
        let (id, body) = (post.webhook_id(self.endpoint.id), post.body(self.endpoint.batch > 1));
        let (url, has_svix_headers) = (self.endpoint.url.clone(), self.endpoint.format == PostFormat::Resend);
        let secrets = self.secrets(now);
        let poster = self.cx.poster.clone();
        self.posts.spawn(async move {
            let size = body.len();
            let outcome = match &secrets {
                Ok(secrets) => {
                    let secrets = secrets.iter().map(Vec::as_slice).collect();
                    poster.post(webhook::Post { url: &url, id, body, secrets, now, has_svix_headers }).await
                }
                // Nothing is posted unsigned.
                Err(error) => Outcome::failed(error.to_string()),
            };
            FinishedPost { number, started: now, size, outcome }
        });
    }

    /// Returns the secrets that are used for signatures now.
    fn secrets(&self, now: DateTime<Utc>) -> Result<Vec<Vec<u8>>, SecretError> {
        let (endpoint, keyring) = (&self.endpoint, self.cx.keyring.as_ref());
        let old = endpoint.old_secret.iter().filter(|(_, until)| *until > now).map(|(old, _)| old);
        let secrets = std::iter::once(&endpoint.secret).chain(old).map(|secret| secret.open(keyring, endpoint.id));
        let secrets: Result<Vec<Vec<u8>>, SecretError> = secrets.collect();
        if let Err(error) = &secrets
            && let Some(count) = self.cx.secret_errors.note(Instant::now())
        {
            let endpoint = endpoint.id.to_string();
            tracing::error!(event = "webhook_secret_unreadable", endpoint, count, %error, "cannot sign webhook posts");
        }
        secrets
    }

    /// Waits for the end of a post, and records outcomes if that is due. Returns `false` if the endpoint is leased to
    /// another worker.
    async fn wait(&mut self) -> bool {
        let now = self.cx.clock.now();
        let throttled = self.rate.filter(|rate| rate.available(now) == 0);
        let throttled = throttled.and_then(|rate| (rate.opens_at(now) - now).to_std().ok());
        let poll_at = Instant::now() + throttled.map_or(POLL_INTERVAL, |wait| wait.min(POLL_INTERVAL));
        tokio::select! {
            ended = self.posts.join_next() => {
                let mut next = ended;
                while let Some(done) = next {
                    self.note(done);
                    next = self.posts.try_join_next();
                }
            }
            // There may be new events, and the endpoint may have free connections.
            () = sleep_until(self.record_at.map_or(poll_at, |at| at.min(poll_at))) => {}
        }
        let is_due = self.record_at.is_some_and(|at| at <= Instant::now());
        if is_due || self.progress.attempts.len() >= RECORD_BATCH || self.progress.is_back {
            return self.record(Hold::Keep).await;
        }
        true
    }
}
