//! The metrics of the whole service. They cost a scan of the queue, so one process computes them, and stores them in a row
//! from which every process exports them.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::pool::scan::{SCAN_LIMIT, allow_scan};
use super::schema::partitions;
use super::{Db, DbError};
use crate::domain::installation::restore::SKIPPED_EVENT_NUMBERS;

/// Minimum time between two computations.
pub const INTERVAL: Duration = Duration::from_secs(15);
/// The next computation starts after this many times the duration of the last one, so that a long queue costs at most a
/// twentieth of the time. This also applies to one that failed.
const PAUSE_FACTOR: f64 = 20.0;
/// Maximum number of uncertain recipients that are counted.
const MAX_UNCERTAIN: i64 = 10_000;
/// Number of coming weeks whose partitions are looked for.
const MAX_WEEKS: i32 = 8;
/// How long after a message was accepted its recipients are first checked.
const CHECK_DELAY: TimeDelta = TimeDelta::minutes(1);
/// Maximum time span of new messages that one computation checks.
const MAX_CHECKED: TimeDelta = TimeDelta::hours(1);
/// Age of the oldest messages that are checked again: the longest retry window is about this long.
const CHECK_AGE: TimeDelta = TimeDelta::days(3);

/// How long an unbalanced ledger is reported. The next computation checks other messages.
const UNBALANCED_FOR: TimeDelta = TimeDelta::hours(1);

/// The metrics of the whole service, without test tenants. A figure that another version did not compute is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// The queue by stream.
    pub queue: Vec<StreamQueue>,
    /// Lanes in the states open, throttled, blocked and paused.
    pub lanes: [i64; 4],
    /// Webhook endpoints that are healthy, failing and disabled.
    pub webhook_endpoints: [i64; 3],
    /// Events that the enabled webhook endpoint furthest behind has still to read.
    pub webhook_lag_events: i64,
    /// Age in seconds of the oldest event that an enabled endpoint has still to read.
    pub webhook_lag: f64,
    /// The ledger was checked for messages accepted before this time.
    pub checked_until: Option<DateTime<Utc>>,
    /// When a recipient was last found that is neither queued nor in an end state, or is both.
    pub unbalanced_at: Option<DateTime<Utc>>,
    /// Whether no such recipient was found within the last hour.
    pub is_ledger_balanced: bool,
    /// Recipients in the state `uncertain`, at most 10,000.
    pub uncertain: i64,
    /// Age in seconds of the oldest snapshot.
    pub oldest_snapshot_age: f64,
    /// Dead rows of the tables queue, lanes, recipients and `event_counters`.
    pub dead_tuples: [i64; 4],
    /// Size of the database in bytes.
    pub db_size: i64,
    /// Number of coming weeks for which every partitioned table has a partition.
    pub partition_weeks_ahead: i64,
    /// Number of events so far.
    pub event_seq: i64,
    /// Sender domains that are not verified.
    pub domains_unverified: i64,
    /// Messages sent from SQL that wait to be accepted, and that were refused.
    pub sql_inbox: [i64; 2],
    /// Age in seconds of the oldest message sent from SQL that waits for nothing.
    pub sql_inbox_oldest_age: f64,
    /// Workers that are alive and dead.
    pub workers: [i64; 2],
}

/// The queue of one stream; streams that clients have created are one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamQueue {
    /// `transactional`, `bulk` or `other`.
    pub stream: String,
    /// Recipients that are due, and not paused.
    pub due: i64,
    /// Recipients that are due, but whose lane or stream is paused, or whose tenant is suspended.
    pub paused: i64,
    /// Recipients that are due later.
    pub scheduled: i64,
    /// Leased recipients.
    pub in_flight: i64,
    /// Recipients held for an operator.
    pub held: i64,
    /// How long in seconds the oldest due recipient has been due that nothing limits.
    pub oldest_due_age: f64,
}

