//! The invariants of the database (ARCHITECTURE.md, "Invariants").

use std::time::Duration;

use sqlx::PgConnection;

use super::until::until;

/// Time limit for the queue to become empty. It is longer than the leases of a killed process.
const LIMIT: Duration = Duration::from_mins(1);

/// The invariant of lanes, which holds at any time, also under load.
const LANES: (&str, &str) = (
    "`ready_at` of a lane is not later than its earliest row that is not leased",
    "SELECT count(*) FROM lanes l JOIN queue q ON q.lane_id = l.id AND q.lease IS NULL WHERE q.due_at < l.ready_at",
);

/// Names and queries; each query returns the number of rows that break the invariant.
const RULES: &[(&str, &str)] = &[
    ("no recipient is leased", "SELECT count(*) FROM queue WHERE lease IS NOT NULL"),
    (
        "each waiting recipient has one row in the queue, and no other recipient has one",
        "SELECT count(*) FROM recipients r FULL JOIN queue q ON q.message_id = r.message_id AND q.recipient_id = r.id
         WHERE (coalesce(r.status, '') IN ('queued', 'deferred')) <> (q.recipient_id IS NOT NULL)",
    ),
    (
        "the ledger balances: accepted is the sum of the end states and the waiting recipients",
        "SELECT abs((SELECT count(*) FROM recipients) - (SELECT count(*) FROM queue)
                    - (SELECT count(*) FROM recipients WHERE status NOT IN ('queued', 'deferred')))",
    ),
    (
        "each message and each end state has an event",
        "SELECT (SELECT count(*) FROM messages m WHERE NOT EXISTS (
                     SELECT FROM events e WHERE e.message_id = m.id
                     AND e.type IN ('message.accepted', 'message.scheduled'))
                     AND NOT EXISTS (SELECT FROM deleted_events g WHERE g.tenant_id = m.tenant_id))
              + (SELECT count(*) FROM recipients r WHERE r.finished_at IS NOT NULL
                 AND NOT EXISTS (SELECT FROM deleted_events g WHERE g.tenant_id = r.tenant_id) AND 1 <> (
                     SELECT count(*) FROM events e WHERE e.message_id = r.message_id AND e.recipient_id = r.id
                     AND e.type = 'message.' || r.status AND e.vouched IS NOT FALSE AND e.seq >= (
                         SELECT max(seq) FROM events l WHERE l.message_id = r.message_id AND l.recipient_id = r.id
                         AND l.vouched IS NOT FALSE AND l.type NOT IN ('message.complained', 'message.unsubscribed'))))",
    ),
    (
        "an end state is followed by another one only after a report: relayed or uncertain, then delivered, then bounced",
        "SELECT (SELECT count(*) FROM events e JOIN events l ON l.message_id = e.message_id AND l.recipient_id = e.recipient_id
                 AND l.seq > e.seq AND e.vouched IS NOT FALSE AND l.vouched IS NOT FALSE
                 WHERE (e.type, l.type) IN (('message.relayed', 'message.relayed'), ('message.delivered', 'message.delivered'),
                     ('message.delivered', 'message.relayed'), ('message.delivered', 'message.deferred'),
                     ('message.relayed', 'message.deferred'))
                    OR (e.type IN ('message.bounced', 'message.expired', 'message.canceled', 'message.suppressed')
                        AND l.type NOT IN ('message.complained', 'message.unsubscribed')))
              + (SELECT count(*) FROM recipients WHERE reported_at IS NOT NULL
                 AND (status NOT IN ('delivered', 'bounced') OR reported_at <> finished_at))",
    ),
    (
        "a complaint has one event and is recorded in its recipient",
        "SELECT count(*) FROM recipients r WHERE (r.complained_at IS NOT NULL)::integer <> (
             SELECT count(*) FROM events e WHERE e.message_id = r.message_id AND e.recipient_id = r.id
             AND e.type = 'message.complained' AND e.vouched IS NOT FALSE)
             AND NOT EXISTS (SELECT FROM deleted_events g WHERE g.tenant_id = r.tenant_id)",
    ),
    (
        "each report by a shared return path has one event and is recorded in its recipient",
        "SELECT count(*) FROM recipients r WHERE cardinality(coalesce(r.unvouched, '{}')) <> (
             SELECT count(*) FROM events e WHERE e.message_id = r.message_id AND e.recipient_id = r.id
             AND NOT e.vouched)
             AND NOT EXISTS (SELECT FROM deleted_events g WHERE g.tenant_id = r.tenant_id)",
    ),
    (
        // After a restore, 10^10 numbers are skipped.
        "events are numbered without gaps, from 1 or after those that retention has deleted, up to the counter",
        "SELECT count(*) FROM event_counters c
         LEFT JOIN deleted_events g ON g.tenant_id = c.tenant_id
         CROSS JOIN LATERAL (SELECT coalesce(g.up_to, 0) AS up_to, coalesce(g.up_to, 0) % 10000000000 AS deleted) d
         LEFT JOIN LATERAL (SELECT count(*) AS n, count(DISTINCT seq) AS numbers,
                                   coalesce(min(seq) % 10000000000, d.deleted + 1) AS first,
                                   coalesce(max(seq), d.up_to) AS last FROM events WHERE tenant_id = c.tenant_id) e ON true
         WHERE (e.n, e.numbers, e.first, e.last)
               IS DISTINCT FROM (c.last_seq % 10000000000 - d.deleted, c.last_seq % 10000000000 - d.deleted, d.deleted + 1, c.last_seq)",
    ),
    LANES,
    (
        "no attempt marker exists without a lease",
        "SELECT count(*) FROM queue WHERE lease IS NULL AND (begun OR data_started)",
    ),
    (
        "permits do not exceed the limits of lanes and streams",
        "SELECT (SELECT count(*) FROM lanes l
                 WHERE l.connections < (SELECT sum(count) FROM permits WHERE lane_id = l.id))
              + (SELECT count(*) FROM streams s
                 WHERE s.concurrency < (SELECT sum(count) FROM stream_permits p
                                        WHERE p.tenant_id = s.tenant_id AND p.stream = s.name))",
    ),
    (
        "only an unreachable lane has the reply that made it unreachable",
        "SELECT count(*) FROM lanes WHERE blocked_since IS NULL AND block_reply IS NOT NULL",
    ),
    (
        "a learned rate has its reply and does not exceed its ceiling",
        "SELECT count(*) FROM lanes
         WHERE (learned_rate IS NOT NULL) <> (learned_reply IS NOT NULL) OR learned_rate > learned_ceiling",
    ),
    (
        "each webhook retry has an endpoint",
        "SELECT count(*) FROM webhook_retries r
         WHERE NOT EXISTS (SELECT FROM webhook_endpoints e WHERE e.id = r.endpoint_id AND e.tenant_id = r.tenant_id)",
    ),
    (
        "each attachment of a message has a blob, and a reference to it",
        "SELECT count(*) FROM contents c CROSS JOIN LATERAL jsonb_array_elements(c.attachments) a
         WHERE NOT EXISTS (SELECT FROM blobs b WHERE b.tenant_id = c.tenant_id
                           AND b.sha256 = decode(a ->> 'sha256', 'hex') AND b.size = (a ->> 'size')::bigint)
            OR NOT EXISTS (SELECT FROM blob_references r WHERE r.tenant_id = c.tenant_id AND r.content_id = c.id
                           AND r.sha256 = decode(a ->> 'sha256', 'hex'))",
    ),
    (
        "each object has one row that refers to it",
        "SELECT (SELECT count(*) FROM unreferenced_objects JOIN blobs USING (object_key))
              + (SELECT count(*) FROM (SELECT FROM blobs GROUP BY object_key
                                       HAVING object_key IS NOT NULL AND count(*) > 1) shared)",
    ),
    (
        "each blob is complete, and each other chunk belongs to an upload",
        "SELECT (SELECT count(*) FROM blobs b WHERE b.object_key IS NULL AND b.size <> (
                     SELECT coalesce(sum(octet_length(c.data)), 0) FROM blob_chunks c
                     WHERE c.tenant_id = b.tenant_id AND c.sha256 = b.sha256))
              + (SELECT count(*) FROM blob_chunks c
                 WHERE NOT EXISTS (SELECT FROM blobs b WHERE b.tenant_id = c.tenant_id AND b.sha256 = c.sha256)
                   AND NOT EXISTS (SELECT FROM uploads u WHERE u.tenant_id = c.tenant_id AND uuid_send(u.id) = c.sha256))",
    ),
    (
        "each idempotency key has an existing message or bulk",
        "SELECT count(*) FROM idempotency_keys k
         WHERE NOT EXISTS (SELECT FROM messages m WHERE m.id = ANY (k.message_ids))
           AND NOT EXISTS (SELECT FROM bulks b WHERE b.id = k.bulk_id)
           AND NOT EXISTS (SELECT FROM sql_inbox i WHERE i.id = ANY (k.message_ids))",
    ),
    (
        "each accepted recipient of a bulk is a message of it, or waits to become one",
        "SELECT count(*) FROM bulks b WHERE b.accepted <>
             (SELECT count(*) FROM bulk_messages m JOIN messages USING (bulk_id) WHERE m.bulk_id = b.id AND messages.id = m.message_id)
             + (SELECT count(*) FROM bulk_recipients r WHERE r.bulk_id = b.id)",
    ),
    (
        "the statistics of days equal the events up to their cursor",
        "SELECT count(*) FROM statistics_cursors c
         CROSS JOIN LATERAL (
             SELECT count(*) FILTER (WHERE type = 'message.relayed') AS relayed,
                    count(*) FILTER (WHERE type = 'message.delivered') AS delivered,
                    count(*) FILTER (WHERE type = 'message.bounced') AS bounced,
                    count(*) FILTER (WHERE type = 'message.deferred' AND attempt IS NOT NULL
                                        OR type = 'message.uncertain' AND next_attempt_at IS NOT NULL) AS deferred,
                    count(*) FILTER (WHERE type IN ('message.expired', 'message.suppressed', 'message.canceled')
                                        OR type = 'message.uncertain' AND next_attempt_at IS NULL) AS ended,
                    count(*) FILTER (WHERE type IN ('message.complained', 'message.unsubscribed')) AS complained
             FROM events e WHERE e.tenant_id = c.tenant_id AND e.seq <= c.seq AND e.vouched IS NOT FALSE) e
         CROSS JOIN LATERAL (
             SELECT coalesce(sum(relayed), 0) AS relayed, coalesce(sum(delivered), 0) AS delivered,
                    coalesce(sum(bounced), 0) AS bounced, coalesce(sum(deferred), 0) AS deferred,
                    coalesce(sum(expired + suppressed + canceled + uncertain), 0) AS ended,
                    coalesce(sum(complained + unsubscribed), 0) AS complained, coalesce(sum(accepted), 0) AS accepted
             FROM statistics s WHERE s.tenant_id = c.tenant_id AND s.step = 'day') s
         WHERE c.clear_from IS NULL AND NOT EXISTS (SELECT FROM deleted_events g WHERE g.tenant_id = c.tenant_id)
           -- The recipients of a deleted week are no longer known.
           AND NOT EXISTS (SELECT FROM retention_weeks WHERE class = 'messages' AND dropped_at IS NOT NULL)
           AND ((e.relayed, e.delivered, e.bounced, e.deferred, e.ended, e.complained)
                    <> (s.relayed, s.delivered, s.bounced, s.deferred, s.ended, s.complained)
                OR s.accepted <> (
                    SELECT count(*) FROM events a JOIN recipients r ON r.message_id = a.message_id
                    WHERE a.tenant_id = c.tenant_id AND a.seq <= c.seq AND a.recipient_id IS NULL
                      AND a.type IN ('message.accepted', 'message.scheduled')))",
    ),
];

