//! `GET /v1/messages/{id}/explain` in every state of a message.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::{ApiResponse, message};
use crate::support::clock::{hours, minutes, seconds};

/// Returns the explanation of the only recipient of a message.
async fn explained(app: &TestApp, id: &str) -> Value {
    let response = app.get(&format!("/v1/messages/{id}/explain")).await;
    assert_eq!(response.status, 200, "{}", response.body);
    let recipients = response.body["recipients"].as_array().unwrap().clone();
    assert_eq!((recipients.len(), &response.body["status"]), (1, &recipients[0]["status"]));
    recipients.into_iter().next().unwrap()
}

fn kind(recipient: &Value) -> &str {
    recipient["blocker"]["kind"].as_str().unwrap()
}

#[tokio::test]
async fn explains_scheduled_deferred_and_relayed_recipient() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.3.2 disk full\r\n"]);
    let at = app.clock.text_in(hours(1));
    let sent = app.send(json!({"scheduled_at": at})).await;
    let ann = explained(&app, &sent.id).await;
    assert_eq!(
        (kind(&ann), &ann["ahead"]["number"], &ann["estimate"]["basis"]),
        ("scheduled", &json!(0), &json!("schedule"))
    );
    assert_eq!((&ann["lane"]["route"], &ann["lane"]["state"]), (&json!("relay"), &json!("open")));

    app.clock.advance(hours(1));
    let ann = explained(&app, &sent.id).await;
    assert_eq!((kind(&ann), &ann["status"]), ("queued", &json!("queued")));

    app.run_until_idle().await;
    let ann = explained(&app, &sent.id).await;
    let recipient = app.recipient(&sent.id).await;
    assert_eq!((kind(&ann), &ann["attempts"]), ("retry_wait", &json!(1)));
    assert_eq!(ann["blocker"]["reply"], json!({"code": 451, "enhanced": "4.3.2", "text": "disk full"}));
    assert_eq!(ann["blocker"]["next_attempt_at"], recipient["next_attempt_at"]);
    assert_eq!(ann["estimate"]["at"], recipient["next_attempt_at"]);
    assert!(ann["summary"].as_str().unwrap().contains("127.0.0.1 said “451 4.3.2 disk full”"), "{}", ann["summary"]);
    assert_eq!(ann["unblock"][0]["call"], format!("POST /v1/messages/{}/retry", sent.id));
    assert_eq!(ann["gives_up_at"], "2026-11-26T13:00:00Z", "72 hours after its scheduled_at");

    app.clock.advance(minutes(2));
    app.run_until_idle().await;
    let ann = explained(&app, &sent.id).await;
    assert_eq!((kind(&ann), &ann["status"], &ann["estimate"]), ("ended", &json!("relayed"), &json!(null)));
    assert_eq!((&ann["lane"], &ann["ahead"], &ann["unblock"]), (&json!(null), &json!(null), &json!([])));
    let summary = ann["summary"].as_str().unwrap();
    assert!(
        summary.starts_with("The relay accepted the message at 2026-11-23T13:02:00Z, after 2 attempts, without TLS"),
        "{summary}"
    );
}

#[tokio::test]
async fn explains_attempt_in_progress() {
    let app = TestApp::start().await;
    let gate = app.smtp.dot().stalls();
    let sent = app.send(json!({})).await;
    let working = app.start_working();
    gate.reached().await;
    let ann = explained(&app, &sent.id).await;
    assert_eq!((kind(&ann), &ann["ahead"], &ann["estimate"]["at"]), ("in_flight", &json!(null), &json!(null)));
    gate.open();
    working.await.unwrap().unwrap();
}

