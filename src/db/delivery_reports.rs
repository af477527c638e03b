//! Applies DSNs and complaints. Each report takes effect at most once, and appends an event in the same transaction.
//!
//! A transaction locks only recipients in an end state; for a complaint, also recipients that wait for another attempt,
//! unless another transaction has locked them. Workers write only recipients that are not in an end state, so the two
//! cannot deadlock. A bounce may arrive before the 250 reply of the attempt is recorded. For a leased recipient, the
//! effect is therefore `Leased`, and the caller can apply the report again later. Leases are read first, because a
//! recipient loses its lease and reaches its end state in one transaction.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::events::{self, NewEvent};
use super::messages::actions::redact::REDACTED;
use super::{Db, DbError, suppressions};
use crate::domain::address::Address;
use crate::domain::bounce::report::Action;
use crate::domain::bounce::{Bounce, Judgement, Source};
use crate::domain::delivery::{NoEffectReason, ReportEffect, Status};
use crate::domain::event::EventType;
use crate::domain::id::{MessageId, RecipientId, RecipientKey, TenantId};
use crate::domain::outcome::{Outcome, Peer, Reply, Stage, Verdict};
use crate::domain::suppression::{AddressKey, Reason};

/// A recipient of a message for which a report arrived.
#[derive(Debug, Clone)]
pub struct ReportedMessageRecipient {
    /// `recipients.id`.
    pub id: Uuid,
    /// The tenant.
    pub tenant_id: Uuid,
    /// The recipient's address.
    pub address: String,
    /// The stored status, or `sending` while the recipient is leased.
    pub status: String,
    /// Number of recorded attempts.
    pub attempts: i16,
    /// Whether a complaint was already recorded.
    pub has_complained: bool,
    /// Whether a report set its status.
    pub is_reported: bool,
    /// Kinds of earlier reports that came to a return path which other recipients know too (`recipients.unvouched`).
    pub unvouched: Vec<String>,
}

/// Returns the recipients of a message in the order of the request; empty if the message is not stored. Without
/// `tenant`, the message may belong to any tenant.
pub async fn addressees(
    db: &Db,
    message: MessageId,
    tenant: Option<TenantId>,
) -> Result<Vec<ReportedMessageRecipient>, DbError> {
    // `recipient_status` is called without a due time, so no recipient has the status `scheduled`.
    let query = sqlx::query_as!(
        ReportedMessageRecipient,
        r#"SELECT r.id, r.tenant_id, r.address, recipient_status(r.status, q.lease, NULL, NULL) AS "status!", r.attempts,
                  r.complained_at IS NOT NULL AS "has_complained!", r.reported_at IS NOT NULL AS "is_reported!",
                  coalesce(r.unvouched, '{}') AS "unvouched!"
           FROM recipients r
           LEFT JOIN queue q ON q.message_id = r.message_id AND q.recipient_id = r.id AND q.tenant_id = r.tenant_id
           WHERE r.message_id = $1 AND ($2::uuid IS NULL OR r.tenant_id = $2) ORDER BY r.position"#,
        message.0,
        tenant.map(|tenant| tenant.0)
    );
    db.timed("feedback.addressees", query.fetch_all(&db.pool)).await
}

/// The content of a report about one recipient.
#[derive(Debug, Clone)]
pub struct RecipientReport {
    /// The recipient.
    pub recipient: Uuid,
    /// The reported action.
    pub action: Action,
    /// The reply that the report quotes.
    pub reply: Reply,
    /// The classification of a failure.
    pub judgement: Option<Judgement>,
    /// Whether only this recipient knows the return path that the report came to. If not, the report may be forged: an
    /// event records it, and no state changes.
    pub is_vouched: bool,
    /// Whether the report is about the recipient's own mailbox, not about one that it forwards to. Only then may a
    /// failure suppress the address.
    pub is_own_mailbox: bool,
}

impl RecipientReport {
    fn key(&self, tenant: TenantId, message: MessageId) -> RecipientKey {
        RecipientKey { tenant, message, recipient: RecipientId(self.recipient) }
    }
}

