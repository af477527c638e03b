//! A scheduled message waits for its time, can be rescheduled while it waits, and canceled until it is in flight.

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::clock::{hours, minutes};

#[tokio::test]
async fn a_scheduled_message_waits_and_can_be_moved() {
    let app = TestApp::start().await;
    let mail = app.send(json!({"scheduled_at": app.clock.text_in(hours(1))})).await;
    assert_eq!(mail.body["status"], "scheduled");
    app.run_until_idle().await;
    assert_eq!(app.status(&mail.id).await, "scheduled");

    let path = format!("/v1/messages/{}", mail.id);
    let moved = app.patch(&path, &json!({"scheduled_at": app.clock.text_in(hours(2))})).await;
    assert_eq!((moved.status, &moved.body["status"]), (200, &json!("scheduled")));
    app.clock.advance(minutes(90));
    app.run_until_idle().await;
    assert_eq!((app.status(&mail.id).await.as_str(), app.smtp.connections()), ("scheduled", 0));

    app.clock.advance(minutes(30));
    app.run_until_idle().await;
    assert_eq!(app.status(&mail.id).await, "relayed");
    assert_eq!(app.events(&mail.id).await, ["scheduled", "scheduled", "relayed"]);
    let late = app.patch(&path, &json!({"scheduled_at": app.clock.text_in(hours(2))})).await;
    assert_eq!(late.problem(), (409, "not_scheduled"));
}

#[tokio::test]
async fn moved_to_the_past_it_goes_now() {
    let app = TestApp::start().await;
    let mail = app.send(json!({"scheduled_at": app.clock.text_in(hours(1))})).await;
    // The worker has checked the queue, and sleeps until then.
    app.run_until_idle().await;
    let path = format!("/v1/messages/{}", mail.id);
    let moved = app.patch(&path, &json!({"scheduled_at": app.clock.text_in(-hours(1))})).await;
    assert_eq!(moved.body["status"], "queued");
    app.run_until_idle().await;
    assert_eq!(app.status(&mail.id).await, "relayed");
}

#[tokio::test]
async fn moving_is_checked_like_sending() {
    let app = TestApp::start().await;
    let (at, end) = (app.clock.text_in(hours(1)), app.clock.text_in(hours(3)));
    let mail = app.send(json!({"scheduled_at": at, "expires_at": end})).await;
    let path = format!("/v1/messages/{}", mail.id);
    for (body, fault) in [
        (json!({}), ("/scheduled_at", "required")),
        (json!({"scheduled_at": 5}), ("/scheduled_at", "invalid_type")),
        (json!({"scheduled_at": "noon"}), ("/scheduled_at", "invalid_timestamp")),
        (json!({"scheduled_at": end}), ("/scheduled_at", "invalid_timestamp")),
        (json!({"scheduled_at": app.clock.text_in(hours(9_000))}), ("/scheduled_at", "invalid_timestamp")),
        (json!({"scheduled_at": at, "subject": "x"}), ("/subject", "unknown_field")),
    ] {
        let answer = app.patch(&path, &body).await;
        assert!(answer.status == 422 && answer.faults().contains(&fault), "{body}: {answer:?}");
    }
}

#[tokio::test]
async fn what_waits_can_be_called_back() {
    let app = TestApp::start().await;
    let mail = app.send(json!({"to": ["ann@example.test", "bo@example.test"]})).await;
    let cancel = format!("/v1/messages/{}/cancel", mail.id);
    let answer = app.post(&cancel, &json!({})).await;
    assert_eq!((answer.status, &answer.body["too_late"]), (200, &json!([])));
    assert_eq!(answer.body["canceled"], json!(["ann@example.test", "bo@example.test"]));
    assert_eq!(answer.body["message"]["status"], "canceled");

    app.run_until_idle().await;
    assert_eq!((app.status(&mail.id).await.as_str(), app.smtp.connections()), ("canceled", 0));
    assert_eq!(app.events(&mail.id).await, ["accepted", "canceled", "canceled"]);
    let again = app.post(&cancel, &json!({})).await.body;
    assert_eq!((&again["canceled"], &again["too_late"]), (&json!([]), &json!([])));
}

#[tokio::test]
async fn what_is_in_flight_cannot() {
    let app = TestApp::start().await;
    let gate = app.smtp.dot().stalls();
    let mail = app.send(json!({})).await;
    let working = app.start_working();
    gate.reached().await;
    assert_eq!(app.status(&mail.id).await, "sending");
    let answer = app.post(&format!("/v1/messages/{}/cancel", mail.id), &json!({})).await;
    assert_eq!((&answer.body["canceled"], &answer.body["too_late"]), (&json!([]), &json!(["ann@example.test"])));

    gate.open();
    working.await.unwrap().unwrap();
    assert_eq!(app.status(&mail.id).await, "relayed");
}

#[tokio::test]
async fn what_was_told_to_wait_can_be_called_back_too() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.3.2 later"]);
    let mail = app.send(json!({"to": ["ann@example.test", "bo@example.test"]})).await;
    app.run_until_idle().await;
    let answer = app.post(&format!("/v1/messages/{}/cancel", mail.id), &json!({})).await.body;
    assert_eq!((&answer["canceled"], &answer["too_late"]), (&json!(["ann@example.test"]), &json!(["bo@example.test"])));
    assert_eq!(app.status(&mail.id).await, "partial");
}
