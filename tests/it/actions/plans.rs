//! The plans of the statements that find and change recipients do not depend on the size of the tables.

use serde_json::json;
use sqlx::AssertSqlSafe;

use crate::support::app::TestApp;
use crate::support::postgres::{plan_text, statement};

/// Returns the plan of a prepared statement with these arguments, after a statement that changes settings.
async fn plan(app: &TestApp, settings: &str, sql: &str, arguments: &str) -> String {
    let mut connection = app.database.connect().await;
    let prepare = format!("SET plan_cache_mode = force_custom_plan; PREPARE planned AS {sql}");
    sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut connection).await.unwrap();
    let begin = format!("BEGIN; {settings}");
    sqlx::raw_sql(AssertSqlSafe(begin)).execute(&mut connection).await.unwrap();
    let explain = format!("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) EXECUTE planned({arguments})");
    let rows = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_all(&mut connection).await.unwrap();
    plan_text(&rows)
}

/// Adds 20,000 messages, all of them queued, without statistics.
async fn seed(app: &TestApp) {
    app.send(json!({})).await;
    app.sql(
        "CREATE TABLE seeded AS
             SELECT uuid_floor(m.created_at + n * interval '1 ms') AS id, gen_random_uuid() AS recipient
             FROM (SELECT created_at FROM messages LIMIT 1) m, generate_series(1, 20000) n;
         INSERT INTO messages (tenant_id, id, content_id, created_at, stream, from_address, reply_to, subject, tags, metadata,
                               on_uncertain, size)
             SELECT tenant_id, s.id, content_id, created_at, stream, from_address, reply_to, 'seeded', tags, metadata,
                    on_uncertain, size
             FROM (SELECT * FROM messages LIMIT 1) m, seeded s;
         INSERT INTO recipients (message_id, id, tenant_id, position, kind, address, status)
             SELECT s.id, s.recipient, t.id, 0, 'to', 'a@b.test', 'queued' FROM seeded s, tenants t;
         INSERT INTO queue (message_id, recipient_id, tenant_id, lane_id, due_at, first_due_at)
             SELECT r.message_id, r.id, r.tenant_id, q.lane_id, q.due_at, q.first_due_at
             FROM recipients r, (SELECT * FROM queue LIMIT 1) q WHERE r.address = 'a@b.test'",
    )
    .await;
}

/// Returns the messages and the recipients of 500 of them as arrays.
async fn first_seeded(app: &TestApp) -> (String, String) {
    let query = "SELECT array_agg(id ORDER BY id)::text, array_agg(recipient ORDER BY id)::text
                 FROM (SELECT * FROM seeded ORDER BY id LIMIT 500) s";
    sqlx::query_as(query).fetch_one(&mut app.database.connect().await).await.unwrap()
}

async fn remove_seeded(app: &TestApp) {
    app.sql(
        "DELETE FROM queue WHERE message_id IN (SELECT id FROM seeded);
         DELETE FROM recipients WHERE message_id IN (SELECT id FROM seeded);
         DELETE FROM messages WHERE id IN (SELECT id FROM seeded);
         DROP TABLE seeded",
    )
    .await;
}

const TENANT: &str = "'00000000-0000-0000-0000-000000000000'";

#[tokio::test]
async fn finding_recipients_examines_a_bounded_number_of_rows() {
    let app = TestApp::start().await;
    seed(&app).await;
    let sql = statement("WITH examined AS MATERIALIZED (");
    let arguments = format!(
        "{TENANT}, {TENANT}, {TENANT}, NULL, 2000, true, 'cancel', 'held: the bulk ', NULL, now() + interval '10 years', NULL,
         'transactional', NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'a@b.test', NULL, NULL, now()"
    );
    let plan = plan(&app, "", &sql, &arguments).await;
    assert!(plan.contains("queue_pkey") && !plan.contains("Seq Scan"), "{plan}");
    assert!(plan.contains("Limit (actual rows=2000 loops=1)"), "{plan}");
    assert!(!plan.contains("Hash Join") && !plan.contains("Merge Join"), "{plan}");
    remove_seeded(&app).await;
}

/// Returns the plan if it does not look up each of 500 rows by the key of their table, in the partitions that it reads.
fn fault(plan: &str) -> Option<&str> {
    let lines: Vec<&str> = plan.lines().collect();
    let is_scan = |line: &str| line.contains(" Scan using ") || line.contains("Bitmap Index Scan on ");
    let reads: Vec<_> =
        lines.windows(2).filter(|pair| is_scan(pair[0]) && !pair[0].contains("(never executed)")).collect();
    let has_key = |pair: &[&str]| {
        let condition = pair[1].trim_start();
        let columns = condition.contains("u.message_id") && condition.contains("(tenant_id = ");
        pair[0].contains("_pkey") && condition.starts_with("Index Cond: ") && columns
    };
    let is_right = !reads.is_empty() && reads.iter().all(|pair| has_key(pair));
    (!is_right || plan.contains("Seq Scan") || plan.contains("Rows Removed by")).then_some(plan)
}

#[tokio::test]
async fn changed_recipients_are_looked_up_one_by_one() {
    let app = TestApp::start().await;
    app.sql(
        "SELECT ensure_partition('recipients', now() + week * interval '7 days') FROM generate_series(-30, 30) AS week",
    )
    .await;
    let scans = statement("SELECT set_config('enable_seqscan', 'off', true) AS seqscan, set_config('enable_hashjoin'");
    let settings = format!("{scans}; {}", statement("SELECT set_config('plan_cache_mode', 'force_generic_plan'"));
    let lock = statement("SELECT q.message_id, q.recipient_id FROM unnest(");
    let delete = statement("DELETE FROM queue q USING unnest(");
    let make_due = statement("UPDATE queue q SET due_at = $4, held = NULL, crashes = 0\n         FROM unnest(");
    let cancel = statement("UPDATE recipients r SET status = 'canceled', finished_at = $4");
    // Without statistics; with those of tables with a few messages, so that the tenant's id is not unique; with correct ones.
    for analyze_at in [None, Some("before"), Some("afterwards")] {
        if analyze_at == Some("before") {
            app.send(json!({})).await;
            app.sql("VACUUM ANALYZE queue, recipients").await;
        }
        seed(&app).await;
        if analyze_at == Some("afterwards") {
            app.sql("ANALYZE queue, recipients").await;
        }
        let (messages, recipients) = first_seeded(&app).await;
        let keys = format!("array_fill({TENANT}::uuid, '{{500}}'), '{messages}', '{recipients}'");
        for (sql, arguments) in [
            (&lock, format!("{TENANT}, '{messages}', '{recipients}', 'cancel', 'held: the bulk '")),
            (&delete, keys.clone()),
            (&make_due, format!("{keys}, now()")),
            (&cancel, format!("{keys}, now()")),
        ] {
            let plan = plan(&app, &settings, sql, &arguments).await;
            assert_eq!(fault(&plan), None, "{analyze_at:?}");
        }
        remove_seeded(&app).await;
    }
}

#[tokio::test]
async fn held_recipients_are_counted_without_the_backlog() {
    let app = TestApp::start().await;
    seed(&app).await;
    app.sql("ANALYZE queue").await;
    let plan = plan(&app, "", &statement("SELECT count(*) AS \"held!\" FROM ("), "1000").await;
    assert!(plan.contains("queue_due") && !plan.contains("Seq Scan on queue"), "{plan}");
    remove_seeded(&app).await;
}
