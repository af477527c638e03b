//! A transaction held open elsewhere, such as a backup or a forgotten psql, keeps every version of a row that was changed
//! since. What changes often must not read them all.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use sqlx::{Connection as _, PgConnection, Row as _};
use tokio::task::JoinSet;

use crate::support::app::TestApp;
use crate::support::client::{Api, message};
use crate::support::own_postgres::OwnPostgres;
use crate::support::process::{Service, key, serve};
use crate::support::sink::Sink;

/// What one taking of event numbers reads, in pages.
async fn pages(connection: &mut PgConnection) -> i64 {
    let explain = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)
                   SELECT take_event_numbers('00000000-0000-0000-0000-000000000000', 0)";
    let row = sqlx::raw_sql(explain).fetch_one(connection).await.unwrap();
    let plan: serde_json::Value = row.get(0);
    plan[0]["Plan"]["Shared Hit Blocks"].as_i64().unwrap() + plan[0]["Plan"]["Shared Read Blocks"].as_i64().unwrap()
}

#[tokio::test]
async fn taking_event_numbers_costs_the_same_however_many_were_taken() {
    let app = TestApp::start().await;
    let (mut held, mut taking) = (app.database.connect().await, app.database.connect().await);
    sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM event_counters")
        .execute(&mut held)
        .await
        .unwrap();
    pages(&mut taking).await;
    let before = pages(&mut taking).await;
    let many = "SELECT take_event_numbers('00000000-0000-0000-0000-000000000000', 0) FROM generate_series(1, 20000)";
    sqlx::raw_sql(many).execute(&mut taking).await.unwrap();
    let after = pages(&mut taking).await;
    assert!(after <= before + 10, "{before} pages before, {after} after");

    let mail = app.send(json!({})).await;
    app.run_until_idle().await;
    assert_eq!(app.events(&mail.id).await, ["accepted", "relayed"]);
    held.close().await.unwrap();
}

/// Applications that send as fast as they can.
const SENDERS: usize = 48;
/// What one figure is measured over.
const SLICE: Duration = Duration::from_secs(15);

/// Mails a second that arrive.
async fn rate(sink: &Sink) -> usize {
    sink.take();
    tokio::time::sleep(SLICE).await;
    sink.take().values().sum::<usize>() / usize::try_from(SLICE.as_secs()).unwrap()
}

/// Without, with (for `POSTRIDER_SNAPSHOT_SECONDS`, default 120), and again without.
///
/// ```sh
/// cargo test --release --test it old_snapshot -- --ignored --nocapture
/// ```
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: cargo test --release --test it old_snapshot -- --ignored --nocapture"]
async fn throughput_stays() {
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
    println!("without: {before} mails/s");
    let mut held = postgres.connect("mail").await;
    sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM queue")
        .execute(&mut held)
        .await
        .unwrap();
    let (begun, mut with) = (Instant::now(), Vec::new());
    while begun.elapsed() < Duration::from_secs(seconds) {
        with.push(rate(&sink).await);
        println!("held for {:>4} s: {} mails/s", begun.elapsed().as_secs(), with.last().unwrap());
    }
    held.close().await.unwrap();
    rate(&sink).await;
    let after = rate(&sink).await;
    println!("without: {after} mails/s");
    senders.shutdown().await;
    assert!(service.terminate().await.success());
    postgres.stop().await;
    let (last, without) = (&with[with.len() * 2 / 3..], usize::midpoint(before, after));
    let last = last.iter().sum::<usize>() / last.len();
    assert!(last * 10 >= without * 8, "{last} mails/s with, {without} without");
}