/// Computes the figures, unless they are recent or another process is computing them. `lease` is the lease time of
/// workers of versions that do not record theirs. Returns whether it computed them.
pub async fn refresh(db: &Db, lease: Duration, now: DateTime<Utc>) -> Result<bool, DbError> {
    if !begin(db).await? {
        return Ok(false);
    }
    let started = Instant::now();
    let computed = db
        .timed_for(SCAN_LIMIT, "service_metrics.refresh", async {
            let mut tx = db.pool.begin().await?;
            allow_scan(&mut tx).await?;
            let figures = compute(&mut tx, lease, now).await?;
            tx.commit().await?;
            Ok(figures)
        })
        .await;
    let pause = INTERVAL.mul_f64(0.9).max(started.elapsed().mul_f64(PAUSE_FACTOR));
    match computed {
        Ok(figures) => store(db, &figures, pause).await.map(|()| true),
        Err(error) => {
            postpone(db, pause).await?;
            Err(error)
        }
    }
}

/// Returns whether this process may compute the figures now; no other process then does within the time limit.
async fn begin(db: &Db) -> Result<bool, DbError> {
    let query = sqlx::query!(
        "INSERT INTO service_metrics AS m (next_at) VALUES (clock_timestamp() + make_interval(secs => $1))
         ON CONFLICT (singleton) DO UPDATE SET next_at = excluded.next_at WHERE m.next_at <= clock_timestamp()",
        SCAN_LIMIT.as_secs_f64()
    );
    db.timed("service_metrics.begin", query.execute(&db.pool)).await.map(|done| done.rows_affected() == 1)
}

/// Sets when the next computation may start, after one that failed.
async fn postpone(db: &Db, pause: Duration) -> Result<(), DbError> {
    let query = sqlx::query!(
        "UPDATE service_metrics SET next_at = clock_timestamp() + make_interval(secs => $1)",
        pause.as_secs_f64()
    );
    db.timed("service_metrics.postpone", query.execute(&db.pool)).await.map(|_| ())
}

/// Stores the figures, and sets when the next computation may start.
async fn store(db: &Db, figures: &Figures, pause: Duration) -> Result<(), DbError> {
    let query = sqlx::query!(
        "UPDATE service_metrics SET next_at = clock_timestamp() + make_interval(secs => $1),
             computed_at = clock_timestamp(), figures = $2",
        pause.as_secs_f64(),
        serde_json::to_value(figures).unwrap_or_default()
    );
    db.timed("service_metrics.store", query.execute(&db.pool)).await.map(|_| ())
}

/// Returns the figures and their age, if they have been computed.
pub async fn load(db: &Db) -> Result<Option<(Figures, Duration)>, DbError> {
    let query = sqlx::query!(
        r#"SELECT figures AS "figures!",
                  greatest(extract(epoch FROM clock_timestamp() - computed_at), 0)::double precision AS "age!"
           FROM service_metrics WHERE computed_at IS NOT NULL"#
    );
    let row = db.timed("service_metrics.load", query.fetch_optional(&db.pool)).await?;
    Ok(row.map(|row| (serde_json::from_value(row.figures).unwrap_or_default(), Duration::from_secs_f64(row.age))))
}

async fn compute(connection: &mut PgConnection, lease: Duration, now: DateTime<Utc>) -> Result<Figures, sqlx::Error> {
    let earlier = sqlx::query_scalar!("SELECT figures FROM service_metrics").fetch_optional(&mut *connection).await?;
    let earlier: Figures =
        earlier.flatten().and_then(|figures| serde_json::from_value(figures).ok()).unwrap_or_default();
    let is_balanced = is_balanced(connection, earlier.checked_until, now).await?;
    let unbalanced_at = if is_balanced { earlier.unbalanced_at } else { Some(now) };
    let mut figures = Figures {
        queue: queue(connection, now).await?,
        lanes: lanes(connection, now).await?,
        checked_until: Some(now - CHECK_DELAY),
        unbalanced_at,
        is_ledger_balanced: unbalanced_at.is_none_or(|at| now - at >= UNBALANCED_FOR),
        ..Figures::default()
    };
    add_webhooks(connection, &mut figures).await?;
    add_database(connection, &mut figures).await?;
    add_counts(connection, &mut figures, lease, now).await?;
    Ok(figures)
}

