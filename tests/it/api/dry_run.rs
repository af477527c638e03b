//! A dry run returns the plan for a message, and stores nothing.

use postrider::config::Config;
use postrider::domain::key::Scope;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::{Answer, Api, message};
use crate::support::clock::hours;
use crate::support::dns::DnsServer;

async fn dry_run(app: &TestApp, fields: Value) -> Answer {
    app.post("/v1/messages?dry_run=true", &message(fields)).await
}

async fn rows(app: &TestApp) -> i64 {
    let count = "SELECT (SELECT count(*) FROM messages) + (SELECT count(*) FROM lanes) + (SELECT count(*) FROM blobs)
                      + (SELECT count(*) FROM blob_chunks) + (SELECT count(*) FROM contents) + (SELECT count(*) FROM queue)
                      + (SELECT count(*) FROM recipients) + (SELECT count(*) FROM events)
                      + (SELECT count(*) FROM idempotency_keys)";
    sqlx::query_scalar(count).fetch_one(&mut app.database.connect().await).await.unwrap()
}

/// A message without the parts that differ each time.
fn without_id(mime: &str) -> String {
    mime.lines().filter(|line| !line.contains("Message-ID") && !line.contains("=_")).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn the_plan_is_what_then_happens() {
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
    let sent = String::from_utf8(app.smtp.mails()[0].raw.clone()).unwrap();
    let planned = plan.body["mime"]["content"].as_str().unwrap();
    assert_eq!(without_id(planned), without_id(&sent));
    assert_eq!((&plan.body["mime"]["encoding"], &plan.body["mime"]["size"]), (&json!("utf-8"), &json!(planned.len())));
}

#[tokio::test]
async fn direct_to_mx_each_domain_has_its_lane() {
    let dns = DnsServer::start().await;
    dns.has_address("a.test", "127.0.0.1");
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
async fn limits_and_schedules_show_in_the_plan() {
    let app = TestApp::start().await;
    let at = app.clock.text_in(hours(2));
    let scheduled = dry_run(&app, json!({"scheduled_at": at})).await.body;
    assert_eq!(scheduled["recipients"][0]["blocker"]["kind"], "scheduled");
    assert_eq!(scheduled["recipients"][0]["first_attempt"]["at"], "2026-11-23T14:00:00Z");

    app.sql("UPDATE streams SET rate = 0.1, open_at = '2026-11-23T12:00:10Z' WHERE name = 'bulk'").await;
    let limited = dry_run(&app, json!({"stream": "bulk"})).await.body;
    let ann = &limited["recipients"][0];
    assert_eq!((&ann["blocker"]["kind"], &ann["throttle_wait"]), (&json!("rate_limited"), &json!(10.0)));
    assert_eq!(ann["first_attempt"]["at"], json!(null), "other lanes of the stream may take that turn");
    let words = ann["first_attempt"]["explanation"].as_str().unwrap();
    assert!(words.starts_with("Not before 2026-11-23T12:00:10Z"), "{words}");
}

#[tokio::test]
async fn a_key_that_may_only_send_learns_its_plan_and_no_more() {
    let app = TestApp::start().await;
    for _ in 0..3 {
        app.send(json!({})).await;
    }
    let sender = app.allowed(&[Scope::Send]).await;
    let planned = async |api: &Api| {
        let plan = api.post("/v1/messages?dry_run=true", &message(json!({}))).await;
        assert_eq!(plan.status, 200, "{}", plan.body);
        plan.body["recipients"][0].clone()
    };
    let known = planned(&app).await;
    assert!(known["summary"].as_str().unwrap().contains("3 messages of its lane are before it"), "{known}");
    let told = planned(&sender).await;
    assert_eq!((&told["blocker"]["kind"], &told["first_attempt"]["at"]), (&json!("queued"), &json!(null)));
    assert!(told["summary"].as_str().unwrap().contains("was not counted"), "{told}");

    app.sql(
        "UPDATE lanes SET blocked_since = '2026-11-23T11:00:00Z', block_failures = 3, block_reply = 'a secret',
             open_at = '2026-11-23T12:02:00Z'",
    )
    .await;
    let (known, told) = (planned(&app).await.to_string(), planned(&sender).await.to_string());
    assert!(known.contains("a secret") && !told.contains("a secret") && told.contains("lane_blocked"), "{told}");
    app.sql(
        "UPDATE lanes SET blocked_since = NULL, block_failures = 0, block_reply = NULL, learned_rate = 0.5, learned_ceiling = 8,
             learned_at = '2026-11-23T11:59:00Z', learned_reply = 'a secret'",
    )
    .await;
    let (known, told) = (planned(&app).await.to_string(), planned(&sender).await.to_string());
    assert!(known.contains("a secret") && !told.contains("a secret") && told.contains("learned_limit"), "{told}");
    app.post("/v1/streams/transactional/pause", &json!({"reason": "a secret"})).await;
    let (known, told) = (planned(&app).await.to_string(), planned(&sender).await.to_string());
    assert!(known.contains("a secret") && !told.contains("a secret") && told.contains("stream_paused"), "{told}");
}

#[tokio::test]
async fn what_is_not_valid_is_refused_as_ever() {
    let app = TestApp::start().await;
    let wrong = json!({"to": "x", "subject": null});
    let (dry, real) = (dry_run(&app, wrong.clone()).await, app.post("/v1/messages", &message(wrong)).await);
    assert_eq!((dry.status, dry.faults()), (422, real.faults()));
    assert_eq!(
        app.post("/v1/messages?dry_run=perhaps", &message(json!({}))).await.faults(),
        [("dry_run", "invalid_value")]
    );
    let other = app.allowed_from(&["other.test"]).await;
    assert_eq!(other.post("/v1/messages?dry_run=true", &message(json!({}))).await.problem(), (403, "forbidden"));
    assert_eq!(rows(&app).await, 0);
    let real = app.post("/v1/messages?dry_run=false", &message(json!({}))).await;
    assert_eq!(real.status, 202);
    app.run_until_idle().await;
}

#[tokio::test]
async fn a_key_does_not_stand_for_a_dry_run() {
    let app = TestApp::start().await;
    let send = async |path: &str| {
        let request = app.request(reqwest::Method::POST, path).header("Idempotency-Key", "k").json(&message(json!({})));
        Answer::to(request).await.status
    };
    assert_eq!(send("/v1/messages?dry_run=true").await, 200);
    assert_eq!(send("/v1/messages").await, 202);
    assert_eq!(send("/v1/messages?dry_run=true").await, 200);
    app.run_until_idle().await;
}

#[tokio::test]
async fn a_large_mail_is_shown_whole() {
    let app = TestApp::start().await;
    let content = "QUJD".repeat(200_000);
    let plan = dry_run(&app, json!({"attachments": [{"filename": "a.bin", "content": content}]})).await.body;
    let mime = &plan["mime"];
    assert_eq!(mime["encoding"], "utf-8", "messages are 7-bit");
    assert!(mime["size"].as_u64().unwrap() > 800_000 && mime["content"].as_str().unwrap().len() > 800_000);
}

#[tokio::test]
async fn large_ones_at_the_same_time_are_all_answered() {
    let small = |config: &mut Config| (config.accept.max_body_mib, config.accept.body_memory_mib) = (4, 4);
    let app = TestApp::builder().config(small).start().await;
    // Each takes more than a third of the memory for bodies, and more for the response.
    let content = "QUJD".repeat(400_000);
    let body = message(json!({"attachments": [{"filename": "a.bin", "content": content}]}));
    let send = async || app.post("/v1/messages?dry_run=true", &body).await.status;
    assert_eq!(tokio::join!(send(), send(), send(), send()), (200, 200, 200, 200));
    assert_eq!(rows(&app).await, 0);
}
