//! Applies reports about sent messages: bounces, success notifications and complaints (RFC 3464, RFC 5965).
//!
//! ```text
//! MIME ─▶ report (mail) ─▶ message, by a signed token ─▶ recipients ─▶ effects, committed with their events (db)
//! ```
//!
//! Guarantees:
//! - Nothing changes without a return path with a valid signature that has not expired, in the envelope or in the
//!   report. A caller with an admin key may instead give the Message-ID together with the recipient's address.
//! - A report that is received twice changes nothing the second time, and the result says so.
//! - A return path that several recipients share does not authenticate a report, because each of them could have forged
//!   it. Such a report creates an event marked as not vouched; it changes no state and suppresses no address. A
//!   complaint of this kind creates an event for one recipient only.
//! - An address is suppressed as unknown only if the mailbox that failed is the recipient's own, and not one to which
//!   its server forwards or expands the address.
//! - A recipient that waits for another attempt is not changed, except by a complaint, which stops the next attempt. A
//!   report about a recipient with an attempt in progress must be sent again ([`ReportOutcome::is_early`]): it may have
//!   arrived before the outcome of the attempt was recorded.
//! - A returned result has been committed.
//!
//! Automatic replies and messages of unknown formats are counted and dropped.

mod message_lookup;
mod outcome;
pub mod receiving;
mod recipient_match;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Semaphore;

use crate::clock::SharedClock;
use crate::db::delivery_reports::{self, RecipientReport, ReportedMessageRecipient};
use crate::db::{Db, DbError};
use crate::domain::address::Address;
use crate::domain::address::return_path::{ReturnPaths, TokenFault};
use crate::domain::bounce;
use crate::domain::bounce::report::{Action, Report, ReportKind, ReportedRecipient};
use crate::domain::delivery::{ReportEffect, Status};
use crate::domain::id::{RecipientId, TenantId};
use crate::domain::outcome::Reply;
use crate::domain::routing;
use crate::mail;
use crate::metrics::METRICS;
use crate::metrics::labels::InboundKind;

use message_lookup::FoundMessage;
pub use message_lookup::{Basis, NotFound, Origin};
pub use outcome::{RecipientOutcome, ReportOutcome};

/// Applies bounces and complaints.
#[derive(Debug)]
pub struct Feedback {
    db: Db,
    clock: SharedClock,
    paths: Option<ReturnPaths>,
    /// The address to which complaints are sent.
    complaints: Option<Address>,
    /// Number of reports since the start, by kind.
    counts: [AtomicU64; 4],
    /// Limits concurrent parsing: parsing a message can take a second, and sending has priority.
    parse_permits: Arc<Semaphore>,
}

/// Maximum number of messages parsed concurrently.
const PARSE_CONCURRENCY: usize = 2;

impl Feedback {
    /// Creates the processor. Without `paths` it can only parse reports, and identify messages by Message-ID for an
    /// admin key.
    pub fn new(db: Db, clock: SharedClock, paths: Option<ReturnPaths>, complaints: Option<Address>) -> Self {
        let parse_permits = Arc::new(Semaphore::new(PARSE_CONCURRENCY));
        Self { db, clock, paths, complaints, counts: Default::default(), parse_permits }
    }

    /// Checks that an address is a valid return path or the address for complaints.
    pub fn admits(&self, to: &str) -> Result<(), TokenFault> {
        let is_recipient = |own: &Address| to.parse::<Address>().is_ok_and(|to| recipient_match::are_same(own, &to));
        if self.complaints.as_ref().is_some_and(is_recipient) {
            return Ok(());
        }
        let paths = self.paths.as_ref().ok_or(TokenFault::Missing)?;
        paths.verify_address(to, self.clock.now()).map(|_| ())
    }

    /// Parses a message and applies the report in it. With `dry_run`, returns the effects without applying them. Fails
    /// only if the database fails; nothing is changed then.
    pub async fn process(&self, mime: Vec<u8>, origin: Origin<'_>, dry_run: bool) -> Result<ReportOutcome, DbError> {
        let size = mime.len();
        // The blocking task keeps the permit, even if the caller is canceled. The semaphore is never closed.
        let permit = self.parse_permits.clone().acquire_owned().await.ok();
        let read = move || {
            let report = mail::report::read(&mime);
            drop(permit);
            report
        };
        // Parse up to 100 MB of untrusted input off the async threads. A panic affects only this message.
        let report = tokio::task::spawn_blocking(read).await.unwrap_or_else(|_| {
            tracing::error!(event = "report_parser_failed", size, "failed to parse a report; ignoring it");
            Report::unknown()
        });
        let outcome = match report.kind {
            ReportKind::Dsn | ReportKind::Complaint => self.apply(report, &origin, dry_run).await?,
            ReportKind::AutoReply | ReportKind::Unknown => ReportOutcome::without_effect(report),
        };
        self.log(&outcome, &origin, size, dry_run);
        Ok(outcome)
    }

