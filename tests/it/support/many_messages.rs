//! Many messages, inserted into the database as the service would leave them, for measurements.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::try_join_all;
use postrider::domain::id::TenantId;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::app::TestApp;

/// Messages of one transaction.
const BATCH: u64 = 100_000;
/// Connections that insert at the same time.
const CONNECTIONS: u64 = 2;
/// Tables with a partition for each week.
const PARTITIONED: [&str; 4] = ["contents", "messages", "recipients", "events"];

/// Messages of the default tenant, evenly spread over a time. Each has one recipient. The newest are queued; one in a hundred
/// of the others has bounced, and the rest is relayed.
#[derive(Debug, Clone, Copy)]
pub struct ManyMessages {
    pub count: u64,
    pub since: DateTime<Utc>,
    pub until: DateTime<Utc>,
    /// Whether they have a text.
    pub have_content: bool,
    /// How many of them are queued, in [`LANES`](Self::LANES) lanes.
    pub queued: u64,
    /// How long after their time the queued ones are due.
    pub due_after: TimeDelta,
    /// One in this many has the tag `campaign:spring`.
    pub tagged: u64,
}

impl ManyMessages {
    /// Domains of the recipients, each with a separate lane for queued messages.
    pub const LANES: u64 = 200;
    /// Different recipients.
    pub const ADDRESSES: u64 = 50_000;

    /// Returns the time of a message.
    pub fn at(&self, number: u64) -> DateTime<Utc> {
        self.since + Duration::from_millis(self.step() * number)
    }

    /// Returns the address of a message's recipient.
    pub fn address(number: u64) -> String {
        format!("user{}@d{}.test", number % Self::ADDRESSES, number % Self::LANES)
    }

    /// Returns the time from one message to the next, in milliseconds.
    fn step(&self) -> u64 {
        let span = (self.until - self.since).num_milliseconds().unsigned_abs();
        let step = span / self.count;
        assert!(step > 0, "more than one message in a millisecond would have the same id");
        step
    }

    /// Inserts them into the database at this URL, and lets Postgres analyse the tables.
    pub async fn insert(&self, url: &str) {
        let mut connection = PgConnection::connect(url).await.expect("a connection");
        run(&mut connection, self.partitions()).await;
        let relayed = self.count - self.queued;
        let numbers = format!("SELECT take_event_numbers('{}', {})", TenantId::DEFAULT.0, 2 * relayed + self.queued);
        let base: i64 = sqlx::query_scalar(AssertSqlSafe(numbers)).fetch_one(&mut connection).await.unwrap();
        run(&mut connection, self.lanes()).await;
        let batches = self.count.div_ceil(BATCH);
        let workers = (0..CONNECTIONS).map(|worker| async move {
            let mut connection = PgConnection::connect(url).await?;
            for batch in (worker..batches).step_by(usize::try_from(CONNECTIONS).unwrap()) {
                sqlx::raw_sql(AssertSqlSafe(self.batch(base, batch * BATCH))).execute(&mut connection).await?;
            }
            Ok::<_, sqlx::Error>(())
        });
        try_join_all(workers).await.unwrap();
        run(&mut connection, format!("VACUUM ANALYZE {}, queue", PARTITIONED.join(", "))).await;
    }

    fn partitions(&self) -> String {
        format!(
            "SELECT ensure_partition(name, week) FROM unnest(ARRAY['{}']) AS name,
                 generate_series(timestamptz '{}', timestamptz '{}', interval '1 day') AS week",
            PARTITIONED.join("', '"),
            self.since.to_rfc3339(),
            self.until.to_rfc3339()
        )
    }

    fn lanes(&self) -> String {
        format!(
            "INSERT INTO lanes (tenant_id, stream, route, domain, priority, ready_at)
             SELECT '{}', 'bulk', 'mx', 'd' || n || '.test', 50, '{}' FROM generate_series(0, {}) AS n
             WHERE {} > 0 ON CONFLICT (tenant_id, stream, route, domain) DO UPDATE SET ready_at = excluded.ready_at",
            TenantId::DEFAULT.0,
            (self.since + self.due_after).to_rfc3339(),
            Self::LANES - 1,
            self.queued
        )
    }

