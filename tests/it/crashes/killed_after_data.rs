//! The process that sends a message ends between the body and the server's reply. With `hold` or `fail` no second copy
//! is sent, because a marker is committed before the body is sent.

use std::time::{Duration, Instant};

use postrider::db::workers::Reaped;
use postrider::worker::Worker;
use serde_json::json;
use sqlx::Connection as _;
use tokio::task::JoinHandle;

use crate::support::app::TestApp;
use crate::support::smtp::Gate;

/// A worker that stops at the gate.
async fn working(worker: &Worker, gate: &Gate) -> JoinHandle<()> {
    let worker = worker.clone();
    let working = tokio::spawn(async move { worker.drain().await.unwrap() });
    gate.reached().await;
    working
}

/// Another worker finds that the worker with the lease has sent no heartbeat for a day.
async fn reap(app: &TestApp) -> Reaped {
    app.sql("UPDATE workers SET heartbeat_at = now() - interval '1 day' WHERE id IN (SELECT lease FROM queue)").await;
    app.another_worker().await.reap().await.unwrap()
}

const ONE_UNCERTAIN: Reaped = Reaped { workers: 1, freed: 0, held: 0, uncertain: 1 };

#[tokio::test]
async fn hold_waits_for_an_operator_and_ignores_a_late_outcome() {
    let app = TestApp::start().await;
    let gate = app.smtp.dot().stalls();
    let mail = app.send(json!({"on_uncertain": "hold"})).await;
    let first = working(&app.worker, &gate).await;
    assert_eq!(reap(&app).await, ONE_UNCERTAIN);
    let ann = app.recipient(&mail.id).await;
    assert_eq!((&ann["status"], &ann["attempts"]), (&json!("uncertain"), &json!(1)));
    assert!(
        ann["response"]["text"].as_str().unwrap().contains("between the message body and the server's reply"),
        "{ann}"
    );

    // The first worker is still alive.
    gate.open();
    first.await.unwrap();
    assert_eq!(app.status(&mail.id).await, "uncertain");
    assert_eq!(app.events(&mail.id).await, ["accepted", "uncertain"]);

    let retry = app.post(&format!("/v1/messages/{}/retry", mail.id), &json!({})).await;
    assert_eq!((retry.status, &retry.body["status"]), (200, &json!("deferred")));
    app.another_worker().await.drain().await.unwrap();
    assert_eq!(app.events(&mail.id).await, ["accepted", "uncertain", "deferred", "relayed"]);
    assert_eq!(app.recipient(&mail.id).await["attempts"], 2);
}

#[tokio::test]
async fn fail_is_over_for_everyone_the_text_went_to() {
    let app = TestApp::start().await;
    let gate = app.smtp.dot().stalls();
    let mail = app.send(json!({"on_uncertain": "fail", "to": ["ann@example.test", "bo@example.test"]})).await;
    let first = working(&app.worker, &gate).await;
    assert_eq!(reap(&app).await, Reaped { uncertain: 2, ..ONE_UNCERTAIN });
    first.abort();
    assert_eq!(app.states(&mail.id).await, ["uncertain", "uncertain"]);
    assert_eq!(
        app.post(&format!("/v1/messages/{}/retry", mail.id), &json!({})).await.problem(),
        (409, "nothing_to_retry")
    );
    app.another_worker().await.drain().await.unwrap();
    assert_eq!(app.events(&mail.id).await, ["accepted", "uncertain", "uncertain"]);
}

#[tokio::test]
async fn whoever_was_refused_got_no_text_and_is_tried_again() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["450 4.2.1 mailbox busy"]);
    let gate = app.smtp.dot().stalls();
    let to = json!(["ann@example.test", "bo@example.test"]);
    let mail = app.send(json!({"on_uncertain": "fail", "to": to})).await;
    let first = working(&app.worker, &gate).await;
    assert_eq!(reap(&app).await, Reaped { freed: 1, ..ONE_UNCERTAIN });
    first.abort();
    app.another_worker().await.drain().await.unwrap();
    assert_eq!(app.states(&mail.id).await, ["relayed", "uncertain"]);
}

#[tokio::test]
async fn before_the_text_nothing_has_happened() {
    let app = TestApp::start().await;
    let gate = app.smtp.data().stalls();
    let mail = app.send(json!({"on_uncertain": "fail"})).await;
    let first = working(&app.worker, &gate).await;
    assert_eq!(reap(&app).await, Reaped { workers: 1, freed: 1, ..Reaped::default() });
    app.another_worker().await.drain().await.unwrap();
    assert_eq!(app.status(&mail.id).await, "relayed");

    // The first worker has lost the claim: it must not send the body.
    gate.open();
    first.await.unwrap();
    assert_eq!((app.status(&mail.id).await.as_str(), app.smtp.mails().len()), ("relayed", 1));
}

#[tokio::test]
async fn retry_sends_again_without_a_record() {
    let app = TestApp::start().await;
    let gate = app.smtp.dot().stalls();
    let mail = app.send(json!({"on_uncertain": "retry"})).await;
    let first = working(&app.worker, &gate).await;
    assert_eq!(reap(&app).await, Reaped { workers: 1, freed: 1, ..Reaped::default() });
    first.abort();
    app.another_worker().await.drain().await.unwrap();
    assert_eq!(app.status(&mail.id).await, "relayed");
}

#[tokio::test]
async fn a_stop_that_cannot_wait_any_longer_leaves_it_uncertain() {
    let app = TestApp::builder().config(|config| config.delivery.shutdown_grace = Duration::ZERO).start().await;
    let gate = app.smtp.dot().stalls();
    let mail = app.send(json!({"on_uncertain": "hold"})).await;
    let worker = app.another_worker().await;
    let first = working(&worker, &gate).await;
    worker.stop().await;
    assert_eq!(app.events(&mail.id).await, ["accepted", "uncertain"]);
    gate.open();
    first.await.unwrap();
    assert_eq!(app.status(&mail.id).await, "uncertain");
}

#[tokio::test]
async fn without_the_record_nothing_is_sent() {
    let app = TestApp::builder().config(|config| config.database.timeout = Duration::from_secs(2)).start().await;
    let gate = app.smtp.data().stalls();
    let mail = app.send(json!({"on_uncertain": "hold"})).await;
    let first = working(&app.another_worker().await, &gate).await;
    let mut connection = app.database.connect().await;
    let mut tx = connection.begin().await.unwrap();
    sqlx::raw_sql("SELECT FROM queue FOR UPDATE").execute(&mut *tx).await.unwrap();

    gate.open();
    app.smtp.left_alone().await;
    assert_eq!((app.smtp.mails().len(), app.smtp.count(".")), (0, 0));

    tx.rollback().await.unwrap();
    first.await.unwrap();
    assert_eq!(app.events(&mail.id).await, ["accepted", "relayed"], "it was released without an attempt");
}

#[tokio::test]
async fn what_was_not_begun_is_not_tried_again_at_once() {
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
    let (mail, begun) = (app.send(json!({"on_uncertain": "hold"})).await, Instant::now());
    let working = app.start_working();
    app.smtp.read("DATA", 3).await;
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    app.sql("DROP TRIGGER refuse ON queue").await;
    working.await.unwrap().unwrap();
    assert_eq!(app.events(&mail.id).await, ["accepted", "relayed"]);
}