#[tokio::test]
async fn explains_pause_of_lane_and_stream() {
    let app = TestApp::start().await;
    let sent = app.send(json!({})).await;
    let lane = explained(&app, &sent.id).await["lane"]["id"].as_str().unwrap().to_owned();
    app.post(&format!("/v1/lanes/{lane}/pause"), &json!({"reason": "maintenance"})).await;
    let ann = explained(&app, &sent.id).await;
    assert_eq!((kind(&ann), &ann["estimate"]["at"]), ("lane_paused", &json!(null)));
    assert!(ann["summary"].as_str().unwrap().contains("(maintenance)"), "{}", ann["summary"]);

    app.post("/v1/streams/transactional/pause", &json!({})).await;
    let ann = explained(&app, &sent.id).await;
    assert_eq!(kind(&ann), "stream_paused");
    // The proposed call works.
    for _ in 0..2 {
        let proposed = explained(&app, &sent.id).await["unblock"][0]["call"].as_str().unwrap().to_owned();
        assert_eq!(app.post(proposed.strip_prefix("POST ").unwrap(), &json!({})).await.status, 200, "{proposed}");
    }
    assert_eq!(kind(&explained(&app, &sent.id).await), "queued");
    app.run_until_idle().await;
}

#[tokio::test]
async fn explains_unreachable_destination_and_learned_rate() {
    let app = TestApp::start().await;
    let sent = app.send(json!({})).await;
    app.sql(
        "UPDATE lanes SET blocked_since = '2026-11-23T11:00:00Z', block_failures = 3, block_reply = 'connection refused',
             open_at = '2026-11-23T12:02:00Z'",
    )
    .await;
    let ann = explained(&app, &sent.id).await;
    assert_eq!((kind(&ann), &ann["blocker"]["next_attempt_at"]), ("lane_blocked", &json!("2026-11-23T12:02:00Z")));
    assert_eq!((&ann["estimate"]["at"], &ann["estimate"]["basis"]), (&json!(null), &json!("none")));

    app.sql(
        "UPDATE lanes SET blocked_since = NULL, block_failures = 0, learned_rate = 0.5, learned_ceiling = 8,
             learned_at = '2026-11-23T11:59:00Z', learned_reply = '4.7.0 too fast'",
    )
    .await;
    let ann = explained(&app, &sent.id).await;
    assert_eq!((kind(&ann), &ann["estimate"]["at"]), ("learned_limit", &json!("2026-11-23T12:02:00Z")));
    assert_eq!(
        ann["blocker"]["rule"],
        format!("learned rate of {}: 30 messages per minute", ann["lane"]["id"].as_str().unwrap())
    );
    let reset = ann["unblock"][0]["call"].as_str().unwrap().strip_prefix("POST ").unwrap().to_owned();
    app.post(&reset, &json!({})).await;
    assert_eq!(kind(&explained(&app, &sent.id).await), "queued");
    app.run_until_idle().await;
}

#[tokio::test]
async fn explains_queue_position_and_estimates_next_attempt() {
    let app = TestApp::start().await;
    let mut last = String::new();
    for _ in 0..4 {
        app.clock.advance(minutes(1));
        last = app.send(json!({})).await.id;
    }
    let ann = explained(&app, &last).await;
    assert_eq!((kind(&ann), &ann["ahead"]), ("queued", &json!({"number": 3, "is_more": false})));
    assert_eq!(ann["estimate"]["at"], json!(null), "the lane has not sent anything yet");

    let lane = ann["lane"]["id"].as_str().unwrap();
    app.patch(&format!("/v1/lanes/{lane}"), &json!({"rate": 0.1})).await;
    let ann = explained(&app, &last).await;
    assert_eq!((kind(&ann), &ann["estimate"]["basis"]), ("rate_limited", &json!("limit")));
    assert_eq!(ann["estimate"]["at"], "2026-11-23T12:04:30Z", "three messages at 10 s each");
    app.patch(&format!("/v1/lanes/{lane}"), &json!({"rate": null})).await;

    app.run_until_idle().await;
    app.clock.advance(minutes(1));
    let bulk = app.send(json!({"stream": "bulk"})).await;
    let first = app.send(json!({})).await;
    app.clock.advance(minutes(1));
    let second = app.send(json!({})).await;
    let ann = explained(&app, &second.id).await;
    assert_eq!((kind(&ann), &ann["ahead"]["number"]), ("queued", &json!(1)), "bulk messages wait in another lane");
    assert_eq!(ann["estimate"]["basis"], "lane_rate", "{}", ann["estimate"]);
    assert_eq!(explained(&app, &first.id).await["ahead"]["number"], 0);
    app.run_until_idle().await;
    assert_eq!(app.status(&bulk.id).await, "relayed");
}

