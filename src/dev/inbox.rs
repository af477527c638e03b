//! The inbox of `postrider dev`: accepts every message for any recipient over SMTP, and stores it, so that a person
//! or a test can read it.
//!
//! Each message has a number, ascending from 1, and two files: `000001.eml`, the message byte for byte, and
//! `000001.json`, its [`Summary`]. A message exists once its summary is written, which is the last step; the next start
//! removes message files that a crash left without a summary. Summaries are also in memory, so that listing reads no
//! file. Beyond [`CAPACITY`] messages the oldest are deleted.
//!
//! The server replies 250 to a message once its files are written. They are not synced to disk, because the inbox is
//! only for testing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use mail_parser::MessageParser;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::clock::SharedClock;
use crate::smtp::inbound::{Handler, ReceivedMessage, SmtpRefusal};

mod error;
mod files;
mod filter;
mod mail;
mod summary;

pub use error::InboxError;
pub use filter::Filter;
pub use mail::{Attachment, AttachmentFile, InboxMail, MailHeader};
pub use summary::{Envelope, Page, Summary};

use files::Files;

/// Maximum number of stored messages; the oldest are deleted first.
pub const CAPACITY: usize = 10_000;

/// The messages of one directory. Only one process may open it.
pub struct Inbox {
    files: Files,
    clock: SharedClock,
    capacity: usize,
    index: Mutex<Index>,
    received: watch::Sender<u64>,
    /// Ends every wait for a message.
    stop: CancellationToken,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").field("files", &self.files).finish_non_exhaustive()
    }
}

struct Index {
    next: u64,
    /// The numbers of messages that are being stored.
    storing: BTreeSet<u64>,
    summaries: BTreeMap<u64, Arc<Summary>>,
}

impl Inbox {
    /// Opens the inbox in `dir`, which is created if it is missing, and removes partly written files.
    pub async fn open(dir: impl Into<PathBuf>, clock: SharedClock) -> Result<Arc<Self>, InboxError> {
        Self::with_capacity(dir, clock, CAPACITY).await
    }

    async fn with_capacity(
        dir: impl Into<PathBuf>,
        clock: SharedClock,
        capacity: usize,
    ) -> Result<Arc<Self>, InboxError> {
        let files = Files::new(dir.into());
        let found = blocking({
            let files = files.clone();
            move || Ok(files.load()?)
        })
        .await?;
        let next = found.last_key_value().map_or(1, |(n, _)| n + 1);
        let summaries = found.into_iter().map(|(n, summary)| (n, Arc::new(summary))).collect();
        let index = Mutex::new(Index { next, storing: BTreeSet::new(), summaries });
        let (received, stop) = (watch::Sender::new(0), CancellationToken::new());
        Ok(Arc::new(Self { files, clock, capacity, index, received, stop }))
    }

    /// Returns the number of messages received since the inbox was opened: `wait_for(|n| *n >= 3)` waits for the third.
    pub fn received(&self) -> watch::Receiver<u64> {
        self.received.subscribe()
    }

    /// Returns the number of the newest message, even if it was deleted; 0 if there was none.
    pub fn last(&self) -> u64 {
        self.index().next - 1
    }

    /// Returns at most `limit` messages that match the filter, with numbers below `before`, newest first.
    pub fn list(&self, limit: usize, before: Option<u64>, filter: &Filter) -> Page {
        let index = self.index();
        let below = index.summaries.range(..before.unwrap_or(u64::MAX)).rev().map(|(_, summary)| summary);
        let mut found = below.filter(|summary| filter.matches(summary));
        let data: Vec<_> = found.by_ref().take(limit).map(|summary| Summary::clone(summary)).collect();
        let has_more = found.next().is_some();
        let next = data.last().filter(|_| has_more).map(|last| last.n);
        Page { data, has_more, next }
    }

    /// Waits until a message matches the filter, or until the deadline.
    pub async fn wait(&self, filter: &Filter, deadline: Instant) {
        self.wait_until(|| !self.list(1, None, filter).data.is_empty(), deadline).await;
    }

    /// Waits until message `n` is stored, or until the deadline. Does not wait for a message that was deleted.
    pub async fn wait_for(&self, n: u64, deadline: Instant) {
        let is_over = || {
            let index = self.index();
            n < index.next && !index.storing.contains(&n)
        };
        self.wait_until(is_over, deadline).await;
    }

    async fn wait_until(&self, is_over: impl Fn() -> bool, deadline: Instant) {
        let mut received = self.received();
        let arrives = async {
            // The channel reports messages that arrive after this check.
            while !is_over() && received.changed().await.is_ok() {}
        };
        // The caller reads the inbox again in either case.
        let _ = self.stop.run_until_cancelled(timeout_at(deadline, arrives)).await;
    }