/// Scans the queue once.
async fn queue(connection: &mut PgConnection, now: DateTime<Utc>) -> Result<Vec<StreamQueue>, sqlx::Error> {
    sqlx::query_as!(
        StreamQueue,
        r#"WITH counted AS (
               SELECT lane_id,
                      count(*) FILTER (WHERE held IS NULL AND lease IS NULL AND due_at <= $1) AS due,
                      count(*) FILTER (WHERE held IS NULL AND lease IS NULL AND due_at > $1) AS scheduled,
                      count(*) FILTER (WHERE lease IS NOT NULL) AS in_flight,
                      count(*) FILTER (WHERE held IS NOT NULL AND lease IS NULL) AS held
               FROM queue GROUP BY lane_id),
           oldest AS (
               SELECT l.id, due.due_at
               FROM lanes l
               JOIN streams s ON s.tenant_id = l.tenant_id AND s.name = l.stream
               JOIN tenants t ON t.id = l.tenant_id AND t.suspended_at IS NULL AND t.test_of IS NULL
               CROSS JOIN LATERAL (SELECT due_at FROM queue
                                   WHERE lane_id = l.id AND lease IS NULL AND due_at >= l.ready_at AND due_at <= $1
                                   ORDER BY due_at LIMIT 1) due
               WHERE l.ready_at <= $1 AND l.open_at <= $1 AND s.open_at <= $1 AND l.paused_at IS NULL AND s.paused_at IS NULL
                 AND l.blocked_since IS NULL
                 AND num_nonnulls(l.rate, l.learned_rate, l.connections, s.rate, s.concurrency) = 0),
           lane AS (
               SELECT l.id, CASE WHEN l.stream IN ('transactional', 'bulk') THEN l.stream ELSE 'other' END AS stream,
                      num_nonnulls(l.paused_at, s.paused_at, t.suspended_at) > 0 AS is_paused
               FROM lanes l
               JOIN streams s ON s.tenant_id = l.tenant_id AND s.name = l.stream
               JOIN tenants t ON t.id = l.tenant_id AND t.test_of IS NULL)
           SELECT l.stream AS "stream!",
                  coalesce(sum(c.due) FILTER (WHERE NOT l.is_paused), 0)::bigint AS "due!",
                  coalesce(sum(c.due) FILTER (WHERE l.is_paused), 0)::bigint AS "paused!",
                  sum(c.scheduled)::bigint AS "scheduled!",
                  sum(c.in_flight)::bigint AS "in_flight!", sum(c.held)::bigint AS "held!",
                  coalesce(extract(epoch FROM $1 - min(o.due_at)), 0)::double precision AS "oldest_due_age!"
           FROM counted c
           JOIN lane l ON l.id = c.lane_id
           LEFT JOIN oldest o ON o.id = c.lane_id
           GROUP BY 1"#,
        now
    )
    .fetch_all(connection)
    .await
}

/// Counts lanes by the state that `lanes::overview` shows.
async fn lanes(connection: &mut PgConnection, now: DateTime<Utc>) -> Result<[i64; 4], sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT count(*) FILTER (WHERE state = 'open') AS "open!", count(*) FILTER (WHERE state = 'throttled') AS "throttled!",
                  count(*) FILTER (WHERE state = 'blocked') AS "blocked!", count(*) FILTER (WHERE state = 'paused') AS "paused!"
           FROM (SELECT CASE
                     WHEN l.paused_at IS NOT NULL OR s.paused_at IS NOT NULL THEN 'paused'
                     WHEN l.blocked_since IS NOT NULL THEN 'blocked'
                     WHEN l.learned_rate IS NOT NULL THEN 'throttled'
                     WHEN (l.rate IS NOT NULL OR s.rate IS NOT NULL) AND l.ready_at <= $1 AND EXISTS (
                         SELECT FROM queue
                         WHERE lane_id = l.id AND lease IS NULL AND due_at >= l.ready_at AND due_at <= $1) THEN 'throttled'
                     ELSE 'open' END AS state
                 FROM lanes l
                 JOIN streams s ON s.tenant_id = l.tenant_id AND s.name = l.stream
                 JOIN tenants t ON t.id = l.tenant_id AND t.test_of IS NULL) lanes"#,
        now
    )
    .fetch_one(connection)
    .await?;
    Ok([row.open, row.throttled, row.blocked, row.paused])
}

