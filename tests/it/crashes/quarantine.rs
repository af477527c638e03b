//! Workers crash because of one of their messages in flight. After three crashes, only this message is held.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::TimeDelta;
use postrider::db::workers::RescuedLeases;
use postrider::worker::Worker;
use serde_json::json;
use sqlx::Row as _;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::app::TestApp;
use crate::support::clock::{hours, minutes};

/// A running worker, which [`CrashingWorker::crash`] ends.
struct CrashingWorker {
    working: JoinHandle<()>,
}

impl CrashingWorker {
    fn start(worker: Worker) -> Self {
        Self { working: tokio::spawn(async move { worker.drain().await.unwrap() }) }
    }

    /// Aborts the worker and sets its last heartbeat to a day ago. Another worker rescues its leases.
    async fn crash(self, app: &TestApp, rescuer: &Worker) -> RescuedLeases {
        self.working.abort();
        app.sql("UPDATE workers SET heartbeat_at = now() - interval '1 day' WHERE id IN (SELECT lease FROM queue)")
            .await;
        rescuer.rescue_leases().await.unwrap()
    }
}

/// Returns, for each address in the queue, the number of crashes at which its recipient was in flight.
async fn crashes_by_address(app: &TestApp) -> BTreeMap<String, i16> {
    let query = "SELECT r.address, q.crashes FROM queue q JOIN recipients r ON r.message_id = q.message_id AND r.id = q.recipient_id";
    let rows = sqlx::query(query).fetch_all(&mut app.database.connect().await).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn crashing_message_is_held_after_three_crashes_others_are_sent() {
    let app = TestApp::start().await;
    let crashing = app.send(json!({"to": "crashing@example.test"})).await;
    // The crashing message is older than the other one, so it comes first in every order.
    app.clock.advance(minutes(1));
    let innocent = app.send(json!({"to": "innocent@example.test"})).await;
    let rescuer = app.another_worker().await;
    for crashes in 1..=2 {
        let innocent_gate = app.smtp.rcpt("innocent@example.test").stalls();
        let crashing_gate = app.smtp.rcpt("crashing@example.test").stalls();
        let worker = CrashingWorker::start(app.another_worker().await);
        innocent_gate.reached().await;
        crashing_gate.reached().await;
        assert_eq!(
            worker.crash(&app, &rescuer).await,
            RescuedLeases { workers: 1, released: 2, ..RescuedLeases::default() }
        );
        let both = ["crashing@example.test", "innocent@example.test"].map(|address| (address.to_owned(), crashes));
        assert_eq!(
            crashes_by_address(&app).await,
            BTreeMap::from(both),
            "the cause is unknown while both are in flight"
        );
    }

    // After two crashes, the two messages are tried one after the other.
    let crashing_gate = app.smtp.rcpt("crashing@example.test").stalls();
    let worker = CrashingWorker::start(app.another_worker().await);
    crashing_gate.reached().await;
    assert_eq!(worker.crash(&app, &rescuer).await, RescuedLeases { workers: 1, released: 1, held: 1, uncertain: 0 });
    let held = app.recipient(&crashing.id).await["held"].as_str().unwrap().to_owned();
    assert!(held.starts_with("held: 3 workers crashed") && held.contains("retry or cancel the message"), "{held}");
    assert_eq!(crashes_by_address(&app).await["innocent@example.test"], 2);

    app.run_until_idle().await;
    assert_eq!(app.status(&innocent.id).await, "relayed");
    assert_eq!((app.status(&crashing.id).await.as_str(), app.smtp.messages().len()), ("queued", 1));
    app.post(&format!("/v1/messages/{}/cancel", crashing.id), &json!({})).await;
}

#[tokio::test]
async fn finished_attempt_resets_the_crash_count() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.3.2 later"]);
    app.send(json!({})).await;
    app.sql("UPDATE queue SET crashes = 2").await;
    app.run_until_idle().await;
    assert_eq!(crashes_by_address(&app).await["ann@example.test"], 0);
}

#[tokio::test]
async fn released_recipient_keeps_its_crash_count() {
    let app = TestApp::builder().config(|config| config.delivery.shutdown_grace = Duration::ZERO).start().await;
    app.send(json!({})).await;
    app.sql("UPDATE queue SET crashes = 1").await;
    let gate = app.smtp.rcpt("ann@example.test").stalls();
    let worker = app.another_worker().await;
    let crashing = CrashingWorker::start(worker.clone());
    gate.reached().await;
    worker.stop().await;
    crashing.working.abort();
    assert_eq!(crashes_by_address(&app).await["ann@example.test"], 1);
    app.run_until_idle().await;
}

#[tokio::test]
async fn quarantined_messages_do_not_delay_others() {
    // The quarantine has 16 slots.
    let app = TestApp::builder().config(|config| config.delivery.concurrency = 64).start().await;
    for n in 0..60 {
        app.send(json!({"to": format!("s{n}@example.test")})).await;
        // Each message is older than the next one, so the first one gets a slot.
        app.clock.advance(TimeDelta::milliseconds(1));
    }
    app.sql("UPDATE queue SET crashes = 1 + (('x' || right(recipient_id::text, 1))::bit(4)::integer & 1)").await;
    let gate = app.smtp.rcpt("s0@example.test").stalls();
    let (worker, stop) = (app.another_worker().await, CancellationToken::new());
    let running = tokio::spawn({
        let stop = stop.clone();
        async move { worker.run(stop).await }
    });
    gate.reached().await;
    app.send(json!({"to": "urgent@example.test"})).await;
    while !app.smtp.messages().iter().any(|message| message.to == ["urgent@example.test"]) {
        app.smtp.received(app.smtp.messages().len() + 1).await;
    }
    let waiting = app.get("/v1/messages?status=scheduled").await;
    assert_eq!(waiting.body["data"], json!([]), "delayed messages do not count as scheduled");
    let last = app.get("/v1/messages?status=queued").await.body["data"][0]["id"].as_str().unwrap().to_owned();
    let moved = app.patch(&format!("/v1/messages/{last}"), &json!({"scheduled_at": app.clock.text_in(hours(1))})).await;
    assert_eq!(moved.problem(), (409, "not_scheduled"));
    gate.open();
    stop.cancel();
    running.await.unwrap();
    for _ in 0..4 {
        app.clock.advance(minutes(1));
        app.run_until_idle().await;
    }
    assert_eq!(app.smtp.messages().len(), 61);
}
