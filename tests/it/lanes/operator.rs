//! The API calls of an operator when messages are stuck: pauses, unreachable lanes, lists and retries.

use postrider::clock::{Clock as _, SystemClock};
use serde_json::json;

use crate::support::app::TestApp;
use crate::support::client::Api;
use crate::support::clock::{hours, minutes};
use crate::support::postgres::Database;
use crate::support::process::{self, Service, serve};
use crate::support::smtp::SmtpServer;

/// Returns the lane of a message's only recipient, and the recipient's explanation.
async fn explained(app: &TestApp, id: &str) -> (String, serde_json::Value) {
    let recipient = app.get(&format!("/v1/messages/{id}/explain")).await.body["recipients"][0].clone();
    (recipient["lane"]["id"].as_str().unwrap_or_default().to_owned(), recipient)
}

#[tokio::test]
async fn paused_stream_keeps_its_messages_for_weeks() {
    let app = TestApp::start().await;
    let message = app.send(json!({})).await;
    app.clock.advance(hours(1));
    app.post("/v1/streams/transactional/pause", &json!({})).await;
    let hard = app.send(json!({"expires_at": app.clock.text_in(hours(2))})).await;
    app.clock.advance(hours(24 * 14));
    app.run_until_idle().await;
    assert_eq!(app.status(&hard.id).await, "expired", "`expires_at` applies during a pause");
    assert_eq!(app.status(&message.id).await, "queued");
    let (_, explanation) = explained(&app, &message.id).await;
    assert!(
        explanation["summary"].as_str().unwrap().contains("retry window is suspended during the pause; 3 days"),
        "{explanation}"
    );

    app.smtp.rcpt("ann@example.test").replies(["451 4.3.2 disk full\r\n"]);
    app.post("/v1/streams/transactional/resume", &json!({})).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&message.id).await, "deferred", "its retry window continues where it was suspended");
    app.clock.advance(hours(72));
    app.run_until_idle().await;
    assert_eq!(app.status(&message.id).await, "expired");
}

#[tokio::test]
async fn paused_lane_keeps_its_messages_beyond_the_retry_window() {
    let app = TestApp::start().await;
    let message = app.send(json!({})).await;
    let (lane, _) = explained(&app, &message.id).await;
    app.post(&format!("/v1/lanes/{lane}/pause"), &json!({})).await;
    app.clock.advance(hours(24 * 5));
    app.run_until_idle().await;
    app.post(&format!("/v1/lanes/{lane}/resume"), &json!({})).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&message.id).await, "relayed");
}

#[tokio::test]
async fn lane_retry_makes_waiting_recipients_due() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.3.2 disk full\r\n", "451 4.3.2 disk full\r\n"]);
    let first = app.send(json!({})).await;
    let second = app.send(json!({})).await;
    let scheduled = app.send(json!({"scheduled_at": app.clock.text_in(hours(1))})).await;
    app.run_until_idle().await;
    let (lane, _) = explained(&app, &first.id).await;
    let listed = app.get(&format!("/v1/messages?lane={lane}")).await.body["data"].as_array().unwrap().len();
    assert_eq!(listed, 3);
    let other_domain = app.post(&format!("/v1/lanes/{lane}/retry?domain=other.test"), &json!({})).await;
    assert_eq!(other_domain.body, json!({"retried": 0, "has_more": false}));
    let done = app.post(&format!("/v1/lanes/{lane}/retry?domain=example.test"), &json!({})).await;
    assert_eq!(done.body, json!({"retried": 2, "has_more": false}));
    app.run_until_idle().await;
    for (id, status) in [(&first.id, "relayed"), (&second.id, "relayed"), (&scheduled.id, "scheduled")] {
        assert_eq!(app.status(id).await, status);
    }
    assert_eq!(app.post("/v1/lanes/lane_999/retry", &json!({})).await.status, 404);
}

