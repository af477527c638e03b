//! Mail that comes back takes effect: bounces, notes of success, complaints (RFC 3464, RFC 5965), from wherever they come.
//!
//! ```text
//! MIME ─▶ Report (mail) ─▶ its message, by a signed token ─▶ its recipients ─▶ effects, committed with their events (db)
//! ```
//!
//! It promises:
//! - nothing changes without a return path of ours that is signed and still good, in the envelope or in what the report
//!   says; or, from a caller with an admin key alone, our Message-ID together with the recipient's address;
//! - the same report twice changes nothing the second time, and says so;
//! - a return path that several recipients know vouches for nothing, since each of them could have forged the report: an event
//!   tells of it, marked as not vouched, and no state changes and nobody is suppressed; of a complaint, for one recipient;
//! - an address is suppressed as unknown only where the mailbox that failed is the one that was sent to, and not one behind it;
//! - a recipient that waits for another attempt is not touched, except by a complaint, which stops the next one; of one that
//!   is being sent to this moment the report is to be told again ([`ReportOutcome::is_early`]), since its server may have been
//!   quicker than we;
//! - what it answers is committed.
//!
//! Automatic replies and what nobody understands are counted and let go.

mod message_lookup;
mod outcome;
mod recipient_match;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Semaphore;

use crate::clock::SharedClock;
use crate::db::delivery_reports::{self, RecipientReport, ReportedMessageRecipient};
use crate::db::{Db, DbError};
use crate::domain::address::Address;
use crate::domain::bounce;
use crate::domain::delivery::{ReportEffect, Status};
use crate::domain::id::{RecipientId, TenantId};
use crate::domain::outcome::Reply;
use crate::domain::report::{Action, Report, ReportKind, ReportedRecipient};
use crate::domain::return_path::{ReturnPaths, TokenFault};
use crate::mail;

use message_lookup::Found;
pub use message_lookup::{Basis, NotFound, Origin};
pub use outcome::{RecipientOutcome, ReportOutcome};

/// Takes what comes back.
#[derive(Debug)]
pub struct Feedback {
    db: Db,
    clock: SharedClock,
    paths: Option<ReturnPaths>,
    /// Where complaints are sent.
    complaints: Option<Address>,
    /// How many there were since the start, by kind.
    counts: [AtomicU64; 4],
    /// Permits to read: a mail may cost a second, and sending comes first.
    reading: Arc<Semaphore>,
}

/// Mails that are read at a time.
const READ_AT_A_TIME: usize = 2;

impl Feedback {
    /// Without return paths it can explain, and little more.
    pub fn new(db: Db, clock: SharedClock, paths: Option<ReturnPaths>, complaints: Option<Address>) -> Self {
        let reading = Arc::new(Semaphore::new(READ_AT_A_TIME));
        Self { db, clock, paths, complaints, counts: Default::default(), reading }
    }

    /// Whether mail to this address is for us: a good return path, or where complaints are sent.
    pub fn admits(&self, to: &str) -> Result<(), TokenFault> {
        let is_complaints = |ours: &Address| to.parse::<Address>().is_ok_and(|to| recipient_match::are_same(ours, &to));
        if self.complaints.as_ref().is_some_and(is_complaints) {
            return Ok(());
        }
        let paths = self.paths.as_ref().ok_or(TokenFault::Missing)?;
        paths.read(to, self.clock.now()).map(|_| ())
    }