/// Applies reports to recipients of one message; each recipient appears once. Returns the effect of each report, in the
/// same order.
pub async fn apply(
    db: &Db,
    tenant: TenantId,
    message: MessageId,
    reports: &[RecipientReport],
    now: DateTime<Utc>,
) -> Result<Vec<ReportEffect>, DbError> {
    db.timed("feedback.apply", async {
        let mut tx = db.pool.begin().await?;
        let leased = leased(&mut tx, tenant, message).await?;
        let mut ended = lock(&mut tx, tenant, message, reports).await?;
        let waiting = lock_waiting(&mut tx, tenant, message, reports).await?;
        // After the locks, because redacting locks the recipients, too.
        let shown = without_texts(&mut tx, tenant, message, reports).await?;
        let reports = shown.as_ref();
        ended.extend(waiting);
        let effect = |report: &RecipientReport| match ended.get(&report.recipient) {
            Some(row) => {
                let effect = ReportEffect::new(report.action, row.status, row.attempts, row.has_complained);
                if report.is_vouched { effect } else { effect.unvouched(&row.unvouched) }
            }
            None if leased.contains(&report.recipient) => ReportEffect::Nothing(NoEffectReason::Leased),
            None => ReportEffect::Nothing(NoEffectReason::StillQueued),
        };
        let all: Vec<ReportEffect> = reports.iter().map(effect).collect();
        let effects: Vec<(&RecipientReport, ReportEffect)> = reports
            .iter()
            .zip(all.iter().copied())
            .filter(|(_, effect)| !matches!(effect, ReportEffect::Nothing(_)))
            .collect();
        remove_suppressions(&mut tx, tenant, message, reports, &ended).await?;
        if !effects.is_empty() {
            update(&mut tx, tenant, message, &effects, now).await?;
            suppress(&mut tx, tenant, message, &effects, now).await?;
            append_events(&mut tx, tenant, message, &effects, now).await?;
        }
        tx.commit().await?;
        Ok(all)
    })
    .await
}

/// Returns the reports; if the message was redacted, without the texts that they quote, which often contain the address.
async fn without_texts<'a>(
    connection: &mut PgConnection,
    tenant: TenantId,
    message: MessageId,
    reports: &'a [RecipientReport],
) -> Result<Cow<'a, [RecipientReport]>, sqlx::Error> {
    let is_redacted = sqlx::query_scalar!(
        r#"SELECT redacted_at IS NOT NULL AS "is_redacted!" FROM messages WHERE tenant_id = $1 AND id = $2"#,
        tenant.0,
        message.0
    );
    if is_redacted.fetch_optional(connection).await? != Some(true) {
        return Ok(Cow::Borrowed(reports));
    }
    let mut reports = reports.to_vec();
    for report in &mut reports {
        REDACTED.clone_into(&mut report.reply.text);
    }
    Ok(Cow::Owned(reports))
}

/// Returns the recipients of a message that are leased.
async fn leased(
    connection: &mut PgConnection,
    tenant: TenantId,
    message: MessageId,
) -> Result<HashSet<Uuid>, sqlx::Error> {
    let ids = sqlx::query_scalar!(
        "SELECT recipient_id FROM queue WHERE tenant_id = $1 AND message_id = $2 AND lease IS NOT NULL",
        tenant.0,
        message.0
    )
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().collect())
}

/// The state of a recipient that was locked, or that another transaction has locked.
struct LockedRecipient {
    status: Status,
    attempts: i16,
    has_complained: bool,
    unvouched: Vec<String>,
}

/// Locks the recipients that are in an end state, and returns their states.
async fn lock(
    connection: &mut PgConnection,
    tenant: TenantId,
    message: MessageId,
    reports: &[RecipientReport],
) -> Result<HashMap<Uuid, LockedRecipient>, sqlx::Error> {
    let ids: Vec<Uuid> = reports.iter().map(|report| report.recipient).collect();
    let rows = sqlx::query!(
        r#"SELECT id, status, attempts, complained_at IS NOT NULL AS "has_complained!",
                  coalesce(unvouched, '{}') AS "unvouched!" FROM recipients
           WHERE tenant_id = $1 AND message_id = $2 AND id = ANY ($3) AND finished_at IS NOT NULL
           ORDER BY id FOR UPDATE"#,
        tenant.0,
        message.0,
        &ids
    )
    .fetch_all(connection)
    .await?;
    // The column has a CHECK constraint. A status that this version does not know becomes one that no report changes.
    let locked = rows.into_iter().map(|row| {
        let status = row.status.parse().unwrap_or(Status::Canceled);
        let (attempts, has_complained, unvouched) = (row.attempts, row.has_complained, row.unvouched);
        (row.id, LockedRecipient { status, attempts, has_complained, unvouched })
    });
    Ok(locked.collect())
}

