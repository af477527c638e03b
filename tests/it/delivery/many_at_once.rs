//! Concurrent requests and workers: no message is lost or sent twice, and the cost of a claim does not depend on the
//! length of the queue.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use postrider::worker::Worker;
use serde_json::json;
use sqlx::Row as _;

use crate::support::app::TestApp;
use crate::support::clock::hours;
use crate::support::invariants;
use crate::support::postgres::statement;

#[tokio::test]
async fn two_hundred_concurrent_requests_are_all_sent() {
    let app = TestApp::start().await;
    let sent = join_all((0..200).map(|n| app.send(json!({"subject": format!("{n}")})))).await;
    let ids: BTreeSet<&str> = sent.iter().map(|sent| sent.id.as_str()).collect();
    assert_eq!(ids.len(), 200);
    app.run_until_idle().await;
    let subjects: BTreeSet<String> = app.smtp.messages().iter().map(|message| subject(&message.raw)).collect();
    assert_eq!((subjects.len(), app.smtp.messages().len()), (200, 200));
    for id in ids {
        assert_eq!(app.status(id).await, "relayed");
    }
}

fn subject(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw);
    text.lines().find_map(|line| line.strip_prefix("Subject: ")).expect("a subject").to_owned()
}

#[tokio::test]
async fn three_workers_send_each_message_once() {
    let app = TestApp::start().await;
    let (second, third) = (app.another_worker().await, app.another_worker().await);
    for _ in 0..3 {
        let sending =
            join_all((0..30).map(|n| app.send(json!({"stream": if n % 2 == 0 { "bulk" } else { "transactional" }}))));
        let working = join_all([&app.worker, &second, &third].map(Worker::drain));
        let (_, worked) = tokio::join!(sending, working);
        assert!(worked.iter().all(Result::is_ok), "{worked:?}");
    }
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 90);
}

/// If the `ready_at` of a lane were too high, its messages would be claimed too late.
#[tokio::test]
async fn concurrent_sends_and_claims_keep_ready_at_low_enough() {
    let app = TestApp::start().await;
    let second = app.another_worker().await;
    let mut connection = app.database.connect().await;
    for round in 0..10 {
        let address = format!("r{round}@example.test");
        app.smtp.rcpt(&address).replies(["451 4.3.2 later"; 5]);
        let later = app.clock.text_in(hours(1));
        let sending = join_all((0..10).map(|n| {
            app.send(json!({"to": [address, format!("{n}@example.test")], "scheduled_at": (n == 9).then_some(&later)}))
        }));
        let working = async { tokio::join!(app.worker.drain(), second.drain()) };
        let (_, _, ()) = tokio::join!(sending, working, invariants::no_lane_wakes_late(&mut connection));
        invariants::no_lane_wakes_late(&mut connection).await;
    }
    // Some recipients were deferred more than once.
    for _ in 0..5 {
        app.clock.advance(hours(2));
        app.run_until_idle().await;
    }
    let waiting: i64 = sqlx::query_scalar("SELECT count(*) FROM queue").fetch_one(&mut connection).await.unwrap();
    assert_eq!(waiting, 0);
}

#[tokio::test]
async fn empty_urgent_lane_does_not_block_other_lanes() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    app.run_until_idle().await;
    // Another transaction is adding a row: the lane counts as ready, but is still empty.
    app.sql("UPDATE lanes SET ready_at = '2020-01-01'").await;
    let mut adding = app.database.connect().await;
    sqlx::raw_sql("BEGIN; SELECT id FROM lanes FOR KEY SHARE").execute(&mut adding).await.unwrap();
    let bulk = app.send(json!({"stream": "bulk"})).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&bulk.id).await, "relayed");
}

#[tokio::test]
async fn claim_reads_only_the_index_entries_that_it_leases() {
    let app = TestApp::start().await;
    app.sql(
        "INSERT INTO queue (message_id, recipient_id, tenant_id, lane_id, due_at, first_due_at)
         SELECT gen_random_uuid(), gen_random_uuid(), '00000000-0000-0000-0000-000000000000', 1000 + n % 20,
                now() - n * interval '1 s', now() FROM generate_series(1, 10000) n;
         INSERT INTO workers (id, host, pid, started_at, heartbeat_at) VALUES ('00000000-0000-0000-0000-00000000000a', 'other', 1, now(), now());
         ANALYZE queue",
    )
    .await;
    let mut connection = app.database.connect().await;
    let prepare = format!(
        "SET plan_cache_mode = force_custom_plan; PREPARE claim AS {}",
        statement("WITH me AS MATERIALIZED (SELECT id FROM workers WHERE id = $4")
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(prepare)).execute(&mut connection).await.unwrap();
    let explain = "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF)
                   EXECUTE claim(ARRAY[1003, 1007], ARRAY[50, 50], now(), '00000000-0000-0000-0000-00000000000a',
                                 ARRAY[now() - interval '1 day', now() - interval '1 day'])";
    let rows = sqlx::raw_sql(explain).fetch_all(&mut connection).await.unwrap();
    let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let plan = plan.join("\n");
    assert!(plan.contains("queue_due") && !plan.contains("Seq Scan on queue"), "{plan}");
    assert!(!plan.contains("Rows Removed by Filter") && !plan.contains("Sort"), "{plan}");
    app.sql("DELETE FROM queue; DELETE FROM workers WHERE host = 'other'").await;
}
