//! Deletes the rows of a tenant in tables other than those of messages.

use chrono::TimeDelta;
use sqlx::PgConnection;

use super::{Deletion, Removed};
use crate::domain::id::{MessageId, TenantId};

/// Maximum number of rows that a step deletes.
const LIMIT: i64 = 5_000;
/// Maximum number of attachments that a step deletes.
const BLOBS: i64 = 64;
/// Maximum number of chunks of attachments that a step deletes; each has up to 1 MiB.
const CHUNKS: i64 = 64;

/// Deletes up to `$limit` rows of a table that is not partitioned and has the column `tenant_id`. Returns their number.
macro_rules! delete_rows {
    ($connection:expr, $tenant:expr, $table:literal, $limit:expr) => {
        sqlx::query!(
            "DELETE FROM "
                + $table
                + " WHERE ctid = ANY (ARRAY(SELECT ctid FROM "
                + $table
                + " WHERE tenant_id = $1 LIMIT $2))",
            $tenant.0,
            $limit
        )
        .execute(&mut *$connection)
        .await?
        .rows_affected()
    };
}

/// Deletes some rows of the first of these tables that has any, in their order. Returns from the calling function unless
/// all are empty.
macro_rules! delete_in_order {
    ($connection:expr, $tenant:expr, $($table:literal),+ $(,)?) => {
        $(
            let rows = delete_rows!($connection, $tenant, $table, LIMIT);
            if rows > 0 {
                return Ok(Removed { rows, ..Removed::default() });
            }
        )+
    };
}

/// Deletes bulks with their content, once their other rows are deleted.
pub(super) async fn bulks(connection: &mut PgConnection, tenant: TenantId) -> Result<Removed, sqlx::Error> {
    // `bulk_recipients` and `bulk_messages` have an index by bulk, and none by tenant.
    let recipients = sqlx::query!(
        "DELETE FROM bulk_recipients WHERE ctid = ANY (ARRAY(
             SELECT r.ctid FROM bulks b JOIN bulk_recipients r ON r.bulk_id = b.id AND r.tenant_id = b.tenant_id
             WHERE b.tenant_id = $1 LIMIT $2))",
        tenant.0,
        LIMIT
    );
    let rows = recipients.execute(&mut *connection).await?.rows_affected();
    if rows > 0 {
        return Ok(Removed { rows, ..Removed::default() });
    }
    let members = sqlx::query!(
        "DELETE FROM bulk_messages WHERE ctid = ANY (ARRAY(
             SELECT m.ctid FROM bulks b JOIN bulk_messages m ON m.bulk_id = b.id AND m.tenant_id = b.tenant_id
             WHERE b.tenant_id = $1 LIMIT $2))",
        tenant.0,
        LIMIT
    );
    let rows = members.execute(&mut *connection).await?.rows_affected();
    if rows > 0 {
        return Ok(Removed { rows, ..Removed::default() });
    }
    // A content may have tens of megabytes.
    let bulks = sqlx::query!(
        "WITH gone AS (
             DELETE FROM bulks WHERE tenant_id = $1 AND id = ANY (ARRAY(
                 SELECT id FROM bulks WHERE tenant_id = $1 ORDER BY id LIMIT $2))
             RETURNING content_id)
         DELETE FROM contents c USING gone WHERE c.id = gone.content_id AND c.tenant_id = $1",
        tenant.0,
        CHUNKS
    );
    let rows = bulks.execute(connection).await?.rows_affected();
    Ok(Removed { rows, is_complete: rows == 0, ..Removed::default() })
}

/// Deletes attachments: the references to the next ones, their bytes, and the attachments themselves; at the end, uploads
/// with their bytes. Workers then delete the objects of attachments that are in the object store. A step reads only rows of the attachments that it deletes next.
pub(super) async fn blobs(connection: &mut PgConnection, tenant: TenantId) -> Result<Removed, sqlx::Error> {
    let references = sqlx::query!(
        "DELETE FROM blob_references r USING (
             SELECT r.sha256, r.content_id
             FROM (SELECT sha256 FROM blobs WHERE tenant_id = $1 ORDER BY sha256 LIMIT $2) next
             CROSS JOIN LATERAL (
                 SELECT sha256, content_id FROM blob_references WHERE sha256 = next.sha256 AND tenant_id = $1 LIMIT $3) r
             LIMIT $3) gone
         WHERE r.sha256 = gone.sha256 AND r.tenant_id = $1 AND r.content_id = gone.content_id",
        tenant.0,
        BLOBS,
        LIMIT
    );
    let mut rows = references.execute(&mut *connection).await?.rows_affected();
    if rows == 0 {
        let chunks = sqlx::query!(
            "DELETE FROM blob_chunks WHERE ctid = ANY (ARRAY(
                 SELECT c.ctid FROM (SELECT sha256 FROM blobs WHERE tenant_id = $1 ORDER BY sha256 LIMIT $2) next
                 CROSS JOIN LATERAL (
                     SELECT ctid FROM blob_chunks WHERE tenant_id = $1 AND sha256 = next.sha256 LIMIT $3) c
                 LIMIT $3))",
            tenant.0,
            BLOBS,
            CHUNKS
        );
        rows = chunks.execute(&mut *connection).await?.rows_affected();
    }
    if rows == 0 {
        let blobs = sqlx::query_scalar!(
            r#"WITH gone AS (
                   DELETE FROM blobs WHERE tenant_id = $1 AND sha256 = ANY (ARRAY(
                       SELECT sha256 FROM blobs WHERE tenant_id = $1 ORDER BY sha256 LIMIT $2))
                   RETURNING object_key),
               objects AS (
                   INSERT INTO unreferenced_objects (object_key, delete_at)
                   SELECT object_key, 'epoch' FROM gone WHERE object_key IS NOT NULL)
               SELECT count(*) AS "rows!" FROM gone"#,
            tenant.0,
            BLOBS
        );
        rows = blobs.fetch_one(&mut *connection).await?.unsigned_abs();
    }
    if rows == 0 {
        rows = delete_rows!(connection, tenant, "blob_chunks", CHUNKS);
    }
    if rows == 0 {
        rows = delete_rows!(connection, tenant, "uploads", LIMIT);
    }
    Ok(Removed { rows, is_complete: rows == 0, ..Removed::default() })
}

