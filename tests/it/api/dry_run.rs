//! A dry run returns the delivery plan of a message, and stores nothing.

use postrider::config::Config;
use postrider::domain::key::Scope;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::{Api, ApiResponse, message};
use crate::support::clock::hours;
use crate::support::dns::DnsServer;

async fn dry_run(app: &TestApp, fields: Value) -> ApiResponse {
    app.post("/v1/messages?dry_run=true", &message(fields)).await
}

/// Returns the number of rows in all tables that an accepted message is written to.
async fn rows(app: &TestApp) -> i64 {
    let count = "SELECT (SELECT count(*) FROM messages) + (SELECT count(*) FROM lanes) + (SELECT count(*) FROM blobs)
                      + (SELECT count(*) FROM blob_chunks) + (SELECT count(*) FROM contents) + (SELECT count(*) FROM queue)
                      + (SELECT count(*) FROM recipients) + (SELECT count(*) FROM events)
                      + (SELECT count(*) FROM idempotency_keys)";
    sqlx::query_scalar(count).fetch_one(&mut app.database.connect().await).await.unwrap()
}

/// Returns a message without the lines that differ each time.
fn without_id(mime: &str) -> String {
    mime.lines().filter(|line| !line.contains("Message-ID") && !line.contains("=_")).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn plan_matches_the_message_that_is_sent() {
    let app = TestApp::start().await;
    let fields = json!({
        "to": ["ann@example.test"], "bcc": ["bo@other.test"], "subject": "Grüße", "html": "<p>ä</p>",
        "attachments": [{"filename": "a.txt", "content": "YWJj"}],
    });
    let plan = dry_run(&app, fields.clone()).await;
    assert_eq!((plan.status, &plan.body["dry_run"]), (200, &json!(true)), "{}", plan.body);
    assert_eq!(rows(&app).await, 0);
    let port = app.smtp.address().port();
    assert_eq!(plan.body["relays"], json!([{"host": "127.0.0.1", "port": port, "tls": "none"}]));
    assert_eq!((&plan.body["route"], &plan.body["dkim"]), (&json!("relay"), &json!([])));
    let ann = &plan.body["recipients"][0];
    assert_eq!((&ann["suppressed"], &ann["tls"], &ann["throttle_wait"]), (&json!(false), &json!(null), &json!(0.0)));
    assert_eq!(
        ann["lane"],
        json!({"id": null, "stream": "transactional", "route": "relay", "domain": "*", "state": "open"})
    );
    assert_eq!(ann["first_attempt"]["at"], "2026-11-23T12:00:00Z");
    assert_eq!(plan.body["recipients"][1]["kind"], "bcc");

    app.send(fields).await;
    app.run_until_idle().await;
    let sent = String::from_utf8(app.smtp.messages()[0].raw.clone()).unwrap();
    let planned = plan.body["mime"]["content"].as_str().unwrap();
    assert_eq!(without_id(planned), without_id(&sent));
    assert_eq!((&plan.body["mime"]["encoding"], &plan.body["mime"]["size"]), (&json!("utf-8"), &json!(planned.len())));
}

#[tokio::test]
async fn each_domain_has_its_own_lane_on_the_mx_route() {
    let dns = DnsServer::start().await;
    dns.add_address("a.test", "127.0.0.1");
    let app = TestApp::builder().direct(&dns).start().await;
    app.send(json!({"to": "x@a.test"})).await;
    app.run_until_idle().await;
    app.sql(
        "UPDATE lanes SET blocked_since = '2026-11-23T11:00:00Z', block_failures = 3, block_reply = 'connection refused',
             open_at = '2026-11-23T12:02:00Z'",
    )
    .await;
    let plan = dry_run(&app, json!({"to": ["x@a.test", "x@b.test"]})).await.body;
    assert_eq!((&plan["route"], &plan["relays"]), (&json!("mx"), &json!([])));
    let (a, b) = (&plan["recipients"][0], &plan["recipients"][1]);
    assert_eq!(a["tls"], "opportunistic");
    assert_eq!((&a["lane"]["domain"], &a["lane"]["state"]), (&json!("a.test"), &json!("blocked")));
    assert_eq!((&a["blocker"]["kind"], &a["first_attempt"]["at"]), (&json!("lane_blocked"), &json!(null)));
    assert_eq!(
        (&b["lane"]["id"], &b["lane"]["domain"], &b["blocker"]["kind"]),
        (&json!(null), &json!("b.test"), &json!("queued"))
    );
}

#[tokio::test]
async fn plan_includes_rate_limit_and_schedule() {
    let app = TestApp::start().await;
    let at = app.clock.text_in(hours(2));
    let scheduled = dry_run(&app, json!({"scheduled_at": at})).await.body;
    assert_eq!(scheduled["recipients"][0]["blocker"]["kind"], "scheduled");
    assert_eq!(scheduled["recipients"][0]["first_attempt"]["at"], "2026-11-23T14:00:00Z");

    app.sql("UPDATE streams SET rate = 0.1, open_at = '2026-11-23T12:00:10Z' WHERE name = 'bulk'").await;
    let limited = dry_run(&app, json!({"stream": "bulk"})).await.body;
    let ann = &limited["recipients"][0];
    assert_eq!((&ann["blocker"]["kind"], &ann["throttle_wait"]), (&json!("rate_limited"), &json!(10.0)));
    assert_eq!(ann["first_attempt"]["at"], json!(null), "another lane of the stream may use the limit first");
    let explanation = ann["first_attempt"]["explanation"].as_str().unwrap();
    assert!(explanation.starts_with("Not before 2026-11-23T12:00:10Z"), "{explanation}");
}

#[tokio::test]
async fn send_only_key_sees_no_counts_or_replies_in_the_plan() {
    let app = TestApp::start().await;
    for _ in 0..3 {
        app.send(json!({})).await;
    }
    let sender = app.with_scopes(&[Scope::Send]).await;
    let planned = async |api: &Api| {
        let plan = api.post("/v1/messages?dry_run=true", &message(json!({}))).await;
        assert_eq!(plan.status, 200, "{}", plan.body);
        plan.body["recipients"][0].clone()
    };
    let full_plan = planned(&app).await;
    assert!(full_plan["summary"].as_str().unwrap().contains("3 messages of its lane are before it"), "{full_plan}");
    let limited_plan = planned(&sender).await;
    assert_eq!(
        (&limited_plan["blocker"]["kind"], &limited_plan["first_attempt"]["at"]),
        (&json!("queued"), &json!(null))
    );
    assert!(limited_plan["summary"].as_str().unwrap().contains("were not counted"), "{limited_plan}");

    app.sql(
        "UPDATE lanes SET blocked_since = '2026-11-23T11:00:00Z', block_failures = 3, block_reply = 'a secret',
             open_at = '2026-11-23T12:02:00Z'",
    )
    .await;
    let (full_plan, limited_plan) = (planned(&app).await.to_string(), planned(&sender).await.to_string());
    assert!(
        full_plan.contains("a secret") && !limited_plan.contains("a secret") && limited_plan.contains("lane_blocked"),
        "{limited_plan}"
    );
    app.sql(
        "UPDATE lanes SET blocked_since = NULL, block_failures = 0, block_reply = NULL, learned_rate = 0.5, learned_ceiling = 8,
             learned_at = '2026-11-23T11:59:00Z', learned_reply = 'a secret'",
    )
    .await;
    let (full_plan, limited_plan) = (planned(&app).await.to_string(), planned(&sender).await.to_string());
    assert!(
        full_plan.contains("a secret") && !limited_plan.contains("a secret") && limited_plan.contains("learned_limit"),
        "{limited_plan}"
    );
    app.post("/v1/streams/transactional/pause", &json!({"reason": "a secret"})).await;
    let (full_plan, limited_plan) = (planned(&app).await.to_string(), planned(&sender).await.to_string());
    assert!(
        full_plan.contains("a secret") && !limited_plan.contains("a secret") && limited_plan.contains("stream_paused"),
        "{limited_plan}"
    );
}

#[tokio::test]
async fn invalid_message_is_refused_in_a_dry_run() {
    let app = TestApp::start().await;
    let wrong = json!({"to": "x", "subject": null});
    let (dry, real) = (dry_run(&app, wrong.clone()).await, app.post("/v1/messages", &message(wrong)).await);
    assert_eq!((dry.status, dry.faults()), (422, real.faults()));
    assert_eq!(
        app.post("/v1/messages?dry_run=perhaps", &message(json!({}))).await.faults(),
        [("dry_run", "invalid_value")]
    );
    let other = app.with_sender_domains(&["other.test"]).await;
    assert_eq!(other.post("/v1/messages?dry_run=true", &message(json!({}))).await.problem(), (403, "forbidden"));
    assert_eq!(rows(&app).await, 0);
    let real = app.post("/v1/messages?dry_run=false", &message(json!({}))).await;
    assert_eq!(real.status, 202);
    app.run_until_idle().await;
}

#[tokio::test]
async fn dry_run_ignores_the_idempotency_key() {
    let app = TestApp::start().await;
    let send = async |path: &str| {
        let request = app.request(reqwest::Method::POST, path).header("Idempotency-Key", "k").json(&message(json!({})));
        ApiResponse::to(request).await.status
    };
    assert_eq!(send("/v1/messages?dry_run=true").await, 200);
    assert_eq!(send("/v1/messages").await, 202);
    assert_eq!(send("/v1/messages?dry_run=true").await, 200);
    app.run_until_idle().await;
}

#[tokio::test]
async fn plan_contains_a_large_message_completely() {
    let app = TestApp::start().await;
    let content = "QUJD".repeat(200_000);
    let plan = dry_run(&app, json!({"attachments": [{"filename": "a.bin", "content": content}]})).await.body;
    let mime = &plan["mime"];
    assert_eq!(mime["encoding"], "utf-8", "messages are 7-bit");
    assert!(mime["size"].as_u64().unwrap() > 800_000 && mime["content"].as_str().unwrap().len() > 800_000);
}

#[tokio::test]
async fn concurrent_large_dry_runs_all_succeed() {
    let small = |config: &mut Config| (config.accept.max_body_mib, config.accept.body_memory_mib) = (4, 4);
    let app = TestApp::builder().config(small).start().await;
    // Each request needs more than a third of the memory for bodies, and more for its response.
    let content = "QUJD".repeat(400_000);
    let body = message(json!({"attachments": [{"filename": "a.bin", "content": content}]}));
    let send = async || app.post("/v1/messages?dry_run=true", &body).await.status;
    assert_eq!(tokio::join!(send(), send(), send(), send()), (200, 200, 200, 200));
    assert_eq!(rows(&app).await, 0);
}
