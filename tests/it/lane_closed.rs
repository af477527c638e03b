//! What is closed costs nothing, keeps its mail, and lets go of it when its time has run out.

use serde_json::json;
use sqlx::Row as _;

use crate::support::app::TestApp;
use crate::support::clock::{hours, minutes};
use crate::support::postgres::statement;

#[tokio::test]
async fn a_paused_lane_waits_and_goes_on() {
    let app = TestApp::start().await;
    let mail = app.send(json!({})).await;
    app.sql("UPDATE lanes SET paused_at = now(), pause_reason = 'maintenance'").await;
    app.run_until_idle().await;
    assert_eq!((app.status(&mail.id).await.as_str(), app.smtp.connections()), ("queued", 0));
    app.sql("UPDATE lanes SET paused_at = NULL, pause_reason = NULL").await;
    app.run_until_idle().await;
    assert_eq!(app.status(&mail.id).await, "relayed");
}

#[tokio::test]
async fn a_paused_stream_waits_and_the_others_go_on() {
    let app = TestApp::start().await;
    app.sql("UPDATE streams SET paused_at = now() WHERE name = 'bulk'").await;
    let bulk = app.send(json!({"stream": "bulk"})).await;
    let reset = app.send(json!({})).await;
    app.run_until_idle().await;
    assert_eq!((app.status(&bulk.id).await.as_str(), app.status(&reset.id).await.as_str()), ("queued", "relayed"));
    app.sql("UPDATE streams SET paused_at = NULL").await;
    app.run_until_idle().await;
    assert_eq!(app.status(&bulk.id).await, "relayed");
}

#[tokio::test]
async fn what_waits_in_a_closed_lane_expires_in_time() {
    let app = TestApp::start().await;
    let (long, short) = (app.send(json!({})).await, app.send(json!({"expires_at": app.clock.text_in(hours(1))})).await);
    app.sql(
        "UPDATE lanes SET paused_at = now();
         UPDATE queue q SET expires_at = m.expires_at FROM messages m WHERE m.id = q.message_id",
    )
    .await;
    app.clock.advance(minutes(59));
    app.run_until_idle().await;
    assert_eq!(app.status(&short.id).await, "queued");
    app.clock.advance(minutes(1));
    app.run_until_idle().await;
    assert_eq!((app.status(&short.id).await.as_str(), app.status(&long.id).await.as_str()), ("expired", "queued"));
    app.clock.advance(hours(71));
    app.run_until_idle().await;
    assert_eq!(app.events(&long.id).await, ["accepted", "expired"]);
    assert_eq!((app.events(&short.id).await, app.smtp.connections()), (vec!["accepted".into(), "expired".into()], 0));
}

#[tokio::test]
async fn a_streams_own_window_counts() {
    let app = TestApp::start().await;
    let mail = app.send(json!({})).await;
    app.sql("UPDATE streams SET retry_window = 3600, paused_at = now()").await;
    app.clock.advance(minutes(59));
    app.run_until_idle().await;
    assert_eq!(app.status(&mail.id).await, "queued");
    app.clock.advance(minutes(1));
    app.run_until_idle().await;
    assert_eq!(app.status(&mail.id).await, "expired");
}

#[tokio::test]
async fn looking_for_ready_lanes_passes_by_ten_thousand_that_are_closed() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    app.sql(
        "INSERT INTO lanes (tenant_id, stream, route, domain, priority, ready_at, open_at, paused_at)
         SELECT '00000000-0000-0000-0000-000000000000', 'transactional', 'mx', n || '.test', 10,
                CASE WHEN n % 4 = 0 THEN 'infinity' ELSE now() - interval '1 h' END,
                CASE WHEN n % 4 = 1 THEN now() + interval '1 h' ELSE '-infinity' END,
                CASE WHEN n % 4 = 2 THEN now() END
         FROM generate_series(1, 10000) n WHERE n % 4 <> 3 OR n < 20;
         ANALYZE lanes",
    )
    .await;
    let mut connection = app.database.connect().await;
    let prepare = format!(
        "SET plan_cache_mode = force_custom_plan; PREPARE ready AS {}",
        statement("SELECT l.id, s.tenant_id, s.name AS stream")
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(prepare)).execute(&mut connection).await.unwrap();
    let explain = "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) EXECUTE ready(now(), 512, '{}')";
    let rows = sqlx::raw_sql(explain).fetch_all(&mut connection).await.unwrap();
    let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let plan = plan.join("\n");
    assert!(plan.contains("lanes_open") && !plan.contains("Seq Scan on lanes"), "{plan}");
    assert!(!plan.contains("Rows Removed by Filter") && plan.contains("Sort (actual rows=6 "), "{plan}");
    app.sql("DELETE FROM lanes WHERE route = 'mx'").await;
    app.run_until_idle().await;
}
