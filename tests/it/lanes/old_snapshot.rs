//! While a transaction is open elsewhere, such as a backup or a forgotten psql, Postgres cannot remove the row versions
//! that were created since its snapshot. Statements that change a row often must not read all of these versions.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};
use tokio::task::JoinSet;

use crate::support::app::TestApp;
use crate::support::client::{Api, message};
use crate::support::own_postgres::OwnPostgres;
use crate::support::postgres::{plan_text, rows_read_by_seq_scans, statement};
use crate::support::process::{Service, key, serve};
use crate::support::sink::Sink;

/// Returns the number of pages that a statement reads.
async fn pages(connection: &mut PgConnection, statement: &str) -> i64 {
    let explain = format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}");
    let row = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_one(connection).await.unwrap();
    let plan: serde_json::Value = row.get(0);
    plan[0]["Plan"]["Shared Hit Blocks"].as_i64().unwrap() + plan[0]["Plan"]["Shared Read Blocks"].as_i64().unwrap()
}

/// Opens a transaction that keeps every row version from now on.
async fn hold_everything(app: &TestApp) -> PgConnection {
    let mut held = app.database.connect().await;
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM event_counters";
    sqlx::raw_sql(begin).execute(&mut held).await.unwrap();
    held
}

#[tokio::test]
async fn cost_of_event_numbers_does_not_grow() {
    let app = TestApp::start().await;
    let (held, mut connection) = (hold_everything(&app).await, app.database.connect().await);
    let take = "SELECT take_event_numbers('{00000000-0000-0000-0000-000000000000}'::uuid[], '{0}'::bigint[])";
    pages(&mut connection, take).await;
    let before = pages(&mut connection, take).await;
    let many = format!("{take} FROM generate_series(1, 20000)");
    sqlx::raw_sql(AssertSqlSafe(many)).execute(&mut connection).await.unwrap();
    let after = pages(&mut connection, take).await;
    assert!(after <= before + 10, "{before} pages before, {after} after");

    let sent = app.send(json!({})).await;
    app.run_until_idle().await;
    assert_eq!(app.events(&sent.id).await, ["accepted", "relayed"]);
    held.close().await.unwrap();
}

#[tokio::test]
async fn cost_of_finding_events_to_count_does_not_grow() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    app.run_until_idle().await;
    app.worker.count_events().await.unwrap();
    let (held, mut connection) = (hold_everything(&app).await, app.database.connect().await);
    let prepare = format!(
        "SET enable_seqscan = off; PREPARE behind AS {}; PREPARE lock AS {}",
        statement("SELECT s.tenant_id FROM statistics_cursors s"),
        statement("SELECT s.seq, s.clear_from,")
    );
    sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut connection).await.unwrap();
    let statements = ["EXECUTE behind('{}', 100)", "EXECUTE lock('00000000-0000-0000-0000-000000000000')"];
    let mut costs = Vec::new();
    for _ in 0..2 {
        for statement in statements {
            pages(&mut connection, statement).await;
            costs.push(pages(&mut connection, statement).await);
        }
        let many =
            "SELECT take_event_numbers('00000000-0000-0000-0000-000000000000', 0) FROM generate_series(1, 20000)";
        sqlx::raw_sql(many).execute(&mut connection).await.unwrap();
    }
    assert!(costs[2] <= costs[0] + 10 && costs[3] <= costs[1] + 10, "[behind, lock] in pages, twice: {costs:?}");
    held.close().await.unwrap();
}

