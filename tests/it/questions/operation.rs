//! The database, the ledger and webhooks.

use std::time::Duration;

use serde_json::json;

use super::answer;
use crate::support::app::TestApp;
use crate::support::clock::minutes;
use crate::support::until::until;

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn sizes_of_tables_are_listed() {
    let app = TestApp::start().await;
    let Some(output) = answer(11, &app, "").await else { return };
    assert!(output.contains("messages") && output.contains("(5 rows)"), "{output}");
}

#[tokio::test]
async fn ledger_shows_a_lost_recipient() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    // The range of the ledger ends before the present moment.
    app.clock.advance(minutes(1));
    app.sql("CREATE TABLE kept AS SELECT * FROM queue; DELETE FROM queue").await;
    let Some(output) = answer(12, &app, "").await else { return };
    assert!(output.contains("\"balanced\":false") && output.contains("\"difference\":1"), "{output}");
    app.sql("INSERT INTO queue SELECT * FROM kept; DROP TABLE kept").await;
    let output = answer(12, &app, "").await.expect("an answer");
    assert!(output.contains("\"balanced\":true"), "{output}");
}

#[tokio::test]
async fn webhooks_say_why_they_are_disabled() {
    let app = TestApp::start().await;
    app.sql(
        "INSERT INTO webhook_endpoints (id, tenant_id, created_at, url, secret, cursor, disabled_at, disabled_reason)
         SELECT gen_random_uuid(), id, now(), 'https://shop.test/hook', decode(repeat('00', 32), 'hex'), 0, now(), 'It answered 410.'
         FROM tenants WHERE test_of IS NULL",
    )
    .await;
    app.send(json!({})).await;
    let Some(output) = answer(18, &app, "").await else { return };
    assert!(output.contains("It answered 410.") && output.contains("\"behind\":1"), "{output}");
}

#[tokio::test]
async fn readiness_says_that_the_database_is_read_only() {
    let app = TestApp::start().await;
    let switch = |on: bool| {
        let name = app.database.url.rsplit('/').next().unwrap().split('?').next().unwrap().to_owned();
        format!(
            "ALTER DATABASE {name} SET default_transaction_read_only = {on};
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = '{name}' AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
    };
    let mut connection = app.database.connect().await;
    sqlx::raw_sql(sqlx::AssertSqlSafe(switch(true))).execute(&mut connection).await.unwrap();
    let mut output = String::new();
    until("read-only", LIMIT, async || {
        output = answer(19, &app, "").await.unwrap_or_else(|| "read-only".into());
        if output.contains("read-only") { Ok(()) } else { Err(output.clone()) }
    })
    .await;
    sqlx::raw_sql(sqlx::AssertSqlSafe(switch(false))).execute(&mut connection).await.unwrap();
    until("writable", LIMIT, async || {
        let ready = app.request(reqwest::Method::GET, "/readyz").send().await.unwrap().status();
        if ready == 200 { Ok(()) } else { Err(ready) }
    })
    .await;
}

#[tokio::test]
async fn open_snapshots_are_listed_with_their_owner() {
    let app = TestApp::start().await;
    let mut connection = app.database.connect().await;
    let begin = "SET application_name = 'forgotten'; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM queue";
    sqlx::raw_sql(begin).execute(&mut connection).await.unwrap();
    let Some(output) = answer(20, &app, "").await else { return };
    assert!(output.contains("forgotten") && output.contains("idle in transaction"), "{output}");
}