/// Checks all invariants. Panics with the first one that does not hold.
pub async fn check(connection: &mut PgConnection) {
    for rule in RULES {
        hold(*rule, connection).await;
    }
}

/// Checks that no lane has a row that is due before its `ready_at`, which no claim would find.
pub async fn no_lane_wakes_late(connection: &mut PgConnection) {
    hold(LANES, connection).await;
}

/// Waits until no recipient is leased.
pub async fn leases_end(connection: &mut PgConnection) {
    until("no recipient is leased", LIMIT, async || {
        let query = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM queue WHERE lease IS NOT NULL");
        let count = query.fetch_one(&mut *connection).await.expect("queue");
        if count == 0 { Ok(()) } else { Err(format!("{count} leased recipients")) }
    })
    .await;
}

/// Waits until no recipient is queued.
pub async fn queue_is_empty(connection: &mut PgConnection) {
    until("the queue is empty", LIMIT, async || {
        let query = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM queue");
        let count = query.fetch_one(&mut *connection).await.expect("queue");
        if count == 0 { Ok(()) } else { Err(format!("{count} queued recipients")) }
    })
    .await;
}

async fn hold((rule, query): (&str, &'static str), connection: &mut PgConnection) {
    let broken: i64 = sqlx::query_scalar(query).fetch_one(connection).await.expect(rule);
    assert_eq!(broken, 0, "invariant violated: {rule}");
}
