//! Workers crash, and some of their messages in flight are the cause. After three crashes the cause is held, and the
//! others are not.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::TimeDelta;
use postrider::db::workers::Reaped;
use postrider::worker::Worker;
use serde_json::json;
use sqlx::Row as _;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::app::TestApp;
use crate::support::clock::{hours, minutes};

/// A worker at work, killed by [`Doomed::dies`].
struct Doomed {
    working: JoinHandle<()>,
}

impl Doomed {
    fn starts(worker: Worker) -> Self {
        Self { working: tokio::spawn(async move { worker.drain().await.unwrap() }) }
    }

    /// As if it had sent no heartbeat for a day; another takes over.
    async fn dies(self, app: &TestApp, reaper: &Worker) -> Reaped {
        self.working.abort();
        app.sql("UPDATE workers SET heartbeat_at = now() - interval '1 day' WHERE id IN (SELECT lease FROM queue)")
            .await;
        reaper.reap().await.unwrap()
    }
}

/// The number of crashes with which each address in the queue was in flight.
async fn blame(app: &TestApp) -> BTreeMap<String, i16> {
    let query = "SELECT r.address, q.crashes FROM queue q JOIN recipients r ON r.message_id = q.message_id AND r.id = q.recipient_id";
    let rows = sqlx::query(query).fetch_all(&mut app.database.connect().await).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn crashing_message_is_held_after_three_crashes_others_are_sent() {
    let app = TestApp::start().await;
    let guilty = app.send(json!({"to": "guilty@example.test"})).await;
    // The crashing message comes first in every order.
    app.clock.advance(minutes(1));
    let innocent = app.send(json!({"to": "innocent@example.test"})).await;
    let reaper = app.another_worker().await;
    for deaths in 1..=2 {
        let near = app.smtp.rcpt("innocent@example.test").stalls();
        let end = app.smtp.rcpt("guilty@example.test").stalls();
        let worker = Doomed::starts(app.another_worker().await);
        near.reached().await;
        end.reached().await;
        assert_eq!(worker.dies(&app, &reaper).await, Reaped { workers: 1, freed: 2, ..Reaped::default() });
        let both = ["guilty@example.test", "innocent@example.test"].map(|address| (address.to_owned(), deaths));
        assert_eq!(blame(&app).await, BTreeMap::from(both), "the cause is unknown while both are in flight");
    }

    // Now they are tried one after the other.
    let end = app.smtp.rcpt("guilty@example.test").stalls();
    let worker = Doomed::starts(app.another_worker().await);
    end.reached().await;
    assert_eq!(worker.dies(&app, &reaper).await, Reaped { workers: 1, freed: 1, held: 1, uncertain: 0 });
    let held = app.recipient(&guilty.id).await["held"].as_str().unwrap().to_owned();
    assert!(held.starts_with("held: 3 workers died") && held.contains("retry the message or cancel it"), "{held}");
    assert_eq!(blame(&app).await["innocent@example.test"], 2);

    app.run_until_idle().await;
    assert_eq!(app.status(&innocent.id).await, "relayed");
    assert_eq!((app.status(&guilty.id).await.as_str(), app.smtp.mails().len()), ("queued", 1));
    app.post(&format!("/v1/messages/{}/cancel", guilty.id), &json!({})).await;
}

#[tokio::test]
async fn an_attempt_that_comes_to_an_end_clears_the_name() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.3.2 later"]);
    app.send(json!({})).await;
    app.sql("UPDATE queue SET crashes = 2").await;
    app.run_until_idle().await;
    assert_eq!(blame(&app).await["ann@example.test"], 0);
}

#[tokio::test]
async fn whoever_is_given_back_is_not_blamed() {
    let app = TestApp::builder().config(|config| config.delivery.shutdown_grace = Duration::ZERO).start().await;
    app.send(json!({})).await;
    app.sql("UPDATE queue SET crashes = 1").await;
    let gate = app.smtp.rcpt("ann@example.test").stalls();
    let worker = app.another_worker().await;
    let doomed = Doomed::starts(worker.clone());
    gate.reached().await;
    worker.stop().await;
    doomed.working.abort();
    assert_eq!(blame(&app).await["ann@example.test"], 1);
    app.run_until_idle().await;
}

#[tokio::test]
async fn suspects_wait_in_nobodys_way_and_none_is_forgotten() {
    // 16 fit into a group.
    let app = TestApp::builder().config(|config| config.delivery.concurrency = 64).start().await;
    for n in 0..60 {
        app.send(json!({"to": format!("s{n}@example.test")})).await;
        // In this order, so that the first is in the group.
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
    while !app.smtp.mails().iter().any(|mail| mail.to == ["urgent@example.test"]) {
        app.smtp.received(app.smtp.mails().len() + 1).await;
    }
    let waiting = app.get("/v1/messages?status=scheduled").await;
    assert_eq!(waiting.body["data"], json!([]), "what is put off was not scheduled by anybody");
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
    assert_eq!(app.smtp.mails().len(), 61);
}
