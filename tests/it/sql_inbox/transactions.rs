//! Long transactions of applications delay neither requests of the API nor later transactions.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use postrider::clock::Clock as _;
use postrider::db::messages::sql_inbox::rejected::{self, Refusal};
use postrider::db::messages::sql_inbox::{self, ClaimScope};
use postrider::domain::id::{MessageId, TenantId};
use serde_json::json;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};
use uuid::Uuid;

use super::{accepted, execute, inbox_is_empty, send, sender};
use crate::support::app::TestApp;
use crate::support::client::message;
use crate::support::postgres::{Database, statement};

/// Number of open transactions.
const OPEN: usize = 100;
/// Time limit of requests that need no lock of an open transaction.
const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn open_transactions_do_not_block_requests() {
    let app = TestApp::start().await;
    let mut open: Vec<(PgConnection, String)> = Vec::new();
    for n in 0..OPEN {
        let mut sql = sender(&app.database).await;
        execute(&mut sql, "BEGIN").await;
        let id = send(&mut sql, &message(json!({})), Some(&format!("order-{n}"))).await.unwrap();
        open.push((sql, id));
    }
    let requests = async {
        let sent = join_all((0..20).map(|_| app.send(json!({"to": "bo@example.test"})))).await;
        app.run_until_idle().await;
        for message in sent {
            accepted(&app, &message.id).await;
        }
        // A transaction that begins later and commits earlier.
        let mut sql = sender(&app.database).await;
        let later = send(&mut sql, &message(json!({})), Some("later")).await.unwrap();
        accepted(&app, &later).await;
    };
    tokio::time::timeout(SOON, requests).await.expect("open transactions do not block requests");

    let (mut committed, mut gone) = (Vec::new(), Vec::new());
    for (n, (mut sql, id)) in open.into_iter().enumerate() {
        if n % 2 == 0 {
            execute(&mut sql, "COMMIT").await;
            committed.push(id);
        } else {
            execute(&mut sql, "ROLLBACK").await;
            gone.push(id);
        }
    }
    for id in &committed {
        accepted(&app, id).await;
    }
    inbox_is_empty(&app.database).await;
    for id in &gone {
        assert_eq!(app.get(&format!("/v1/messages/{id}")).await.status, 404);
    }
    app.run_until_idle().await;
}

#[tokio::test]
async fn idle_process_is_woken_by_a_row() {
    let app = TestApp::start().await;
    let mut sql = sender(&app.database).await;
    // An idle process looks by itself only once a minute.
    let sent = async {
        let id = send(&mut sql, &message(json!({})), None).await.unwrap();
        accepted(&app, &id).await;
    };
    tokio::time::timeout(SOON, sent).await.expect("the process is woken");
    app.run_until_idle().await;
}

#[tokio::test]
async fn old_row_that_commits_late_is_accepted() {
    let app = TestApp::start().await;
    let mut sql = sender(&app.database).await;
    // As if the transaction had been open for a day.
    let id = send(&mut sql, &message(json!({})), None).await.unwrap();
    accepted(&app, &id).await;
    let mut owner = app.database.connect().await;
    let copy = "INSERT INTO sql_inbox (tenant_id, id, payload, size, role, created_at)
                SELECT '00000000-0000-0000-0000-000000000000', uuid_floor(now() - interval '1 day'),
                       '{\"from\": \"a@acme.test\", \"to\": \"ann@example.test\", \"subject\": \"\", \"text\": \"\"}', 80, 'x',
                       now() - interval '1 day' RETURNING 'msg_' || replace(id::text, '-', '')";
    let old: String = sqlx::query_scalar(copy).fetch_one(&mut owner).await.unwrap();
    accepted(&app, &old).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&old).await, "relayed");
}

#[tokio::test]
async fn newsletter_from_sql_does_not_delay_a_password_reset() {
    let app = TestApp::start().await;
    let mut owner = app.database.connect().await;
    // The process of the test leaves the rows alone, because they are claimed for a long time.
    let rows = "INSERT INTO sql_inbox (tenant_id, id, payload, size, role, stream, created_at, claimed_until)
                SELECT '00000000-0000-0000-0000-000000000000', uuid_floor(now() + n * interval '1 ms'), '{}', 2, 'x',
                       CASE n WHEN 5000 THEN 'transactional' ELSE 'bulk' END, now(), '2100-01-01T00:00:00Z'
                FROM generate_series(1, 5000) AS n";
    execute(&mut owner, rows).await;
    let newest: Uuid = sqlx::query_scalar("SELECT id FROM sql_inbox WHERE stream = 'transactional'")
        .fetch_one(&mut owner)
        .await
        .unwrap();
    let [now, until]: [DateTime<Utc>; 2] =
        ["2100-01-02T00:00:00Z", "2100-01-03T00:00:00Z"].map(|time| time.parse().unwrap());
    let claimed = sql_inbox::claim(&app.db, ClaimScope::All, now, until).await.unwrap();
    assert_eq!(claimed.len(), usize::try_from(sql_inbox::MAX_ROWS).unwrap());
    assert!(claimed.iter().any(|row| row.id == newest));
    // The plan does not depend on statistics, which the table does not have yet.
    let plan = claim_plan(&mut owner).await;
    for scan in ["Index Scan using sql_inbox_ready", "Index Scan Backward using sql_inbox_ready"] {
        assert!(plan.contains(scan), "{plan}");
    }
    // Claimed rows are not claimed again.
    let next = sql_inbox::claim(&app.db, ClaimScope::All, now, until).await.unwrap();
    assert!(next.iter().all(|row| claimed.iter().all(|first| first.id != row.id)), "{}", next.len());
}

