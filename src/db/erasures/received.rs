//! Deletes received messages from or to the address, and what is known of their being passed on. Their events stay, and show no more
//! than an id.

use sqlx::PgConnection;

use super::{Examined, Job};
use crate::domain::records::erasure::ErasedCounts;

/// Received messages that a step reads. Each may have tens of megabytes, which are only read if it is deleted.
const PAGE: i64 = 64;

/// Characters of a header field from which on it may be stored cut (`mail::received`).
const LONG_FIELD: i32 = 7_000;
/// Bytes of a message among which its header is looked for.
const MAX_HEADER: i32 = 1 << 20;

/// Deletes those of the next received messages whose envelope, sender or recipients have the address.
pub(super) async fn step(
    connection: &mut PgConnection,
    job: &Job,
    counts: &mut ErasedCounts,
) -> Result<Examined, sqlx::Error> {
    let row = sqlx::query!(
        r#"WITH next AS MATERIALIZED (
               SELECT id, envelope_from, envelope_to, from_address, headers, raw FROM received_messages
               WHERE tenant_id = $1 AND id > $2 AND id < uuid_floor($3) ORDER BY id LIMIT $4),
           found AS MATERIALIZED (
               SELECT id FROM next
               WHERE (lower(envelope_from) = ANY ($5) OR lower(from_address) = ANY ($5)
                  OR EXISTS (SELECT FROM unnest(envelope_to) AS one WHERE lower(one) = ANY ($5))
                  OR EXISTS (SELECT FROM jsonb_array_elements(headers) AS header
                             WHERE header ->> 'name' ~* '^(resent-)?(from|sender|reply-to|to|cc|bcc)$'
                               AND (header ->> 'value' ~* $6
                                    -- A long field is stored cut.
                                    OR length(header ->> 'value') >= $7
                                       AND split_part(encode(substr(raw, 1, $8), 'escape'), E'\r\n\r\n', 1) ~* $6)))
                 -- The message that passes it on is erased once it has ended, and is found by it.
                 AND NOT EXISTS (
                     SELECT FROM relays l JOIN queue q ON q.message_id = l.message_id
                     WHERE l.tenant_id = $1 AND l.received_id = next.id AND l.message_id < uuid_floor($3)
                       AND (lower(l.reverse_path) = ANY ($5) OR lower(from_address) = ANY ($5)
                            OR lower(l.recipient) = ANY ($5)))),
           locked AS MATERIALIZED (
               SELECT received_id, position FROM relays
               WHERE tenant_id = $1 AND received_id = ANY (ARRAY(SELECT id FROM found))
               ORDER BY received_id, position FOR UPDATE),
           relay AS (
               DELETE FROM relays l USING locked k
               WHERE l.tenant_id = $1 AND l.received_id = k.received_id AND l.position = k.position),
           gone AS (
               DELETE FROM received_messages v
               WHERE v.tenant_id = $1 AND v.id = ANY (ARRAY(SELECT id FROM found)) RETURNING 1)
           SELECT (SELECT count(*) FROM gone) AS "gone!", (SELECT count(*) FROM next) AS "read!",
                  (SELECT id FROM next ORDER BY id DESC LIMIT 1) AS last"#,
        job.lease.tenant.0,
        job.after(),
        job.end(),
        PAGE,
        &job.address.notations,
        job.address.mailbox_pattern(),
        LONG_FIELD,
        MAX_HEADER
    )
    .fetch_one(connection)
    .await?;
    counts.received_messages += row.gone.unsigned_abs();
    Ok(Examined { position: row.last.filter(|_| row.read >= PAGE).map(|id| id.to_string()), waiting: 0 })
}
