//! Direct handoff: the transaction that stores a message leases it to this process's worker, which sends it without a
//! claim. Only messages that could be claimed at once, and that no older message precedes, are handed off.

use std::time::Duration;

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection as _, Row as _};

use crate::support::app::TestApp;
use crate::support::client::{Sent, message};
use crate::support::postgres::until_waiting_for_lock;

/// Starts a process and sends a first message: until a claim has read the stream, nothing is handed off.
async fn start(change: impl FnOnce(&mut postrider::config::Config)) -> TestApp {
    let app = TestApp::builder().config(change).with_all_roles().start().await;
    let first = app.send(json!({})).await;
    reaches(&app, &first, "relayed").await;
    lanes_are_idle(&app).await;
    app
}

async fn reaches(app: &TestApp, sent: &Sent, status: &str) {
    let reached = async {
        while app.status(&sent.id).await != status {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reached).await.unwrap_or_else(|_| panic!("{} {status}", sent.id));
}

/// Waits until no lane's `ready_at` is too low, after the last claim has found that no due recipients are left.
async fn lanes_are_idle(app: &TestApp) {
    let mut connection = app.database.connect().await;
    let rest = async {
        loop {
            let ready =
                "SELECT count(*) FROM lanes WHERE ready_at < (SELECT coalesce(min(due_at), 'infinity') FROM queue)";
            if sqlx::query(ready).fetch_one(&mut connection).await.unwrap().get::<i64, _>(0) == 0 {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), rest).await.expect("no lane's ready_at is too low");
}

/// Returns, for each queue row of the message, whether the transaction that stored the message leased it.
async fn leased_at_commit(app: &TestApp, sent: &Sent) -> Vec<bool> {
    let rows = sqlx::query(
        "SELECT q.lease IS NOT NULL AND q.xmin = m.xmin FROM messages m JOIN queue q ON q.message_id = m.id
         WHERE 'msg_' || replace(m.id::text, '-', '') = $1 ORDER BY q.recipient_id",
    )
    .bind(&sent.id)
    .fetch_all(&mut app.database.connect().await)
    .await
    .unwrap();
    rows.into_iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn new_message_is_leased_at_commit_and_sent_unchanged() {
    let app = start(|_| {}).await;
    let gate = app.smtp.dot().stalls();
    let sent = app
        .send(json!({
            "from": "Ann Å <ann@acme.test>", "to": ["Bob <bob@example.test>", "cy@example.test"], "cc": ["dan@example.test"],
            "bcc": ["eve@example.test"], "reply_to": ["desk@acme.test"], "subject": "Grüße", "text": "hello", "html": "<p>hello</p>",
            "headers": {"X-Order": "12"},
            "attachments": [{"filename": "a.txt", "content_type": "text/plain", "content": "aGVsbG8="}],
        }))
        .await;
    gate.reached().await;
    assert_eq!(leased_at_commit(&app, &sent).await, [true; 4]);
    assert_eq!(app.status(&sent.id).await, "sending");
    gate.open();
    reaches(&app, &sent, "relayed").await;
    let received = app.smtp.messages().pop().unwrap();
    assert_eq!(received.to.len(), 4);
    let raw = app.get(&format!("/v1/messages/{}/raw", sent.id)).await;
    assert_eq!(received.raw, raw.bytes);
    assert_eq!(app.events(&sent.id).await[0], "accepted");
}

#[tokio::test]
async fn scheduled_paused_and_limited_messages_are_not_handed_off() {
    let app = start(|_| {}).await;
    let later = app.send(json!({"scheduled_at": "2026-11-24T00:00:00Z"})).await;
    assert_eq!(leased_at_commit(&app, &later).await, [false]);

    app.sql("UPDATE streams SET paused_at = now()").await;
    let paused = app.send(json!({})).await;
    assert_eq!(leased_at_commit(&app, &paused).await, [false]);
    assert_eq!(app.status(&paused.id).await, "queued");
    app.sql("UPDATE streams SET paused_at = NULL").await;
    reaches(&app, &paused, "relayed").await;

    app.patch("/v1/streams/transactional", &json!({"rate": 1000})).await;
    lanes_are_idle(&app).await;
    let gate = app.smtp.dot().stalls();
    let limited = app.send(json!({})).await;
    gate.reached().await;
    assert_eq!(leased_at_commit(&app, &limited).await, [false], "the rate limit must be checked by a claim");
    gate.open();
    reaches(&app, &limited, "relayed").await;
    app.post(&format!("/v1/messages/{}/cancel", later.id), &json!({})).await;
}

#[tokio::test]
async fn messages_beyond_the_concurrency_limit_wait_for_a_claim() {
    let app = start(|config| config.delivery.concurrency = 1).await;
    let gate = app.smtp.dot().stalls();
    let first = app.send(json!({})).await;
    gate.reached().await;
    let second = app.send(json!({})).await;
    let third = app.send(json!({})).await;
    assert_eq!(
        (leased_at_commit(&app, &second).await, leased_at_commit(&app, &third).await),
        (vec![false], vec![false])
    );
    gate.open();
    for sent in [&first, &second, &third] {
        reaches(&app, sent, "relayed").await;
    }
    assert_eq!(app.smtp.messages().len(), 4, "each message must be sent once");
}

/// Claims and direct handoff alternate, and may both hold the same message for a moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_and_direct_handoff_send_each_message_once() {
    let app = start(|config| config.delivery.concurrency = 8).await;
    for _ in 0..10 {
        let burst = futures_util::future::join_all((0..60).map(|_| app.send(json!({})))).await;
        for sent in &burst {
            reaches(&app, sent, "relayed").await;
        }
    }
    assert_eq!(app.smtp.messages().len(), 601, "each message must be sent once");
}

/// The minimum that the configuration allows: one connection for the hot path, and one for everything else.
#[tokio::test]
async fn two_database_connections_are_enough() {
    let app = start(|config| config.database.max_connections = 2).await;
    let attached = json!({"attachments": [{"filename": "a.txt", "content": "aGVsbG8="}]});
    let burst = futures_util::future::join_all((0..60).map(|_| app.send(attached.clone()))).await;
    for sent in &burst {
        reaches(&app, sent, "relayed").await;
    }
    assert_eq!(app.smtp.messages().len(), 61, "each message must be sent once");
}

#[tokio::test]
async fn suppressed_recipients_are_not_leased_by_direct_handoff() {
    let app = start(|_| {}).await;
    app.post("/v1/suppressions", &json!({"address": "bob@example.test", "reason": "manual"})).await;
    let sent = app.send(json!({"to": ["ann@example.test", "bob@example.test"]})).await;
    app.smtp.received(2).await;
    while app.states(&sent.id).await.contains(&"sending".to_owned()) {
        tokio::task::yield_now().await;
    }
    assert_eq!(app.states(&sent.id).await, ["relayed", "suppressed"]);
    let gate = app.smtp.dot().stalls();
    let next = app.send(json!({})).await;
    gate.reached().await;
    assert_eq!(leased_at_commit(&app, &next).await, [true], "no recipient waits");
    gate.open();
    reaches(&app, &next, "relayed").await;
    assert_eq!(app.smtp.messages()[1].to, ["ann@example.test"]);
}

/// The list is read again if the commit took long.
#[tokio::test]
async fn address_suppressed_during_a_long_commit_is_not_sent_to() {
    let app = start(|_| {}).await;
    let (mut lock, mut observer) = (app.database.connect().await, app.database.connect().await);
    sqlx::raw_sql("BEGIN; SELECT FROM event_counters FOR UPDATE").execute(&mut lock).await.unwrap();
    let release = async {
        until_waiting_for_lock(&mut observer, "take_event_numbers").await;
        app.post("/v1/suppressions", &json!({"address": "bob@example.test", "reason": "manual"})).await;
        app.clock.advance(TimeDelta::seconds(1));
        lock.close().await.unwrap();
    };
    let (sent, ()) = tokio::join!(app.send(json!({"to": ["bob@example.test"]})), release);
    reaches(&app, &sent, "suppressed").await;
    assert_eq!(app.smtp.messages().len(), 1, "only the first message was sent");
}

/// Messages and outcomes share transactions, but outcomes that fail do not prevent messages from being accepted.
#[tokio::test]
async fn failing_outcomes_do_not_prevent_accepting_messages() {
    let app = start(|_| {}).await;
    app.sql(
        "CREATE FUNCTION hinder() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF NEW.address LIKE 'bad%' AND NEW.response_text NOT LIKE 'the reply could not be recorded%' THEN
                 RAISE EXCEPTION 'no' USING ERRCODE = 'check_violation';
             END IF;
             IF NEW.address LIKE 'locked%' THEN PERFORM pg_advisory_xact_lock(1); END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER hinder BEFORE UPDATE ON recipients FOR EACH ROW EXECUTE FUNCTION hinder()",
    )
    .await;
    let mut lock = app.database.connect().await;
    sqlx::raw_sql("SELECT pg_advisory_lock(1)").execute(&mut lock).await.unwrap();
    // Sent one after the other, so that no two outcomes are recorded in one transaction.
    let mut locked = Vec::new();
    for n in 2..=4 {
        locked.push(app.send(json!({"to": "locked@example.test"})).await);
        app.smtp.received(n).await;
    }
    for _ in 0..3 {
        let bad = app.send(json!({"to": "bad@example.test"})).await;
        let others = futures_util::future::join_all((0..20).map(|_| app.send(json!({})))).await;
        for sent in others.iter().chain([&bad]) {
            reaches(&app, sent, "relayed").await;
        }
    }
    for sent in &locked {
        assert_eq!(app.status(&sent.id).await, "sending", "if it were released, it would be sent again");
    }
    sqlx::raw_sql("SELECT pg_advisory_unlock(1)").execute(&mut lock).await.unwrap();
    for sent in &locked {
        reaches(&app, sent, "relayed").await;
    }
    assert_eq!(app.smtp.messages().len(), 67, "each message must be sent once");
}

/// A message that Postgres refuses does not prevent outcomes from being recorded.
#[tokio::test]
async fn refused_message_does_not_prevent_recording_outcomes() {
    let app = start(|_| {}).await;
    app.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'check_violation'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON messages FOR EACH ROW WHEN (NEW.subject = 'bad') EXECUTE FUNCTION refuse()",
    )
    .await;
    let send = |n: usize| {
        let app = &app;
        async move {
            let fields = json!({"subject": if n.is_multiple_of(4) { "bad" } else { "good" }});
            let response = app.request(Method::POST, "/v1/messages").json(&message(fields)).send().await.unwrap();
            (n.is_multiple_of(4), response.status().as_u16(), response.json::<Value>().await.unwrap())
        }
    };
    let responses = futures_util::future::join_all((0..40).map(send)).await;
    for (is_bad, status, body) in responses {
        assert_eq!(status, if is_bad { 500 } else { 202 }, "{body}");
        if !is_bad {
            let sent = Sent { id: body["id"].as_str().unwrap().to_owned(), body };
            reaches(&app, &sent, "relayed").await;
        }
    }
    assert_eq!(app.smtp.messages().len(), 31);
}
