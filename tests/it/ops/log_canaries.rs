//! A run in which every private value is a canary: none of them may reach the log, at any level.

use serde_json::{Value, json};

use crate::support::client::Api;
use crate::support::postgres::Database;
use crate::support::process::{Service, on, run, serve};
use crate::support::receiver::Receiver;
use crate::support::smtp::SmtpServer;

const SECRET_KEY: &str = "canary-secret-key-of-the-installation";
const METRICS_TOKEN: &str = "canary-token-of-the-metrics-listener";

/// Sends messages that lead to a delivery, a bounce, a retry and a suppression, with a canary in every value.
async fn send_canaries(api: &Api) {
    let html = "<html><body><p>canary-html</p></body></html>";
    let message = |to: &str| {
        json!({
            "from": "Canary-Name <canary-from@acme.test>", "to": [to], "reply_to": "canary-reply@acme.test",
            "subject": "canary-subject", "text": "canary-text", "html": html,
            "headers": {"X-Canary": "canary-header"}, "metadata": {"canary": "canary-metadata"},
            "attachments": [{"filename": "canary-file.txt", "content": "Y2FuYXJ5LWF0dGFjaG1lbnQ="}]
        })
    };
    for to in ["canary-ok@example.test", "canary-bounced@example.test", "canary-later@example.test"] {
        api.send(message(to)).await;
    }
    let invalid = api.post("/v1/messages", &json!({"from": "canary-invalid", "canary-field": "canary-value"})).await;
    assert_eq!(invalid.status, 422);
    assert_eq!(api.post("/v1/suppressions", &json!("canary-suppressed@example.test")).await.status, 200);
    assert_eq!(api.get("/v1/suppressions/canary-suppressed@example.test").await.status, 200);
    let template = json!({"name": "t", "subject": "canary-template", "html": "<p>canary-template {{{ x }}}</p>"});
    let _ = api.post("/v1/templates", &template).await;
    assert_eq!(api.with_key("pr_live_canary-wrong-key").get("/v1/messages").await.status, 401);
}

#[tokio::test]
async fn log_at_trace_level_has_no_private_value() {
    let (database, smtp, receiver) = (Database::new(), SmtpServer::start().await, Receiver::start().await);
    smtp.rcpt("canary-bounced@example.test").replies(["550 5.1.1 <canary-bounced@example.test>: canary user"]);
    smtp.rcpt("canary-later@example.test").replies(["451 4.7.1 try <canary-later@example.test> later"]);
    let arguments = ["keys", "create", "--name", "all", "--scope", "admin", "--scope", "send", "--scope", "read"];
    let key = String::from_utf8(run(on(&database.url, &arguments)).await.stdout).unwrap().trim().to_owned();
    let mut command = serve(&database.url, smtp.address(), &[]);
    command
        .env("POSTRIDER_LOG__FILTER", "trace")
        .env("POSTRIDER_SECRET_KEY", SECRET_KEY)
        .env("POSTRIDER_METRICS__TOKEN", METRICS_TOKEN)
        .env("POSTRIDER_WEBHOOKS__ALLOW", "127.0.0.0/8");
    let mut service = Service::start(command).await;
    let api = Api::new(service.address.clone().unwrap(), &key);
    let hook = api.post("/v1/webhooks", &json!({"url": receiver.url("/canary")})).await;
    assert_eq!(hook.status, 201, "{hook:?}");
    send_canaries(&api).await;
    receiver.received("/canary", 5).await;
    service.send_sigterm().await;
    service.logged_event("stopped").await;

    let lines = service.lines();
    let hook_secret = hook.body["secret"].as_str().unwrap();
    let private = [
        "canary-from",
        "canary-reply",
        "canary-subject",
        "canary-text",
        "canary-html",
        "canary-header",
        "canary-metadata",
        "canary-file",
        "canary-attachment",
        "Y2FuYXJ5LWF0dGFjaG1lbnQ",
        "canary-ok",
        "canary-bounced",
        "canary-later",
        "canary-invalid",
        "canary-value",
        "canary-suppressed",
        "canary-template",
        "canary-wrong-key",
        "Canary-Name",
        SECRET_KEY,
        METRICS_TOKEN,
        key.as_str(),
        hook_secret,
    ];
    for line in &lines {
        let text = line.to_string();
        let found: Vec<&&str> = private.iter().filter(|canary| text.contains(**canary)).collect();
        assert!(found.is_empty(), "{found:?} in {text}");
    }
    assert_are_flat(&lines);
}

/// Asserts that lines are flat objects, and have the ids of requests, messages and the worker.
fn assert_are_flat(lines: &[Value]) {
    for line in lines {
        let fields = line.as_object().unwrap_or_else(|| panic!("not an object: {line}"));
        assert!(["timestamp", "level", "target"].iter().all(|field| fields.contains_key(*field)), "{line}");
        assert!(fields.values().all(|value| !value.is_object() && !value.is_array()), "{line}");
    }
    let has = |field: &str, start: &str| {
        lines.iter().any(|line| line[field].as_str().is_some_and(|id| id.starts_with(start)))
    };
    assert!(has("request_id", "req_") && has("message_id", "msg_") && has("worker_id", ""), "{} lines", lines.len());
}