#[tokio::test]
async fn explains_missing_worker() {
    let app = TestApp::start().await;
    let sent = app.send(json!({})).await;
    app.sql("UPDATE workers SET heartbeat_at = heartbeat_at - interval '1 day'").await;
    let ann = explained(&app, &sent.id).await;
    assert_eq!((kind(&ann), &ann["estimate"]["at"]), ("no_worker", &json!(null)));
    app.sql("UPDATE workers SET heartbeat_at = clock_timestamp()").await;
}

#[tokio::test]
async fn explains_lease_of_a_dead_worker() {
    let app = TestApp::start().await;
    let gate = app.smtp.dot().stalls();
    let sent = app.send(json!({})).await;
    let working = app.start_working();
    gate.reached().await;
    app.sql("UPDATE workers SET heartbeat_at = heartbeat_at - interval '1 day'").await;
    let ann = explained(&app, &sent.id).await;
    assert_eq!((kind(&ann), &ann["status"]), ("no_worker", &json!("sending")));
    assert_eq!((&ann["estimate"]["at"], &ann["blocker"]["next_attempt_at"]), (&json!(null), &json!(null)));
    assert!(ann["summary"].as_str().unwrap().contains("no other worker is running"), "{}", ann["summary"]);

    let _other = app.another_worker().await;
    let ann = explained(&app, &sent.id).await;
    assert_eq!(kind(&ann), "worker_gone");
    assert!(
        ann["summary"].as_str().unwrap().ends_with("another worker releases its lease within 60 min."),
        "{}",
        ann["summary"]
    );

    app.sql("UPDATE workers SET heartbeat_at = clock_timestamp()").await;
    assert_eq!(kind(&explained(&app, &sent.id).await), "in_flight");
    gate.open();
    working.await.unwrap().unwrap();
}

#[tokio::test]
async fn explains_expiry_before_the_next_attempt() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.3.2 disk full"]);
    let sent = app.send(json!({"expires_at": app.clock.text_in(seconds(40))})).await;
    app.run_until_idle().await;
    let ann = explained(&app, &sent.id).await;
    assert_eq!((kind(&ann), &ann["blocker"]["until"]), ("expiring", &json!("2026-11-23T12:00:40Z")));
    assert_eq!((&ann["estimate"]["at"], &ann["blocker"]["next_attempt_at"]), (&json!(null), &json!(null)));
    assert_eq!(ann["blocker"]["rule"], "the message's expires_at");
    assert!(ann["summary"].as_str().unwrap().starts_with("It expires at 2026-11-23T12:00:40Z"), "{}", ann["summary"]);
    app.clock.advance(seconds(40));
    app.run_until_idle().await;
    assert_eq!(app.status(&sent.id).await, "expired");
}

#[tokio::test]
async fn explains_quarantine_after_a_crash() {
    let app = TestApp::start().await;
    let sent = app.send(json!({})).await;
    // The state after the message's lease was rescued, while no worker has capacity for the message.
    app.sql("UPDATE queue SET crashes = 1, due_at = '2026-11-23T12:00:03Z'").await;
    let ann = explained(&app, &sent.id).await;
    assert_eq!((kind(&ann), &ann["blocker"]["until"]), ("quarantined", &json!("2026-11-23T12:00:03Z")));
    assert_eq!(
        (&ann["status"], app.status(&sent.id).await.as_str()),
        (&json!("queued"), "queued"),
        "the quarantine is not a schedule"
    );
    assert_eq!(app.get("/v1/messages?status=scheduled").await.body["data"], json!([]));
    assert_eq!(app.get("/v1/ledger").await.body["waiting"]["queued"], 1);
    app.clock.advance(seconds(3));
    assert_eq!(kind(&explained(&app, &sent.id).await), "quarantined");
    app.run_until_idle().await;
    assert_eq!(app.status(&sent.id).await, "relayed");
}