/// A lane's watermark is raised past rows that have left it, and lowered for new ones: the claim starts there.
#[tokio::test]
async fn cost_of_claiming_is_independent_of_a_lanes_past_traffic() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    app.run_until_idle().await;
    let (held, mut busy) = (hold_everything(&app).await, app.database.connect().await);
    let lane: i64 = sqlx::query_scalar("SELECT id FROM lanes").fetch_one(&mut busy).await.unwrap();
    let prepare = format!(
        "{HOT_SETTINGS}; PREPARE claim AS {};
         INSERT INTO workers (id, host, pid, started_at, heartbeat_at)
         VALUES ('00000000-0000-0000-0000-00000000000a', 'other', 1, now(), now())",
        statement("WITH me AS")
    );
    sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut busy).await.unwrap();
    let raise = format!("SELECT raise_lanes(ARRAY[{lane}::bigint], ARRAY[timestamptz 'infinity'])");
    let mut costs = Vec::new();
    for rows in [3, 2_003, 3] {
        let now = "SELECT clock_timestamp()::text";
        let due: String = sqlx::query_scalar(now).fetch_one(&mut busy).await.unwrap();
        let add = format!(
            "INSERT INTO queue (message_id, recipient_id, tenant_id, lane_id, due_at, first_due_at)
             SELECT gen_random_uuid(), gen_random_uuid(), '00000000-0000-0000-0000-000000000000', {lane}, '{due}', '{due}'
             FROM generate_series(1, {rows})"
        );
        sqlx::raw_sql(AssertSqlSafe(add)).execute(&mut busy).await.unwrap();
        let lower = format!("SELECT lower_lanes(ARRAY[{lane}], ARRAY['{due}'::timestamptz])");
        let claim = format!(
            "EXECUTE claim(ARRAY[{lane}], ARRAY[3], now(), '00000000-0000-0000-0000-00000000000a', ARRAY['{due}'::timestamptz])"
        );
        // Each change of a watermark costs more than the last, because its row is in unique indexes. It is therefore
        // changed only a few times a second; each commit only reads it.
        pages(&mut busy, &lower).await;
        let cost = [pages(&mut busy, &lower).await, pages(&mut busy, &claim).await];
        let claimed: i64 = sqlx::query_scalar("SELECT count(*) FROM queue WHERE lease IS NOT NULL")
            .fetch_one(&mut busy)
            .await
            .unwrap();
        assert_eq!(claimed, 3);
        // Leaves as many dead rows and row versions as a busy minute.
        sqlx::raw_sql("DELETE FROM queue").execute(&mut busy).await.unwrap();
        pages(&mut busy, &raise).await;
        let often = format!("{lower}, raise_lanes(ARRAY[{lane}::bigint], ARRAY[timestamptz 'infinity'])");
        let often = format!("{often} FROM generate_series(1, 500)");
        sqlx::raw_sql(AssertSqlSafe(often)).execute(&mut busy).await.unwrap();
        pages(&mut busy, &raise).await;
        costs.push([cost[0], cost[1], pages(&mut busy, &raise).await]);
    }
    let is_flat = |what: usize| costs[2][what] <= costs[0][what] + 15;
    assert!((0..3).all(is_flat), "[lower, claim, raise] in pages, round by round: {costs:?}");
    sqlx::raw_sql("DELETE FROM workers WHERE host = 'other'").execute(&mut busy).await.unwrap();

    let sent = app.send(json!({})).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&sent.id).await, "relayed");
    held.close().await.unwrap();
}

/// The settings of hot connections (`db::pool`).
const HOT_SETTINGS: &str =
    "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off;
                    SET enable_mergejoin = off";

/// New partitions, which are created every week, have no statistics.
#[tokio::test]
async fn sending_scans_no_partition_without_statistics() {
    let app = TestApp::start().await;
    let first = app.send(json!({})).await;
    app.run_until_idle().await;
    app.sql(
        "ALTER TABLE recipients_default SET (autovacuum_enabled = false);
         INSERT INTO recipients (message_id, id, tenant_id, position, kind, address, status, finished_at)
         SELECT message_id, gen_random_uuid(), tenant_id, n, 'to', address, status, finished_at
         FROM recipients, generate_series(1, 20000) n",
    )
    .await;
    let before = rows_read_by_seq_scans(&app, 0).await;
    let many = futures_util::future::join_all((0..100).map(|_| app.send(json!({})))).await;
    app.run_until_idle().await;
    let after = rows_read_by_seq_scans(&app, 0).await;
    assert_eq!(after - before, 0);
    assert_eq!(app.status(&many[99].id).await, "relayed");
    app.sql("DELETE FROM recipients WHERE position > 0").await;
    assert_eq!(app.status(&first.id).await, "relayed");
}

/// The generic plan looks rows up with any statistics at the time of planning: an almost empty table, or many rows
/// without the newest messages.
#[tokio::test]
async fn recording_outcomes_looks_each_recipient_up() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    let mut connection = app.database.connect().await;
    let prepare = format!("{HOT_SETTINGS}; PREPARE record AS {}", statement("WITH over AS"));
    sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut connection).await.unwrap();
    assert_looks_up(&mut connection, 1).await;
    app.sql(
        "INSERT INTO recipients (message_id, id, tenant_id, position, kind, address, status, finished_at)
         SELECT (lpad(to_hex(('x' || left(replace(message_id::text, '-', ''), 12))::bit(48)::bigint - n), 12, '0')
                 || '70008000' || lpad(to_hex(n), 12, '0'))::uuid, id, tenant_id, 1, 'to', address, 'relayed', now()
         FROM recipients, generate_series(1, 20000) n",
    )
    .await;
    for _ in 0..20 {
        app.send(json!({})).await;
    }
    assert_looks_up(&mut connection, 21).await;
    app.sql("ANALYZE recipients").await;
    assert_looks_up(&mut connection, 21).await;
    app.sql("DELETE FROM recipients WHERE position > 0; UPDATE recipients SET status = 'queued', finished_at = NULL")
        .await;
    app.run_until_idle().await;
}

