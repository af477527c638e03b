//! A worker dies or stops with messages in flight.

use std::time::Duration;

use postrider::db::workers::RescuedLeases;
use postrider::worker::Worker;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::app::TestApp;
use crate::support::smtp::Gate;

/// Starts a worker, and waits until the server holds its reply to the final dot.
async fn start_until_final_dot(app: &TestApp, worker: Worker) -> (Gate, JoinHandle<()>) {
    let gate = app.smtp.dot().stalls();
    let working = tokio::spawn(async move { worker.drain().await.unwrap() });
    gate.reached().await;
    (gate, working)
}

/// Sets the last heartbeat of the worker with the lease to a day ago.
async fn expire_heartbeat(app: &TestApp) {
    app.sql("UPDATE workers SET heartbeat_at = now() - interval '1 day' WHERE id IN (SELECT lease FROM queue)").await;
}

#[tokio::test]
async fn late_outcome_of_a_dead_worker_is_ignored() {
    let app = TestApp::start().await;
    let message = app.send(json!({})).await;
    let (gate, first) = start_until_final_dot(&app, app.worker.clone()).await;
    expire_heartbeat(&app).await;

    let second = app.another_worker().await;
    assert_eq!(
        second.rescue_leases().await.unwrap(),
        RescuedLeases { workers: 1, released: 1, ..RescuedLeases::default() }
    );
    app.smtp.rcpt("ann@example.test").replies(["550 5.1.1 unknown"]);
    second.drain().await.unwrap();
    assert_eq!(app.status(&message.id).await, "bounced");

    gate.open();
    first.await.unwrap();
    assert_eq!(app.status(&message.id).await, "bounced");
    assert_eq!(app.events(&message.id).await, ["accepted", "bounced"]);
    assert_eq!(second.rescue_leases().await.unwrap(), RescuedLeases::default());
}

#[tokio::test]
async fn live_worker_keeps_its_leases() {
    let app = TestApp::start().await;
    let message = app.send(json!({})).await;
    let (gate, working) = start_until_final_dot(&app, app.worker.clone()).await;
    let second = app.another_worker().await;
    assert_eq!(second.rescue_leases().await.unwrap(), RescuedLeases::default());
    second.drain().await.unwrap();
    gate.open();
    working.await.unwrap();
    assert_eq!((app.status(&message.id).await.as_str(), app.smtp.messages().len()), ("relayed", 1));
}

#[tokio::test]
async fn message_in_flight_at_three_crashes_is_held() {
    let app = TestApp::start().await;
    let message = app.send(json!({})).await;
    let rescuer = app.another_worker().await;
    for held in [0, 0, 1] {
        let (_gate, working) = start_until_final_dot(&app, app.another_worker().await).await;
        expire_heartbeat(&app).await;
        assert_eq!(
            rescuer.rescue_leases().await.unwrap(),
            RescuedLeases { workers: 1, released: 1 - held, held, uncertain: 0 }
        );
        working.abort();
    }
    app.run_until_idle().await;
    let ann = app.recipient(&message.id).await;
    assert_eq!((&ann["status"], &ann["next_attempt_at"]), (&json!("queued"), &json!(null)));
    assert!(ann["held"].as_str().unwrap().contains("3 workers crashed"), "{ann}");
    assert_eq!(app.smtp.messages().len(), 0);

    assert_eq!(app.post(&format!("/v1/messages/{}/retry", message.id), &json!({})).await.status, 200);
    app.run_until_idle().await;
    assert_eq!(app.status(&message.id).await, "relayed");
}

/// Runs the worker until it is stopped.
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
    let released = async {
        while app.status(&second.id).await != "queued" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), released).await.expect("the second is released");
    assert_eq!(app.status(&first.id).await, "sending");

    gate.open();
    running.await.unwrap();
    assert_eq!((app.status(&first.id).await.as_str(), app.smtp.messages().len()), ("relayed", 1));
    app.another_worker().await.drain().await.unwrap();
    assert_eq!(app.events(&second.id).await, ["accepted", "relayed"]);
}

#[tokio::test]
async fn stopping_worker_finishes_messages_in_flight() {
    let app = TestApp::start().await;
    let gate = app.smtp.dot().stalls();
    let message = app.send(json!({})).await;
    let (stop, running) = run(&app);
    gate.reached().await;
    stop.cancel();
    assert_eq!(app.status(&message.id).await, "sending");

    gate.open();
    running.await.unwrap();
    assert_eq!((app.status(&message.id).await.as_str(), app.smtp.messages().len()), ("relayed", 1));
}
