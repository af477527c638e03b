//! `last_event`: Resend's word for the state of a message.

use reqwest::Method;
use reqwest::header::USER_AGENT;
use serde_json::{Value, json};

use super::{Response, get, send, start};
use crate::support::app::TestApp;

async fn last_event(app: &TestApp, id: &str) -> String {
    get(app, &format!("/emails/{id}")).await.ok()["last_event"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn states_have_the_words_of_resend() {
    let app = start().await;
    let relayed = send(&app, json!({})).await;
    assert_eq!(last_event(&app, &relayed).await, "queued");
    app.run_until_idle().await;
    assert_eq!(last_event(&app, &relayed).await, "sent");

    app.smtp.rcpt("deferred@example.test").replies(["451 4.3.0 later"]);
    app.smtp.rcpt("bounced@example.test").replies(["550 5.1.1 no such user"]);
    let deferred = send(&app, json!({"to": "deferred@example.test"})).await;
    let bounced = send(&app, json!({"to": "bounced@example.test"})).await;
    app.run_until_idle().await;
    assert_eq!(last_event(&app, &deferred).await, "delivery_delayed");
    assert_eq!(last_event(&app, &bounced).await, "bounced");
}

#[tokio::test]
async fn resend_rs_never_sees_the_word_suppressed() {
    let app = start().await;
    app.post("/v1/suppressions", &json!("ann@example.test")).await;
    let id = send(&app, json!({})).await;
    assert_eq!(last_event(&app, &id).await, "suppressed");
    for (agent, word) in [("resend-rs/0.35.1", "failed"), ("resend-node:6.22.0", "suppressed")] {
        for path in [format!("/emails/{id}"), "/emails".into()] {
            let shown = Response::to(app.request(Method::GET, &path).header(USER_AGENT, agent)).await.ok();
            let email: &Value = if path == "/emails" { &shown["data"][0] } else { &shown };
            assert_eq!(email["last_event"], word, "{agent} {path}");
        }
    }
}