    /// Returns the clock of the inbox.
    pub fn clock(&self) -> SharedClock {
        self.clock.clone()
    }

    /// Returns a token that is canceled when the process is stopping.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Ends all current and future waits, because the process is stopping.
    pub fn stop_waiting(&self) {
        self.stop.cancel();
    }

    /// Returns message `n`, parsed.
    pub async fn get(&self, n: u64) -> Result<InboxMail, InboxError> {
        let summary = self.summary(n)?;
        let files = self.files.clone();
        blocking(move || Ok(mail::parse(&files.eml(n)?, Summary::clone(&summary)))).await
    }

    /// Returns message `n` as received.
    pub async fn raw(&self, n: u64) -> Result<Vec<u8>, InboxError> {
        self.summary(n)?;
        let files = self.files.clone();
        blocking(move || files.eml(n)).await
    }

    /// Returns attachment `i` of message `n`, decoded; `i` counts from 0 in the order of [`InboxMail::attachments`].
    pub async fn attachment(&self, n: u64, i: usize) -> Result<AttachmentFile, InboxError> {
        self.summary(n)?;
        let files = self.files.clone();
        blocking(move || mail::attachment(&files.eml(n)?, i).ok_or(InboxError::NoAttachment { n, i })).await
    }

    /// Deletes message `n`.
    pub async fn delete(&self, n: u64) -> Result<(), InboxError> {
        self.index().summaries.remove(&n).ok_or(InboxError::NoMessage { n })?;
        let files = self.files.clone();
        blocking(move || Ok(files.remove(n)?)).await
    }

    /// Deletes all messages received so far, and returns their number. Message numbers continue to ascend.
    pub async fn clear(&self) -> Result<usize, InboxError> {
        let deleted: Vec<u64> = std::mem::take(&mut self.index().summaries).into_keys().collect();
        let (count, files) = (deleted.len(), self.files.clone());
        blocking(move || Ok(deleted.into_iter().try_for_each(|n| files.remove(n))?)).await?;
        Ok(count)
    }

    /// Stores a message, and returns its number.
    pub async fn store(&self, message: ReceivedMessage) -> Result<u64, InboxError> {
        let number = self.reserve_number();
        let n = number.n;
        let (files, received_at) = (self.files.clone(), self.clock.now());
        let summary = blocking(move || {
            let parsed = MessageParser::new().parse_headers(&message.data).unwrap_or_default();
            let summary = Summary::new(n, received_at, &message, &parsed);
            files.write(&summary, &message.data)?;
            Ok(summary)
        })
        .await?;
        let oldest = self.insert(summary);
        drop(number);
        self.received.send_modify(|count| *count += 1);
        if let Some(oldest) = oldest {
            let files = self.files.clone();
            blocking(move || Ok(files.remove(oldest)?)).await?;
        }
        Ok(n)
    }

    fn reserve_number(&self) -> ReservedNumber<'_> {
        let mut index = self.index();
        let n = index.next;
        index.next += 1;
        index.storing.insert(n);
        ReservedNumber { inbox: self, n }
    }

    /// Adds a message to the index. If there are too many, removes the oldest and returns its number.
    fn insert(&self, summary: Summary) -> Option<u64> {
        let mut index = self.index();
        index.summaries.insert(summary.n, Arc::new(summary));
        if index.summaries.len() > self.capacity { index.summaries.pop_first().map(|(n, _)| n) } else { None }
    }

    fn summary(&self, n: u64) -> Result<Arc<Summary>, InboxError> {
        self.index().summaries.get(&n).cloned().ok_or(InboxError::NoMessage { n })
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock()
    }
}

/// The number of a message that is being stored. It is dropped once the message is stored, or cannot be.
struct ReservedNumber<'a> {
    inbox: &'a Inbox,
    n: u64,
}

impl Drop for ReservedNumber<'_> {
    fn drop(&mut self) {
        self.inbox.index().storing.remove(&self.n);
        // Ends the wait for a message that could not be stored.
        self.inbox.received.send_modify(|_| {});
    }
}

/// Runs file access or parsing outside of the async threads; a panic becomes an error.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, InboxError> + Send + 'static,
) -> Result<T, InboxError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(std::io::Error::other(error).into()))
}

impl Handler for Inbox {
    type Identity = ();

    async fn rcpt(&self, _identity: Option<&()>, _from: &str, _to: &str) -> Result<(), SmtpRefusal> {
        Ok(())
    }