    /// Reads a mail and lets it take effect, unless `dry_run`: then it says what would come of it. Fails only where the
    /// database does, with nothing changed.
    pub async fn take(&self, mime: Vec<u8>, origin: Origin<'_>, dry_run: bool) -> Result<ReportOutcome, DbError> {
        let size = mime.len();
        // The task keeps the permit, whatever becomes of its caller. The semaphore is never closed.
        let permit = self.reading.clone().acquire_owned().await.ok();
        let read = move || {
            let report = mail::report::read(&mime);
            drop(permit);
            report
        };
        // Up to a hundred megabytes of somebody else's making: off the async threads, and a panic is that mail's own.
        let report = tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| {
            tracing::error!(%error, size, "a mail that came back could not be read");
            Report::unknown()
        });
        let taken = match report.kind {
            ReportKind::Dsn | ReportKind::Complaint => self.act(report, &origin, dry_run).await?,
            ReportKind::AutoReply | ReportKind::Unknown => ReportOutcome::idle(report),
        };
        self.note(&taken, &origin, size, dry_run);
        Ok(taken)
    }

    async fn act(&self, mut report: Report, origin: &Origin<'_>, dry_run: bool) -> Result<ReportOutcome, DbError> {
        let found =
            match message_lookup::message(&self.db, self.paths.as_ref(), origin, &report, self.clock.now()).await? {
                Ok(found) => found,
                Err(why) => return Ok(ReportOutcome::lost(report, why)),
            };
        if report.recipients.is_empty() {
            report
                .recipients
                .extend(recipient_match::only_candidate(&found).and_then(|row| complaint_of(report.kind, row)));
        }
        let mut pairs = recipient_match::pairs(&report.recipients, &found);
        if report.kind == ReportKind::Complaint && !recipient_match::is_vouched(&found) {
            recipient_match::keep_first(&mut pairs);
        }
        let reached = recipient_match::reached(&report.recipients, &found);
        let told: Vec<Option<(&ReportedMessageRecipient, RecipientReport)>> = report
            .recipients
            .iter()
            .zip(pairs)
            .map(|(reported, place)| {
                let (place, row) = place.and_then(|place| Some((place, found.rows.get(place)?)))?;
                let mut told = told(reported, row, &found);
                told.is_own_mailbox &= !reached.contains(&place);
                Some((row, told))
            })
            .collect();
        let words = self.words(&found, &told, dry_run).await?;
        let mut words = words.into_iter();
        let results = told.iter().map(|one| {
            let (row, _) = one.as_ref()?;
            Some((RecipientId(row.id), words.next()?))
        });
        let results: Vec<_> = results.collect();
        Ok(ReportOutcome::found(report, &found, results, dry_run))
    }

    /// What comes, or would come, of those that were paired, in their order.
    async fn words(
        &self,
        found: &Found,
        told: &[Option<(&ReportedMessageRecipient, RecipientReport)>],
        dry_run: bool,
    ) -> Result<Vec<ReportEffect>, DbError> {
        let told: Vec<&(&ReportedMessageRecipient, RecipientReport)> = told.iter().flatten().collect();
        if dry_run || told.is_empty() {
            let word = |(row, told): &&(&ReportedMessageRecipient, RecipientReport)| {
                let status = row.status.parse().unwrap_or(Status::Canceled);
                let word = ReportEffect::of(told.action, status, row.attempts, row.has_complained);
                if told.is_vouched { word } else { word.unvouched(&row.unvouched) }
            };
            return Ok(told.iter().map(word).collect());
        }
        let told: Vec<RecipientReport> = told.into_iter().map(|(_, told)| told.clone()).collect();
        delivery_reports::apply(&self.db, TenantId(found.tenant), found.message, &told, self.clock.now()).await
    }

    /// One line a mail in the log.
    fn note(&self, taken: &ReportOutcome, origin: &Origin<'_>, size: usize, dry_run: bool) {
        if dry_run {
            return;
        }
        let kind = taken.report.kind;
        let count = self.counts.get(kind as usize).map_or(0, |count| count.fetch_add(1, Ordering::Relaxed) + 1);
        tracing::info!(
            kind = kind.as_str(),
            rule = taken.report.rule,
            about = taken.message.map(|(id, _)| id).map(tracing::field::display),
            applied = taken.applied(),
            reason = taken.lost.map(NotFound::as_str),
            peer = origin.peer().map(tracing::field::display),
            size,
            count,
            "a mail came back"
        );
    }
}

/// What is told of a recipient.
fn told(reported: &ReportedRecipient, row: &ReportedMessageRecipient, found: &Found) -> RecipientReport {
    let judged = || (reported.action == Action::Failed).then(|| bounce::judge(&reported.reply));
    RecipientReport {
        recipient: row.id,
        action: reported.action,
        // Cut to what the database takes, whoever made it.
        reply: reported.reply.clone().in_words(reported.reply.text.as_str()),
        judgement: reported.judgement.or_else(judged),
        is_vouched: recipient_match::is_vouched(found),
        is_own_mailbox: recipient_match::is_own_mailbox(reported, row),
    }
}

/// A complaint may name nobody, for its owner's sake; a return path does all the same.
fn complaint_of(kind: ReportKind, row: &ReportedMessageRecipient) -> Option<ReportedRecipient> {
    (kind == ReportKind::Complaint).then(|| ReportedRecipient {
        recipient: row.address.clone(),
        original: None,
        action: Action::Complained,
        behind: None,
        reply: Reply::ours("called spam"),
        judgement: None,
    })
}
