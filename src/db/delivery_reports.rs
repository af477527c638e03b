//! What came back takes effect: a report moves recipients that had ended to another end state, once, with its event.
//!
//! Only rows in an end state are locked, and for a complaint those that wait for another attempt where nobody else has them
//! locked. A worker writes only rows that wait, so that neither ever waits for the other while it holds what the other
//! wants. A server may be quicker with its bounce than we with its 250: what is in a
//! worker's hand is told apart, so that the report can be told again. It is looked for first, since a recipient leaves the
//! hand and ends at one moment.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::events::{self, NewEvent};
use super::{Db, DbError, suppressions};
use crate::domain::address::Address;
use crate::domain::bounce::{Bounce, Judgement, Source};
use crate::domain::delivery::{NoEffectReason, ReportEffect, Status};
use crate::domain::event::EventType;
use crate::domain::id::{MessageId, RecipientId, TenantId};
use crate::domain::outcome::{Outcome, Peer, Reply, Stage, Verdict};
use crate::domain::report::Action;
use crate::domain::suppression::{AddressKey, Reason};

/// A recipient that a report may be about.
#[derive(Debug, Clone)]
pub struct ReportedMessageRecipient {
    /// Its id.
    pub id: Uuid,
    /// Whose it is.
    pub tenant_id: Uuid,
    /// Its address.
    pub address: String,
    /// As stored, or `sending` while a worker has it in hand.
    pub status: String,
    /// Attempts on record.
    pub attempts: i16,
    /// Whether it has complained already.
    pub has_complained: bool,
    /// Whether its state is what a report said.
    pub is_reported: bool,
    /// What was said of it by return paths that others know as well.
    pub unvouched: Vec<String>,
}

/// The recipients of a message in the order of the request; none where it is not stored (any more). Without a tenant,
/// whoever's it is.
pub async fn addressees(
    db: &Db,
    message: MessageId,
    tenant: Option<TenantId>,
) -> Result<Vec<ReportedMessageRecipient>, DbError> {
    let query = sqlx::query_as!(
        ReportedMessageRecipient,
        r#"SELECT r.id, r.tenant_id, r.address, CASE WHEN q.lease IS NULL THEN r.status ELSE 'sending' END AS "status!",
                  r.attempts, r.complained_at IS NOT NULL AS "has_complained!", r.reported_at IS NOT NULL AS "is_reported!",
                  coalesce(r.unvouched, '{}') AS "unvouched!"
           FROM recipients r
           LEFT JOIN queue q ON q.message_id = r.message_id AND q.recipient_id = r.id AND q.tenant_id = r.tenant_id
           WHERE r.message_id = $1 AND ($2::uuid IS NULL OR r.tenant_id = $2) ORDER BY r.position"#,
        message.0,
        tenant.map(|tenant| tenant.0)
    );
    db.timed("feedback.addressees", query.fetch_all(&db.pool)).await
}

/// What a report says of one recipient.
#[derive(Debug, Clone)]
pub struct RecipientReport {
    /// The recipient.
    pub recipient: Uuid,
    /// What happened.
    pub action: Action,
    /// In which words.
    pub reply: Reply,
    /// What a failure means.
    pub judgement: Option<Judgement>,
    /// Whether nobody but this recipient knows the return path. Otherwise an event tells of it, and nothing changes.
    pub is_vouched: bool,
    /// Whether a failure may suppress the address: it is said of that mailbox, and of none behind it.
    pub is_own_mailbox: bool,
}