/// Locks recipients that complain about an earlier attempt and wait for another one. Skips rows that another
/// transaction has locked: a worker is about to record an outcome for them.
async fn lock_waiting(
    connection: &mut PgConnection,
    tenant: TenantId,
    message: MessageId,
    reports: &[RecipientReport],
) -> Result<HashMap<Uuid, LockedRecipient>, sqlx::Error> {
    let ids: Vec<Uuid> =
        reports.iter().filter(|report| report.action == Action::Complained).map(|report| report.recipient).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query!(
        r#"WITH held AS MATERIALIZED (
               SELECT id, attempts, complained_at, unvouched FROM recipients
               WHERE tenant_id = $1 AND message_id = $2 AND id = ANY ($3) AND finished_at IS NULL AND attempts > 0
               FOR UPDATE SKIP LOCKED)
           SELECT r.id, held.attempts AS "attempts?", held.complained_at IS NOT NULL AS "has_complained!",
                  coalesce(held.unvouched, '{}') AS "unvouched!"
           FROM recipients r LEFT JOIN held ON held.id = r.id
           WHERE r.tenant_id = $1 AND r.message_id = $2 AND r.id = ANY ($3) AND r.finished_at IS NULL AND r.attempts > 0"#,
        tenant.0,
        message.0,
        &ids
    )
    .fetch_all(connection)
    .await?;
    let locked = rows.into_iter().map(|row| {
        // Without `attempts`, another transaction has locked the row.
        let status = if row.attempts.is_some() { Status::Deferred } else { Status::Sending };
        let (attempts, has_complained) = (row.attempts.unwrap_or(0), row.has_complained);
        (row.id, LockedRecipient { status, attempts, has_complained, unvouched: row.unvouched })
    });
    Ok(locked.collect())
}

