//! Erases an address from everything besides messages.

use sqlx::PgConnection;

use super::{Examined, Job};
use crate::db::messages::actions::redact::REDACTED;
use crate::domain::records::erasure::ErasedCounts;

/// Rows that a step reads.
const PAGE: i64 = 2_000;
/// The same, of a step that looks up the events of each post of several.
const PAGE_WITH_EVENTS: i64 = 200;

/// Replaces the address in the suppression list, and deletes the notes of its entries.
pub(super) async fn suppressions(
    connection: &mut PgConnection,
    job: &Job,
    counts: &mut ErasedCounts,
) -> Result<Examined, sqlx::Error> {
    let replaced = sqlx::query_scalar!(
        r#"WITH locked AS MATERIALIZED (
               SELECT stream FROM suppressions WHERE tenant_id = $1 AND address = $2 ORDER BY stream FOR UPDATE),
           gone AS (
               DELETE FROM suppressions s USING locked l WHERE s.tenant_id = $1 AND s.address = $2 AND s.stream = l.stream
               RETURNING s.stream, reason, message_id, recipient_id, created_at, expires_at),
           added AS (
               INSERT INTO suppressions AS s (tenant_id, address, stream, reason, message_id, recipient_id, created_at, expires_at)
               SELECT $1, $3, stream, reason, message_id, recipient_id, created_at, expires_at FROM gone ORDER BY stream
               ON CONFLICT (tenant_id, address, stream) DO UPDATE SET
                   expires_at = nullif(greatest(coalesce(s.expires_at, 'infinity'), coalesce(excluded.expires_at, 'infinity')),
                                       'infinity'))
           SELECT count(*) AS "count!" FROM gone"#,
        job.lease.tenant.0,
        job.address.key.as_str(),
        job.pseudonym
    )
    .fetch_one(connection)
    .await?;
    counts.suppressions += replaced.unsigned_abs();
    Ok(Examined::default())
}

/// Removes recipients of the next bulk that are not messages yet. The bulk then has fewer recipients.
pub(super) async fn bulks(
    connection: &mut PgConnection,
    job: &Job,
    counts: &mut ErasedCounts,
) -> Result<Examined, sqlx::Error> {
    let tenant = job.lease.tenant;
    // Waits for a transaction that turns recipients of the bulk into messages.
    let bulk = sqlx::query_scalar!(
        "SELECT b.id FROM bulks b
         WHERE b.tenant_id = $1 AND b.id > $2 AND EXISTS (SELECT FROM bulk_recipients r WHERE r.bulk_id = b.id)
         ORDER BY b.id LIMIT 1 FOR UPDATE OF b",
        tenant.0,
        job.after()
    );
    let Some(bulk) = bulk.fetch_optional(&mut *connection).await? else { return Ok(Examined::default()) };
    let removed = sqlx::query_scalar!(
        r#"WITH gone AS (
               DELETE FROM bulk_recipients
               WHERE bulk_id = $2 AND tenant_id = $1 AND lower(address) = ANY ($3) RETURNING 1),
           changed AS (
               UPDATE bulks SET accepted = accepted - (SELECT count(*) FROM gone)::integer
               WHERE tenant_id = $1 AND id = $2 AND EXISTS (SELECT FROM gone))
           SELECT count(*) AS "count!" FROM gone"#,
        tenant.0,
        bulk,
        &job.address.notations
    )
    .fetch_one(connection)
    .await?;
    counts.bulk_recipients += removed.unsigned_abs();
    Ok(Examined { position: Some(bulk.to_string()), waiting: 0 })
}