/// Lets it take effect on those recipients of a message, each of whom is told of once. Answers what came of each, in the
/// same order.
pub async fn apply(
    db: &Db,
    tenant: TenantId,
    message: MessageId,
    told: &[RecipientReport],
    now: DateTime<Utc>,
) -> Result<Vec<ReportEffect>, DbError> {
    db.timed("feedback.apply", async {
        let mut tx = db.pool.begin().await?;
        let in_hand = in_hand(&mut tx, tenant, message).await?;
        let mut ended = lock(&mut tx, tenant, message, told).await?;
        let waiting = lock_waiting(&mut tx, tenant, message, told).await?;
        ended.extend(waiting);
        let word = |told: &RecipientReport| match ended.get(&told.recipient) {
            Some(row) => {
                let word = ReportEffect::of(told.action, row.status, row.attempts, row.has_complained);
                if told.is_vouched { word } else { word.unvouched(&row.unvouched) }
            }
            None if in_hand.contains(&told.recipient) => ReportEffect::Nothing(NoEffectReason::InHand),
            None => ReportEffect::Nothing(NoEffectReason::Waiting),
        };
        let words: Vec<ReportEffect> = told.iter().map(word).collect();
        let effects: Vec<(&RecipientReport, ReportEffect)> = told
            .iter()
            .zip(words.iter().copied())
            .filter(|(_, word)| !matches!(word, ReportEffect::Nothing(_)))
            .collect();
        restore(&mut tx, tenant, message, told, &ended).await?;
        if !effects.is_empty() {
            update(&mut tx, tenant, message, &effects, now).await?;
            suppress(&mut tx, tenant, message, &effects, now).await?;
            tell(&mut tx, tenant, message, &effects, now).await?;
        }
        tx.commit().await?;
        Ok(words)
    })
    .await
}

