//! Bulks are paused, resumed, canceled and scheduled.

use chrono::TimeDelta;
use serde_json::json;

use super::{bulk, counts, messages, read, recipients, send};
use crate::support::app::TestApp;

#[tokio::test]
async fn paused_bulk_sends_nothing_until_it_is_resumed() {
    let app = TestApp::start().await;
    let id = send(&app, &bulk(&recipients(3), json!({}))).await;
    let paused = app.post(&format!("/v1/bulks/{id}/pause"), &json!({})).await;
    assert_eq!((paused.status, &paused.body["status"]), (200, &json!("paused")), "{}", paused.body);
    app.clock.advance(TimeDelta::hours(100));
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 0);
    let message = messages(&app, &id).await.remove(0);
    let explained = app.get(&format!("/v1/messages/{}/explain", message["id"].as_str().unwrap())).await.body;
    let summary = explained["recipients"][0]["summary"].as_str().unwrap();
    assert!(summary.contains(&format!("/v1/bulks/{id}/resume")), "{summary}");
    // Pausing again changes nothing.
    assert_eq!(app.post(&format!("/v1/bulks/{id}/pause"), &json!({})).await.body["status"], "paused");

    let resumed = app.post(&format!("/v1/bulks/{id}/resume"), &json!({})).await;
    assert_eq!((resumed.status, &resumed.body["status"]), (200, &json!("sending")), "{}", resumed.body);
    app.run_until_idle().await;
    // The pause, longer than the retry window, expires nothing.
    assert_eq!((app.smtp.messages().len(), counts(&read(&app, &id).await)), (3, json!({"relayed": 3})));
}

#[tokio::test]
async fn message_deferred_after_a_pause_is_held() {
    let app = TestApp::start().await;
    app.smtp.rcpt("u0@example.test").replies(["451 4.7.1 later"]);
    let id = send(&app, &bulk(&recipients(1), json!({}))).await;
    let gate = app.smtp.mail().stalls();
    let working = app.start_working();
    gate.reached().await;
    assert_eq!(app.post(&format!("/v1/bulks/{id}/pause"), &json!({})).await.body["status"], "paused");
    gate.open();
    working.await.unwrap().unwrap();
    assert_eq!(counts(&read(&app, &id).await), json!({"deferred": 1}));
    app.clock.advance(TimeDelta::hours(1));
    crate::support::until::until("the message is not held", super::LIMIT, async || {
        let held = app.get("/v1/messages?held=true").await.body["data"].as_array().unwrap().len();
        if held == 1 { Ok(()) } else { Err(held) }
    })
    .await;
    assert_eq!(app.post(&format!("/v1/bulks/{id}/resume"), &json!({})).await.status, 200);
    app.run_until_idle().await;
    assert_eq!(counts(&read(&app, &id).await), json!({"relayed": 1}));
}

#[tokio::test]
async fn canceled_bulk_sends_nothing_more() {
    let app = TestApp::start().await;
    let id = send(&app, &bulk(&recipients(600), json!({}))).await;
    let canceled = app.post(&format!("/v1/bulks/{id}/cancel"), &json!({})).await;
    assert_eq!((canceled.status, &canceled.body["status"]), (200, &json!("canceled")), "{}", canceled.body);
    assert_eq!(counts(&canceled.body), json!({"canceled": 600}));
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 0);
    let first = messages(&app, &id).await.remove(0);
    assert_eq!(app.events(first["id"].as_str().unwrap()).await, ["accepted", "canceled"]);
    for action in ["pause", "resume"] {
        let refused = app.post(&format!("/v1/bulks/{id}/{action}"), &json!({})).await;
        assert_eq!((refused.status, &refused.body["code"]), (409, &json!("bulk_canceled")));
    }
    assert_eq!(app.post(&format!("/v1/bulks/{id}/cancel"), &json!({})).await.status, 200);
}

/// Creates a bulk that another process has leased, so that its recipients do not become messages.
async fn unexpanded(app: &TestApp, count: usize) -> String {
    app.sql(
        "CREATE FUNCTION lease_new() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN NEW.leased_until := 'infinity'; RETURN NEW; END $$;
         CREATE TRIGGER lease_new BEFORE INSERT ON bulks FOR EACH ROW EXECUTE FUNCTION lease_new()",
    )
    .await;
    let id = super::accepted(&app.post(super::PATH, &bulk(&recipients(count), json!({}))).await);
    assert_eq!(counts(&read(app, &id).await), json!({"queued": count}));
    id
}