    async fn apply(&self, mut report: Report, origin: &Origin<'_>, dry_run: bool) -> Result<ReportOutcome, DbError> {
        let found =
            match message_lookup::message(&self.db, self.paths.as_ref(), origin, &report, self.clock.now()).await? {
                Ok(found) => found,
                Err(why) => return Ok(ReportOutcome::not_found(report, why)),
            };
        if report.recipients.is_empty() {
            report
                .recipients
                .extend(recipient_match::only_candidate(&found).and_then(|row| implied_complaint(report.kind, row)));
        }
        let mut matches = recipient_match::match_recipients(&report.recipients, &found);
        if report.kind == ReportKind::Complaint && !recipient_match::is_vouched(&found) {
            recipient_match::keep_first(&mut matches);
        }
        let reached = recipient_match::reached(&report.recipients, &found);
        let reports: Vec<Option<(&ReportedMessageRecipient, RecipientReport)>> = report
            .recipients
            .iter()
            .zip(matches)
            .map(|(reported, index)| {
                let (index, row) = index.and_then(|index| Some((index, found.recipients.get(index)?)))?;
                let mut report = recipient_report(reported, row, &found);
                report.is_own_mailbox &= !reached.contains(&index);
                Some((row, report))
            })
            .collect();
        let is_simulated = is_simulated(&found, &reports);
        let effects = self.effects(&found, &reports, dry_run).await?;
        let mut effects = effects.into_iter();
        let results = reports.iter().map(|one| {
            let (row, _) = one.as_ref()?;
            Some((RecipientId(row.id), effects.next()?))
        });
        let results: Vec<_> = results.collect();
        Ok(ReportOutcome { is_simulated, ..ReportOutcome::found(report, &found, results, dry_run) })
    }

    /// Returns the effects on the matched recipients, in order, and applies them unless `dry_run`.
    async fn effects(
        &self,
        found: &FoundMessage,
        reports: &[Option<(&ReportedMessageRecipient, RecipientReport)>],
        dry_run: bool,
    ) -> Result<Vec<ReportEffect>, DbError> {
        let reports: Vec<&(&ReportedMessageRecipient, RecipientReport)> = reports.iter().flatten().collect();
        if dry_run || reports.is_empty() {
            let effect = |(row, report): &&(&ReportedMessageRecipient, RecipientReport)| {
                let status = row.status.parse().unwrap_or(Status::Canceled);
                let effect = ReportEffect::new(report.action, status, row.attempts, row.has_complained);
                if report.is_vouched { effect } else { effect.unvouched(&row.unvouched) }
            };
            return Ok(reports.iter().map(effect).collect());
        }
        let reports: Vec<RecipientReport> = reports.into_iter().map(|(_, report)| report.clone()).collect();
        delivery_reports::apply(&self.db, TenantId(found.tenant), found.message, &reports, self.clock.now()).await
    }

    /// Counts a message, and logs one line.
    fn log(&self, outcome: &ReportOutcome, origin: &Origin<'_>, size: usize, dry_run: bool) {
        if dry_run {
            return;
        }
        let kind = outcome.report.kind;
        // A complaint that is repeated, or that anybody could have sent, must not cause an alert.
        if !outcome.is_simulated && (kind != ReportKind::Complaint || outcome.applied() > 0) {
            METRICS.inbound_messages.get((inbound_kind(kind),)).increment(1);
        }
        let count = self.counts.get(kind as usize).map_or(0, |count| count.fetch_add(1, Ordering::Relaxed) + 1);
        tracing::info!(
            event = "report_received",
            kind = kind.as_str(),
            rule = outcome.report.rule,
            about = outcome.message.map(|(id, _)| id).map(tracing::field::display),
            applied = outcome.applied(),
            reason = outcome.not_found.map(NotFound::as_str),
            peer = origin.peer().map(tracing::field::display),
            size,
            count,
            "received a report"
        );
    }
}

fn inbound_kind(kind: ReportKind) -> InboundKind {
    match kind {
        ReportKind::Dsn => InboundKind::Dsn,
        ReportKind::Complaint => InboundKind::Complaint,
        ReportKind::AutoReply => InboundKind::AutoReply,
        ReportKind::Unknown => InboundKind::Unknown,
    }
}

/// Returns whether a report is about messages that were sent to the simulator only.
fn is_simulated(found: &FoundMessage, reports: &[Option<(&ReportedMessageRecipient, RecipientReport)>]) -> bool {
    let tenant = TenantId(found.tenant);
    let is_simulated = |address: &Address| routing::is_simulated(tenant, address.domain());
    let mut rows = reports.iter().flatten().map(|(row, _)| row).peekable();
    tenant.is_test()
        || rows.peek().is_some() && rows.all(|row| row.address.parse().is_ok_and(|address| is_simulated(&address)))
}

/// Returns the report to apply to a recipient.
fn recipient_report(
    reported: &ReportedRecipient,
    row: &ReportedMessageRecipient,
    found: &FoundMessage,
) -> RecipientReport {
    let judge = || (reported.action == Action::Failed).then(|| bounce::judge(&reported.reply));
    RecipientReport {
        recipient: row.id,
        action: reported.action,
        // Truncated to the length that the database accepts.
        reply: reported.reply.clone().with_text(reported.reply.text.as_str()),
        judgement: reported.judgement.or_else(judge),
        is_vouched: recipient_match::is_vouched(found),
        is_own_mailbox: recipient_match::is_own_mailbox(reported, row),
    }
}

/// Returns the recipient of a complaint that, for privacy, names no recipient, but whose return path identifies one.
fn implied_complaint(kind: ReportKind, row: &ReportedMessageRecipient) -> Option<ReportedRecipient> {
    (kind == ReportKind::Complaint).then(|| ReportedRecipient {
        recipient: row.address.clone(),
        original: None,
        action: Action::Complained,
        behind: None,
        reply: Reply::local_error("called spam"),
        judgement: None,
    })
}
