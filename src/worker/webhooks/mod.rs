//! Posts events to webhook endpoints. Five times a second, [`run`] leases the endpoints that have events to deliver and
//! are not leased, and starts a [`session`] for each, so that a slow or unreachable endpoint delays no other.
//!
//! An endpoint has a cursor over its tenant's events. A single failed delivery waits in its own row and delays no
//! other. If all deliveries fail, the cursor stays, and one delivery at a time probes whether the endpoint is available
//! again.

mod ordered_queue;
mod post;
mod session;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::Semaphore;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::lease::Leases;
use crate::clock::SharedClock;
use crate::db::{Db, DbError, webhooks};
use crate::domain::event::resend::Mapping;
use crate::domain::installation::keyring::Keyring;
use crate::telemetry::RateLimitedLog;
use crate::webhook::Poster;

/// Poll interval: the longest time that an event waits for its delivery if nothing else delays it.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Pause after a failed query.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Maximum number of endpoints with a session at one time.
const SESSIONS: usize = 256;
/// Maximum number of database connections that webhook sessions use at one time: they share the pool with message
/// deliveries.
const DATABASE_CALLS: usize = 4;

/// The dependencies of webhook deliveries.
#[derive(Debug)]
pub(crate) struct WebhookContext {
    pub db: Db,
    pub clock: SharedClock,
    pub leases: Arc<Leases>,
    pub poster: Arc<Poster>,
    /// Decrypts webhook secrets, if a `secret_key` is configured.
    pub keyring: Option<Keyring>,
    /// How long deliveries may take on shutdown.
    pub grace: Duration,
    /// Which events are posted to endpoints with Resend's format.
    pub mapping: Mapping,
    database_calls: Semaphore,
    secret_errors: RateLimitedLog,
}

impl WebhookContext {
    pub(crate) fn new(
        leases: Arc<Leases>,
        poster: Arc<Poster>,
        keyring: Option<Keyring>,
        grace: Duration,
        mapping: Mapping,
    ) -> Self {
        Self {
            db: leases.db.clone(),
            clock: leases.clock.clone(),
            leases,
            poster,
            keyring,
            grace,
            mapping,
            database_calls: Semaphore::new(DATABASE_CALLS),
            secret_errors: RateLimitedLog::default(),
        }
    }
}

/// Delivers events until `stop`, and then waits for the deliveries that are in flight.
pub(crate) async fn run(cx: Arc<WebhookContext>, stop: CancellationToken) {
    let mut sessions = Sessions::default();
    while !stop.is_cancelled() {
        let pause = match sessions.start(&cx, &stop).await {
            Ok(_) => POLL_INTERVAL,
            Err(error) => {
                tracing::debug!(event = "webhook_poll_failed", %error, "failed to look for events; trying again");
                RETRY_PAUSE
            }
        };
        sessions.wait(&cx, Instant::now() + pause, &stop).await;
    }
    let finish = async { while sessions.next_end().await.is_some() {} };
    if timeout(cx.grace, finish).await.is_err() {
        tracing::warn!(
            event = "webhook_grace_exceeded",
            "the grace period is over; webhook deliveries in flight will be repeated by another worker"
        );
    }
}

/// Delivers events until none is due and none is in flight.
pub(crate) async fn drain(cx: &Arc<WebhookContext>) -> Result<(), DbError> {
    let (mut sessions, never) = (Sessions::default(), CancellationToken::new());
    while sessions.start(cx, &never).await? > 0 || !sessions.tasks.is_empty() {
        sessions.next_end().await;
    }
    Ok(())
}

/// The endpoints with a session.
#[derive(Default)]
struct Sessions {
    /// Each task returns the time until which its endpoint is closed, if any.
    tasks: JoinSet<Option<DateTime<Utc>>>,
    endpoints: HashMap<Id, Uuid>,
}

impl Sessions {
    /// Leases endpoints that have events to deliver, and starts their sessions. Returns how many.
    async fn start(&mut self, cx: &Arc<WebhookContext>, stop: &CancellationToken) -> Result<usize, DbError> {
        let free = SESSIONS.saturating_sub(self.tasks.len());
        let Some(worker) = cx.leases.worker().filter(|_| free > 0) else { return Ok(0) };
        let busy: Vec<Uuid> = self.endpoints.values().copied().collect();
        let free = i64::try_from(free).unwrap_or(i64::MAX);
        let leased = webhooks::delivery::lease(&cx.db, worker, &busy, free, cx.clock.now()).await?;
        let count = leased.len();
        for endpoint in leased {
            let id = endpoint.id.0;
            let task = self.tasks.spawn(session::run(cx.clone(), worker, endpoint, stop.clone()));
            self.endpoints.insert(task.id(), id);
        }
        Ok(count)
    }

    /// Waits until the next poll is due: at `until`, or earlier if an endpoint that was closed for a short time opens.
    async fn wait(&mut self, cx: &WebhookContext, mut until: Instant, stop: &CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(until) => return,
                Some(opens_at) = self.next_end() => {
                    let wait = opens_at.and_then(|at| (at - cx.clock.now()).to_std().ok());
                    until = wait.map_or(until, |wait| until.min(Instant::now() + wait));
                }
            }
        }
    }

    /// Waits for the end of a session. Returns `None` if there is no session.
    async fn next_end(&mut self) -> Option<Option<DateTime<Utc>>> {
        let (id, opens_at) = match self.tasks.join_next_with_id().await? {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!(
                    event = "webhook_session_panicked",
                    "the session of a webhook endpoint panicked; starting a new one"
                );
                (error.id(), None)
            }
        };
        // In any case the endpoint may be leased again.
        self.endpoints.remove(&id);
        Some(opens_at)
    }
}
