//! Rates, quotas and sizes: the same as for requests.

use postrider::config::Config;
use serde_json::{Value, json};

use super::{ANN, FROM, MESSAGE, count, signed_in, start, submit};
use crate::support::app::TestApp;
use crate::support::client::{Api, message};
use crate::support::clock::seconds;

async fn limited(app: &TestApp, limits: Value) -> Api {
    let mut body = json!({"name": "shop"});
    body.as_object_mut().unwrap().extend(limits.as_object().unwrap().clone());
    let created = app.post("/v1/keys", &body).await;
    assert_eq!(created.status, 201, "{}", created.body);
    app.with_key(created.body["secret"].as_str().unwrap())
}

#[tokio::test]
async fn rate_counts_messages_and_requests_together() {
    let app = start().await;
    let api = limited(&app, json!({"rate": {"requests_per_second": 1, "burst": 3}})).await;
    let mut client = signed_in(&app, &api).await;
    submit(&mut client, &[ANN], MESSAGE).await;
    submit(&mut client, &[ANN], MESSAGE).await;
    assert_eq!(api.post("/v1/messages", &message(json!({}))).await.status, 202);
    let reply = client.submit(FROM, &[ANN], MESSAGE).await;
    assert!(reply.starts_with("450 4.7.1 rate_limit_exceeded: ") && reply.contains("Try again in 1 s."), "{reply}");
    app.clock.advance(seconds(1));
    submit(&mut client, &[ANN], MESSAGE).await;
    assert_eq!(count(&app).await, 4);
}

#[tokio::test]
async fn quota_counts_recipients() {
    let app = start().await;
    let api = limited(&app, json!({"quota": {"recipients_per_day": 3}})).await;
    let mut client = signed_in(&app, &api).await;
    submit(&mut client, &[ANN, "bo@example.test"], MESSAGE).await;
    let reply = client.submit(FROM, &[ANN, "bo@example.test"], MESSAGE).await;
    assert!(reply.starts_with("452 4.7.1 daily_quota_exceeded: ") && reply.contains("Try again in"), "{reply}");
    submit(&mut client, &[ANN], MESSAGE).await;
    assert_eq!(count(&app).await, 2);
}

#[tokio::test]
async fn message_above_the_limit_is_refused() {
    let app = TestApp::builder()
        .with_submission(None)
        .config(|config: &mut Config| config.accept.max_body_mib = 1)
        .start()
        .await;
    let mut client = signed_in(&app, &app).await;
    let reply = client.say(&format!("MAIL FROM:<{FROM}> SIZE=1048577\r\n")).await;
    assert!(reply.starts_with("552 5.3.4 "), "{reply}");
    let large = |lines: usize| format!("{MESSAGE}{}", format!("{}\r\n", "x".repeat(98)).repeat(lines));
    let reply = client.submit(FROM, &[ANN], &large(10_600)).await;
    assert!(reply.starts_with("552 5.3.4 "), "{reply}");
    let id = submit(&mut client, &[ANN], &large(10_400)).await;
    let raw = app.get(&format!("/v1/messages/{id}/raw")).await.bytes;
    assert!(raw.len() > 1_040_000);
    assert_eq!(count(&app).await, 1);
}

#[tokio::test]
async fn too_many_errors_end_the_session() {
    let app = start().await;
    let mut client = signed_in(&app, &app).await;
    for _ in 0..10 {
        assert_eq!(client.code("RCPT TO:<ann@example.test>\r\n").await, 503);
    }
    client.send("RCPT TO:<ann@example.test>\r\n").await;
    assert_eq!(client.codes(2).await, [503, 421]);
}
