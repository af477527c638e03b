//! What has not ended is never deleted.

use std::time::Duration;

use postrider::domain::records::retention::Period;
use serde_json::{Value, json};

use super::{advance, delete_old_data, number, reasons};
use crate::support::app::{TestApp, TestAppBuilder};
use crate::support::clock::{hours, seconds};
use crate::support::reports::{dsn, failed};
use crate::support::until::until;

/// Number of tables of the first week.
const FIRST_WEEK: &str = "SELECT count(*) FROM pg_class WHERE relname IN ('contents_20261123', 'messages_20261123')";

fn days(count: u64) -> Period {
    Period(Some(Duration::from_hours(24 * count)))
}

/// Keeps content for 20 days and messages for 30.
fn short() -> TestAppBuilder {
    TestApp::builder().config(|config| {
        (config.retention.content, config.retention.messages) = (days(20), days(30));
    })
}

/// Sends a message that ends and one with these fields, which `prepare` keeps from ending. Checks that the content of the first is deleted,
/// and that the other one keeps its week. Returns the id of the other one.
async fn kept(app: &TestApp, fields: Value, prepare: impl AsyncFnOnce(&str), reason: &str) -> String {
    let ended = app.send(json!({"to": "ended@example.test"})).await.id;
    app.run_until_idle().await;
    let id = app.send(fields).await.id;
    prepare(&id).await;
    app.worker.count_events().await.unwrap();
    advance(app, 60).await;
    assert_eq!(delete_old_data(app).await.contents, 1, "that of the message that has ended");
    assert_eq!(number(app, FIRST_WEEK).await, 2, "the week of both messages is kept");
    for class in ["content", "messages"] {
        let reasons = reasons(app, class).await;
        assert!(reasons.contains(reason), "{class}: {reasons}");
    }
    assert_eq!(app.get(&format!("/v1/messages/{ended}/raw")).await.problem(), (410, "content_deleted"));
    assert_eq!(app.message(&ended).await["status"], "relayed");
    assert_eq!(app.get(&format!("/v1/messages/{id}/raw")).await.status, 200);
    id
}

#[tokio::test]
async fn scheduled_message_is_kept_and_sent() {
    let app = short().start().await;
    let later = app.clock.text_in(hours(90 * 24));
    let fields = json!({"to": "later@example.test", "scheduled_at": later, "text": "as promised"});
    let id = kept(&app, fields, async |_| {}, "1 recipient is scheduled.").await;
    advance(&app, 31).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&id).await, "relayed");
    let received = app.smtp.received(2).await;
    assert!(String::from_utf8_lossy(&received.last().unwrap().raw).contains("as promised"));
    app.worker.count_events().await.unwrap();
    delete_old_data(&app).await;
    assert_eq!(number(&app, FIRST_WEEK).await, 0, "the week is dropped once all messages have ended");
    assert_eq!(app.get(&format!("/v1/messages/{id}")).await.status, 404);
}

#[tokio::test]
async fn queued_message_is_kept() {
    let app = short().start().await;
    kept(&app, json!({}), async |_| {}, "1 recipient is to be sent to.").await;
}

#[tokio::test]
async fn deferred_message_is_kept() {
    let app = short().start().await;
    app.smtp.rcpt("later@example.test").replies(["451 4.7.1 later"]);
    let fields = json!({"to": "later@example.test"});
    kept(&app, fields, async |_| app.run_until_idle().await, "1 recipient is to be sent to.").await;
}

#[tokio::test]
async fn held_message_is_kept() {
    let app = short().start().await;
    let hold = async |_: &str| app.sql("UPDATE queue SET held = 'it crashed', due_at = 'infinity'").await;
    kept(&app, json!({}), hold, "1 recipient is held.").await;
}

#[tokio::test]
async fn uncertain_message_is_kept_until_it_is_decided() {
    let app = short().start().await;
    let fields = json!({"to": "drop-after-dot@simulator.postrider.test", "on_uncertain": "hold"});
    let id = kept(
        &app,
        fields,
        async |id| {
            app.run_until_idle().await;
            assert_eq!(app.status(id).await, "uncertain");
        },
        "1 recipient is uncertain with `on_uncertain: hold`.",
    )
    .await;
    assert_eq!(app.post(&format!("/v1/messages/{id}/retry"), &json!({})).await.status, 200);
    app.post(&format!("/v1/messages/{id}/cancel"), &json!({})).await;
    app.worker.count_events().await.unwrap();
    delete_old_data(&app).await;
    assert_eq!(number(&app, FIRST_WEEK).await, 0);
}

