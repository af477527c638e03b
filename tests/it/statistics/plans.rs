//! Statements read only the rows that they need, also from the partitions of a new week, which have no statistics.

use serde_json::json;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::support::app::TestApp;
use crate::support::postgres::{blocks_read, plan_text, statement};

const TENANT: &str = "00000000-0000-0000-0000-000000000000";

/// Adds 20,000 recipients to a message, with an event each.
const MANY_RECIPIENTS: &str = "
    ALTER TABLE recipients_20261123 SET (autovacuum_enabled = false);
    ALTER TABLE events_20261123 SET (autovacuum_enabled = false);
    WITH base AS (SELECT take_event_numbers(tenant_id, 20000) AS seq, tenant_id, message_id, address FROM recipients LIMIT 1),
    recipient AS (
        INSERT INTO recipients (message_id, id, tenant_id, position, kind, address, status, finished_at)
        SELECT message_id, gen_random_uuid(), tenant_id, n, 'to', address, 'relayed', '2026-11-23T12:00:00Z'
        FROM base, generate_series(1, 20000) n RETURNING message_id, id, tenant_id, position)
    INSERT INTO events (tenant_id, seq, recorded_at, type, message_id, recipient_id, attempt)
    SELECT tenant_id, base.seq + position, '2026-11-23T12:00:00Z', 'message.relayed', message_id, id, 1
    FROM recipient JOIN base USING (tenant_id, message_id)";

/// Sends 20 messages, and returns the event number before their events.
async fn send_after_many(app: &TestApp) -> (i64, Vec<String>) {
    app.send(json!({})).await;
    app.run_until_idle().await;
    app.sql(MANY_RECIPIENTS).await;
    let last = "SELECT last_seq FROM event_counters";
    let last: i64 = sqlx::query_scalar(last).fetch_one(&mut app.database.connect().await).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(app.send(json!({})).await.id);
    }
    app.run_until_idle().await;
    (last, ids)
}

/// Returns the executed parts of the plan of the statement that starts with this text.
async fn plan(connection: &mut PgConnection, start: &str, arguments: &str) -> String {
    let prepare = format!("PREPARE planned AS {}", statement(start));
    sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut *connection).await.unwrap();
    let explain = format!("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) EXECUTE planned({arguments})");
    let rows = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_all(connection).await.unwrap();
    plan_text(&rows).lines().filter(|line| !line.contains("never executed")).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn events_of_a_message_are_looked_up() {
    let app = TestApp::start().await;
    let (_, ids) = send_after_many(&app).await;
    for path in ["events", "explain"] {
        let before = blocks_read(&app, "events").await;
        let found = app.get(&format!("/v1/messages/{}/{path}", ids[7])).await;
        assert_eq!(found.status, 200, "{path}: {}", found.body);
        // The events of the week have hundreds of blocks.
        let read = blocks_read(&app, "events").await - before;
        assert!(read < 60, "{path}: {read} blocks");
    }
    tidy(&app).await;
}

/// Deletes the added recipients.
async fn tidy(app: &TestApp) {
    app.sql("DELETE FROM recipients WHERE position > 0").await;
}

#[tokio::test]
async fn counting_reads_the_messages_of_its_events_only() {
    let app = TestApp::start().await;
    let (last, _) = send_after_many(&app).await;
    let mut connection = app.database.connect().await;
    // As `db::statistics::count` does.
    sqlx::raw_sql("SET enable_seqscan = off; SET enable_nestloop = off").execute(&mut connection).await.unwrap();
    let arguments = format!("'{TENANT}', {last}, {}, '{{5,10,20}}'", last + 40);
    let plan = plan(&mut connection, "WITH batch AS MATERIALIZED (", &arguments).await;
    for (table, rows) in [("events", 40), ("messages", 20), ("recipients", 20)] {
        let (table, rows) = (format!(" on {table}_20261123"), format!("(actual rows={rows} loops=1)"));
        assert!(plan.lines().any(|line| line.contains(&table) && line.contains(&rows)), "{table}: {plan}");
    }
    assert!(!plan.contains("Rows Removed by Filter: ") && !plan.contains("Nested Loop"), "{plan}");
    tidy(&app).await;
}

#[tokio::test]
async fn attempts_of_a_message_are_looked_up() {
    let app = TestApp::start().await;
    let (_, ids) = send_after_many(&app).await;
    let mut connection = app.database.connect().await;
    let id = uuid::Uuid::parse_str(ids[7].strip_prefix("msg_").unwrap()).unwrap();
    let arguments = format!("'{TENANT}', '{id}', 0, 21, '2026-11-22T12:00:00Z'");
    let plan = plan(&mut connection, "SELECT e.seq, e.recorded_at, e.type AS kind, e.recipient_id", &arguments).await;
    for index in ["events_20261123_message_id_seq_idx", "recipients_20261123_pkey", "smtp_conversations_pkey"] {
        assert!(plan.contains(index), "{index}: {plan}");
    }
    // `message.accepted` is no attempt.
    assert!(!plan.contains("Seq Scan on events_20261123") && !plan.contains("rows=20"), "{plan}");
    tidy(&app).await;
}