#[tokio::test]
async fn message_counts_once_in_queue_positions() {
    let app = TestApp::start().await;
    let several = |from: usize| (from..from + 5).map(|n| format!("r{n}@example.test")).collect::<Vec<_>>();
    let first = app.send(json!({"to": several(0)})).await;
    app.clock.advance(seconds(1));
    let second = app.send(json!({"to": several(5)})).await;
    let ahead = async |id: &str| {
        let body = app.get(&format!("/v1/messages/{id}/explain")).await.body;
        let counts = body["recipients"].as_array().unwrap().iter().map(|r| r["ahead"]["number"].as_i64().unwrap());
        counts.collect::<Vec<_>>()
    };
    assert_eq!((ahead(&first.id).await, ahead(&second.id).await), (vec![0; 5], vec![1; 5]));
    let planned = app.post("/v1/messages?dry_run=true", &message(json!({}))).await.body;
    let text = planned["recipients"][0]["summary"].as_str().unwrap();
    assert!(text.contains("2 messages of its lane are before it"), "{text}");
    app.run_until_idle().await;
}

#[tokio::test]
async fn estimate_uses_the_throughput_of_the_lane() {
    let app = TestApp::start().await;
    let own = json!({"stream": "transactional", "route": "relay", "domain": "own.test", "messages_per_connection": 50});
    ApiResponse::to(app.request(Method::PUT, "/v1/lanes").json(&own)).await;
    for to in [json!("x@own.test"), json!(["a@other.test", "b@other.test"]), json!("c@other.test")] {
        app.send(json!({"to": to})).await;
    }
    app.run_until_idle().await;
    app.clock.advance(minutes(1));
    for (to, sent_count) in [("x@own.test", 1), ("x@other.test", 2)] {
        app.send(json!({"to": to})).await;
        app.clock.advance(seconds(1));
        let second = app.send(json!({"to": to})).await;
        let estimate = explained(&app, &second.id).await["estimate"].clone();
        let text = estimate["explanation"].as_str().unwrap();
        assert!(text.contains(&format!(", {sent_count} were sent messages of this lane")), "{text}");
        assert_eq!(estimate["basis"], "lane_rate");
    }
    app.run_until_idle().await;
}

#[tokio::test]
async fn explains_each_recipient_and_reports_missing_row_as_lost() {
    let app = TestApp::start().await;
    app.smtp.rcpt("bo@example.test").replies(["550 5.1.1 no such user"]);
    app.smtp.rcpt("cy@example.test").replies(["451 4.3.0 later"]);
    let sent = app.send(json!({"to": ["ann@example.test", "bo@example.test", "cy@example.test"]})).await;
    app.run_until_idle().await;
    let path = format!("/v1/messages/{}/explain", sent.id);
    let kinds = async || {
        let body = app.get(&path).await.body;
        body["recipients"].as_array().unwrap().iter().map(|r| kind(r).to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(kinds().await, ["ended", "ended", "retry_wait"]);
    let bo = app.get(&path).await.body["recipients"][1].clone();
    assert_eq!(
        bo["summary"],
        "It was refused permanently at 2026-11-23T12:00:00Z (hard/unknown_user), after 1 attempt: 127.0.0.1 said “550 5.1.1 no such \
         user”. The address has been suppressed for all streams since 2026-11-23T12:00:00Z (hard_bounce): new messages to it are not sent."
    );
    app.sql("CREATE TABLE saved_queue AS TABLE queue; DELETE FROM queue").await;
    assert_eq!(kinds().await, ["ended", "ended", "lost"]);
    app.sql("INSERT INTO queue SELECT * FROM saved_queue; DROP TABLE saved_queue").await;
    assert_eq!(app.get("/v1/messages/msg_00000000000070008000000000000000/explain").await.status, 404);
}