/// Checks the recipients of two spans of messages: those accepted since the last check and at least a minute ago, so that
/// each message is checked once, and those of a random moment of the last days, as long as the interval of the
/// computations. The rows of a tenant that is being deleted disappear one after the other.
async fn is_balanced(
    connection: &mut PgConnection,
    checked_until: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let (span, fraction) = (TimeDelta::from_std(INTERVAL).unwrap_or_default(), rand::random::<f64>());
    let seconds = CHECK_AGE.as_seconds_f64() * fraction;
    let until = now - CHECK_DELAY;
    let from = checked_until.unwrap_or(until - span).max(until - MAX_CHECKED);
    let random = until - TimeDelta::from_std(Duration::from_secs_f64(seconds)).unwrap_or_default();
    for (from, until) in [(from, until), (random - span, random)] {
        let is_unbalanced = sqlx::query_scalar!(
            r#"SELECT EXISTS (
                   SELECT FROM recipients r
                   JOIN tenants t ON t.id = r.tenant_id AND t.deleting_at IS NULL
                   LEFT JOIN queue q ON q.message_id = r.message_id AND q.recipient_id = r.id AND q.tenant_id = r.tenant_id
                   WHERE r.message_id >= uuid_floor($1) AND r.message_id < uuid_floor($2)
                     AND (r.finished_at IS NULL) <> (q.message_id IS NOT NULL)) AS "is_unbalanced!""#,
            from,
            until
        )
        .fetch_one(&mut *connection)
        .await?;
        if is_unbalanced {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn add_webhooks(connection: &mut PgConnection, figures: &mut Figures) -> Result<(), sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT count(*) FILTER (WHERE e.disabled_at IS NULL AND e.failing_since IS NULL) AS "healthy!",
                  count(*) FILTER (WHERE e.disabled_at IS NULL AND e.failing_since IS NOT NULL) AS "failing!",
                  count(*) FILTER (WHERE e.disabled_at IS NOT NULL) AS "disabled!",
                  coalesce(max((c.last_seq - e.cursor) % $1) FILTER (WHERE e.disabled_at IS NULL), 0) AS "lag_events!",
                  coalesce(extract(epoch FROM clock_timestamp() - min(next.recorded_at)), 0)::double precision AS "lag!"
           FROM webhook_endpoints e
           JOIN tenants t ON t.id = e.tenant_id AND t.test_of IS NULL AND t.deleting_at IS NULL
           JOIN event_counters c ON c.tenant_id = e.tenant_id
           LEFT JOIN LATERAL (SELECT recorded_at FROM events
                              WHERE tenant_id = e.tenant_id AND seq > e.cursor AND e.cursor < c.last_seq
                                AND e.disabled_at IS NULL
                              ORDER BY seq LIMIT 1) next ON true"#,
        SKIPPED_EVENT_NUMBERS
    )
    .fetch_one(connection)
    .await?;
    figures.webhook_endpoints = [row.healthy, row.failing, row.disabled];
    (figures.webhook_lag_events, figures.webhook_lag) = (row.lag_events.max(0), row.lag.max(0.0));
    Ok(())
}

