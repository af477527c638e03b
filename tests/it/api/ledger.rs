//! The ledger: every accepted recipient is counted, and lost recipients are reported.

use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::clock::{hours, minutes};

async fn ledger(app: &TestApp, query: &str) -> Value {
    let response = app.get(&format!("/v1/ledger?{query}")).await;
    assert_eq!(response.status, 200, "{query}: {}", response.body);
    response.body
}

fn counts(ledger: &Value, names: &[&str]) -> Vec<i64> {
    names.iter().map(|name| ledger[name].as_i64().unwrap()).collect()
}

fn encoded(time: &str) -> String {
    time.replace('+', "%2B")
}

#[tokio::test]
async fn each_recipient_counts_in_one_state() {
    let app = TestApp::start().await;
    app.smtp.rcpt("bo@example.test").replies(["550 5.1.1 unknown"]);
    app.smtp.rcpt("cy@example.test").replies(["451 4.3.0 later"]);
    app.send(json!({"to": ["ann@example.test", "bo@example.test", "cy@example.test"]})).await;
    app.run_until_idle().await;
    app.send(json!({"scheduled_at": app.clock.text_in(hours(1))})).await;
    let canceled = app.send(json!({})).await;
    app.post(&format!("/v1/messages/{}/cancel", canceled.id), &json!({})).await;
    app.send(json!({})).await;

    let now = ledger(&app, "").await;
    assert_eq!(counts(&now, &["messages", "accepted", "in_flight", "difference", "stray"]), [4, 6, 3, 0, 0]);
    assert_eq!(
        counts(&now, &["relayed", "bounced", "canceled", "delivered", "expired", "uncertain"]),
        [1, 1, 1, 0, 0, 0]
    );
    assert_eq!(now["waiting"], json!({"queued": 1, "deferred": 1, "scheduled": 1, "sending": 0, "held": 0}));
    assert_eq!(now["balanced"], true);

    app.clock.advance(hours(80));
    app.run_until_idle().await;
    let later = ledger(&app, "since=2026-11-23T00:00:00Z").await;
    assert_eq!(counts(&later, &["accepted", "in_flight"]), [6, 0]);
    assert_eq!(later["balanced"], true);
}

#[tokio::test]
async fn leased_recipient_counts_as_sending() {
    let app = TestApp::start().await;
    let gate = app.smtp.dot().stalls();
    app.send(json!({})).await;
    let working = app.start_working();
    gate.reached().await;
    let now = ledger(&app, "").await;
    assert_eq!((&now["waiting"]["sending"], &now["in_flight"], &now["balanced"]), (&json!(1), &json!(1), &json!(true)));
    gate.open();
    working.await.unwrap().unwrap();
}

#[tokio::test]
async fn time_range_selects_messages_by_acceptance() {
    let app = TestApp::start().await;
    for _ in 0..3 {
        app.send(json!({})).await;
        app.clock.advance(minutes(30));
    }
    let at = |n: i64| encoded(&app.clock.text_in(minutes(n)));
    for (query, messages) in [
        (String::new(), 3),
        (format!("since={}", at(-60)), 2),
        (format!("since={}&until={}", at(-90), at(-30)), 2),
        (format!("until={}", at(-60)), 1),
        (format!("since={}", at(0)), 0),
    ] {
        let found = ledger(&app, &query).await;
        assert_eq!((&found["messages"], &found["balanced"]), (&json!(messages), &json!(true)), "{query}");
    }
    app.clock.advance(hours(24));
    assert_eq!(ledger(&app, "").await["messages"], 0, "the default range is 24 hours");
}

#[tokio::test]
async fn lost_and_stray_recipients_are_reported() {
    let app = TestApp::start().await;
    app.send(json!({"to": ["ann@example.test", "bo@example.test"]})).await;
    app.sql("CREATE TABLE saved_queue AS TABLE queue; DELETE FROM queue WHERE recipient_id = (SELECT max(recipient_id::text)::uuid FROM queue)")
        .await;
    let lost = ledger(&app, "").await;
    assert_eq!(counts(&lost, &["accepted", "in_flight", "difference", "stray"]), [2, 1, 1, 0]);
    assert_eq!(lost["balanced"], false);

    // A lost recipient and a stray queue row must not cancel each other out.
    app.sql(
        "INSERT INTO queue SELECT * FROM saved_queue ON CONFLICT DO NOTHING;
         UPDATE queue SET recipient_id = gen_random_uuid() WHERE recipient_id = (SELECT max(recipient_id::text)::uuid FROM queue)",
    )
    .await;
    let stray = ledger(&app, "").await;
    assert_eq!((&stray["difference"], &stray["stray"], &stray["balanced"]), (&json!(0), &json!(1), &json!(false)));

    app.sql("DELETE FROM queue; INSERT INTO queue SELECT * FROM saved_queue; DROP TABLE saved_queue").await;
    assert_eq!(ledger(&app, "").await["balanced"], true);
    app.run_until_idle().await;
}

#[tokio::test]
async fn message_without_recipients_is_reported() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    app.run_until_idle().await;
    app.sql("CREATE TABLE saved_recipients AS TABLE recipients; DELETE FROM recipients").await;
    let lost = ledger(&app, "").await;
    assert_eq!((counts(&lost, &["messages", "accepted", "stray"]), &lost["balanced"]), (vec![1, 0, 1], &json!(false)));
    app.sql("INSERT INTO recipients SELECT * FROM saved_recipients; DROP TABLE saved_recipients").await;
}

#[tokio::test]
async fn invalid_time_range_is_refused() {
    let app = TestApp::start().await;
    for (query, pointer) in [
        ("since=yesterday", "since"),
        ("since=2026-11-23T12:00:00Z&until=2026-11-23T12:00:00Z", "until"),
        ("until=12", "until"),
        ("from=2026-11-23T12:00:00Z", "from"),
    ] {
        let response = app.get(&format!("/v1/ledger?{query}")).await;
        assert_eq!((response.status, response.faults()[0].0), (422, pointer), "{query}");
    }
}
