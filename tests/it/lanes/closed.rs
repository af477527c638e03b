//! Closed lanes do not slow down claims, and keep their messages until these expire.

use postrider::clock::Clock as _;
use postrider::db::lanes;
use postrider::domain::id::TenantId;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::app::TestApp;
use crate::support::clock::{hours, minutes};
use crate::support::postgres::{plan_text, statement};
use crate::tenants::tenant;

#[tokio::test]
async fn paused_lane_sends_once_it_is_resumed() {
    let app = TestApp::start().await;
    let message = app.send(json!({})).await;
    app.sql("UPDATE lanes SET paused_at = now(), pause_reason = 'maintenance'").await;
    app.run_until_idle().await;
    assert_eq!((app.status(&message.id).await.as_str(), app.smtp.connections()), ("queued", 0));
    app.sql("UPDATE lanes SET paused_at = NULL, pause_reason = NULL").await;
    app.run_until_idle().await;
    assert_eq!(app.status(&message.id).await, "relayed");
}

#[tokio::test]
async fn paused_stream_does_not_stop_other_streams() {
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
async fn recipients_in_a_closed_lane_expire_in_time() {
    let app = TestApp::start().await;
    let (long, short) = (app.send(json!({})).await, app.send(json!({"expires_at": app.clock.text_in(hours(1))})).await);
    app.sql(
        "UPDATE lanes SET blocked_since = now(), block_failures = 1, open_at = '2100-01-01';
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
async fn expiry_of_many_leaves_capacity_for_urgent_messages() {
    let app = TestApp::builder().config(|config| config.delivery.concurrency = 2).start().await;
    let to: Vec<String> = (0..40).map(|n| format!("{n}@example.test")).collect();
    let bulk = app.send(json!({"stream": "bulk", "to": to, "expires_at": app.clock.text_in(hours(1))})).await;
    let reset = app.send(json!({})).await;
    app.sql("UPDATE streams SET paused_at = now()").await;
    app.clock.advance(hours(2));
    // The expired recipients stay leased until their outcomes can be recorded.
    let mut lock = app.database.connect().await;
    sqlx::raw_sql("BEGIN; SELECT FROM event_counters FOR UPDATE").execute(&mut lock).await.unwrap();
    let (worker, stop) = (app.another_worker().await, CancellationToken::new());
    let running = tokio::spawn({
        let stop = stop.clone();
        async move { worker.run(stop).await }
    });
    let mut connection = app.database.connect().await;
    let mut leased = async || -> i64 {
        let count = "SELECT count(*) FROM queue WHERE lease IS NOT NULL";
        sqlx::query_scalar(count).fetch_one(&mut connection).await.unwrap()
    };
    while leased().await == 0 {
        tokio::task::yield_now().await;
    }
    assert!(leased().await <= 12, "a quarter of the capacity is free");
    app.sql("UPDATE streams SET paused_at = NULL WHERE name = 'transactional'").await;
    app.smtp.received(1).await;

    sqlx::raw_sql("ROLLBACK").execute(&mut lock).await.unwrap();
    stop.cancel();
    running.await.unwrap();
    app.run_until_idle().await;
    assert_eq!((app.status(&bulk.id).await.as_str(), app.status(&reset.id).await.as_str()), ("expired", "relayed"));
    assert!(app.states(&bulk.id).await.iter().all(|state| state == "expired"));
}

#[tokio::test]
async fn retry_window_of_the_stream_applies() {
    let app = TestApp::start().await;
    let message = app.send(json!({})).await;
    app.sql("UPDATE streams SET retry_window = 3600, open_at = '2100-01-01'").await;
    app.clock.advance(minutes(59));
    app.run_until_idle().await;
    assert_eq!(app.status(&message.id).await, "queued");
    app.clock.advance(minutes(1));
    app.run_until_idle().await;
    assert_eq!(app.status(&message.id).await, "expired");
}

#[tokio::test]
async fn finding_ready_lanes_skips_ten_thousand_closed_ones() {
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
        "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off;
         SET enable_mergejoin = off; PREPARE ready AS {}",
        statement("WITH RECURSIVE priorities AS (")
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(prepare)).execute(&mut connection).await.unwrap();
    let explain = "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) EXECUTE ready(now(), 512, 2048, '{}', 1000)";
    let rows = sqlx::raw_sql(explain).fetch_all(&mut connection).await.unwrap();
    let plan = plan_text(&rows);
    assert!(plan.contains("lanes_open") && !plan.contains("Seq Scan on lanes"), "{plan}");
    assert!(!plan.contains("Rows Removed by Filter") && plan.starts_with("Sort (actual rows=6 "), "{plan}");
    app.sql("DELETE FROM lanes WHERE route = 'mx'").await;
    app.run_until_idle().await;
}

#[tokio::test]
async fn thousand_due_lanes_of_a_tenant_hide_no_other_tenant() {
    let app = TestApp::start().await;
    tenant(&app, "two", json!({})).await;
    let found = async || -> Vec<String> {
        let ready = lanes::ready(&app.db, app.clock.now(), 512, 2_048, &[]).await.unwrap();
        let others = ready.into_iter().filter(|lane| lane.tenant_id != TenantId::DEFAULT.0);
        others.map(|lane| lane.domain).collect()
    };
    // The priority of a lane may differ from that of its stream.
    app.sql(
        "INSERT INTO lanes (tenant_id, stream, route, domain, priority, ready_at)
         SELECT tenant_id, name, 'mx', 'b.test', 99, '2026-11-23T11:00Z' FROM streams
         WHERE name = 'transactional' AND tenant_id = (SELECT id FROM tenants WHERE name = 'two')",
    )
    .await;
    assert_eq!(found().await, ["b.test"]);
    app.sql(
        "INSERT INTO lanes (tenant_id, stream, route, domain, priority, ready_at, open_at)
         SELECT '00000000-0000-0000-0000-000000000000', 'transactional', 'mx', n || '.test', 10, '2026-11-23T11:00Z', '2100-01-01'
         FROM generate_series(1, 1000) n",
    )
    .await;
    assert_eq!(found().await, ["b.test"], "all tenants are examined");
    app.sql("DELETE FROM lanes WHERE route = 'mx'").await;
}

#[tokio::test]
async fn lanes_of_urgent_streams_do_not_hide_the_others() {
    let app = TestApp::start().await;
    app.sql(
        "INSERT INTO lanes (tenant_id, stream, route, domain, priority, ready_at)
         SELECT '00000000-0000-0000-0000-000000000000', stream, 'mx', n || '.test', 10, '2026-11-23T11:00Z'
         FROM unnest('{transactional,bulk}'::text[]) stream, generate_series(1, 30) n",
    )
    .await;
    let ready = lanes::ready(&app.db, app.clock.now(), 512, 20, &[]).await.unwrap();
    let count = |stream: &str| ready.iter().filter(|lane| lane.stream == stream).count();
    assert_eq!((count("transactional"), count("bulk")), (16, 4));
    app.sql("DELETE FROM lanes WHERE route = 'mx'").await;
}