    async fn message(&self, _identity: Option<&()>, message: ReceivedMessage) -> Result<String, SmtpRefusal> {
        let to = message.to.join(", ");
        match self.store(message).await {
            Ok(n) => {
                let subject = self.summary(n).ok().and_then(|summary| summary.subject.clone()).unwrap_or_default();
                tracing::info!(event = "inbox_message_received", n, to, subject, "message in the inbox");
                Ok(format!("Message {n} is in the inbox"))
            }
            Err(error) => {
                tracing::error!(event = "inbox_store_failed", %error, "inbox cannot store a message; sender retries");
                Err(SmtpRefusal::temporary(3, 0, "The inbox failed to store the message"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::pin::pin;
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::clock::SystemClock;

    async fn open(dir: &Path, capacity: usize) -> Arc<Inbox> {
        Inbox::with_capacity(dir, Arc::new(SystemClock), capacity).await.expect("an inbox")
    }

    fn message(subject: &str) -> ReceivedMessage {
        let peer = ([127, 0, 0, 1], 25).into();
        let data = format!("Subject: {subject}\r\n\r\nbody\r\n").into_bytes();
        let (helo, from, to) = ("h".into(), "a@b.test".into(), vec!["c@d.test".into()]);
        ReceivedMessage { helo, from, to, peer, is_secure: false, smtputf8: false, data }
    }

    fn numbers(page: &Page) -> Vec<u64> {
        page.data.iter().map(|summary| summary.n).collect()
    }

    #[tokio::test]
    async fn messages_and_numbering_survive_a_restart() {
        let dir = tempfile::tempdir().expect("a directory");
        let inbox = open(dir.path(), 10).await;
        inbox.store(message("=?utf-8?q?=C3=A9?=")).await.expect("stored");
        let before = inbox.get(1).await.expect("a message");
        let inbox = open(dir.path(), 10).await;
        assert_eq!(inbox.get(1).await.expect("a message"), before);
        assert_eq!(before.summary.subject.as_deref(), Some("é"));
        assert_eq!(inbox.store(message("two")).await.expect("stored"), 2);
    }

    #[tokio::test]
    async fn message_that_is_being_stored_is_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let inbox = open(dir.path(), 10).await;
        let first = inbox.reserve_number();
        let mut waiting = pin!(inbox.wait_for(1, Instant::now() + Duration::from_mins(1)));
        assert_eq!(inbox.store(message("two")).await.expect("stored"), 2);
        assert!(waiting.as_mut().now_or_never().is_none(), "message 1 may still arrive");
        drop(first);
        assert!(waiting.now_or_never().is_some(), "message 1 was not stored");
    }

    #[tokio::test]
    async fn partly_written_files_are_removed_at_the_start() {
        let dir = tempfile::tempdir().expect("a directory");
        open(dir.path(), 10).await.store(message("whole")).await.expect("stored");
        for name in ["000002.eml", "000003.new", "000004.json"] {
            fs::write(dir.path().join(name), b"{").expect("written");
        }
        fs::write(dir.path().join("notes.txt"), b"mine").expect("written");
        let inbox = open(dir.path(), 10).await;
        assert_eq!(numbers(&inbox.list(10, None, &Filter::default())), [1]);
        assert!(!dir.path().join("000002.eml").exists() && !dir.path().join("000003.new").exists());
        assert!(dir.path().join("notes.txt").exists());
        assert_eq!(inbox.store(message("next")).await.expect("stored"), 2);
    }

    #[tokio::test]
    async fn pages_start_with_the_newest_message() {
        let dir = tempfile::tempdir().expect("a directory");
        let inbox = open(dir.path(), 10).await;
        for _ in 0..5 {
            inbox.store(message("x")).await.expect("stored");
        }
        let first = inbox.list(2, None, &Filter::default());
        assert_eq!((numbers(&first), first.has_more, first.next), (vec![5, 4], true, Some(4)));
        let last = inbox.list(3, first.next, &Filter::default());
        assert_eq!((numbers(&last), last.has_more, last.next), (vec![3, 2, 1], false, None));
    }

    #[tokio::test]
    async fn oldest_messages_beyond_capacity_are_deleted() {
        let dir = tempfile::tempdir().expect("a directory");
        let inbox = open(dir.path(), 2).await;
        for _ in 0..4 {
            inbox.store(message("x")).await.expect("stored");
        }
        assert_eq!(numbers(&inbox.list(10, None, &Filter::default())), [4, 3]);
        assert!(matches!(inbox.raw(1).await, Err(InboxError::NoMessage { n: 1 })));
        assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 4);
    }

    #[tokio::test]
    async fn numbering_continues_after_clear() {
        let dir = tempfile::tempdir().expect("a directory");
        let inbox = open(dir.path(), 10).await;
        inbox.store(message("x")).await.expect("stored");
        assert_eq!(inbox.clear().await.expect("cleared"), 1);
        assert_eq!(numbers(&inbox.list(10, None, &Filter::default())), [0; 0]);
        assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 0);
        assert_eq!(inbox.store(message("y")).await.expect("stored"), 2);
        assert_eq!(*inbox.received().borrow(), 2);
    }
}
