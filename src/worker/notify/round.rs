//! One endpoint for as long as there is something to post to it: read, post, record, again and again. No transaction is open
//! while HTTP is spoken.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::line::Line;
use super::post::{Item, Post};
use super::{LOOK, PAUSE};
use crate::db::feed::{self, Filter};
use crate::db::notify::{self, Attempt, Endpoint, Hold, MOST_RETRIES, Progress, Retry};
use crate::db::{DbError, events::EventRow};
use crate::domain::event::EventType;
use crate::domain::id::uuid_at;
use crate::domain::throttle::Turns;
use crate::domain::webhook::Failure;
use crate::webhook::{self, Outcome, Verdict};
use crate::worker::Parts;

/// Outcomes are recorded together: so many, or those of so long.
const BATCH: usize = 256;
const EVERY: Duration = Duration::from_millis(100);
/// Events in memory, at least and at most.
const WINDOW: (usize, usize) = (256, 1_024);
/// Retries read at a time.
const RETRIES: usize = 100;
/// A post that was tried so often lets something new be the probe.
const PROBES: i16 = 2;
/// Before an endpoint is taken in hand again whose progress the database refuses: what is not recorded is posted again.
const PARKED: Duration = Duration::from_mins(1);

/// Posts until there is nothing more to post now. Answers until when the endpoint is closed, if it is.
pub(super) async fn run(
    parts: Arc<Parts>,
    worker: Uuid,
    endpoint: Endpoint,
    stop: CancellationToken,
) -> Option<DateTime<Utc>> {
    let mut round = Round {
        line: Line::after(endpoint.cursor),
        turns: endpoint.rate.map(|rate| Turns::since(rate, endpoint.health.open_at)),
        progress: Progress::default(),
        record_at: None,
        posts: JoinSet::new(),
        probe: None,
        has_more: true,
        has_due: true,
        is_lost: false,
        looked_at: Instant::now(),
        parts,
        worker,
        endpoint,
        stop,
    };
    while round.step().await {}
    if round.is_lost || !round.record(Hold::Release).await {
        return None;
    }
    round.endpoint.health.open_at
}

