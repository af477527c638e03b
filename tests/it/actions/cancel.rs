//! Cancels all messages that match.

use chrono::TimeDelta;
use serde_json::{Value, json};

use super::{LIMIT, count, read, run, start};
use crate::support::app::TestApp;
use crate::support::until::until;

fn tagged(value: &str) -> Value {
    json!([{"name": "campaign", "value": value}])
}

/// Sends a bulk with a tag to this many recipients.
async fn send_bulk(app: &TestApp, count: usize, tag: &str) -> String {
    let recipients: Value = (0..count).map(|n| json!({"to": format!("u{n}@example.test")})).collect();
    let body = json!({"from": "news@acme.test", "subject": "News", "text": "Hi", "tags": tagged(tag), "recipients": recipients});
    let response = app.post("/v1/messages/bulk", &body).await;
    assert_eq!(response.status, 202, "{}", response.body);
    response.body["id"].as_str().unwrap().to_owned()
}

/// Waits until all recipients of bulks have become messages.
pub(super) async fn expanded(app: &TestApp) {
    let mut connection = app.database.connect().await;
    until("recipients without a message", LIMIT, async || {
        let waiting: i64 =
            sqlx::query_scalar("SELECT count(*) FROM bulk_recipients").fetch_one(&mut connection).await.unwrap();
        if waiting == 0 { Ok(()) } else { Err(waiting) }
    })
    .await;
}

#[tokio::test]
async fn queued_messages_with_a_tag_are_canceled_others_are_sent() {
    let app = TestApp::start().await;
    let bulk = send_bulk(&app, 1_300, "wrong").await;
    expanded(&app).await;
    let other = app.send(json!({"tags": tagged("right")})).await.id;
    let filter = json!({"tag": "campaign:wrong"});
    assert_eq!(count(&app, "cancel", filter.clone()).await, 1_300);
    assert_eq!(
        app.get(&format!("/v1/bulks/{bulk}")).await.body["counts"]["queued"],
        1_300,
        "a dry run changes nothing"
    );

    assert_eq!(run(&app, "cancel", filter.clone()).await, [1_300, 1_300, 0]);
    assert_eq!(app.get(&format!("/v1/bulks/{bulk}")).await.body["counts"]["canceled"], 1_300);
    let listed = app.get(&format!("/v1/messages?bulk={bulk}&limit=1")).await.body;
    assert_eq!(app.events(listed["data"][0]["id"].as_str().unwrap()).await, ["accepted", "canceled"]);
    app.run_until_idle().await;
    assert_eq!((app.status(&other).await.as_str(), app.smtp.messages().len()), ("relayed", 1));
    assert_eq!(run(&app, "cancel", filter).await, [0, 0, 0], "nothing is left");
}

#[tokio::test]
async fn each_field_selects_only_its_recipients() {
    let app = TestApp::start().await;
    let two = json!({"to": ["ann@example.test", "bo@other.test"], "subject": "Spring sale"});
    let first = app.send(two).await.id;
    app.clock.advance(TimeDelta::minutes(1));
    let middle = app.clock.text_in(TimeDelta::zero());
    let at = app.clock.text_in(TimeDelta::hours(1));
    let second = json!({"from": "me@acme.test", "stream": "bulk", "scheduled_at": at, "tags": tagged("a-b")});
    app.send(second).await;
    let lanes = app.get("/v1/lanes?stream=bulk").await.body;
    let key = app.message(&first).await["key_id"].clone();
    for (filter, expected) in [
        (json!({"to": "ANN@example.test"}), 2),
        (json!({"to_domain": "other.test"}), 1),
        (json!({"to_domain": "example.test"}), 2),
        (json!({"from": "me@acme.test"}), 1),
        (json!({"subject": "SALE"}), 2),
        (json!({"stream": "bulk"}), 1),
        (json!({"tag": "campaign:a-b"}), 1),
        (json!({"tag": "campaign:a"}), 0),
        (json!({"status": "scheduled"}), 1),
        (json!({"status": "queued"}), 2),
        (json!({"status": "deferred"}), 0),
        (json!({"lane": lanes["data"][0]["id"]}), 1),
        (json!({"created_after": middle}), 1),
        (json!({"created_before": middle}), 2),
        (json!({"key": key}), 3),
        (json!({"key": "key_00000000000070008000000000000000"}), 0),
        (json!({"bulk": "blk_00000000000070008000000000000000"}), 0),
        (json!({"template": "tpl_00000000000070008000000000000000"}), 0),
        (json!({"to": "ann@example.test", "stream": "bulk"}), 1),
    ] {
        assert_eq!(count(&app, "cancel", filter.clone()).await, expected, "{filter}");
    }
    assert_eq!(run(&app, "cancel", json!({"to": "bo@other.test"})).await, [1, 1, 0]);
    assert_eq!(app.states(&first).await, ["queued", "canceled"], "the other recipient does not change");
}