#[tokio::test]
async fn content_of_an_unfinished_bulk_is_kept() {
    let app = short().start().await;
    let bulk = json!({"from": "a@acme.test", "subject": "", "text": "Hi", "scheduled_at": app.clock.text_in(hours(90 * 24)),
                      "recipients": [{"to": "bo@example.test"}]});
    let id = app.post("/v1/messages/bulk", &bulk).await.body["id"].as_str().unwrap().to_owned();
    until("the bulk is a message", Duration::from_secs(20), async || {
        match number(&app, "SELECT count(*) FROM bulk_recipients").await {
            0 => Ok(()),
            waiting => Err(waiting),
        }
    })
    .await;
    advance(&app, 60).await;
    delete_old_data(&app).await;
    assert!(reasons(&app, "content").await.contains("1 bulk is not finished."));
    let sent = app.get(&format!("/v1/messages?bulk={id}")).await.body["data"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(app.get(&format!("/v1/messages/{sent}/raw")).await.status, 200);
    assert!(app.post(&format!("/v1/bulks/{id}/cancel"), &json!({})).await.status < 300);
    until("the bulk is settled", Duration::from_secs(20), async || {
        // The end of a bulk that was being expanded is noticed a moment later, by this clock.
        app.clock.advance(seconds(1));
        match number(&app, "SELECT count(*) FROM queue").await
            + number(&app, "SELECT count(*) FROM bulks WHERE settled_at IS NULL").await
        {
            0 => Ok(()),
            left => Err(left),
        }
    })
    .await;
    app.worker.count_events().await.unwrap();
    delete_old_data(&app).await;
    assert_eq!(number(&app, FIRST_WEEK).await, 0);
}

#[tokio::test]
async fn running_action_delays_deletion() {
    let app = short().start().await;
    app.send(json!({})).await;
    app.run_until_idle().await;
    app.sql(
        "INSERT INTO message_actions (id, tenant_id, created_at, key_id, action, filter, last_message, last_recipient, queue_size,
                                      leased_until)
         SELECT gen_random_uuid(), id, '2027-01-22T11:00:00Z', id, 'retry', '{}', id, id, 0, 'infinity' FROM tenants WHERE name = 'default'",
    )
    .await;
    advance(&app, 60).await;
    assert_eq!(delete_old_data(&app).await.weeks[..2], [0, 0]);
    app.sql("UPDATE message_actions SET status = 'done', finished_at = now()").await;
    assert!(delete_old_data(&app).await.weeks[..2].iter().all(|weeks| *weeks > 0));
}

#[tokio::test]
async fn events_wait_for_webhook_endpoints() {
    let app = TestApp::builder().config(|config| config.webhooks.allow_private = true).start().await;
    let endpoint = app.post("/v1/webhooks", &json!({"url": "http://127.0.0.1:9/"})).await;
    let path = format!("/v1/webhooks/{}", endpoint.body["id"].as_str().unwrap());
    app.send(json!({})).await;
    app.run_until_idle().await;
    app.worker.count_events().await.unwrap();
    advance(&app, 100).await;
    assert_eq!(delete_old_data(&app).await.weeks[2], 0);
    assert!(reasons(&app, "events").await.contains("1 webhook endpoint is behind the events of the week."));
    assert_eq!(app.patch(&path, &json!({"disabled": true})).await.status, 200);
    app.worker.count_events().await.unwrap();
    assert!(delete_old_data(&app).await.weeks[2] > 0, "a disabled endpoint does not keep events");
}

#[tokio::test]
async fn events_wait_for_the_statistics() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    app.run_until_idle().await;
    advance(&app, 100).await;
    assert_eq!(delete_old_data(&app).await.weeks[2], 0);
    assert!(reasons(&app, "events").await.contains("The statistics do not include the events of the week yet."));
    app.worker.count_events().await.unwrap();
    assert!(delete_old_data(&app).await.weeks[2] > 0);
}

#[tokio::test]
async fn messages_wait_for_their_bounces() {
    let app = TestApp::builder()
        .with_inbound()
        .config(|config| (config.retention.content, config.retention.messages) = (days(20), days(30)))
        .start()
        .await;
    let id = app.send(json!({})).await.id;
    app.run_until_idle().await;
    let return_path = app.smtp.received(1).await[0].from.clone();
    advance(&app, 45).await;
    let deleted = delete_old_data(&app).await;
    assert!(deleted.weeks[0] > 0, "{deleted:?}");
    assert_eq!(number(&app, FIRST_WEEK).await, 1, "the content goes, the recipients stay");
    let reasons = reasons(&app, "messages").await;
    assert!(reasons.contains("1 recipient is still within the lifetime of a return path."), "{reasons}");
    advance(&app, 20).await;
    delete_old_data(&app).await;
    assert_eq!(number(&app, FIRST_WEEK).await, 0);
    assert_eq!(app.get(&format!("/v1/messages/{id}")).await.status, 404);
    let report = dsn(None, None, &[failed("ann@example.test")]);
    let reply = app.deliver_bounce(&return_path, &report).await;
    assert!(reply.starts_with("250") || reply.starts_with("550"), "a late bounce has no effect: {reply}");
    assert_eq!(number(&app, "SELECT count(*) FROM suppressions").await, 0);
}