/// Deletes a webhook endpoint, and then its retries, of which there is a bounded number: transactions that record posts lock
/// them in this order.
pub(super) async fn webhooks(connection: &mut PgConnection, tenant: TenantId) -> Result<Removed, sqlx::Error> {
    let rows = sqlx::query_scalar!(
        r#"WITH gone AS (
               DELETE FROM webhook_endpoints WHERE tenant_id = $1 AND id = ANY (ARRAY(
                   SELECT id FROM webhook_endpoints WHERE tenant_id = $1 ORDER BY id LIMIT 1))
               RETURNING id),
           retries AS (
               DELETE FROM webhook_retries r USING gone WHERE r.endpoint_id = gone.id AND r.tenant_id = $1 RETURNING 1)
           SELECT (SELECT count(*) FROM gone) + (SELECT count(*) FROM retries) AS "rows!""#,
        tenant.0
    )
    .fetch_one(connection)
    .await?;
    Ok(Removed { rows: rows.unsigned_abs(), is_complete: rows == 0, ..Removed::default() })
}

/// Deletes the log of posts. Reads all tenants' rows in the order of their ids, because deleted endpoints have rows too.
pub(super) async fn webhook_attempts(
    connection: &mut PgConnection,
    deletion: &Deletion,
) -> Result<Removed, sqlx::Error> {
    let tenant = deletion.tenant;
    let after = deletion.position.unwrap_or_else(|| MessageId::first_at(deletion.since - TimeDelta::days(1)).0);
    let row = sqlx::query!(
        r#"WITH next AS MATERIALIZED (
               SELECT id, tenant_id FROM webhook_attempts WHERE id > $2 ORDER BY id LIMIT $3),
           gone AS (
               DELETE FROM webhook_attempts w
               WHERE w.tenant_id = $1 AND w.id = ANY (ARRAY(SELECT id FROM next WHERE tenant_id = $1)) RETURNING 1)
           SELECT (SELECT count(*) FROM gone) AS "rows!", (SELECT count(*) FROM next) AS "read!",
                  (SELECT id FROM next ORDER BY id DESC LIMIT 1) AS last"#,
        tenant.0,
        after,
        LIMIT
    )
    .fetch_one(connection)
    .await?;
    Ok(Removed {
        rows: row.rows.unsigned_abs(),
        position: row.last,
        is_complete: row.read < LIMIT,
        ..Removed::default()
    })
}

/// Deletes the rows of all other tables, except for events. A table comes after those that refer to it.
pub(super) async fn others(connection: &mut PgConnection, tenant: TenantId) -> Result<Removed, sqlx::Error> {
    // A received message may have tens of megabytes.
    let rows = delete_rows!(connection, tenant, "received_messages", CHUNKS);
    if rows > 0 {
        return Ok(Removed { rows, ..Removed::default() });
    }
    delete_in_order!(
        connection,
        tenant,
        "relays",
        "inbound_routes",
        "message_actions",
        "erasures",
        "erasure_keys",
        "sql_inbox",
        "sql_senders",
        "deleted_events",
        "audit_log",
        "suppressions",
        "idempotency_keys",
        "simulator_followups",
        "lane_traces",
        // With `template_versions`, and `dkim_keys`.
        "templates",
        "domains",
        "permits",
        "stream_permits",
        "pauses",
        "lanes",
        "streams",
        "tenant_changes",
        "dashboard_sessions",
        // With `key_usage`.
        "keys",
        "tenant_usage",
    );
    Ok(Removed { is_complete: true, ..Removed::default() })
}

/// Deletes the event counter, so that no more events can be appended, and the oldest events; at the end, the statistics.
pub(super) async fn events(connection: &mut PgConnection, tenant: TenantId) -> Result<Removed, sqlx::Error> {
    let counter = delete_rows!(connection, tenant, "event_counters", LIMIT);
    let query = sqlx::query!(
        "DELETE FROM events WHERE tenant_id = $1 AND seq <= (
             SELECT max(seq) FROM (SELECT seq FROM events WHERE tenant_id = $1 ORDER BY seq LIMIT $2) next)",
        tenant.0,
        LIMIT
    );
    let rows = counter + query.execute(&mut *connection).await?.rows_affected();
    if rows > 0 {
        return Ok(Removed { rows, ..Removed::default() });
    }
    // The cursor first: without a counter, no other process creates it again, and it is locked while events are counted.
    delete_in_order!(connection, tenant, "statistics_cursors", "statistics", "statistics_details", "queue_samples");
    Ok(Removed { is_complete: true, ..Removed::default() })
}
