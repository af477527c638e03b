//! One endpoint for as long as there is something to post to it: read, post, record, again and again. No transaction is open
//! while HTTP is spoken.

mod read;
mod record;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::LOOK;
use super::ordered_queue::OrderedQueue;
use super::post::Post;
use crate::db::DbError;
use crate::db::notify::{Endpoint, Hold, Progress};
use crate::domain::endpoint::SecretError;
use crate::domain::gcra::Gcra;
use crate::webhook::{self, Outcome};
use crate::worker::Parts;

/// Outcomes recorded together.
const BATCH: usize = 256;

/// Posts until there is nothing more to post now. Answers until when the endpoint is closed, if it is.
pub(super) async fn run(
    parts: Arc<Parts>,
    worker: Uuid,
    endpoint: Endpoint,
    stop: CancellationToken,
) -> Option<DateTime<Utc>> {
    let mut session = Session {
        line: OrderedQueue::after(endpoint.cursor),
        turns: endpoint.rate.map(|rate| Gcra::since(rate, endpoint.health.open_at)),
        progress: Progress::default(),
        record_at: None,
        posts: JoinSet::new(),
        probe: None,
        has_more: true,
        has_due: true,
        is_lost: false,
        is_disabled: false,
        looked_at: Instant::now(),
        parts,
        worker,
        endpoint,
        stop,
    };
    while session.step().await {}
    if session.is_lost || !session.record(Hold::Release).await {
        return None;
    }
    session.endpoint.health.open_at
}

#[allow(clippy::struct_excessive_bools, reason = "each is known apart from the others")]
struct Session {
    parts: Arc<Parts>,
    worker: Uuid,
    endpoint: Endpoint,
    stop: CancellationToken,
    line: OrderedQueue,
    turns: Option<Gcra>,
    progress: Progress,
    /// When it is to be recorded.
    record_at: Option<Instant>,
    posts: JoinSet<Done>,
    /// The one that is to find out whether the endpoint is back.
    probe: Option<u64>,
    /// Whether there are events that were not read yet, as far as is known.
    has_more: bool,
    /// The same of posts that are due again.
    has_due: bool,
    /// Whether what was done can no longer be recorded: whoever has the endpoint next does it again.
    is_lost: bool,
    /// Whether it wants no more, or has failed for too long.
    is_disabled: bool,
    /// When they were last looked for.
    looked_at: Instant,
}

/// A post that came to its end.
struct Done {
    flight: u64,
    begun: DateTime<Utc>,
    size: usize,
    outcome: Outcome,
}

impl Session {
    /// Starts what may start, and waits for the next thing to happen. Answers `false` where there is nothing more to do.
    async fn step(&mut self) -> bool {
        if self.is_open() {
            let filled = if self.endpoint.health.is_down() { self.fill_with_probe().await } else { self.fill().await };
            if let Err(error) = filled {
                tracing::debug!(%error, "could not read what is to be posted");
                return !self.posts.is_empty() && self.wait().await;
            }
            self.start();
        }
        !self.posts.is_empty() && self.wait().await
    }

    /// Whether anything may start.
    fn is_open(&self) -> bool {
        !self.stop.is_cancelled()
            && !self.is_lost
            && !self.is_disabled
            && !self.endpoint.health.is_closed(self.parts.clock.now())
            && self.parts.identity.holds(self.worker)
    }

    /// Asks the database, when it is our turn.
    async fn call<T>(&self, call: impl Future<Output = Result<T, DbError>>) -> Result<T, DbError> {
        let _turn = self.parts.webhook_calls.acquire().await;
        call.await
    }

    fn start(&mut self) {
        let now = self.parts.clock.now();
        let is_probe = self.endpoint.health.is_down();
        let most = if is_probe { 1 } else { self.endpoint.concurrency };
        let mut free = most.saturating_sub(self.posts.len());
        if let Some(turns) = &self.turns {
            free = free.min(turns.available(now));
        }
        let posts = self.line.take(free, self.endpoint.batch);
        if let Some(turns) = &mut self.turns {
            *turns = turns.take(posts.len(), now);
        }
        for (flight, post) in posts {
            self.probe = is_probe.then_some(flight);
            self.post(flight, &post, now);
        }
    }

    fn post(&mut self, flight: u64, post: &Post, now: DateTime<Utc>) {
        let (id, body) = (post.webhook_id(self.endpoint.id), post.body(self.endpoint.batch > 1));
        let url = self.endpoint.url.clone();
        let secrets = self.secrets(now);
        let poster = self.parts.poster.clone();
        self.posts.spawn(async move {
            let size = body.len();
            let outcome = match &secrets {
                Ok(secrets) => {
                    let secrets = secrets.iter().map(Vec::as_slice).collect();
                    poster.post(webhook::Post { url: &url, id, body, secrets, now }).await
                }
                // Nothing is posted unsigned.
                Err(error) => Outcome::failed(error.to_string()),
            };
            Done { flight, begun: now, size, outcome }
        });
    }

    /// What signs now.
    fn secrets(&self, now: DateTime<Utc>) -> Result<Vec<Vec<u8>>, SecretError> {
        let (endpoint, keyring) = (&self.endpoint, self.parts.settings.keyring.as_ref());
        let old = endpoint.old_secret.iter().filter(|(_, until)| *until > now).map(|(old, _)| old);
        let opened = std::iter::once(&endpoint.secret).chain(old).map(|secret| secret.open(keyring, endpoint.id));
        let opened: Result<Vec<Vec<u8>>, SecretError> = opened.collect();
        if let Err(error) = &opened
            && let Some(count) = self.parts.secret_faults.note(Instant::now())
        {
            let endpoint = endpoint.id.to_string();
            tracing::error!(event = "webhook_secret_unreadable", endpoint, count, %error, "cannot sign webhook posts");
        }
        opened
    }

    /// Waits for a post to end, and records what ended if it is time to. Answers `false` where the endpoint has gone to
    /// somebody else.
    async fn wait(&mut self) -> bool {
        let now = self.parts.clock.now();
        let turn = self.turns.filter(|turns| turns.available(now) == 0);
        let turn = turn.and_then(|turns| (turns.opens_at(now) - now).to_std().ok());
        let look_at = Instant::now() + turn.map_or(LOOK, |turn| turn.min(LOOK));
        tokio::select! {
            ended = self.posts.join_next() => {
                let mut next = ended;
                while let Some(done) = next {
                    self.note(done);
                    next = self.posts.try_join_next();
                }
            }
            // Something new may have come for those who have nothing to do.
            () = sleep_until(self.record_at.map_or(look_at, |at| at.min(look_at))) => {}
        }
        let is_time = self.record_at.is_some_and(|at| at <= Instant::now());
        if is_time || self.progress.attempts.len() >= BATCH || self.progress.is_back {
            return self.record(Hold::Keep).await;
        }
        true
    }
}
