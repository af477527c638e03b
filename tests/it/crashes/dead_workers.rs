//! A worker dies or stops with messages in flight.

use std::time::Duration;

use postrider::db::workers::Reaped;
use postrider::worker::Worker;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::app::TestApp;
use crate::support::smtp::Gate;

/// A worker that waits after the final dot until the gate opens.
async fn at_the_final_dot(app: &TestApp, worker: Worker) -> (Gate, JoinHandle<()>) {
    let gate = app.smtp.dot().stalls();
    let working = tokio::spawn(async move { worker.drain().await.unwrap() });
    gate.reached().await;
    (gate, working)
}

/// As if the worker with the lease had sent no heartbeat for a day.
async fn has_gone_silent(app: &TestApp) {
    app.sql("UPDATE workers SET heartbeat_at = now() - interval '1 day' WHERE id IN (SELECT lease FROM queue)").await;
}

#[tokio::test]
async fn another_takes_over_and_the_first_ones_word_no_longer_counts() {
    let app = TestApp::start().await;
    let mail = app.send(json!({})).await;
    let (gate, first) = at_the_final_dot(&app, app.worker.clone()).await;
    has_gone_silent(&app).await;

    let second = app.another_worker().await;
    assert_eq!(second.reap().await.unwrap(), Reaped { workers: 1, freed: 1, ..Reaped::default() });
    app.smtp.rcpt("ann@example.test").replies(["550 5.1.1 unknown"]);
    second.drain().await.unwrap();
    assert_eq!(app.status(&mail.id).await, "bounced");

    gate.open();
    first.await.unwrap();
    assert_eq!(app.status(&mail.id).await, "bounced");
    assert_eq!(app.events(&mail.id).await, ["accepted", "bounced"]);
    assert_eq!(second.reap().await.unwrap(), Reaped::default());
}

#[tokio::test]
async fn a_live_worker_keeps_what_it_has() {
    let app = TestApp::start().await;
    let mail = app.send(json!({})).await;
    let (gate, working) = at_the_final_dot(&app, app.worker.clone()).await;
    let second = app.another_worker().await;
    assert_eq!(second.reap().await.unwrap(), Reaped::default());
    second.drain().await.unwrap();
    gate.open();
    working.await.unwrap();
    assert_eq!((app.status(&mail.id).await.as_str(), app.smtp.mails().len()), ("relayed", 1));
}

#[tokio::test]
async fn a_mail_that_three_workers_died_with_is_held_for_an_operator() {
    let app = TestApp::start().await;
    let mail = app.send(json!({})).await;
    let reaper = app.another_worker().await;
    for held in [0, 0, 1] {
        let (_gate, working) = at_the_final_dot(&app, app.another_worker().await).await;
        has_gone_silent(&app).await;
        assert_eq!(reaper.reap().await.unwrap(), Reaped { workers: 1, freed: 1 - held, held, uncertain: 0 });
        working.abort();
    }
    app.run_until_idle().await;
    let ann = app.recipient(&mail.id).await;
    assert_eq!((&ann["status"], &ann["next_attempt_at"]), (&json!("queued"), &json!(null)));
    assert!(ann["held"].as_str().unwrap().contains("3 workers died"), "{ann}");
    assert_eq!(app.smtp.mails().len(), 0);

    assert_eq!(app.post(&format!("/v1/messages/{}/retry", mail.id), &json!({})).await.status, 200);
    app.run_until_idle().await;
    assert_eq!(app.status(&mail.id).await, "relayed");
}

/// Runs until it is stopped.
fn run(app: &TestApp) -> (CancellationToken, JoinHandle<()>) {
    let (worker, stop) = (app.worker.clone(), CancellationToken::new());
    let running = tokio::spawn({
        let stop = stop.clone();
        async move { worker.run(stop).await }
    });
    (stop, running)
}

#[tokio::test]
async fn stopping_worker_releases_messages_waiting_for_a_connection() {
    let app = TestApp::builder().config(|config| config.delivery.connections = 1).start().await;
    let gate = app.smtp.dot().stalls();
    let first = app.send(json!({})).await;
    let (stop, running) = run(&app);
    gate.reached().await;
    let second = app.send(json!({"to": "bo@example.test"})).await;
    while app.status(&second.id).await != "sending" {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    let given_back = async {
        while app.status(&second.id).await != "queued" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), given_back).await.expect("the second is released");
    assert_eq!(app.status(&first.id).await, "sending");

    gate.open();
    running.await.unwrap();
    assert_eq!((app.status(&first.id).await.as_str(), app.smtp.mails().len()), ("relayed", 1));
    app.another_worker().await.drain().await.unwrap();
    assert_eq!(app.events(&second.id).await, ["accepted", "relayed"]);
}

#[tokio::test]
async fn one_that_is_told_to_stop_finishes_what_it_has() {
    let app = TestApp::start().await;
    let gate = app.smtp.dot().stalls();
    let mail = app.send(json!({})).await;
    let (stop, running) = run(&app);
    gate.reached().await;
    stop.cancel();
    assert_eq!(app.status(&mail.id).await, "sending");

    gate.open();
    running.await.unwrap();
    assert_eq!((app.status(&mail.id).await.as_str(), app.smtp.mails().len()), ("relayed", 1));
}
