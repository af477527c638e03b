//! The invariants of the database (ARCHITECTURE.md, "Invariants").

use std::time::{Duration, Instant};

use sqlx::PgConnection;

/// Time limit for the queue to become empty: the leases of a killed process expire within it.
const LIMIT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Invariants that hold at any time, also under load.
const LANES: (&str, &str) = (
    "no lane sleeps longer than its earliest row",
    "SELECT count(*) FROM lanes l JOIN queue q ON q.lane_id = l.id AND q.lease IS NULL WHERE q.due_at < l.ready_at",
);

/// Names and queries; each query returns the number of rows that break the invariant.
const RULES: &[(&str, &str)] = &[
    ("no recipient is in a worker's hand", "SELECT count(*) FROM queue WHERE lease IS NOT NULL"),
    (
        "each waiting recipient has one row in the queue, and no other has",
        "SELECT count(*) FROM recipients r FULL JOIN queue q ON q.message_id = r.message_id AND q.recipient_id = r.id
         WHERE (coalesce(r.status, '') IN ('queued', 'deferred')) <> (q.recipient_id IS NOT NULL)",
    ),
    (
        "the ledger balances: accepted is the sum of the end states and of what waits",
        "SELECT abs((SELECT count(*) FROM recipients) - (SELECT count(*) FROM queue)
                    - (SELECT count(*) FROM recipients WHERE status NOT IN ('queued', 'deferred')))",
    ),
    (
        "each message and each end state has an event",
        "SELECT (SELECT count(*) FROM messages m WHERE NOT EXISTS (
                     SELECT FROM events e WHERE e.message_id = m.id
                     AND e.type IN ('message.accepted', 'message.scheduled')))
              + (SELECT count(*) FROM recipients r WHERE r.finished_at IS NOT NULL AND 1 <> (
                     SELECT count(*) FROM events e WHERE e.message_id = r.message_id AND e.recipient_id = r.id
                     AND e.type = 'message.' || r.status AND e.vouched IS NOT FALSE AND e.seq >= (
                         SELECT max(seq) FROM events l WHERE l.message_id = r.message_id AND l.recipient_id = r.id
                         AND l.vouched IS NOT FALSE AND l.type NOT IN ('message.complained', 'message.unsubscribed'))))",
    ),
    (
        "an end is followed by another only where a report came back: from relayed or uncertain over delivered to bounced",
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
        "a complaint is one event and on record",
        "SELECT count(*) FROM recipients r WHERE (r.complained_at IS NOT NULL)::integer <> (
             SELECT count(*) FROM events e WHERE e.message_id = r.message_id AND e.recipient_id = r.id
             AND e.type = 'message.complained' AND e.vouched IS NOT FALSE)",
    ),
    (
        "what a shared return path says is one event each and on record",
        "SELECT count(*) FROM recipients r WHERE cardinality(coalesce(r.unvouched, '{}')) <> (
             SELECT count(*) FROM events e WHERE e.message_id = r.message_id AND e.recipient_id = r.id
             AND NOT e.vouched)",
    ),
    (
        "events are numbered from 1 without gaps, up to the counter",
        "SELECT count(*) FROM event_counters c
         LEFT JOIN LATERAL (SELECT count(*) AS n, count(DISTINCT seq) AS numbers, coalesce(min(seq), 1) AS first,
                                   coalesce(max(seq), 0) AS last FROM events WHERE tenant_id = c.tenant_id) e ON true
         WHERE (e.n, e.numbers, e.first, e.last) IS DISTINCT FROM (c.last_seq, c.last_seq, 1::bigint, c.last_seq)",
    ),
    LANES,
    (
        "no attempt marker exists without an attempt",
        "SELECT count(*) FROM queue WHERE lease IS NULL AND (begun OR data_started)",
    ),
    (
        "no grant exceeds the limits of a lane or a stream",
        "SELECT (SELECT count(*) FROM lanes l
                 WHERE l.connections < (SELECT sum(count) FROM permits WHERE lane_id = l.id))
              + (SELECT count(*) FROM streams s
                 WHERE s.concurrency < (SELECT sum(count) FROM stream_permits p
                                        WHERE p.tenant_id = s.tenant_id AND p.stream = s.name))",
    ),
    (
        "only a lane that cannot be reached says what was heard of it",
        "SELECT count(*) FROM lanes WHERE blocked_since IS NULL AND block_reply IS NOT NULL",
    ),
    (
        "a learned limit has its reply and is below its ceiling",
        "SELECT count(*) FROM lanes
         WHERE (learned_rate IS NOT NULL) <> (learned_reply IS NOT NULL) OR learned_rate > learned_ceiling",
    ),
    (
        "what waits to be posted again has a webhook to be posted to",
        "SELECT count(*) FROM webhook_retries r
         WHERE NOT EXISTS (SELECT FROM webhook_endpoints e WHERE e.id = r.endpoint_id AND e.tenant_id = r.tenant_id)",
    ),
    (
        "a key stands for a message that is there",
        "SELECT count(*) FROM idempotency_keys k WHERE NOT EXISTS (SELECT FROM messages m WHERE m.id = ANY (k.message_ids))",
    ),
];

/// Panics with the invariant that does not hold.
pub async fn check(connection: &mut PgConnection) {
    for rule in RULES {
        hold(*rule, connection).await;
    }
}

/// Panics if a row is due that no worker would find.
pub async fn no_lane_oversleeps(connection: &mut PgConnection) {
    hold(LANES, connection).await;
}

/// Waits until no recipient is queued.
pub async fn queue_is_empty(connection: &mut PgConnection) {
    let begun = Instant::now();
    let waiting = "SELECT count(*) FROM queue";
    while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut *connection).await.expect("queue") > 0 {
        assert!(begun.elapsed() < LIMIT, "recipients are still queued after {LIMIT:?}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

async fn hold((rule, query): (&str, &'static str), connection: &mut PgConnection) {
    let broken: i64 = sqlx::query_scalar(query).fetch_one(connection).await.expect(rule);
    assert_eq!(broken, 0, "it does not hold that {rule}");
}
