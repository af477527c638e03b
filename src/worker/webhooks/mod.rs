//! Posts events to webhook endpoints: a few times a second looks which endpoints have something to get, takes those in hand
//! that nobody has, and gives each a task of its own ([`session`]), so that a slow or dead one costs the others nothing.
//!
//! An endpoint is a cursor over its tenant's events. What failed alone waits in a row of its own and holds nobody up; where
//! everything fails the cursor stays where it is, and one post at a time finds out when the endpoint is back.

mod ordered_queue;
mod post;
mod session;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::db::{DbError, notify};
use crate::worker::Parts;

/// Between two looks: the most that an event waits for its post where nothing else holds it up.
const LOOK: Duration = Duration::from_millis(200);
/// The same after one that failed.
const PAUSE: Duration = Duration::from_secs(1);
/// Endpoints in hand at one time.
const MOST: usize = 256;

pub(super) async fn run(parts: Arc<Parts>, stop: CancellationToken) {
    let mut rounds = Sessions::default();
    while !stop.is_cancelled() {
        let pause = match rounds.begin(&parts, &stop).await {
            Ok(_) => LOOK,
            Err(error) => {
                tracing::debug!(%error, "could not look for events to be posted");
                PAUSE
            }
        };
        rounds.watch(&parts, Instant::now() + pause, &stop).await;
    }
    let finish = async { while rounds.ended().await.is_some() {} };
    if timeout(parts.settings.grace, finish).await.is_err() {
        tracing::warn!("the grace period is over; posts to webhooks that are still under way will be made again");
    }
}

/// Posts until nothing is due and nothing under way.
pub(super) async fn drain(parts: &Arc<Parts>) -> Result<(), DbError> {
    let (mut rounds, never) = (Sessions::default(), CancellationToken::new());
    while rounds.begin(parts, &never).await? > 0 || !rounds.tasks.is_empty() {
        rounds.ended().await;
    }
    Ok(())
}

/// The endpoints in hand.
#[derive(Default)]
struct Sessions {
    /// Each answers until when its endpoint is closed, if it is.
    tasks: JoinSet<Option<DateTime<Utc>>>,
    endpoints: HashMap<Id, Uuid>,
}

impl Sessions {
    /// Takes endpoints in hand that have something to get. Answers how many.
    async fn begin(&mut self, parts: &Arc<Parts>, stop: &CancellationToken) -> Result<usize, DbError> {
        let room = MOST.saturating_sub(self.tasks.len());
        let Some(worker) = parts.identity.current().filter(|_| room > 0) else { return Ok(0) };
        let busy: Vec<Uuid> = self.endpoints.values().copied().collect();
        let room = i64::try_from(room).unwrap_or(i64::MAX);
        let leased = notify::lease(&parts.db, worker, &busy, room, parts.clock.now()).await?;
        let count = leased.len();
        for endpoint in leased {
            let id = endpoint.id.0;
            let task = self.tasks.spawn(session::run(parts.clone(), worker, endpoint, stop.clone()));
            self.endpoints.insert(task.id(), id);
        }
        Ok(count)
    }

    /// Waits for the next look: until then, or until an endpoint that was closed for a moment opens.
    async fn watch(&mut self, parts: &Parts, mut until: Instant, stop: &CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(until) => return,
                Some(opens_at) = self.ended() => {
                    let wait = opens_at.and_then(|at| (at - parts.clock.now()).to_std().ok());
                    until = wait.map_or(until, |wait| until.min(Instant::now() + wait));
                }
            }
        }
    }

    /// Waits for the end of one. Answers none where there is none.
    async fn ended(&mut self) -> Option<Option<DateTime<Utc>>> {
        let (id, opens_at) = match self.tasks.join_next_with_id().await? {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!(%error, "posting to a webhook endpoint ended in a panic");
                (error.id(), None)
            }
        };
        // Whatever became of it, it may be taken in hand again.
        self.endpoints.remove(&id);
        Some(opens_at)
    }
}