/// Records an outcome of all sent messages, checks that the plan looks each row up, and rolls back.
async fn assert_looks_up(connection: &mut PgConnection, recipients: u32) {
    let arguments = "SELECT format('%L, %L, %L, %L, %L, %L, %L, %L, %L, %L, %L, %L, %L, %L, %L', array_agg(message_id),
                         array_agg(recipient_id), array_agg(lease), array_agg(claims), array_agg(tenant_id),
                         array_agg('relayed'::text), array_agg(1), array_agg(now()), array_agg(NULL::timestamptz),
                         array_agg(250), array_agg(''::text), array_agg(''::text), array_agg(''::text), array_agg(''::text),
                         now())
                     FROM queue";
    sqlx::raw_sql("BEGIN; UPDATE queue SET lease = gen_random_uuid()").execute(&mut *connection).await.unwrap();
    let arguments: String = sqlx::query_scalar(arguments).fetch_one(&mut *connection).await.unwrap();
    let explain = format!("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) EXECUTE record({arguments})");
    let rows = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_all(&mut *connection).await.unwrap();
    sqlx::raw_sql("ROLLBACK").execute(connection).await.unwrap();
    let plan = plan_text(&rows);
    for table in ["queue", "recipients_20261123"] {
        let looked_up = format!("_pkey on {table}");
        let scan = plan.lines().find(|line| line.contains(&looked_up)).unwrap_or_else(|| panic!("{table}: {plan}"));
        assert!(scan.contains(&format!("(actual rows=1 loops={recipients})")), "{table}: {plan}");
    }
    assert!(!plan.contains("Seq Scan") && !plan.contains("Join Filter"), "{plan}");
}

/// The same for lanes: the statement may be planned while the table is almost empty.
#[tokio::test]
async fn finding_lanes_looks_each_of_them_up() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    let mut connection = app.database.connect().await;
    let prepare = format!(
        "{HOT_SETTINGS}; PREPARE find AS {}",
        statement("SELECT l.id, l.tenant_id, l.stream, l.route, l.domain")
    );
    sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut connection).await.unwrap();
    let find = "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) EXECUTE find(
                    array_fill('00000000-0000-0000-0000-000000000000'::uuid, ARRAY[3]), array_fill('transactional'::text, ARRAY[3]),
                    array_fill('mx'::text, ARRAY[3]), ARRAY['d1.test', 'd77.test', 'd19999.test'])";
    sqlx::raw_sql(find).execute(&mut connection).await.unwrap();
    app.sql(
        "INSERT INTO lanes (tenant_id, stream, route, domain, priority)
         SELECT tenant_id, stream, 'mx', 'd' || n || '.test', priority FROM lanes, generate_series(1, 20000) n",
    )
    .await;
    let rows = sqlx::raw_sql(find).fetch_all(&mut connection).await.unwrap();
    let plan = plan_text(&rows);
    let looked_up = "using lanes_tenant_id_stream_route_domain_key on lanes l (actual rows=1 loops=3)";
    assert!(plan.contains(looked_up) && !plan.contains("Seq Scan") && !plan.contains("Join Filter"), "{plan}");
    app.sql("DELETE FROM lanes WHERE route = 'mx'").await;
    app.run_until_idle().await;
}

/// Number of applications that send as fast as they can.
const SENDERS: usize = 48;
/// The duration of one measurement.
const SLICE: Duration = Duration::from_secs(15);

/// Returns the number of messages that arrive per second.
async fn rate(sink: &Sink) -> usize {
    sink.take();
    tokio::time::sleep(SLICE).await;
    sink.take().values().sum::<usize>() / usize::try_from(SLICE.as_secs()).unwrap()
}

/// Compares the throughput without an old snapshot, with one (for `POSTRIDER_SNAPSHOT_SECONDS`, default 120), and again
/// without one.
///
/// ```sh
/// cargo test --release --test it old_snapshot -- --ignored --nocapture
/// ```
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: cargo test --release --test it old_snapshot -- --ignored --nocapture"]
async fn old_snapshot_does_not_lower_throughput() {
    let seconds = std::env::var("POSTRIDER_SNAPSHOT_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(120);
    let (mut postgres, sink) = (OwnPostgres::start().await, Sink::start().await);
    let url = postgres.database("mail").await;
    let service = Service::start(serve(&url, sink.address, &[])).await;
    let api = Api::new(service.address.clone().unwrap(), key(&url).await);
    let mut senders = JoinSet::new();
    for _ in 0..SENDERS {
        let api = api.clone();
        senders.spawn(async move {
            loop {
                let request = api.request(Method::POST, "/v1/messages").json(&message(json!({"subject": "again"})));
                assert_eq!(request.send().await.unwrap().status(), 202);
            }
        });
    }
    rate(&sink).await;
    let before = rate(&sink).await;
    println!("without: {before} messages/s");
    let mut held = postgres.connect("mail").await;
    sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM queue")
        .execute(&mut held)
        .await
        .unwrap();
    let (started, mut with) = (Instant::now(), Vec::new());
    while started.elapsed() < Duration::from_secs(seconds) {
        with.push(rate(&sink).await);
        println!("held for {:>4} s: {} messages/s", started.elapsed().as_secs(), with.last().unwrap());
    }
    held.close().await.unwrap();
    rate(&sink).await;
    let after = rate(&sink).await;
    println!("without: {after} messages/s");
    senders.shutdown().await;
    assert!(service.terminate().await.success());
    postgres.stop().await;
    let (last, without) = (&with[with.len() * 2 / 3..], usize::midpoint(before, after));
    let last = last.iter().sum::<usize>() / last.len();
    assert!(last * 10 >= without * 8, "{last} messages/s with, {without} without");
}
