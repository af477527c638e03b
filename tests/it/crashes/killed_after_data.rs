//! The process that sends a message ends between the body and the server's reply. With `hold` or `fail` no second copy
//! is sent, because a marker is committed before the body is sent.

use std::time::{Duration, Instant};

use postrider::db::workers::RescuedLeases;
use postrider::worker::Worker;
use serde_json::json;
use sqlx::Connection as _;
use tokio::task::JoinHandle;

use crate::support::app::TestApp;
use crate::support::smtp::Gate;

/// Starts the worker, and waits until it reaches the gate.
async fn start_until(worker: &Worker, gate: &Gate) -> JoinHandle<()> {
    let worker = worker.clone();
    let working = tokio::spawn(async move { worker.drain().await.unwrap() });
    gate.reached().await;
    working
}

/// Lets another worker rescue the leases in the queue, as if their worker's last heartbeat was a day ago.
async fn rescue_leases(app: &TestApp) -> RescuedLeases {
    app.sql("UPDATE workers SET heartbeat_at = now() - interval '1 day' WHERE id IN (SELECT lease FROM queue)").await;
    app.another_worker().await.rescue_leases().await.unwrap()
}

const ONE_UNCERTAIN: RescuedLeases = RescuedLeases { workers: 1, released: 0, held: 0, uncertain: 1 };

#[tokio::test]
async fn hold_waits_for_an_operator_and_ignores_a_late_outcome() {
    let app = TestApp::start().await;
    let gate = app.smtp.dot().stalls();
    let message = app.send(json!({"on_uncertain": "hold"})).await;
    let first = start_until(&app.worker, &gate).await;
    assert_eq!(rescue_leases(&app).await, ONE_UNCERTAIN);
    let ann = app.recipient(&message.id).await;
    assert_eq!((&ann["status"], &ann["attempts"]), (&json!("uncertain"), &json!(1)));
    assert!(
        ann["response"]["text"].as_str().unwrap().contains("between the message body and the server's reply"),
        "{ann}"
    );

    // The first worker is still alive.
    gate.open();
    first.await.unwrap();
    assert_eq!(app.status(&message.id).await, "uncertain");
    assert_eq!(app.events(&message.id).await, ["accepted", "uncertain"]);

    let retry = app.post(&format!("/v1/messages/{}/retry", message.id), &json!({})).await;
    assert_eq!((retry.status, &retry.body["status"]), (200, &json!("deferred")));
    app.another_worker().await.drain().await.unwrap();
    assert_eq!(app.events(&message.id).await, ["accepted", "uncertain", "deferred", "relayed"]);
    assert_eq!(app.recipient(&message.id).await["attempts"], 2);
}

#[tokio::test]
async fn fail_ends_all_recipients_that_got_the_body() {
    let app = TestApp::start().await;
    let gate = app.smtp.dot().stalls();
    let message = app.send(json!({"on_uncertain": "fail", "to": ["ann@example.test", "bo@example.test"]})).await;
    let first = start_until(&app.worker, &gate).await;
    assert_eq!(rescue_leases(&app).await, RescuedLeases { uncertain: 2, ..ONE_UNCERTAIN });
    first.abort();
    assert_eq!(app.states(&message.id).await, ["uncertain", "uncertain"]);
    assert_eq!(
        app.post(&format!("/v1/messages/{}/retry", message.id), &json!({})).await.problem(),
        (409, "nothing_to_retry")
    );
    app.another_worker().await.drain().await.unwrap();
    assert_eq!(app.events(&message.id).await, ["accepted", "uncertain", "uncertain"]);
}

#[tokio::test]
async fn refused_recipients_are_retried_after_a_crash() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["450 4.2.1 mailbox busy"]);
    let gate = app.smtp.dot().stalls();
    let to = json!(["ann@example.test", "bo@example.test"]);
    let message = app.send(json!({"on_uncertain": "fail", "to": to})).await;
    let first = start_until(&app.worker, &gate).await;
    assert_eq!(rescue_leases(&app).await, RescuedLeases { released: 1, ..ONE_UNCERTAIN });
    first.abort();
    app.another_worker().await.drain().await.unwrap();
    assert_eq!(app.states(&message.id).await, ["relayed", "uncertain"]);
}