async fn update(
    connection: &mut PgConnection,
    tenant: TenantId,
    message: MessageId,
    effects: &[(&RecipientReport, ReportEffect)],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = effects.iter().map(|(report, _)| report.recipient).collect();
    let end_states: Vec<Option<&str>> = effects
        .iter()
        .map(|(_, effect)| if let ReportEffect::Ends(status) = effect { Some(status.as_str()) } else { None })
        .collect();
    let complaints: Vec<bool> = effects.iter().map(|(_, effect)| *effect == ReportEffect::Complains).collect();
    let notes: Vec<Option<&str>> = effects.iter().map(|(_, effect)| effect.note()).collect();
    let codes: Vec<Option<i16>> = effects.iter().map(|(report, _)| report.reply.stored_code()).collect();
    let enhanced: Vec<Option<String>> =
        effects.iter().map(|(report, _)| report.reply.enhanced.map(|code| code.to_string())).collect();
    let texts: Vec<&str> = effects.iter().map(|(report, _)| report.reply.text.as_str()).collect();
    sqlx::query!(
        "UPDATE recipients r SET
             status = coalesce(u.status, r.status),
             finished_at = CASE WHEN u.status IS NULL THEN r.finished_at ELSE $4 END,
             reported_at = CASE WHEN u.status IS NULL THEN r.reported_at ELSE $4 END,
             complained_at = CASE WHEN u.complains THEN $4 ELSE r.complained_at END,
             unvouched = CASE WHEN u.note IS NULL THEN r.unvouched ELSE array_append(r.unvouched, u.note) END,
             response_code = CASE WHEN u.status IS NULL THEN r.response_code ELSE u.code END,
             response_enhanced = CASE WHEN u.status IS NULL THEN r.response_enhanced ELSE u.enhanced END,
             response_text = CASE WHEN u.status IS NULL THEN r.response_text ELSE u.text END
         FROM unnest($3::uuid[], $5::text[], $6::smallint[], $7::text[], $8::text[], $9::boolean[], $10::text[])
              AS u (id, status, code, enhanced, text, complains, note)
         WHERE r.tenant_id = $1 AND r.message_id = $2 AND r.id = u.id",
        tenant.0,
        message.0,
        &ids,
        now,
        &end_states as _,
        &codes as _,
        &enhanced as _,
        &texts as _,
        &complaints,
        &notes as _
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Suppresses addresses that do not exist or whose owners reported a message as spam, in the transaction that writes
/// the corresponding events.
async fn suppress(
    connection: &mut PgConnection,
    tenant: TenantId,
    message: MessageId,
    effects: &[(&RecipientReport, ReportEffect)],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let is_missing_mailbox = |report: &RecipientReport| {
        report.is_own_mailbox && report.judgement.is_some_and(|judgement| judgement.suppresses())
    };
    let missing = effects
        .iter()
        .filter(|(report, effect)| *effect == ReportEffect::Ends(Status::Bounced) && is_missing_mailbox(report));
    let missing: Vec<_> = missing.map(|(report, _)| report.key(tenant, message)).collect();
    let complained = effects.iter().filter(|(_, effect)| *effect == ReportEffect::Complains);
    let complained: Vec<_> = complained.map(|(report, _)| report.key(tenant, message)).collect();
    suppressions::add_recipients(connection, Reason::HardBounce, &missing, now).await?;
    suppressions::add_recipients(connection, Reason::Complaint, &complained, now).await
}

/// Removes suppressions that an earlier report about this message added, if a later report says that the message was
/// delivered: the address is an alias, and one of its members does not exist.
async fn remove_suppressions(
    connection: &mut PgConnection,
    tenant: TenantId,
    message: MessageId,
    reports: &[RecipientReport],
    ended: &HashMap<Uuid, LockedRecipient>,
) -> Result<(), sqlx::Error> {
    let is_bounced =
        |report: &&RecipientReport| ended.get(&report.recipient).is_some_and(|row| row.status == Status::Bounced);
    let delivered =
        reports.iter().filter(|report| report.is_vouched && report.action == Action::Delivered).filter(is_bounced);
    let ids: Vec<Uuid> = delivered.map(|report| report.recipient).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let addresses = sqlx::query_scalar!(
        "SELECT address FROM recipients
         WHERE tenant_id = $1 AND message_id = $2 AND id = ANY ($3) AND reported_at IS NOT NULL",
        tenant.0,
        message.0,
        &ids
    )
    .fetch_all(&mut *connection)
    .await?;
    let keys = addresses.iter().filter_map(|address| address.parse::<Address>().ok());
    let keys: Vec<String> = keys.map(|address| AddressKey::from(&address).as_str().to_owned()).collect();
    sqlx::query!(
        "WITH locked AS MATERIALIZED (
             SELECT address FROM suppressions
             WHERE tenant_id = $1 AND address = ANY ($2) AND stream = '' AND reason = 'hard_bounce' AND message_id = $3
               AND recipient_id = ANY ($4)
             ORDER BY address FOR UPDATE)
         DELETE FROM suppressions s USING locked l WHERE s.tenant_id = $1 AND s.address = l.address AND s.stream = ''",
        tenant.0,
        &keys,
        message.0,
        &ids
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Appends the events. Must come last in the transaction, because it reserves event numbers.
async fn append_events(
    connection: &mut PgConnection,
    tenant: TenantId,
    message: MessageId,
    effects: &[(&RecipientReport, ReportEffect)],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let outcomes: Vec<Outcome> = effects.iter().map(|(report, _)| outcome(report)).collect();
    let events = effects.iter().zip(&outcomes).filter_map(|((report, effect), outcome)| {
        let kind = effect.event()?;
        let reply = (report.action != Action::Complained).then_some(outcome);
        let judgement = report.judgement.filter(|_| kind == EventType::Bounced);
        let bounce = judgement.map(|judgement| Bounce { judgement, source: Source::Dsn });
        Some(NewEvent::reported(report.key(tenant, message), kind, reply, bounce, report.is_vouched))
    });
    events::append(connection, now, events.collect()).await
}

/// Returns the reported reply as an outcome for the event. Postrider had no SMTP conversation for it.
fn outcome(report: &RecipientReport) -> Outcome {
    let verdict = if report.action == Action::Failed { Verdict::Permanent } else { Verdict::Accepted };
    Outcome {
        verdict,
        reply: report.reply.clone(),
        peer: Peer::default(),
        duration: Duration::ZERO,
        stage: Stage::FinalDot,
    }
}
