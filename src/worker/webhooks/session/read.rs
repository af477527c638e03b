//! Reads the next events to deliver: failed deliveries that are due, then new events. For an endpoint that is down,
//! reads one delivery.

use tokio::time::Instant;

use super::super::POLL_INTERVAL;
use super::super::post::{Item, Post};
use super::Session;
use crate::db::events::feed::Filter;
use crate::db::events::{self, EventRow};
use crate::db::webhooks::delivery::{MAX_PENDING_RETRIES, Retry};
use crate::db::{DbError, webhooks};
use crate::domain::event::EventType;
use crate::domain::webhook::endpoint::PostFormat;

/// Minimum and maximum number of events that are read together.
const WINDOW: (usize, usize) = (256, 1_024);
/// Number of failed deliveries that are read together.
const RETRIES: usize = 100;
/// Number of attempts after which a new event, instead of a failed delivery, probes an endpoint that is down.
const PROBE_ATTEMPTS: i16 = 2;

impl Session {
    /// Reads failed deliveries that are due, then new events.
    pub(super) async fn fill(&mut self) -> Result<(), DbError> {
        if self.posts.len() >= self.endpoint.concurrency {
            return Ok(());
        }
        if self.polled_at.elapsed() >= POLL_INTERVAL {
            (self.has_more, self.has_due, self.polled_at) = (true, true, Instant::now());
        }
        let window = (2 * self.endpoint.concurrency * self.endpoint.batch).clamp(WINDOW.0, WINDOW.1);
        if self.has_due && self.endpoint.retries > 0 && self.queue.len() < window / 2 {
            let (limit, now) = (i64::try_from(RETRIES).unwrap_or(i64::MAX), self.cx.clock.now());
            // Deliveries that are queued, in flight or not recorded yet are left out: their rows are still due.
            let mut busy = self.queue.retries();
            busy.extend(&self.progress.settled);
            busy.extend(self.progress.retries.keys());
            let due = self.query(webhooks::delivery::due(&self.cx.db, self.endpoint.id, &busy, limit, now)).await?;
            self.has_due = due.len() == RETRIES;
            self.insert_retries(due).await?;
        }
        let are_events_next = |session: &Self| !session.has_due || session.endpoint.retries == 0;
        while are_events_next(self)
            && self.has_more
            && self.queue.len() < window / 2
            && self.may_have_more_retries()
            && self.is_open()
        {
            self.read_events(window).await?;
        }
        Ok(())
    }

    /// Returns whether the endpoint may have more failed deliveries.
    fn may_have_more_retries(&self) -> bool {
        let failed = i64::try_from(self.progress.retries.len()).unwrap_or(i64::MAX);
        self.endpoint.retries.saturating_add(failed) < MAX_PENDING_RETRIES
    }

    /// Reads one delivery that probes whether the endpoint is available again: one that failed before, or a new event
    /// once the failed delivery has been tried [`PROBE_ATTEMPTS`] times. Otherwise, a single delivery that the endpoint
    /// rejects could keep the endpoint down.
    pub(super) async fn fill_with_probe(&mut self) -> Result<(), DbError> {
        if self.queue.len() > 0 || !self.posts.is_empty() {
            return Ok(());
        }
        let probe = self.query(webhooks::delivery::probe(&self.cx.db, self.endpoint.id)).await?;
        let needs_new_event = probe.as_ref().is_none_or(|probe| probe.attempts >= PROBE_ATTEMPTS);
        while needs_new_event
            && self.may_have_more_retries()
            && self.has_more
            && self.queue.len() == 0
            && self.is_open()
        {
            self.read_events(1).await?;
        }
        if self.queue.len() == 0
            && let Some(probe) = probe
        {
            self.insert_retries(vec![probe]).await?;
        }
        Ok(())
    }

    /// Reads events after the last one that was read.
    async fn read_events(&mut self, limit: usize) -> Result<(), DbError> {
        let test = EventType::WebhookTest.as_str();
        let types = self.types().map(|mut types| {
            types.push(test.to_owned());
            types
        });
        let (filter, limit) = (Filter { types, ..Filter::default() }, i64::try_from(limit).unwrap_or(i64::MAX));
        let (db, tenant) = (&self.cx.db, self.endpoint.tenant);
        let page = self.query(events::feed::page(db, tenant, &filter, self.queue.read(), limit)).await?;
        self.has_more = page.has_more;
        let own = Some(self.endpoint.id.0);
        let is_wanted = |event: &EventRow| event.kind != test || event.endpoint_id == own;
        let posts: Vec<Post> =
            page.events.into_iter().filter(is_wanted).map(|event| Post::new(self.item(event))).collect();
        self.queue.extend(posts.into_iter(), page.next);
        Ok(())
    }

    /// Returns the types of events to post; `None` for all.
    fn types(&self) -> Option<Vec<String>> {
        let types = self.endpoint.types.clone();
        match self.endpoint.format {
            PostFormat::Postrider => types,
            PostFormat::Resend => Some(self.cx.mapping.posted(types.as_deref())),
        }
    }

    /// Returns an event in the endpoint's format.
    fn item(&self, event: EventRow) -> Item {
        Item::new(event, self.endpoint.format, self.cx.mapping)
    }

    /// Inserts failed deliveries into the queue, in the endpoint's present format. Events that are no longer stored, or
    /// that this format does not have, are dropped. Two deliveries may contain the same event, since batches are
    /// composed again when a new session reads an endpoint's events.
    async fn insert_retries(&mut self, retries: Vec<Retry>) -> Result<(), DbError> {
        let seqs: Vec<i64> = retries.iter().flat_map(|retry| retry.seqs.iter().copied()).collect();
        if seqs.is_empty() {
            return Ok(());
        }
        let events = self.query(webhooks::delivery::events(&self.cx.db, self.endpoint.tenant, &seqs)).await?;
        let is_posted =
            |event: &EventRow| self.endpoint.format != PostFormat::Resend || self.cx.mapping.has(&event.kind);
        let stored: Vec<Item> = events.into_iter().filter(is_posted).map(|event| self.item(event)).collect();
        for retry in retries {
            let items: Vec<Item> = stored.iter().filter(|item| retry.seqs.contains(&item.seq)).cloned().collect();
            // The row of a failed delivery is identified by the first of its events.
            if items.first().map(|item| item.seq) != retry.seqs.first().copied() {
                self.progress.settled.extend(retry.seqs.first());
            }
            if !items.is_empty() {
                self.queue.insert(Post { items, attempts: retry.attempts });
            }
        }
        Ok(())
    }
}