/// Erases responses of webhook endpoints that contain the address, or that followed events of erased messages: a response may quote
/// what was posted. Reads all tenants' rows in the order of their ids. If received messages were deleted, erases responses that
/// followed the event of any deleted one: the events do not say whose it was.
pub(super) async fn webhook_log(
    connection: &mut PgConnection,
    job: &Job,
    counts: &mut ErasedCounts,
) -> Result<Examined, sqlx::Error> {
    let has_received = job.counts.received_messages > 0;
    let page = if has_received { PAGE_WITH_EVENTS } else { PAGE };
    // A post of several events has the number of the first one, and those between may have been left out.
    let row = sqlx::query!(
        r#"WITH erased AS MATERIALIZED (
               SELECT e.seq FROM recipients r JOIN events e ON e.message_id = r.message_id AND e.tenant_id = r.tenant_id
               WHERE r.tenant_id = $1 AND lower(r.address) = $5),
           next AS MATERIALIZED (
               SELECT id, tenant_id, seq, events, answer, error FROM webhook_attempts WHERE id > $2 ORDER BY id LIMIT $3),
           found AS MATERIALIZED (
               SELECT n.id FROM next n
               WHERE n.tenant_id = $1 AND n.answer IS DISTINCT FROM $6
                 AND (n.answer ~* $4 OR n.error ~* $4
                      OR n.answer <> '' AND (n.seq IN (SELECT seq FROM erased)
                          OR n.events > 1 AND EXISTS (SELECT FROM erased e WHERE e.seq BETWEEN n.seq AND n.seq + 1000)
                          OR $7 AND EXISTS (
                              SELECT FROM events e
                              WHERE e.tenant_id = $1 AND e.received_id IS NOT NULL
                                AND e.seq BETWEEN n.seq AND n.seq + CASE WHEN n.events > 1 THEN 1000 ELSE 0 END
                                AND NOT EXISTS (
                                    SELECT FROM received_messages v WHERE v.tenant_id = $1 AND v.id = e.received_id))))),
           changed AS (
               UPDATE webhook_attempts w
               SET answer = CASE WHEN w.answer IS NOT NULL THEN $6 END, error = regexp_replace(w.error, $4, $5, 'gi')
               WHERE w.tenant_id = $1 AND w.id = ANY (ARRAY(SELECT id FROM found)) RETURNING 1)
           SELECT (SELECT count(*) FROM changed) AS "changed!", (SELECT count(*) FROM next) AS "read!",
                  (SELECT id FROM next ORDER BY id DESC LIMIT 1) AS last"#,
        job.lease.tenant.0,
        job.after(),
        page,
        job.address.pattern(),
        job.pseudonym,
        REDACTED,
        has_received
    )
    .fetch_one(connection)
    .await?;
    counts.webhook_attempts += row.changed.unsigned_abs();
    Ok(Examined { position: row.last.filter(|_| row.read >= page).map(|id| id.to_string()), waiting: 0 })
}

/// Deletes idempotency keys that contain the address, or whose stored responses do.
pub(super) async fn idempotency_keys(
    connection: &mut PgConnection,
    job: &Job,
    counts: &mut ErasedCounts,
) -> Result<Examined, sqlx::Error> {
    let row = sqlx::query!(
        r#"WITH next AS MATERIALIZED (
               SELECT key, batch_response FROM idempotency_keys WHERE tenant_id = $1 AND key > $2 ORDER BY key LIMIT $3),
           gone AS (
               DELETE FROM idempotency_keys
               WHERE tenant_id = $1
                 AND key = ANY (ARRAY(SELECT key FROM next WHERE key ~* $4 OR batch_response::text ~* $4)) RETURNING 1)
           SELECT (SELECT count(*) FROM gone) AS "gone!", (SELECT count(*) FROM next) AS "read!",
                  (SELECT key FROM next ORDER BY key DESC LIMIT 1) AS last"#,
        job.lease.tenant.0,
        job.position.as_deref().unwrap_or_default(),
        PAGE,
        job.address.pattern()
    )
    .fetch_one(connection)
    .await?;
    counts.idempotency_keys += row.gone.unsigned_abs();
    Ok(Examined { position: row.last.filter(|_| row.read >= PAGE), waiting: 0 })
}

