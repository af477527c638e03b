//! What is to be posted next: posts that failed before and are due, then new events, then nothing. Of an endpoint that is
//! down, one post.

use tokio::time::Instant;

use super::super::LOOK;
use super::super::post::{Item, Post};
use super::Session;
use crate::db::feed::{self, Filter};
use crate::db::notify::{self, MOST_RETRIES, Retry};
use crate::db::{DbError, events::EventRow};
use crate::domain::event::EventType;

/// Events in memory, at least and at most.
const WINDOW: (usize, usize) = (256, 1_024);
/// Retries read at a time.
const RETRIES: usize = 100;
/// A post that was tried so often lets something new be the probe.
const PROBES: i16 = 2;

impl Session {
    /// Reads what failed before and is due, then what is new.
    pub(super) async fn fill(&mut self) -> Result<(), DbError> {
        if self.posts.len() >= self.endpoint.concurrency {
            return Ok(());
        }
        if self.looked_at.elapsed() >= LOOK {
            (self.has_more, self.has_due, self.looked_at) = (true, true, Instant::now());
        }
        let window = (2 * self.endpoint.concurrency * self.endpoint.batch).clamp(WINDOW.0, WINDOW.1);
        if self.has_due && self.endpoint.retries > 0 && self.line.len() < window / 2 {
            let (limit, now) = (i64::try_from(RETRIES).unwrap_or(i64::MAX), self.parts.clock.now());
            // What has landed and is not recorded yet is due by its row, and done.
            let mut busy = self.line.retries();
            busy.extend(&self.progress.settled);
            busy.extend(self.progress.retries.keys());
            let due = self.call(notify::due(&self.parts.db, self.endpoint.id, &busy, limit, now)).await?;
            self.has_due = due.len() == RETRIES;
            self.take_up(due).await?;
        }
        let is_next = |session: &Self| !session.has_due || session.endpoint.retries == 0;
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
    pub(super) async fn fill_with_probe(&mut self) -> Result<(), DbError> {
        if self.line.len() > 0 || !self.posts.is_empty() {
            return Ok(());
        }
        let probe = self.call(notify::probe(&self.parts.db, self.endpoint.id)).await?;
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
        let (filter, limit) = (Filter { types, ..Filter::default() }, i64::try_from(limit).unwrap_or(i64::MAX));
        let (db, tenant) = (&self.parts.db, self.endpoint.tenant);
        let part = self.call(feed::part(db, tenant, &filter, self.line.read(), limit)).await?;
        self.has_more = part.has_more;
        let own = Some(self.endpoint.id.0);
        let is_wanted = |event: &EventRow| event.kind != test || event.endpoint_id == own;
        let posts = part.events.into_iter().filter(is_wanted).map(|event| Post::fresh(Item::from(event)));
        self.line.extend(posts, part.next);
        Ok(())
    }

    /// Puts posts that failed before into the line. What is not kept any longer is let go. Two of them may hold the same
    /// event: batches are cut anew where an endpoint is read anew.
    async fn take_up(&mut self, retries: Vec<Retry>) -> Result<(), DbError> {
        let seqs: Vec<i64> = retries.iter().flat_map(|retry| retry.seqs.iter().copied()).collect();
        if seqs.is_empty() {
            return Ok(());
        }
        let events = self.call(notify::events(&self.parts.db, self.endpoint.tenant, &seqs)).await?;
        let kept: Vec<Item> = events.into_iter().map(Item::from).collect();
        for retry in retries {
            let items: Vec<Item> = kept.iter().filter(|item| retry.seqs.contains(&item.seq)).cloned().collect();
            // Its row is named for the first of its events.
            if items.first().map(|item| item.seq) != retry.seqs.first().copied() {
                self.progress.settled.extend(retry.seqs.first());
            }
            if !items.is_empty() {
                self.line.insert(Post { items, tries: retry.attempts });
            }
        }
        Ok(())
    }
}