    /// Returns the statements that insert the messages from this one on, up to [`BATCH`].
    fn batch(&self, base: i64, first: u64) -> String {
        let last = (first + BATCH).min(self.count) - 1;
        let (tenant, relayed, lanes, addresses) =
            (TenantId::DEFAULT.0, self.count - self.queued, Self::LANES, Self::ADDRESSES);
        let (due_after, tagged) = (self.due_after.num_seconds(), self.tagged);
        let at = format!("timestamptz '{}' + n * interval '{} ms'", self.since.to_rfc3339(), self.step());
        let rows = |first: u64, last: u64| {
            format!(
                "(SELECT n, {at} AS at, uuid_floor({at}) AS id FROM generate_series({first}::bigint, {last}) AS n) AS m"
            )
        };
        let all = rows(first, last);
        let status = "CASE WHEN n % 100 = 0 THEN 'bounced' ELSE 'relayed' END";
        let content = if self.have_content {
            format!(
                "INSERT INTO contents (id, tenant_id, text, headers, attachments)
                 SELECT id, '{tenant}', repeat('Hello. ', 30), '[]', '[]' FROM {all};"
            )
        } else {
            String::new()
        };
        let ended = if first < relayed {
            let ended = rows(first, last.min(relayed - 1));
            format!(
                "INSERT INTO recipients (message_id, id, tenant_id, position, kind, address, status, attempts, finished_at)
                 SELECT id, id, '{tenant}', 0, 'to', 'user' || n % {addresses} || '@d' || n % {lanes} || '.test', {status}, 1, at
                 FROM {ended};
                 INSERT INTO events (tenant_id, seq, recorded_at, type, message_id, recipient_id, attempt)
                 SELECT '{tenant}', {base} + 2 * n + e, at, CASE WHEN e = 1 THEN 'message.accepted' ELSE 'message.' || {status} END,
                        id, CASE WHEN e = 2 THEN id END, CASE WHEN e = 2 THEN 1 END
                 FROM {ended}, generate_series(1, 2) AS e;"
            )
        } else {
            String::new()
        };
        let queued = if last >= relayed {
            let queued = rows(first.max(relayed), last);
            format!(
                "INSERT INTO recipients (message_id, id, tenant_id, position, kind, address, status)
                 SELECT id, id, '{tenant}', 0, 'to', 'user' || n % {addresses} || '@d' || n % {lanes} || '.test', 'queued'
                 FROM {queued};
                 INSERT INTO queue (message_id, recipient_id, tenant_id, lane_id, due_at, first_due_at)
                 SELECT m.id, m.id, '{tenant}', l.id, at + interval '{due_after} s', at + interval '{due_after} s' FROM {queued}
                 JOIN lanes l ON l.tenant_id = '{tenant}' AND l.stream = 'bulk' AND l.route = 'mx'
                     AND l.domain = 'd' || n % {lanes} || '.test';
                 INSERT INTO events (tenant_id, seq, recorded_at, type, message_id)
                 SELECT '{tenant}', {base} + {relayed} + n + 1, at, 'message.accepted', id FROM {queued};"
            )
        } else {
            String::new()
        };
        format!(
            "BEGIN;
             {content}
             INSERT INTO messages (id, tenant_id, created_at, content_id, stream, from_address, reply_to, subject, tags,
                                   metadata, on_uncertain, size)
             SELECT id, '{tenant}', at, id, 'bulk', 'a@acme.test', '[]', 'number ' || n,
                    CASE WHEN n % {tagged} = 0 THEN '[{{\"name\": \"campaign\", \"value\": \"spring\"}}]'::jsonb ELSE '[]' END,
                    '{{}}', 'retry', 1
             FROM {all};
             {ended}
             {queued}
             COMMIT"
        )
    }
}

/// Deletes all messages with everything that belongs to them, so that the invariants hold for what is left: nothing.
pub async fn delete_all(app: &TestApp) {
    app.sql(
        "TRUNCATE contents, messages, recipients, events, queue, blob_references, custom_message_ids, idempotency_keys",
    )
    .await;
    app.sql("UPDATE event_counters SET last_seq = 0").await;
    app.sql("DELETE FROM statistics_cursors").await;
    app.sql("DELETE FROM deleted_events").await;
}

async fn run(connection: &mut PgConnection, statement: String) {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await.unwrap();
}
