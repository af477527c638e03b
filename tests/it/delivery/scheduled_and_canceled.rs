//! A scheduled message is sent at its time. Until then it can be rescheduled, and it can be canceled until it is in
//! flight.

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::clock::{hours, minutes};

#[tokio::test]
async fn scheduled_message_can_be_rescheduled() {
    let app = TestApp::start().await;
    let sent = app.send(json!({"scheduled_at": app.clock.text_in(hours(1))})).await;
    assert_eq!(sent.body["status"], "scheduled");
    app.run_until_idle().await;
    assert_eq!(app.status(&sent.id).await, "scheduled");

    let path = format!("/v1/messages/{}", sent.id);
    let moved = app.patch(&path, &json!({"scheduled_at": app.clock.text_in(hours(2))})).await;
    assert_eq!((moved.status, &moved.body["status"]), (200, &json!("scheduled")));
    app.clock.advance(minutes(90));
    app.run_until_idle().await;
    assert_eq!((app.status(&sent.id).await.as_str(), app.smtp.connections()), ("scheduled", 0));

    app.clock.advance(minutes(30));
    app.run_until_idle().await;
    assert_eq!(app.status(&sent.id).await, "relayed");
    assert_eq!(app.events(&sent.id).await, ["scheduled", "scheduled", "relayed"]);
    let late = app.patch(&path, &json!({"scheduled_at": app.clock.text_in(hours(2))})).await;
    assert_eq!(late.problem(), (409, "not_scheduled"));
}

#[tokio::test]
async fn message_rescheduled_to_the_past_is_sent_now() {
    let app = TestApp::start().await;
    let sent = app.send(json!({"scheduled_at": app.clock.text_in(hours(1))})).await;
    // The worker has checked the queue and sleeps until the message is due.
    app.run_until_idle().await;
    let path = format!("/v1/messages/{}", sent.id);
    let moved = app.patch(&path, &json!({"scheduled_at": app.clock.text_in(-hours(1))})).await;
    assert_eq!(moved.body["status"], "queued");
    app.run_until_idle().await;
    assert_eq!(app.status(&sent.id).await, "relayed");
}

#[tokio::test]
async fn rescheduling_is_validated_like_sending() {
    let app = TestApp::start().await;
    let (at, end) = (app.clock.text_in(hours(1)), app.clock.text_in(hours(3)));
    let sent = app.send(json!({"scheduled_at": at, "expires_at": end})).await;
    let path = format!("/v1/messages/{}", sent.id);
    for (body, fault) in [
        (json!({}), ("/scheduled_at", "required")),
        (json!({"scheduled_at": 5}), ("/scheduled_at", "invalid_type")),
        (json!({"scheduled_at": "noon"}), ("/scheduled_at", "invalid_timestamp")),
        (json!({"scheduled_at": end}), ("/scheduled_at", "invalid_timestamp")),
        (json!({"scheduled_at": app.clock.text_in(hours(9_000))}), ("/scheduled_at", "invalid_timestamp")),
        (json!({"scheduled_at": at, "subject": "x"}), ("/subject", "unknown_field")),
    ] {
        let response = app.patch(&path, &body).await;
        assert!(response.status == 422 && response.faults().contains(&fault), "{body}: {response:?}");
    }
}

#[tokio::test]
async fn queued_message_can_be_canceled() {
    let app = TestApp::start().await;
    let sent = app.send(json!({"to": ["ann@example.test", "bo@example.test"]})).await;
    let cancel = format!("/v1/messages/{}/cancel", sent.id);
    let response = app.post(&cancel, &json!({})).await;
    assert_eq!((response.status, &response.body["too_late"]), (200, &json!([])));
    assert_eq!(response.body["canceled"], json!(["ann@example.test", "bo@example.test"]));
    assert_eq!(response.body["message"]["status"], "canceled");

    app.run_until_idle().await;
    assert_eq!((app.status(&sent.id).await.as_str(), app.smtp.connections()), ("canceled", 0));
    assert_eq!(app.events(&sent.id).await, ["accepted", "canceled", "canceled"]);
    let again = app.post(&cancel, &json!({})).await.body;
    assert_eq!((&again["canceled"], &again["too_late"]), (&json!([]), &json!([])));
}

#[tokio::test]
async fn message_in_flight_cannot_be_canceled() {
    let app = TestApp::start().await;
    let gate = app.smtp.dot().stalls();
    let sent = app.send(json!({})).await;
    let working = app.start_working();
    gate.reached().await;
    assert_eq!(app.status(&sent.id).await, "sending");
    let response = app.post(&format!("/v1/messages/{}/cancel", sent.id), &json!({})).await;
    assert_eq!((&response.body["canceled"], &response.body["too_late"]), (&json!([]), &json!(["ann@example.test"])));

    gate.open();
    working.await.unwrap().unwrap();
    assert_eq!(app.status(&sent.id).await, "relayed");
}

#[tokio::test]
async fn deferred_recipient_can_be_canceled() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.3.2 later"]);
    let sent = app.send(json!({"to": ["ann@example.test", "bo@example.test"]})).await;
    app.run_until_idle().await;
    let response = app.post(&format!("/v1/messages/{}/cancel", sent.id), &json!({})).await.body;
    assert_eq!(
        (&response["canceled"], &response["too_late"]),
        (&json!(["ann@example.test"]), &json!(["bo@example.test"]))
    );
    assert_eq!(app.status(&sent.id).await, "partial");
}
