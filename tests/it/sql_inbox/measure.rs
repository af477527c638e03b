//! Measurements of messages sent from SQL beside the API.

use std::time::Instant;

use futures_util::future::join_all;
use serde_json::json;
use sqlx::PgConnection;

use super::{accepted, execute, send, sender};
use crate::support::app::TestApp;
use crate::support::client::message;

/// Open transactions of applications.
const OPEN: usize = 100;
/// Pairs of runs.
const PAIRS: usize = 5;
/// Messages of a run, and how many requests are made at the same time.
const MESSAGES: u32 = 2_000;
const CONCURRENCY: u32 = 20;

/// Sends messages through the API, and returns how many were accepted per second.
async fn rate(app: &TestApp) -> f64 {
    let started = Instant::now();
    let senders = (0..CONCURRENCY).map(|_| async {
        for _ in 0..MESSAGES / CONCURRENCY {
            app.send(json!({})).await;
        }
    });
    join_all(senders).await;
    f64::from(MESSAGES) / started.elapsed().as_secs_f64()
}

/// Opens transactions, each of which has sent a message and keeps a snapshot.
async fn open(app: &TestApp) -> Vec<PgConnection> {
    let mut open = Vec::new();
    for n in 0..OPEN {
        let mut sql = sender(&app.database).await;
        execute(&mut sql, "BEGIN ISOLATION LEVEL REPEATABLE READ").await;
        send(&mut sql, &message(json!({})), Some(&format!("order-{n}"))).await.unwrap();
        open.push(sql);
    }
    open
}

#[tokio::test]
#[ignore = "a measurement: cargo test --release --test it rate_beside_open_transactions -- --ignored --nocapture"]
async fn rate_beside_open_transactions() {
    let app = TestApp::start().await;
    rate(&app).await;
    let mut ratios = Vec::new();
    for _ in 0..PAIRS {
        let alone = rate(&app).await;
        let transactions = open(&app).await;
        let beside = rate(&app).await;
        for mut sql in transactions {
            execute(&mut sql, "ROLLBACK").await;
        }
        println!("{alone:.0} messages/s alone, {beside:.0} beside {OPEN} open transactions");
        ratios.push(beside / alone);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio {:.2}", ratios[PAIRS / 2]);

    // From the commit of an application to the message, in an idle process and right after another message.
    let mut sql = sender(&app.database).await;
    for state in ["idle", "busy"] {
        let started = Instant::now();
        let id = send(&mut sql, &message(json!({})), None).await.unwrap();
        accepted(&app, &id).await;
        println!("accepted after {:.0} ms, {state}", started.elapsed().as_secs_f64() * 1_000.0);
    }
}
