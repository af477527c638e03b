//! Direct handoff: the transaction that stores a message leases it, and the process sends it without a claim. Only
//! messages that could be claimed at once, and before which no older message waits.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Row as _;

use crate::support::app::TestApp;
use crate::support::client::{Sent, message};

/// A running process that has delivered a message: before that it does not know the priority of the stream.
async fn at_work(change: impl FnOnce(&mut postrider::config::Config)) -> TestApp {
    let app = TestApp::builder().config(change).whole().start().await;
    let first = app.send(json!({})).await;
    is(&app, &first, "relayed").await;
    rested(&app).await;
    app
}

async fn is(app: &TestApp, mail: &Sent, status: &str) {
    let reached = async {
        while app.status(&mail.id).await != status {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reached).await.unwrap_or_else(|_| panic!("{} {status}", mail.id));
}

/// Waits until no lane counts as ready too early: the last claim has found that it leased everything.
async fn rested(app: &TestApp) {
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
    tokio::time::timeout(Duration::from_secs(20), rest).await.expect("the lanes rest");
}

/// Whether the transaction that stored the message leased its rows; empty if they have left the queue.
async fn handed_over(app: &TestApp, mail: &Sent) -> Vec<bool> {
    let rows = sqlx::query(
        "SELECT q.lease IS NOT NULL AND q.xmin = m.xmin FROM messages m JOIN queue q ON q.message_id = m.id
         WHERE 'msg_' || replace(m.id::text, '-', '') = $1 ORDER BY q.recipient_id",
    )
    .bind(&mail.id)
    .fetch_all(&mut app.database.connect().await)
    .await
    .unwrap();
    rows.into_iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn new_message_is_leased_at_commit_and_sent_as_if_loaded() {
    let app = at_work(|_| {}).await;
    let gate = app.smtp.dot().stalls();
    let mail = app
        .send(json!({
            "from": "Ann Å <ann@acme.test>", "to": ["Bob <bob@example.test>", "cy@example.test"], "cc": ["dan@example.test"],
            "bcc": ["eve@example.test"], "reply_to": ["desk@acme.test"], "subject": "Grüße", "text": "hello", "html": "<p>hello</p>",
            "headers": {"X-Order": "12"},
            "attachments": [{"filename": "a.txt", "content_type": "text/plain", "content": "aGVsbG8="}],
        }))
        .await;
    gate.reached().await;
    assert_eq!(handed_over(&app, &mail).await, [true; 4]);
    assert_eq!(app.status(&mail.id).await, "sending");
    gate.open();
    is(&app, &mail, "relayed").await;
    let received = app.smtp.mails().pop().unwrap();
    assert_eq!(received.to.len(), 4);
    let raw = app.get(&format!("/v1/messages/{}/raw", mail.id)).await;
    assert_eq!(received.raw, raw.octets);
    assert_eq!(app.events(&mail.id).await[0], "accepted");
}

#[tokio::test]
async fn what_is_to_wait_is_not_handed_over() {
    let app = at_work(|_| {}).await;
    let later = app.send(json!({"scheduled_at": "2026-11-24T00:00:00Z"})).await;
    assert_eq!(handed_over(&app, &later).await, [false]);

    app.sql("UPDATE streams SET paused_at = now()").await;
    let paused = app.send(json!({})).await;
    assert_eq!(handed_over(&app, &paused).await, [false]);
    assert_eq!(app.status(&paused.id).await, "queued");
    app.sql("UPDATE streams SET paused_at = NULL").await;
    is(&app, &paused, "relayed").await;

    app.patch("/v1/streams/transactional", &json!({"rate": 1000})).await;
    rested(&app).await;
    let gate = app.smtp.dot().stalls();
    let limited = app.send(json!({})).await;
    gate.reached().await;
    assert_eq!(handed_over(&app, &limited).await, [false], "a claim has to ask the limit");
    gate.open();
    is(&app, &limited, "relayed").await;
    app.post(&format!("/v1/messages/{}/cancel", later.id), &json!({})).await;
}

#[tokio::test]
async fn what_there_is_no_hand_for_waits_its_turn() {
    let app = at_work(|config| config.delivery.concurrency = 1).await;
    let gate = app.smtp.dot().stalls();
    let first = app.send(json!({})).await;
    gate.reached().await;
    let second = app.send(json!({})).await;
    let third = app.send(json!({})).await;
    assert_eq!((handed_over(&app, &second).await, handed_over(&app, &third).await), (vec![false], vec![false]));
    gate.open();
    for mail in [&first, &second, &third] {
        is(&app, mail, "relayed").await;
    }
    assert_eq!(app.smtp.mails().len(), 4, "each once");
}

/// Claims and direct handoff alternate, and may both hold the same message for a moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_between_claims_and_hand_over() {
    let app = at_work(|config| config.delivery.concurrency = 8).await;
    for _ in 0..10 {
        let burst = futures_util::future::join_all((0..60).map(|_| app.send(json!({})))).await;
        for mail in &burst {
            is(&app, mail, "relayed").await;
        }
    }
    assert_eq!(app.smtp.mails().len(), 601, "each once");
}

/// The minimum that the configuration allows: one connection for the hot path, and one for everything else.
#[tokio::test]
async fn two_connections_to_the_database_are_enough() {
    let app = at_work(|config| config.database.max_connections = 2).await;
    let attached = json!({"attachments": [{"filename": "a.txt", "content": "aGVsbG8="}]});
    let burst = futures_util::future::join_all((0..60).map(|_| app.send(attached.clone()))).await;
    for mail in &burst {
        is(&app, mail, "relayed").await;
    }
    assert_eq!(app.smtp.mails().len(), 61, "each once");
}

#[tokio::test]
async fn of_a_message_only_those_are_taken_who_get_something() {
    let app = at_work(|_| {}).await;
    app.post("/v1/suppressions", &json!({"address": "bob@example.test", "reason": "manual"})).await;
    let mail = app.send(json!({"to": ["ann@example.test", "bob@example.test"]})).await;
    app.smtp.received(2).await;
    while app.states(&mail.id).await.contains(&"sending".to_owned()) {
        tokio::task::yield_now().await;
    }
    assert_eq!(app.states(&mail.id).await, ["relayed", "suppressed"]);
    let gate = app.smtp.dot().stalls();
    let next = app.send(json!({})).await;
    gate.reached().await;
    assert_eq!(handed_over(&app, &next).await, [true], "nothing waits");
    gate.open();
    is(&app, &next, "relayed").await;
    assert_eq!(app.smtp.mails()[1].to, ["ann@example.test"]);
}

/// Messages and outcomes share transactions, but a failure of one does not affect the other.
#[tokio::test]
async fn refused_or_locked_outcomes_do_not_prevent_accepting_messages() {
    let app = at_work(|_| {}).await;
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
    // One after the other, so that no two are recorded together.
    let mut locked = Vec::new();
    for n in 2..=4 {
        locked.push(app.send(json!({"to": "locked@example.test"})).await);
        app.smtp.received(n).await;
    }
    for _ in 0..3 {
        let bad = app.send(json!({"to": "bad@example.test"})).await;
        let others = futures_util::future::join_all((0..20).map(|_| app.send(json!({})))).await;
        for mail in others.iter().chain([&bad]) {
            is(&app, mail, "relayed").await;
        }
    }
    for mail in &locked {
        assert_eq!(app.status(&mail.id).await, "sending", "or it would be sent again");
    }
    sqlx::raw_sql("SELECT pg_advisory_unlock(1)").execute(&mut lock).await.unwrap();
    for mail in &locked {
        is(&app, mail, "relayed").await;
    }
    assert_eq!(app.smtp.mails().len(), 67, "each once");
}

/// A message that Postgres refuses does not prevent outcomes from being recorded.
#[tokio::test]
async fn a_refused_message_does_not_prevent_recording_outcomes() {
    let app = at_work(|_| {}).await;
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
            let answer = app.request(Method::POST, "/v1/messages").json(&message(fields)).send().await.unwrap();
            (n.is_multiple_of(4), answer.status().as_u16(), answer.json::<Value>().await.unwrap())
        }
    };
    let answers = futures_util::future::join_all((0..40).map(send)).await;
    for (is_bad, status, body) in answers {
        assert_eq!(status, if is_bad { 500 } else { 202 }, "{body}");
        if !is_bad {
            let mail = Sent { id: body["id"].as_str().unwrap().to_owned(), body };
            is(&app, &mail, "relayed").await;
        }
    }
    assert_eq!(app.smtp.mails().len(), 31);
}