/// The recipients of a message that workers have in hand.
async fn in_hand(
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

/// What a recipient is locked in.
struct LockedRecipient {
    status: Status,
    attempts: i16,
    has_complained: bool,
    unvouched: Vec<String>,
}

/// Locks those of them that have ended, and answers how.
async fn lock(
    connection: &mut PgConnection,
    tenant: TenantId,
    message: MessageId,
    told: &[RecipientReport],
) -> Result<HashMap<Uuid, LockedRecipient>, sqlx::Error> {
    let ids: Vec<Uuid> = told.iter().map(|told| told.recipient).collect();
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
    // The column is checked; a word that this version does not know is no end that it could change.
    let standing = rows.into_iter().map(|row| {
        let status = row.status.parse().unwrap_or(Status::Canceled);
        let (attempts, has_complained, unvouched) = (row.attempts, row.has_complained, row.unvouched);
        (row.id, LockedRecipient { status, attempts, has_complained, unvouched })
    });
    Ok(standing.collect())
}

/// Locks those who complain of an earlier attempt and wait for another. Who is locked by someone else is about to leave a
/// worker's hand: that is not waited for.
async fn lock_waiting(
    connection: &mut PgConnection,
    tenant: TenantId,
    message: MessageId,
    told: &[RecipientReport],
) -> Result<HashMap<Uuid, LockedRecipient>, sqlx::Error> {
    let ids: Vec<Uuid> =
        told.iter().filter(|told| told.action == Action::Complained).map(|told| told.recipient).collect();
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
    let standing = rows.into_iter().map(|row| {
        // Locked by someone else: about to leave a worker's hand.
        let status = if row.attempts.is_some() { Status::Deferred } else { Status::Sending };
        let (attempts, has_complained) = (row.attempts.unwrap_or(0), row.has_complained);
        (row.id, LockedRecipient { status, attempts, has_complained, unvouched: row.unvouched })
    });
    Ok(standing.collect())
}

async fn update(
    connection: &mut PgConnection,
    tenant: TenantId,
    message: MessageId,
    effects: &[(&RecipientReport, ReportEffect)],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = effects.iter().map(|(told, _)| told.recipient).collect();
    let ends: Vec<Option<&str>> = effects
        .iter()
        .map(|(_, word)| if let ReportEffect::Ends(status) = word { Some(status.as_str()) } else { None })
        .collect();
    let complaints: Vec<bool> = effects.iter().map(|(_, word)| *word == ReportEffect::Complains).collect();
    let notes: Vec<Option<&str>> = effects.iter().map(|(_, word)| word.note()).collect();
    let codes: Vec<Option<i16>> =
        effects.iter().map(|(told, _)| told.reply.code.and_then(|code| i16::try_from(code).ok())).collect();
    let enhanced: Vec<Option<String>> =
        effects.iter().map(|(told, _)| told.reply.enhanced.map(|code| code.to_string())).collect();
    let texts: Vec<&str> = effects.iter().map(|(told, _)| told.reply.text.as_str()).collect();
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
        &ends as _,
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

/// Addresses that are to be left alone from now on: they do not exist, or their owners called a mail spam. In the
/// transaction of the events that say so.
async fn suppress(
    connection: &mut PgConnection,
    tenant: TenantId,
    message: MessageId,
    effects: &[(&RecipientReport, ReportEffect)],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let source =
        |told: &RecipientReport| suppressions::Source { tenant, message, recipient: RecipientId(told.recipient) };
    let is_unknown =
        |told: &RecipientReport| told.is_own_mailbox && told.judgement.is_some_and(|judgement| judgement.suppresses());
    let unknown =
        effects.iter().filter(|(told, word)| *word == ReportEffect::Ends(Status::Bounced) && is_unknown(told));
    let unknown: Vec<_> = unknown.map(|(told, _)| source(told)).collect();
    let complained = effects.iter().filter(|(_, word)| *word == ReportEffect::Complains);
    let complained: Vec<_> = complained.map(|(told, _)| source(told)).collect();
    suppressions::add_recipients(connection, Reason::HardBounce, &unknown, now).await?;
    suppressions::add_recipients(connection, Reason::Complaint, &complained, now).await
}

/// Takes back what an earlier report of this message suppressed where the mail arrived behind the address after all: an alias of
/// which one member is gone.
async fn restore(
    connection: &mut PgConnection,
    tenant: TenantId,
    message: MessageId,
    told: &[RecipientReport],
    ended: &HashMap<Uuid, LockedRecipient>,
) -> Result<(), sqlx::Error> {
    let is_bounced =
        |told: &&RecipientReport| ended.get(&told.recipient).is_some_and(|row| row.status == Status::Bounced);
    let arrived = told.iter().filter(|told| told.is_vouched && told.action == Action::Delivered).filter(is_bounced);
    let ids: Vec<Uuid> = arrived.map(|told| told.recipient).collect();
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
        "DELETE FROM suppressions
         WHERE tenant_id = $1 AND address = ANY ($2) AND stream = '' AND reason = 'hard_bounce' AND message_id = $3
               AND recipient_id = ANY ($4)",
        tenant.0,
        &keys,
        message.0,
        &ids
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The last of the transaction: it takes event numbers.
async fn tell(
    connection: &mut PgConnection,
    tenant: TenantId,
    message: MessageId,
    effects: &[(&RecipientReport, ReportEffect)],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let outcomes: Vec<Outcome> = effects.iter().map(|(told, _)| outcome(told)).collect();
    let events = effects.iter().zip(&outcomes).map(|((told, word), outcome)| NewEvent {
        tenant: tenant.0,
        kind: match word {
            ReportEffect::Ends(status) => EventType::of_end(*status),
            ReportEffect::Noted(event) => *event,
            ReportEffect::Complains | ReportEffect::Nothing(_) => EventType::Complained,
        },
        message_id: Some(message.0),
        recipient_id: Some(told.recipient),
        endpoint_id: None,
        attempt: None,
        outcome: (told.action != Action::Complained).then_some(outcome),
        next_attempt_at: None,
        bounce: match (word, told.judgement) {
            (ReportEffect::Ends(Status::Bounced) | ReportEffect::Noted(EventType::Bounced), Some(judgement)) => {
                Some(Bounce { judgement, source: Source::Dsn })
            }
            _ => None,
        },
        vouched: Some(told.is_vouched),
    });
    events::append(connection, now, events.collect()).await
}

/// What was said, for the event; nobody was spoken to.
fn outcome(told: &RecipientReport) -> Outcome {
    let verdict = if told.action == Action::Failed { Verdict::Permanent } else { Verdict::Accepted };
    Outcome {
        verdict,
        reply: told.reply.clone(),
        peer: Peer::default(),
        duration: Duration::ZERO,
        stage: Stage::FinalDot,
    }
}