async fn add_database(connection: &mut PgConnection, figures: &mut Figures) -> Result<(), sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT (SELECT coalesce(extract(epoch FROM max(clock_timestamp() - xact_start)), 0)::double precision
                   FROM pg_stat_activity
                   WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid() AND datname = current_database()
                     AND backend_type = 'client backend' AND query !~* '^\s*vacuum')
                      AS "oldest_snapshot_age!",
                  pg_database_size(current_database()) AS "db_size!""#
    )
    .fetch_one(&mut *connection)
    .await?;
    (figures.oldest_snapshot_age, figures.db_size) = (row.oldest_snapshot_age, row.db_size);
    let dead = sqlx::query_scalar!(
        r#"SELECT (SELECT coalesce(sum(n_dead_tup), 0)::bigint FROM pg_stat_user_tables
                   WHERE relid = t.name::regclass OR relid IN (SELECT relid FROM pg_partition_tree(t.name::regclass)))
                      AS "dead!"
           FROM unnest(ARRAY['queue', 'lanes', 'recipients', 'event_counters']) WITH ORDINALITY AS t (name, position)
           ORDER BY t.position"#
    )
    .fetch_all(connection)
    .await?;
    for (figure, dead) in figures.dead_tuples.iter_mut().zip(dead) {
        *figure = dead;
    }
    Ok(())
}

async fn add_counts(
    connection: &mut PgConnection,
    figures: &mut Figures,
    lease: Duration,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let tables = partitions::TABLES.map(str::to_owned);
    let row = sqlx::query!(
        r#"SELECT (SELECT count(*) FROM (SELECT FROM recipients r JOIN tenants t ON t.id = r.tenant_id AND t.test_of IS NULL
                                         WHERE r.status = 'uncertain' LIMIT $1 /* max_uncertain */) found)
                      AS "uncertain!",
                  (SELECT coalesce(min(week) - 1, $2::integer /* max_weeks */) FROM generate_series(1, $2::integer) AS week, unnest($3::text[] /* tables */) AS name
                   WHERE to_regclass(format('%s_%s', name, to_char(date_trunc('week', $4::timestamptz + week * interval '7 days', 'UTC') AT TIME ZONE 'UTC', 'YYYYMMDD'))) IS NULL)
                      AS "weeks!",
                  (SELECT coalesce(sum(last_seq % $6::bigint /* skipped */), 0)::bigint FROM event_counters) AS "event_seq!",
                  (SELECT count(*) FROM domains WHERE verified_at IS NULL) AS "domains_unverified!",
                  (SELECT count(*) FROM workers
                   WHERE heartbeat_at >= clock_timestamp() - make_interval(secs => coalesce(lease_seconds, $5 /* lease */)))
                      AS "alive!",
                  (SELECT count(*) FROM workers) AS "workers!",
                  (SELECT count(*) FROM sql_inbox WHERE refused_at IS NULL) AS "enqueued!",
                  (SELECT count(*) FROM sql_inbox WHERE refused_at IS NOT NULL) AS "refused!",
                  (SELECT coalesce(extract(epoch FROM clock_timestamp() - min(i.created_at)), 0)::double precision
                   FROM sql_inbox i JOIN tenants t ON t.id = i.tenant_id AND t.suspended_at IS NULL
                   WHERE i.refused_at IS NULL AND i.waits_for IS NULL) AS "oldest_enqueued!""#,
        MAX_UNCERTAIN,
        MAX_WEEKS,
        &tables,
        now,
        lease.as_secs_f64(),
        SKIPPED_EVENT_NUMBERS
    )
    .fetch_one(connection)
    .await?;
    figures.uncertain = row.uncertain;
    figures.partition_weeks_ahead = row.weeks.into();
    figures.event_seq = row.event_seq;
    figures.domains_unverified = row.domains_unverified;
    figures.sql_inbox = [row.enqueued, row.refused];
    figures.sql_inbox_oldest_age = row.oldest_enqueued.max(0.0);
    figures.workers = [row.alive, (row.workers - row.alive).max(0)];
    Ok(())
}
