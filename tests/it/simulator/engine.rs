//! Simulated messages use the same engine as other messages, and do not affect them.

use serde_json::{Value, json};

use super::{address, run, send};
use crate::support::app::TestApp;
use crate::support::client::message;
use crate::support::clock::minutes;
use crate::support::dns::DnsServer;
use crate::support::hooks::{self, Hook};
use crate::support::receiver::Receiver;

#[tokio::test]
async fn other_recipients_of_the_message_are_unaffected() {
    let app = TestApp::start().await;
    let to = ["ann@example.test".to_owned(), address("bounce", 1), "bo@example.test".into(), address("defer-9", 2)];
    let id = app.send(json!({"to": to})).await.id;
    app.run_until_idle().await;
    assert_eq!(app.states(&id).await, ["relayed", "bounced", "relayed", "deferred"]);
    let received = app.smtp.messages();
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].to, ["ann@example.test", "bo@example.test"]);
}

#[tokio::test]
async fn failures_change_no_lane() {
    let app = TestApp::start().await;
    for (label, script) in
        ["defer-9-421-4.7.0", "drop-connect.expired", "tls-fail.expired", "dns-fail.expired", "defer-9-451-4.7.1"]
            .into_iter()
            .enumerate()
    {
        app.send(json!({"to": address(script, label)})).await;
    }
    run(&app).await;
    let id = send(&app, "delivered").await;
    run(&app).await;
    assert_eq!(app.status(&id).await, "delivered", "the failures do not delay it");
    let lanes = app.get("/v1/lanes?route=simulator").await.body;
    let lanes = lanes["data"].as_array().unwrap();
    assert_eq!(lanes.len(), 1, "{lanes:?}");
    assert_eq!((&lanes[0]["domain"], &lanes[0]["state"]), (&json!("*"), &json!("open")));
    assert_eq!((&lanes[0]["learned"], &lanes[0]["open_at"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn direct_delivery_looks_nothing_up() {
    let dns = DnsServer::start().await;
    let app = TestApp::builder().direct(&dns).start().await;
    let ids = [send(&app, "delivered").await, send(&app, "dsn").await];
    run(&app).await;
    assert_eq!(app.status(&ids[0]).await, "delivered");
    assert_eq!(app.events(&ids[1]).await, ["accepted", "delivered", "bounced"], "found by its Message-ID");
    assert_eq!(app.smtp.connections(), 0);
}

#[tokio::test]
async fn held_message_is_delivered_when_it_is_retried() {
    let app = TestApp::start().await;
    let id = app.send(json!({"to": address("drop-after-dot", 0), "on_uncertain": "hold"})).await.id;
    app.run_until_idle().await;
    assert_eq!(app.status(&id).await, "uncertain");
    assert_eq!(app.post(&format!("/v1/messages/{id}/retry"), &json!({})).await.status, 200);
    app.run_until_idle().await;
    assert_eq!(app.status(&id).await, "delivered");
}

#[tokio::test]
async fn hard_bounce_suppresses_the_address() {
    let app = TestApp::start().await;
    send(&app, "bounce").await;
    app.run_until_idle().await;
    let second = send(&app, "bounce").await;
    assert_eq!(app.status(&second).await, "suppressed");
    assert_eq!(app.delete("/v1/suppressions/bounce%2B0@simulator.postrider.test").await.status, 204);
    let third = send(&app, "bounce").await;
    app.run_until_idle().await;
    assert_eq!(app.status(&third).await, "bounced");
}

#[tokio::test]
async fn suppressed_script_needs_no_entry() {
    let app = TestApp::start().await;
    let sent = app.send(json!({"to": address("suppressed", 0)})).await;
    assert_eq!(app.status(&sent.id).await, "suppressed");
    let explained = app.get(&format!("/v1/messages/{}/explain", sent.id)).await.body;
    let summary = explained["recipients"][0]["summary"].as_str().unwrap();
    assert!(summary.contains("the script `suppressed` of the simulator"), "{summary}");
    assert_eq!(app.get("/v1/suppressions").await.body["data"], json!([]));
    let ignored = app.send(json!({"to": address("suppressed", 1), "ignore_suppression": true})).await.id;
    app.run_until_idle().await;
    assert_eq!(app.status(&ignored).await, "delivered");
}

#[tokio::test]
async fn webhooks_get_the_events() {
    let (app, receiver) = (hooks::builder().with_inbound().start().await, Receiver::start().await);
    Hook::add(&app, &receiver.url("/hook"), "").await;
    send(&app, "defer-1.dsn").await;
    for _ in 0..2 {
        run(&app).await;
        app.clock.advance(minutes(6));
    }
    app.notify().await;
    let types: Vec<Value> = receiver.posts("/hook").into_iter().map(|post| post.body["type"].clone()).collect();
    assert_eq!(types, ["message.accepted", "message.deferred", "message.delivered", "message.bounced"]);
}

#[tokio::test]
async fn dry_run_and_explain_name_the_simulator() {
    let app = TestApp::start().await;
    let plan = app.post("/v1/messages?dry_run=true", &message(json!({"to": address("bounce", 0)}))).await.body;
    assert_eq!((&plan["route"], &plan["relays"]), (&json!("simulator"), &json!([])));
    assert_eq!(plan["recipients"][0]["lane"]["route"], "simulator");
    let to = json!({"to": ["ann@example.test", address("bounce", 0)]});
    let plan = app.post("/v1/messages?dry_run=true", &message(to)).await.body;
    assert_eq!((&plan["route"], &plan["recipients"][0]["lane"]["route"]), (&json!("relay"), &json!("relay")));
    assert_eq!(plan["recipients"][1]["lane"]["route"], "simulator");

    let id = send(&app, "defer-1").await;
    app.run_until_idle().await;
    let explained = app.get(&format!("/v1/messages/{id}/explain")).await.body["recipients"][0].clone();
    assert_eq!(explained["lane"]["route"], "simulator");
    let summary = explained["summary"].as_str().unwrap();
    assert!(summary.contains("Simulated deferral"), "{summary}");
}