/// Replaces the address in the audit log. That of test keys is in the log of the live tenant; an erasure with a live key examines
/// all of it.
pub(super) async fn audit_log(
    connection: &mut PgConnection,
    job: &Job,
    counts: &mut ErasedCounts,
) -> Result<Examined, sqlx::Error> {
    let tenant = job.lease.tenant;
    let row = sqlx::query!(
        r#"WITH owner AS MATERIALIZED (
               SELECT coalesce((SELECT test_of FROM tenants WHERE id = $1), $1) AS id),
           next AS MATERIALIZED (
               SELECT id FROM audit_log WHERE tenant_id = (SELECT id FROM owner) AND id > $2 ORDER BY id LIMIT $3),
           changed AS (
               UPDATE audit_log a
               SET object = regexp_replace(object, $4, $5, 'gi'),
                   before = regexp_replace(before::text, $4, $5, 'gi')::jsonb,
                   after = regexp_replace(after::text, $4, $5, 'gi')::jsonb
               WHERE a.tenant_id = (SELECT id FROM owner) AND a.id = ANY (ARRAY(SELECT id FROM next))
                 AND (a.mode = 'test' OR NOT $6) AND concat_ws(' ', object, before::text, after::text) ~* $4
               RETURNING 1)
           SELECT (SELECT count(*) FROM changed) AS "changed!", (SELECT count(*) FROM next) AS "read!",
                  (SELECT id FROM next ORDER BY id DESC LIMIT 1) AS last"#,
        tenant.0,
        job.after(),
        PAGE,
        job.address.pattern(),
        job.pseudonym,
        tenant.is_test()
    )
    .fetch_one(connection)
    .await?;
    counts.audit_entries += row.changed.unsigned_abs();
    Ok(Examined { position: row.last.filter(|_| row.read >= PAGE).map(|id| id.to_string()), waiting: 0 })
}

/// Replaces the address in replies that lanes remember, errors of webhook endpoints, refused recipients of bulks, and the filters
/// of actions. An action that is running still needs its filter.
pub(super) async fn texts(
    connection: &mut PgConnection,
    job: &Job,
    counts: &mut ErasedCounts,
) -> Result<Examined, sqlx::Error> {
    let (tenant, pattern) = (job.lease.tenant.0, job.address.pattern());
    let lanes = sqlx::query!(
        "WITH locked AS MATERIALIZED (
             SELECT id FROM lanes WHERE tenant_id = $1 AND concat_ws(' ', learned_reply, block_reply) ~* $2
             ORDER BY id FOR NO KEY UPDATE)
         UPDATE lanes l SET learned_reply = regexp_replace(learned_reply, $2, $3, 'gi'),
                            block_reply = regexp_replace(block_reply, $2, $3, 'gi')
         FROM locked WHERE l.id = locked.id",
        tenant,
        pattern,
        job.pseudonym
    );
    counts.other_texts += lanes.execute(&mut *connection).await?.rows_affected();
    let endpoints = sqlx::query!(
        "WITH locked AS MATERIALIZED (
             SELECT id FROM webhook_endpoints WHERE tenant_id = $1 AND concat_ws(' ', last_error, disabled_reason) ~* $2
             ORDER BY id FOR NO KEY UPDATE)
         UPDATE webhook_endpoints e SET last_error = regexp_replace(last_error, $2, $3, 'gi'),
                                        disabled_reason = regexp_replace(disabled_reason, $2, $3, 'gi')
         FROM locked WHERE e.id = locked.id",
        tenant,
        pattern,
        job.pseudonym
    );
    counts.other_texts += endpoints.execute(&mut *connection).await?.rows_affected();
    let bulks = sqlx::query!(
        "WITH locked AS MATERIALIZED (
             SELECT id FROM bulks WHERE tenant_id = $1 AND rejected > 0 AND refused::text ~* $2
             ORDER BY id FOR NO KEY UPDATE)
         UPDATE bulks b SET refused = regexp_replace(refused::text, $2, $3, 'gi')::jsonb
         FROM locked WHERE b.tenant_id = $1 AND b.id = locked.id",
        tenant,
        pattern,
        job.pseudonym
    );
    counts.other_texts += bulks.execute(&mut *connection).await?.rows_affected();
    let actions = sqlx::query!(
        "WITH locked AS MATERIALIZED (
             SELECT id FROM message_actions WHERE tenant_id = $1 AND status <> 'running' AND filter::text ~* $2
             ORDER BY id FOR NO KEY UPDATE)
         UPDATE message_actions a SET filter = regexp_replace(filter::text, $2, $3, 'gi')::jsonb
         FROM locked WHERE a.tenant_id = $1 AND a.id = locked.id",
        tenant,
        pattern,
        job.pseudonym
    );
    counts.other_texts += actions.execute(&mut *connection).await?.rows_affected();
    let running = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM message_actions WHERE tenant_id = $1 AND status = 'running' AND filter::text ~* $2"#,
        tenant,
        pattern
    );
    Ok(Examined { position: None, waiting: running.fetch_one(connection).await?.unsigned_abs() })
}