#[tokio::test]
async fn row_that_another_process_has_claimed_is_not_refused() {
    let app = TestApp::start().await;
    app.sql(
        "INSERT INTO sql_inbox (tenant_id, id, payload, size, role, created_at, claimed_until)
         VALUES ('00000000-0000-0000-0000-000000000000', '019a8f3c-2b7d-7c4e-8a1b-2c3d4e5f6a7b', '{}', 2, 'x', now(),
                 '2100-01-02T00:00:00Z')",
    )
    .await;
    let message = MessageId("019a8f3c-2b7d-7c4e-8a1b-2c3d4e5f6a7b".parse().unwrap());
    let refusal = [Refusal { message, faults: Vec::new() }];
    let [earlier, until]: [DateTime<Utc>; 2] =
        ["2100-01-01T00:00:00Z", "2100-01-02T00:00:00Z"].map(|time| time.parse().unwrap());
    for (claimed_until, is_refused) in [(earlier, false), (until, true), (until, false)] {
        let refused =
            rejected::refuse(&app.db, TenantId::DEFAULT, claimed_until, &refusal, app.clock.now()).await.unwrap();
        assert_eq!(refused.contains(&message), is_refused);
    }
    let events = app.get("/v1/events?type=message.rejected").await.body["data"].clone();
    assert_eq!(events.as_array().unwrap().len(), 1, "{events}");
}

/// Returns the plan of a claim with the settings of its transaction, after running it in a transaction that is rolled back.
async fn claim_plan(owner: &mut PgConnection) -> String {
    let settings =
        "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off; SET enable_hashjoin = off;
                    SET enable_mergejoin = off; SET jit = off; SET plan_cache_mode = force_custom_plan";
    let claim = statement(
        "WITH RECURSIVE waiting (tenant_id) AS (\n               (SELECT i.tenant_id FROM sql_inbox i WHERE $7",
    );
    sqlx::raw_sql(AssertSqlSafe(format!("{settings}; PREPARE claim AS {claim}"))).execute(&mut *owner).await.unwrap();
    let explain = "BEGIN; EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF)
                   EXECUTE claim('00000000-0000-0000-0000-000000000000', '2100-01-02T00:00:00Z', '2100-01-03T00:00:00Z',
                                 1000, 200, 4000000, true, '2026-11-23'); ROLLBACK";
    let lines = sqlx::raw_sql(explain).fetch_all(owner).await.unwrap();
    lines.iter().map(|line| line.get::<String, _>(0)).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn polls_do_not_read_rows_that_wait_for_a_quota() {
    let database = Database::new();
    let mut owner = database.connect().await;
    // Without statistics.
    let rows = "INSERT INTO sql_inbox (tenant_id, id, payload, size, role, created_at, waits_for, recipients)
                SELECT '00000000-0000-0000-0000-000000000000', uuid_floor(now() + n * interval '1 ms'), '{}', 2, 'x', now(),
                       'quota', 3
                FROM generate_series(1, 20000) AS n;
                UPDATE tenants SET recipients_per_day = 4;
                INSERT INTO tenant_usage (tenant_id, day, recipients)
                VALUES ('00000000-0000-0000-0000-000000000000', '2026-11-23', 4)";
    execute(&mut owner, rows).await;
    let plan = claim_plan(&mut owner).await;
    let read = |plan: &str| -> Vec<String> {
        let of_table = |line: &&str| line.contains("on sql_inbox") && !line.contains("Update on");
        plan.lines().filter(of_table).map(|line| line.trim().to_owned()).collect()
    };
    // Postgres 18 writes `rows=1.00`.
    let small = ["never executed", "rows=0", "rows=1 ", "rows=1.00 "];
    let is_small = |line: &String| small.iter().any(|part| line.contains(part));
    assert!(read(&plan).len() >= 5 && read(&plan).iter().all(is_small), "{plan}");
    assert!(!plan.contains("Seq Scan") && !plan.contains("Rows Removed by Filter: 20000"), "{plan}");
    // With a rest that suffices for none of them, the oldest ones are looked at.
    execute(&mut owner, "UPDATE tenant_usage SET recipients = 2; DEALLOCATE claim").await;
    let plan = claim_plan(&mut owner).await;
    assert!(plan.contains("Rows Removed by Filter: 1000\n") && !plan.contains("rows=20000"), "{plan}");

    // The poll of an idle process reads one row.
    let due = statement(
        "WITH RECURSIVE waiting (tenant_id) AS (\n               (SELECT i.tenant_id FROM sql_inbox i WHERE i.refused_at",
    );
    let prepare = format!("RESET enable_seqscan; RESET enable_bitmapscan; RESET enable_sort; PREPARE due AS {due}");
    sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut owner).await.unwrap();
    let explain = "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) EXECUTE due('2100-01-02T00:00:00Z', '2026-11-23')";
    let lines = sqlx::raw_sql(explain).fetch_all(&mut owner).await.unwrap();
    let plan = lines.iter().map(|line| line.get::<String, _>(0)).collect::<Vec<_>>().join("\n");
    assert!(!read(&plan).is_empty() && read(&plan).iter().all(is_small), "{plan}");
    for table in ["sql_inbox", "bulks", "relays", "message_actions", "erasures"] {
        assert!(!plan.contains(&format!("Seq Scan on {table}")), "{plan}");
    }
}