#[tokio::test]
async fn message_that_is_being_sent_is_skipped() {
    let app = TestApp::start().await;
    let sending = app.send(json!({})).await.id;
    let gate = app.smtp.mail().stalls();
    let working = app.start_working();
    gate.reached().await;
    assert_eq!(run(&app, "cancel", json!({"stream": "transactional"})).await, [1, 0, 1]);
    gate.open();
    working.await.unwrap().unwrap();
    assert_eq!(app.status(&sending).await, "relayed");
}

#[tokio::test]
async fn later_messages_are_not_canceled() {
    let app = TestApp::start().await;
    super::lease_new_actions(&app).await;
    app.send(json!({})).await;
    let action = start(&app, "cancel", json!({"stream": "transactional"})).await;
    app.clock.advance(TimeDelta::seconds(1));
    let later = app.send(json!({})).await.id;
    super::end_leases(&app).await;
    assert_eq!(super::ended(&app, &action).await["changed"], 1);
    app.run_until_idle().await;
    assert_eq!(app.status(&later).await, "relayed");
}

#[tokio::test]
async fn recipients_of_bulks_that_become_messages_later_are_canceled() {
    let app = TestApp::start().await;
    app.sql(
        "CREATE FUNCTION lease_bulk() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN NEW.leased_until := 'infinity'; RETURN NEW; END $$;
         CREATE TRIGGER lease_bulk BEFORE INSERT ON bulks FOR EACH ROW EXECUTE FUNCTION lease_bulk()",
    )
    .await;
    send_bulk(&app, 450, "wrong").await;
    let action = start(&app, "cancel", json!({"tag": "campaign:wrong"})).await;
    let mut connection = app.database.connect().await;
    until("the queue has not been examined", LIMIT, async || {
        let waits = "SELECT leased_until > created_at AND NOT is_repeated FROM message_actions";
        let waits: bool = sqlx::query_scalar(waits).fetch_one(&mut connection).await.unwrap();
        if waits { Ok(()) } else { Err(waits) }
    })
    .await;
    assert_eq!(read(&app, &action).await["status"], "running");
    app.sql("UPDATE bulks SET leased_until = '-infinity'").await;
    expanded(&app).await;
    app.clock.advance(TimeDelta::seconds(2));
    let ended = super::ended(&app, &action).await;
    assert_eq!([&ended["matched"], &ended["changed"]], [450, 450], "{ended}");
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 0);
}

#[tokio::test]
async fn key_with_sender_domains_cancels_only_their_messages() {
    let app = TestApp::start().await;
    let own = app.send(json!({"from": "a@acme.test"})).await.id;
    let other = app.send(json!({"from": "a@other.test"})).await.id;
    let limited = app.with_sender_domains(&["acme.test"]).await;
    let response = limited.post(super::PATH, &json!({"action": "cancel", "all": true})).await;
    assert_eq!(response.status, 202, "{}", response.body);
    let action = response.body["id"].as_str().unwrap();
    assert_eq!(super::ended(&app, action).await["changed"], 1);
    assert_eq!([app.status(&own).await, app.status(&other).await], ["canceled", "queued"]);
    // It cannot see or stop the actions of others.
    let all = start(&app, "retry", json!({"stream": "transactional"})).await;
    assert_eq!(limited.post(&format!("/v1/actions/{all}/cancel"), &json!({})).await.status, 404);
    assert_eq!(limited.post(&format!("/v1/actions/{action}/cancel"), &json!({})).await.status, 200);
}