#[tokio::test]
async fn held_recipients_and_domains_can_be_listed() {
    let app = TestApp::start().await;
    let message = app.send(json!({})).await;
    app.send(json!({"to": "bo@other.test"})).await;
    let found = async |query: &str| {
        let page = app.get(&format!("/v1/messages?{query}")).await.body;
        page["data"].as_array().unwrap_or(&Vec::new()).len()
    };
    assert_eq!((found("held=true").await, found("to_domain=OTHER.test").await), (0, 1));
    app.sql(
        "UPDATE queue SET held = 'held: a test', due_at = 'infinity' WHERE recipient_id IN
             (SELECT id FROM recipients WHERE address = 'ann@example.test')",
    )
    .await;
    let (lane, _) = explained(&app, &message.id).await;
    assert_eq!((found("held=true").await, found(&format!("held=true&lane={lane}")).await), (1, 1));
    assert_eq!((found("held=false").await, found(&format!("held=false&lane={lane}")).await), (1, 1));
    assert_eq!(app.get("/v1/messages?held=maybe").await.faults(), [("held", "invalid_value")]);
    assert_eq!(app.post(&format!("/v1/messages/{}/retry", message.id), &json!({})).await.status, 200);
    app.run_until_idle().await;
}

#[tokio::test]
async fn refused_login_is_shown_in_lane_and_explain() {
    let app = TestApp::start().await;
    app.smtp.greeting().replies(["535 5.7.8 wrong password\r\n"]);
    let message = app.send(json!({})).await;
    app.run_until_idle().await;
    let (lane, explanation) = explained(&app, &message.id).await;
    let summary = explanation["summary"].as_str().unwrap();
    assert!(summary.contains("rejects the login") && summary.contains("wrong password"), "{summary}");
    let lane = app.get(&format!("/v1/lanes/{lane}")).await.body;
    assert_eq!(lane["blocked"]["cause"], "auth", "{lane}");
    assert!(lane["reason"].as_str().unwrap().contains("535 5.7.8 wrong password"), "{lane}");
    app.clock.advance(minutes(2));
    app.run_until_idle().await;
    assert_eq!(app.status(&message.id).await, "relayed");
}

#[tokio::test]
async fn bounce_is_shown_with_its_suppression() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["550 5.1.1 user unknown\r\n"]);
    let message = app.send(json!({})).await;
    app.run_until_idle().await;
    let bounce = json!({"type": "hard", "category": "unknown_user", "source": "smtp"});
    assert_eq!(app.recipient(&message.id).await["bounce"], bounce);
    let (_, explanation) = explained(&app, &message.id).await;
    assert_eq!(explanation["bounce"], bounce);
    let summary = explanation["summary"].as_str().unwrap();
    assert!(
        summary.contains("(hard/unknown_user)") && summary.contains("suppressed for all streams since"),
        "{summary}"
    );
    assert!(
        explanation["unblock"][0]["call"].as_str().unwrap().starts_with("DELETE /v1/suppressions"),
        "{explanation}"
    );
}

#[tokio::test]
async fn attachments_and_event_details_are_shown() {
    let app = TestApp::start().await;
    let file = json!({"filename": "a.txt", "content": "aGVsbG8=", "content_type": "text/plain"});
    let message = app.send(json!({"attachments": [file], "subject": "Your invoice"})).await;
    app.run_until_idle().await;
    let shown = app.get(&format!("/v1/messages/{}", message.id)).await.body["attachments"][0].clone();
    assert_eq!((&shown["filename"], &shown["size"]), (&json!("a.txt"), &json!(5)));
    assert_eq!(shown["sha256"].as_str().unwrap().len(), 64);
    for path in [format!("/v1/messages/{}/events", message.id), format!("/v1/events?message_id={}", message.id)] {
        let events = app.get(&path).await.body["data"].clone();
        let (accepted, relayed) = (&events[0]["data"], &events[1]["data"]);
        assert_eq!((&accepted["subject"], &accepted["stream"]), (&json!("Your invoice"), &json!("transactional")));
        assert_eq!(accepted["recipients"][0]["address"], "ann@example.test");
        assert_eq!(accepted["recipients"][0]["id"], relayed["recipient_id"]);
        assert!(relayed["from"]["email"].is_string() && relayed["recipients"].is_null(), "{relayed}");
    }
}

