//! Records the result of attempts in `queue` and `recipients`, with one statement for a batch. The statement is fenced:
//! it changes nothing of recipients whose lease is stale.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Fence, Finished};

/// Deletes finished rows from the queue, releases those to be retried, and records the outcomes. Returns the rows whose
/// lease was still valid.
pub(super) async fn record_attempts(
    connection: &mut PgConnection,
    batch: &[Finished],
    now: DateTime<Utc>,
) -> Result<HashSet<(Uuid, Uuid, i32)>, sqlx::Error> {
    let (claim, recipient) = (Fence::new(batch.iter().map(|f| &f.claimed)), RecipientColumns::new(batch));
    // Without an attempt (`started_at` is null), the reply of the last attempt stays, unless Postrider supplies a text.
    let recorded = sqlx::query!(
        r#"WITH over AS (
               SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::integer[],
                                    $5::uuid[], $6::text[], $7::smallint[], $8::timestamptz[], $9::timestamptz[],
                                    $10::smallint[], $11::text[], $12::text[], $13::text[], $14::text[])
                               AS u (message_id, recipient_id, lease, claims,
                                     tenant_id, status, attempts, started_at, due_at,
                                     response_code, response_enhanced, response_text, mx, tls)),
           gone AS (
               DELETE FROM queue USING over
               WHERE queue.message_id = ANY (ARRAY[over.message_id]) AND queue.recipient_id = over.recipient_id
                 AND queue.lease = over.lease AND queue.claims = over.claims AND over.due_at IS NULL
               RETURNING over.*),
           freed AS (
               UPDATE queue SET lease = NULL, due_at = over.due_at, attempts = least(queue.attempts + 1, 32767), crashes = 0,
                   begun = false, data_started = false, preparation_error = NULL, preparation_failed_at = NULL
               FROM over
               WHERE queue.message_id = ANY (ARRAY[over.message_id]) AND queue.recipient_id = over.recipient_id
                 AND queue.lease = over.lease AND queue.claims = over.claims AND over.due_at IS NOT NULL
               RETURNING over.*),
           held AS (SELECT * FROM gone UNION ALL SELECT * FROM freed),
           told AS (
               UPDATE recipients r SET status = held.status, attempts = held.attempts,
                   finished_at = CASE WHEN held.due_at IS NULL THEN $15::timestamptz /* now */ END,
                   last_attempt_at = coalesce(held.started_at, r.last_attempt_at),
                   response_code = CASE WHEN held.response_text IS NULL THEN r.response_code ELSE held.response_code END,
                   response_enhanced = CASE WHEN held.response_text IS NULL THEN r.response_enhanced
                                       ELSE held.response_enhanced END,
                   response_text = coalesce(held.response_text, r.response_text),
                   mx = coalesce(held.mx, r.mx), tls = CASE WHEN held.started_at IS NULL THEN r.tls ELSE held.tls END
               FROM held
               WHERE r.tenant_id = held.tenant_id AND r.message_id = ANY (ARRAY[held.message_id])
                 AND r.id = held.recipient_id)
           SELECT message_id AS "message_id!", recipient_id AS "recipient_id!", claims AS "claims!" FROM held"#,
        &claim.message_id,
        &claim.recipient_id,
        &claim.lease,
        &claim.claims,
        &recipient.tenant_id,
        &recipient.status as _,
        &recipient.attempts,
        &recipient.started_at as _,
        &recipient.due_at as _,
        &recipient.response_code as _,
        &recipient.response_enhanced as _,
        &recipient.response_text as _,
        &recipient.mx as _,
        &recipient.tls as _,
        now
    )
    .fetch_all(connection)
    .await?;
    Ok(recorded.into_iter().map(|row| (row.message_id, row.recipient_id, row.claims)).collect())
}

/// Columns of `recipients` that an attempt sets, in the order of the statement's parameters.
struct RecipientColumns<'a> {
    tenant_id: Vec<Uuid>,
    status: Vec<&'a str>,
    attempts: Vec<i16>,
    started_at: Vec<Option<DateTime<Utc>>>,
    /// Due times of recipients to be retried.
    due_at: Vec<Option<DateTime<Utc>>>,
    response_code: Vec<Option<i16>>,
    response_enhanced: Vec<Option<String>>,
    response_text: Vec<Option<&'a str>>,
    mx: Vec<Option<&'a str>>,
    tls: Vec<Option<&'a str>>,
}

impl<'a> RecipientColumns<'a> {
    fn new(batch: &'a [Finished]) -> Self {
        let outcomes = || batch.iter().map(|f| f.outcome.as_ref());
        Self {
            tenant_id: batch.iter().map(|f| f.claimed.tenant_id).collect(),
            status: batch.iter().map(|f| f.transition.status().as_str()).collect(),
            attempts: batch.iter().map(Finished::attempts).collect(),
            started_at: batch.iter().map(|f| f.attempt().map(|_| f.started_at)).collect(),
            due_at: batch.iter().map(|f| f.transition.next_attempt_at()).collect(),
            response_code: outcomes().map(|o| o?.reply.stored_code()).collect(),
            response_enhanced: outcomes().map(|o| Some(o?.reply.enhanced?.to_string())).collect(),
            response_text: outcomes().map(|o| Some(o?.reply.text.as_str())).collect(),
            mx: outcomes().map(|o| o?.peer.mx.as_deref()).collect(),
            tls: outcomes().map(|o| o?.peer.tls.as_deref()).collect(),
        }
    }
}