/// Ends the lease that [`unexpanded`] created.
async fn release(app: &TestApp) {
    app.sql("UPDATE bulks SET leased_until = '-infinity'").await;
}

#[tokio::test]
async fn bulk_paused_before_it_became_messages_does_not_expire() {
    let app = TestApp::start().await;
    let id = unexpanded(&app, 3).await;
    assert_eq!(app.post(&format!("/v1/bulks/{id}/pause"), &json!({})).await.body["status"], "paused");
    release(&app).await;
    app.clock.advance(TimeDelta::hours(100));
    assert_eq!(app.post(&format!("/v1/bulks/{id}/resume"), &json!({})).await.body["status"], "sending");
    super::expanded(&app.database).await;
    app.run_until_idle().await;
    assert_eq!(counts(&read(&app, &id).await), json!({"relayed": 3}));
    let first = messages(&app, &id).await.remove(0);
    assert_eq!(
        first["created_at"],
        read(&app, &id).await["status_changed_at"],
        "it has the time at which it was created"
    );
}

#[tokio::test]
async fn canceled_recipients_without_messages_get_events() {
    let app = TestApp::start().await;
    let id = unexpanded(&app, 450).await;
    let canceled = app.post(&format!("/v1/bulks/{id}/cancel"), &json!({})).await.body;
    assert_eq!((&canceled["status"], counts(&canceled)), (&json!("canceled"), json!({"canceled": 450})));
    release(&app).await;
    super::expanded(&app.database).await;
    crate::support::until::until("messages are not canceled", super::LIMIT, async || {
        let waiting = app.get(&format!("/v1/messages?bulk={id}&status=scheduled")).await.body["data"].clone();
        if waiting == json!([]) { Ok(()) } else { Err(waiting) }
    })
    .await;
    app.clock.advance(TimeDelta::days(365));
    app.run_until_idle().await;
    assert_eq!((app.smtp.messages().len(), counts(&read(&app, &id).await)), (0, json!({"canceled": 450})));
    let first = messages(&app, &id).await.remove(0);
    assert_eq!(app.events(first["id"].as_str().unwrap()).await, ["accepted", "canceled"]);
}

#[tokio::test]
async fn resume_that_failed_midway_is_finished_by_the_service() {
    let app = TestApp::start().await;
    let id = send(&app, &bulk(&recipients(3), json!({}))).await;
    app.post(&format!("/v1/bulks/{id}/pause"), &json!({})).await;
    app.clock.advance(TimeDelta::hours(100));
    // The state was changed, and the process died before it released the messages.
    app.sql("UPDATE bulks SET state = 'active', settled_at = NULL, resumed_from = state_changed_at, state_changed_at = state_changed_at + interval '100 hours'").await;
    crate::support::until::until("messages are held", super::LIMIT, async || {
        let held = app.get("/v1/messages?held=true").await.body["data"].as_array().unwrap().len();
        if held == 0 { Ok(()) } else { Err(held) }
    })
    .await;
    app.run_until_idle().await;
    assert_eq!(counts(&read(&app, &id).await), json!({"relayed": 3}));
}

#[tokio::test]
async fn scheduled_bulk_waits_for_its_time() {
    let app = TestApp::start().await;
    let at = app.clock.text_in(TimeDelta::days(2));
    let id = send(&app, &bulk(&recipients(2), json!({"scheduled_at": at}))).await;
    app.run_until_idle().await;
    let waiting = read(&app, &id).await;
    assert_eq!((&waiting["status"], counts(&waiting)), (&json!("scheduled"), json!({"scheduled": 2})));
    assert_eq!(app.post(&format!("/v1/bulks/{id}/pause"), &json!({})).await.body["status"], "paused");
    assert_eq!(app.post(&format!("/v1/bulks/{id}/resume"), &json!({})).await.body["status"], "scheduled");
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 0);
    app.clock.advance(TimeDelta::days(2));
    app.run_until_idle().await;
    assert_eq!(counts(&read(&app, &id).await), json!({"relayed": 2}));
}