/// Runs a worker without `public_url`, which the stream's links need.
async fn drain_without_public_url(app: &TestApp) {
    let mut config = app.config.clone();
    config.public_url = None;
    app.worker_with(&config).await.drain().await.unwrap();
    assert!(app.smtp.messages().is_empty());
}

#[tokio::test]
async fn messages_are_sent_once_public_url_is_set() {
    let app = TestApp::builder()
        .config(|config| {
            config.public_url = Some("https://mail.acme.test/".parse().unwrap());
            config.secret_key = Some("0123456789abcdef0123456789abcdef".to_owned().into());
        })
        .start()
        .await;
    app.post("/v1/streams", &json!({"name": "news", "unsubscribe": true})).await;
    let first = app.send(json!({"stream": "news"})).await;
    let second = app.send(json!({"stream": "news"})).await;
    drain_without_public_url(&app).await;
    let (lane, explanation) = explained(&app, &first.id).await;
    assert!(explanation["summary"].as_str().unwrap().contains("public_url"), "{explanation}");
    let retried = app.post(&format!("/v1/messages/{}/retry", first.id), &json!({})).await;
    assert_eq!(retried.status, 200, "{}", retried.body);
    app.run_until_idle().await;
    assert_eq!(app.status(&first.id).await, "relayed");
    assert_ne!(app.status(&second.id).await, "relayed");
    let reset = app.post(&format!("/v1/lanes/{lane}/reset"), &json!({})).await;
    assert_eq!(reset.status, 200, "{}", reset.body);
    app.run_until_idle().await;
    assert_eq!(app.status(&second.id).await, "relayed");
}

#[tokio::test]
async fn lane_with_several_batches_is_retried_as_a_whole() {
    let app = TestApp::start().await;
    for message in 0..45 {
        let to: Vec<String> = (0..50).map(|n| format!("r{message}-{n}@example.test")).collect();
        app.send(json!({"to": to})).await;
    }
    // Many messages are due at the same time.
    app.sql("UPDATE queue SET due_at = due_at + interval '1 hour' * (1 + abs(hashtext(recipient_id::text) % 3))").await;
    let lanes = app.get("/v1/lanes").await.body;
    let lane = lanes["data"][0]["id"].as_str().unwrap();
    let done = app.post(&format!("/v1/lanes/{lane}/retry"), &json!({})).await;
    assert_eq!(done.body, json!({"retried": 2_250, "has_more": false}));
    app.run_until_idle().await;
    assert_eq!(app.get("/v1/messages?status=relayed&limit=100").await.body["data"].as_array().unwrap().len(), 45);
}

#[tokio::test]
async fn pause_that_would_expire_messages_is_logged() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let created = process::run(process::on(
        &database.url,
        &["keys", "create", "--name", "ops", "--scope", "admin", "--scope", "send"],
    ))
    .await;
    let key = String::from_utf8(created.stdout).unwrap().trim().to_owned();
    let first = Service::start(serve(&database.url, smtp.address(), &[])).await;
    let api = Api::new(first.address.as_deref().unwrap(), key);
    let paused = api.post("/v1/streams/transactional/pause", &json!({})).await;
    assert_eq!(paused.status, 200, "{paused:?}");
    let soon = (SystemClock.now() + minutes(30)).to_rfc3339();
    api.send(json!({"to": ["ann@example.test", "bo@example.test"], "expires_at": soon})).await;
    // A worker looks for expiring messages when it starts.
    let mut second = Service::start(serve(&database.url, smtp.address(), &[])).await;
    let warned = second.logged_event("pause_expires_messages").await;
    assert_eq!((&warned["stream"], &warned["recipients"]), (&json!("transactional"), &json!(2)), "{warned}");
    assert!(warned["level"] == "WARN" && warned["lane"].as_str().unwrap().starts_with("lane_"), "{warned}");
}