#[tokio::test]
async fn crash_before_the_body_does_not_count_as_an_attempt() {
    let app = TestApp::start().await;
    let gate = app.smtp.data().stalls();
    let message = app.send(json!({"on_uncertain": "fail"})).await;
    let first = start_until(&app.worker, &gate).await;
    assert_eq!(rescue_leases(&app).await, RescuedLeases { workers: 1, released: 1, ..RescuedLeases::default() });
    app.another_worker().await.drain().await.unwrap();
    assert_eq!(app.status(&message.id).await, "relayed");

    // The first worker has lost the claim: it must not send the body.
    gate.open();
    first.await.unwrap();
    assert_eq!((app.status(&message.id).await.as_str(), app.smtp.messages().len()), ("relayed", 1));
}

#[tokio::test]
async fn retry_sends_again_after_a_crash() {
    let app = TestApp::start().await;
    let gate = app.smtp.dot().stalls();
    let message = app.send(json!({"on_uncertain": "retry"})).await;
    let first = start_until(&app.worker, &gate).await;
    assert_eq!(rescue_leases(&app).await, RescuedLeases { workers: 1, released: 1, ..RescuedLeases::default() });
    first.abort();
    app.another_worker().await.drain().await.unwrap();
    assert_eq!(app.status(&message.id).await, "relayed");
}

#[tokio::test]
async fn stop_after_the_grace_period_leaves_message_uncertain() {
    let app = TestApp::builder().config(|config| config.delivery.shutdown_grace = Duration::ZERO).start().await;
    let gate = app.smtp.dot().stalls();
    let message = app.send(json!({"on_uncertain": "hold"})).await;
    let worker = app.another_worker().await;
    let first = start_until(&worker, &gate).await;
    worker.stop().await;
    assert_eq!(app.events(&message.id).await, ["accepted", "uncertain"]);
    gate.open();
    first.await.unwrap();
    assert_eq!(app.status(&message.id).await, "uncertain");
}

#[tokio::test]
async fn body_is_not_sent_without_a_committed_marker() {
    let app = TestApp::builder().config(|config| config.database.timeout = Duration::from_secs(2)).start().await;
    let gate = app.smtp.data().stalls();
    let message = app.send(json!({"on_uncertain": "hold"})).await;
    let first = start_until(&app.another_worker().await, &gate).await;
    let mut connection = app.database.connect().await;
    let mut tx = connection.begin().await.unwrap();
    sqlx::raw_sql("SELECT FROM queue FOR UPDATE").execute(&mut *tx).await.unwrap();

    gate.open();
    app.smtp.all_connections_closed().await;
    assert_eq!((app.smtp.messages().len(), app.smtp.count(".")), (0, 0));

    tx.rollback().await.unwrap();
    first.await.unwrap();
    assert_eq!(app.events(&message.id).await, ["accepted", "relayed"], "it was released without an attempt");
}

#[tokio::test]
async fn message_without_an_attempt_is_retried_after_a_pause() {
    let app = TestApp::start().await;
    app.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF NEW.data_started THEN RAISE EXCEPTION 'no' USING ERRCODE = 'check_violation'; END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER refuse BEFORE UPDATE ON queue FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    .await;
    let (message, started) = (app.send(json!({"on_uncertain": "hold"})).await, Instant::now());
    let working = app.start_working();
    app.smtp.wait_for_lines("DATA", 3).await;
    assert!(started.elapsed() >= Duration::from_secs(2), "{:?}", started.elapsed());
    app.sql("DROP TRIGGER refuse ON queue").await;
    working.await.unwrap().unwrap();
    assert_eq!(app.events(&message.id).await, ["accepted", "relayed"]);
}