struct Round {
    parts: Arc<Parts>,
    worker: Uuid,
    endpoint: Endpoint,
    stop: CancellationToken,
    line: Line,
    turns: Option<Turns>,
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

impl Round {
    /// Starts what may start, and waits for the next thing to happen. Answers `false` where there is nothing more to do.
    async fn step(&mut self) -> bool {
        if self.is_open() {
            let parts = self.parts.clone();
            let turn = parts.webhook_calls.acquire().await;
            let filled = if self.endpoint.health.is_down() { self.fill_with_probe().await } else { self.fill().await };
            drop(turn);
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
            && self.progress.disabled.is_none()
            && !self.endpoint.health.is_closed(self.parts.clock.now())
            && self.parts.identity.holds(self.worker)
    }

    /// Reads what failed before and is due, then what is new.
    async fn fill(&mut self) -> Result<(), DbError> {
        if self.looked_at.elapsed() >= LOOK {
            (self.has_more, self.has_due, self.looked_at) = (true, true, Instant::now());
        }
        let window = (2 * self.endpoint.concurrency * self.endpoint.batch).clamp(WINDOW.0, WINDOW.1);
        if self.has_due && self.endpoint.retries > 0 && self.line.len() < window / 2 {
            let (limit, now) = (i64::try_from(RETRIES).unwrap_or(i64::MAX), self.parts.clock.now());
            let due = notify::due(&self.parts.db, self.endpoint.id, &self.line.retries(), limit, now).await?;
            self.has_due = due.len() == RETRIES;
            self.take_up(due).await?;
        }
        let is_next = |round: &Self| !round.has_due || round.endpoint.retries == 0;
        while is_next(self) && self.has_more && self.line.len() < window / 2 && self.has_room() && self.is_open() {
            self.read(window).await?;
        }
        Ok(())
    }

    /// Whether new posts may fail.
    fn has_room(&self) -> bool {
        let failed = i64::try_from(self.progress.retries.len()).unwrap_or(i64::MAX);
        self.endpoint.retries.saturating_add(failed) < MOST_RETRIES
    }

    /// One post, to see whether the endpoint is back: one that failed before, or where those were tried often enough a new
    /// one, so that a single post that it does not like cannot keep it down.
    async fn fill_with_probe(&mut self) -> Result<(), DbError> {
        if self.line.len() > 0 || !self.posts.is_empty() {
            return Ok(());
        }
        let probe = notify::probe(&self.parts.db, self.endpoint.id).await?;
        let is_worn = probe.as_ref().is_none_or(|probe| probe.attempts >= PROBES);
        while is_worn && self.has_room() && self.has_more && self.line.len() == 0 && self.is_open() {
            self.read(1).await?;
        }
        if self.line.len() == 0
            && let Some(probe) = probe
        {
            self.take_up(vec![probe]).await?;
        }
        Ok(())
    }

    /// Reads on from where it was left.
    async fn read(&mut self, limit: usize) -> Result<(), DbError> {
        let test = EventType::WebhookTest.as_str();
        let types = self.endpoint.types.clone().map(|mut types| {
            types.push(test.to_owned());
            types
        });
        let (filter, limit) = (Filter { types, message: None }, i64::try_from(limit).unwrap_or(i64::MAX));
        let part = feed::part(&self.parts.db, self.endpoint.tenant, &filter, self.line.read(), limit).await?;
        self.has_more = part.has_more;
        let own = Some(self.endpoint.id.0);
        let is_wanted = |event: &EventRow| event.kind != test || event.endpoint_id == own;
        let posts = part.events.into_iter().filter(is_wanted).map(|event| Post::fresh(Item::from(event)));
        self.line.extend(posts, part.next);
        Ok(())
    }

    /// Puts posts that failed before into the line. What is not kept any longer is let go.
    async fn take_up(&mut self, retries: Vec<Retry>) -> Result<(), DbError> {
        let seqs: Vec<i64> = retries.iter().flat_map(|retry| retry.seqs.iter().copied()).collect();
        if seqs.is_empty() {
            return Ok(());
        }
        let mut items: Vec<Item> =
            notify::events(&self.parts.db, self.endpoint.tenant, &seqs).await?.into_iter().map(Item::from).collect();
        for retry in retries {
            let (own, rest) = items.into_iter().partition(|item| retry.seqs.contains(&item.seq));
            items = rest;
            let post = Post { items: own, tries: retry.attempts };
            if post.seqs() == retry.seqs {
                self.line.insert(post);
            } else {
                self.progress.settled.extend(retry.seqs.first());
            }
        }
        Ok(())
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
        let mut secrets = vec![self.endpoint.secret.clone()];
        secrets.extend(self.endpoint.old_secret.iter().filter(|(_, until)| *until > now).map(|(old, _)| old.clone()));
        let poster = self.parts.poster.clone();
        self.posts.spawn(async move {
            let size = body.len();
            let secrets = secrets.iter().map(Vec::as_slice).collect();
            let outcome = poster.post(webhook::Post { url: &url, id, body, secrets, now }).await;
            Done { flight, begun: now, size, outcome }
        });
    }

    /// Waits for a post to end, and records what ended if it is time to. Answers `false` where the endpoint has gone to
    /// somebody else.
    async fn wait(&mut self) -> bool {
        let now = self.parts.clock.now();
        let turn = self.turns.and_then(|turns| (turns.opens_at(now) - now).to_std().ok());
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

    fn note(&mut self, done: Result<Done, tokio::task::JoinError>) {
        let done = match done {
            Ok(done) => done,
            // The event stays above the cursor, and is posted again.
            Err(error) => return tracing::error!(%error, "a post to a webhook ended in a panic"),
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
            if done.outcome.verdict == Verdict::Gone {
                self.progress.disabled = Some("the endpoint answered 410 Gone: it wants no more events".into());
            } else if health.is_over(now) {
                let words = done.outcome.words();
                self.progress.disabled = Some(format!("no post has succeeded for 5 days; the last one: {words}"));
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
            next_attempt_at: again.filter(|_| self.progress.disabled.is_none()),
        });
    }

    /// Records what was done, for as long as it takes. Answers `false` where that is no longer ours to do.
    async fn record(&mut self, hold: Hold) -> bool {
        let now = self.parts.clock.now();
        self.endpoint.cursor = self.line.cursor();
        if let Some(turns) = self.turns.filter(|turns| hold == Hold::Release && turns.available(now) == 0) {
            let open_at = &mut self.endpoint.health.open_at;
            *open_at = (*open_at).max(Some(turns.opens_at(now)));
        }
        loop {
            let turn = self.parts.webhook_calls.acquire().await;
            let recorded = notify::record(&self.parts.db, self.worker, &self.endpoint, &self.progress, hold, now).await;
            drop(turn);
            match recorded {
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
                    tracing::error!(%error, endpoint = %self.endpoint.id, "what was posted cannot be recorded");
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
            (Some(turns), Some(rate)) => Some(Turns { rate, ..turns }),
            (_, rate) => rate.map(|rate| Turns::since(rate, endpoint.health.open_at)),
        };
        self.endpoint = endpoint;
        self.progress = Progress::default();
        self.record_at = None;
    }
}
