//! Messages of test keys go through the whole service, except for the last hop.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::{address, run};
use crate::support::app::TestApp;
use crate::support::client::{Api, ApiResponse, message};
use crate::support::dns::DnsServer;
use crate::support::until::until;

/// Time limit of each wait.
const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn any_address_is_delivered_without_a_connection() {
    let app = TestApp::start().await;
    let test = app.with_test_key().await;
    let id = test.send(json!({"to": ["ann@example.test", "bo@other.test", address("bounce", 0)]})).await.id;
    app.run_until_idle().await;
    assert_eq!(test.states(&id).await, ["delivered", "delivered", "bounced"]);
    assert_eq!(app.smtp.connections(), 0);
    assert_eq!(test.message(&id).await["test"], true);
    let events = test.event_list(&id).await;
    assert!(events.len() == 4 && events.iter().all(|event| event["data"]["test"] == true), "{events:?}");
    let delivered = events.iter().find(|event| event["data"]["recipient"] == "ann@example.test").unwrap();
    assert!(delivered["data"]["duration_ms"].as_i64().unwrap() >= 50, "{delivered}");
}

#[tokio::test]
async fn test_message_looks_no_domain_up() {
    let dns = DnsServer::start().await;
    dns.servfail("example.test");
    let app = TestApp::builder().direct(&dns).start().await;
    let test = app.with_test_key().await;
    let id = test.send(json!({})).await.id;
    app.run_until_idle().await;
    assert_eq!(test.events(&id).await, ["accepted", "delivered"]);
    assert_eq!(app.smtp.connections(), 0);
}

#[tokio::test]
async fn new_test_message_is_handed_to_the_simulator_at_once() {
    let app = TestApp::builder().with_all_roles().start().await;
    let test = app.with_test_key().await;
    let id = test.send(json!({})).await.id;
    until("the message is delivered", LIMIT, async || {
        let status = test.status(&id).await;
        if status == "delivered" { Ok(()) } else { Err(status) }
    })
    .await;
    assert_eq!(app.smtp.connections(), 0);
}

#[tokio::test]
async fn template_and_signature_are_those_of_the_live_tenant() {
    let app = TestApp::builder().with_inbound().start().await;
    assert_eq!(app.post("/v1/domains", &json!({"name": "acme.test"})).await.status, 201);
    let template = json!({"name": "Invoice", "alias": "invoice", "subject": "Invoice {{ n }}", "text": "It is due.",
        "variables": [{"key": "n", "type": "number"}]});
    assert_eq!(app.post("/v1/templates", &template).await.status, 201);
    assert_eq!(app.post("/v1/templates/invoice/publish", &json!({})).await.status, 201);

    let test = app.with_test_key().await;
    let body = json!({"from": "billing@acme.test", "to": "ann@example.test",
        "template": {"id": "invoice", "variables": {"n": 42}}});
    let sent = test.post("/v1/messages", &body).await;
    assert_eq!(sent.status, 202, "{}", sent.body);
    let id = sent.body["id"].as_str().unwrap();
    let shown = test.message(id).await;
    assert_eq!((&shown["subject"], &shown["template"]["alias"]), (&json!("Invoice 42"), &json!("invoice")));
    let raw = test.get(&format!("/v1/messages/{id}/raw")).await.bytes;
    assert_eq!(String::from_utf8_lossy(&raw).matches("DKIM-Signature: ").count(), 2);
    let listed = test.get("/v1/messages?template=invoice").await.body;
    assert_eq!((&listed["data"][0]["id"], &listed["data"][0]["test"]), (&json!(id), &json!(true)));
    let faulty = json!({"from": "billing@acme.test", "to": "ann@example.test", "template": {"id": "invoice"}});
    assert_eq!(test.post("/v1/messages", &faulty).await.status, 422);
}

#[tokio::test]
async fn dry_run_and_explain_of_a_test_message_name_the_simulator() {
    let app = TestApp::start().await;
    let test = app.with_test_key().await;
    let plan = test.post("/v1/messages?dry_run=true", &message(json!({}))).await.body;
    assert_eq!((&plan["route"], &plan["relays"]), (&json!("simulator"), &json!([])));
    assert_eq!(plan["recipients"][0]["lane"]["route"], "simulator");

    let id = test.send(json!({"to": address("defer-1", 0)})).await.id;
    app.run_until_idle().await;
    let explained = test.get(&format!("/v1/messages/{id}/explain")).await.body["recipients"][0].clone();
    assert_eq!(explained["lane"]["route"], "simulator");
    assert!(explained["summary"].as_str().unwrap().contains("Simulated deferral"), "{explained}");
}

#[tokio::test]
async fn idempotency_key_of_a_test_key_is_its_own() {
    let app = TestApp::start().await;
    let test = app.with_test_key().await;
    let send = async |api: &Api, subject: &str| {
        let request = api.request(Method::POST, "/v1/messages").header("idempotency-key", "order-42");
        ApiResponse::to(request.json(&message(json!({"subject": subject})))).await
    };
    let live = send(&app, "Live").await;
    let first = send(&test, "Test").await;
    assert_eq!((live.status, first.status), (202, 202), "{}", first.body);
    assert_ne!(live.body["id"], first.body["id"]);
    assert_eq!(send(&test, "Test").await.body["id"], first.body["id"]);
    assert_eq!(send(&test, "Other").await.problem(), (422, "idempotency_key_reused"));
}

#[tokio::test]
async fn hard_bounce_of_a_test_message_suppresses_only_test_messages() {
    let app = TestApp::builder().with_inbound().start().await;
    let test = app.with_test_key().await;
    let to = json!({"to": address("dsn", 0)});
    test.send(to.clone()).await;
    run(&app).await;
    assert_eq!(test.status(&test.send(to.clone()).await.id).await, "suppressed");
    assert_eq!(app.get("/v1/suppressions").await.body["data"], json!([]));
    let entries = test.get("/v1/suppressions").await.body["data"].clone();
    assert_eq!((entries.as_array().map(Vec::len), &entries[0]["reason"]), (Some(1), &json!("hard_bounce")));
    assert_eq!(app.status(&app.send(to).await.id).await, "queued");
}

#[tokio::test]
async fn bulk_of_a_test_key_is_expanded_and_delivered() {
    let app = TestApp::start().await;
    let test = app.with_test_key().await;
    let body = json!({"from": "news@acme.test", "subject": "News", "text": "Hello.",
        "recipients": [{"to": "ann@example.test"}, {"to": address("bounce", 0)}]});
    let id = test.post("/v1/messages/bulk", &body).await.body["id"].as_str().unwrap().to_owned();
    until("the bulk has ended", LIMIT, async || {
        app.run_until_idle().await;
        let bulk = test.get(&format!("/v1/bulks/{id}")).await.body;
        let counts = &bulk["counts"];
        if counts["delivered"] == 1 && counts["bounced"] == 1 { Ok(()) } else { Err(bulk.to_string()) }
    })
    .await;
    let listed = test.get(&format!("/v1/messages?bulk={id}")).await.body;
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(2));
    assert_eq!(app.get(&format!("/v1/bulks/{id}")).await.status, 404);
    assert_eq!(app.get("/v1/bulks").await.body["data"], Value::Array(Vec::new()));
}
