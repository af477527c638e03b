//! Quotas of API keys, and the events that report their use.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::{Api, message};
use crate::support::clock::{hours, seconds};
use crate::support::json_schema::check_event;
use crate::support::until::until;

async fn create(app: &TestApp, recipients_per_day: u32) -> (String, Api) {
    let created =
        app.post("/v1/keys", &json!({"name": "shop", "quota": {"recipients_per_day": recipients_per_day}})).await;
    assert_eq!(created.status, 201, "{}", created.body);
    (created.body["id"].as_str().unwrap().to_owned(), app.with_key(created.body["secret"].as_str().unwrap()))
}

fn to(count: usize) -> Value {
    message(json!({"to": (0..count).map(|n| format!("r{n}@example.test")).collect::<Vec<_>>()}))
}

/// Returns the types and keys of the quota's events.
async fn reports(app: &TestApp) -> Vec<(String, String)> {
    let events = app.get("/v1/events?type=key.quota_warning,key.quota_reached").await.body;
    let events = events["data"].as_array().unwrap().clone();
    events.iter().for_each(check_event);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    events.iter().map(|event| (text(&event["type"]), text(&event["data"]["key_id"]))).collect()
}

async fn used(app: &TestApp, id: &str) -> Value {
    app.get(&format!("/v1/keys/{id}")).await.body["usage"].clone()
}

#[tokio::test]
async fn quota_is_reported_at_80_and_100_percent() {
    let app = TestApp::start().await;
    let (id, key) = create(&app, 10).await;
    assert_eq!(key.post("/v1/messages", &to(7)).await.status, 202);
    assert!(reports(&app).await.is_empty());
    let sent = key.post("/v1/messages", &to(1)).await;
    let policy = "\"daily\";q=10;w=86400;qu=\"recipients\"";
    assert_eq!([&sent.headers["ratelimit-policy"], &sent.headers["ratelimit"]], [policy, "\"daily\";r=2;t=43200"]);
    let warning = ("key.quota_warning".to_owned(), id.clone());
    assert_eq!(reports(&app).await, std::slice::from_ref(&warning));

    let refused = key.post("/v1/messages", &to(3)).await;
    assert_eq!(refused.problem(), (429, "daily_quota_exceeded"));
    assert_eq!(refused.headers["retry-after"], "43200");
    assert!(refused.body["detail"].as_str().unwrap().contains("2 are left"), "{}", refused.body);
    assert_eq!(reports(&app).await, std::slice::from_ref(&warning), "the quota is not used up");
    assert_eq!(key.post("/v1/messages", &to(2)).await.status, 202);
    let reached = ("key.quota_reached".to_owned(), id.clone());
    assert_eq!(reports(&app).await, [warning, reached]);
    assert_eq!(key.post("/v1/messages", &to(1)).await.status, 429);
    assert_eq!(key.get("/v1/messages").await.status, 200, "reading is not limited");
    assert_eq!(reports(&app).await.len(), 2, "each is reported once a day");
    let usage = used(&app, &id).await;
    let expected = json!({"day": "2026-11-23", "recipients": 10, "remaining": 0, "resets_at": "2026-11-24T00:00:00Z"});
    assert_eq!(usage, expected);

    app.clock.advance(hours(12));
    assert_eq!(used(&app, &id).await["recipients"], 0);
    assert_eq!(key.post("/v1/messages", &to(10)).await.status, 202);
    assert_eq!(reports(&app).await.len(), 3, "the next day has its own report, of 100 % only");
}

#[tokio::test]
async fn batches_and_bulks_count_their_new_recipients() {
    let app = TestApp::start().await;
    let (id, key) = create(&app, 20).await;
    let batch = json!([to(2), to(3)]);
    assert_eq!(key.post("/v1/messages/batch", &batch).await.status, 202);
    let repeated = message(json!({"idempotency_key": "a", "to": ["x@example.test", "y@example.test"]}));
    for _ in 0..2 {
        assert_eq!(key.post("/v1/messages/batch", &json!([repeated])).await.status, 202);
    }
    assert_eq!(used(&app, &id).await["recipients"], 7, "the repeated message does not count");
    let recipients: Vec<Value> = (0..14).map(|n| json!({"to": format!("r{n}@example.test")})).collect();
    let bulk =
        |count: usize| json!({"from": "a@acme.test", "subject": "", "text": "Hi", "recipients": recipients[..count]});
    assert_eq!(key.post("/v1/messages/bulk", &bulk(14)).await.problem(), (429, "daily_quota_exceeded"));
    assert_eq!(key.post("/v1/messages/bulk", &bulk(13)).await.status, 202);
    assert_eq!(used(&app, &id).await["remaining"], 0);
}

#[tokio::test]
async fn repeated_messages_are_replayed_at_the_limit() {
    let app = TestApp::start().await;
    let (_, key) = create(&app, 2).await;
    let batch = json!([message(json!({"idempotency_key": "a", "to": "x@example.test"}))]);
    let bulk = json!({"from": "a@acme.test", "subject": "", "text": "Hi",
                      "recipients": [{"to": "y@example.test", "idempotency_key": "b"}]});
    for _ in 0..2 {
        assert_eq!(key.post("/v1/messages/batch", &batch).await.status, 202);
        assert_eq!(key.post("/v1/messages/bulk", &bulk).await.status, 202);
    }
    assert_eq!(key.post("/v1/messages/bulk", &bulk).await.body["replayed"], 1);
    let new = json!([batch[0], message(json!({"idempotency_key": "c", "to": "z@example.test"}))]);
    assert_eq!(key.post("/v1/messages/batch", &new).await.problem(), (429, "daily_quota_exceeded"));
}

#[tokio::test]
async fn unused_recipients_are_returned_when_the_api_stops() {
    let app = TestApp::start().await;
    let (other, other_api) = app.another_api().await;
    // The first lease is of 100 recipients.
    let (id, key) = create(&app, 6_400).await;
    let there = other_api.with_key(&key.key);
    assert_eq!(there.post("/v1/messages", &to(1)).await.status, 202);
    other.stop().await;
    assert_eq!(used(&app, &id).await["recipients"], 1);
}

#[tokio::test]
async fn clock_that_was_ahead_does_not_close_the_limits() {
    let app = TestApp::start().await;
    let limits = json!({"name": "shop", "quota": {"recipients_per_day": 1},
                        "rate": {"requests_per_second": 1, "burst": 2}});
    let created = app.post("/v1/keys", &limits).await.body;
    let key = app.with_key(created["secret"].as_str().unwrap());
    assert_eq!(key.post("/v1/messages", &to(1)).await.status, 202);
    let ahead = "UPDATE key_usage SET rate_used_until = '2030-01-01', day = '2030-01-01', recipients = 1";
    app.sql(ahead).await;
    // The window of the rate is 2 s.
    app.clock.advance(hours(12));
    assert_eq!(key.get("/v1/messages").await.status, 429);
    app.clock.advance(seconds(3));
    assert_eq!(key.post("/v1/messages", &to(1)).await.status, 202);
}

#[tokio::test]
async fn invalid_and_repeated_requests_do_not_count() {
    let app = TestApp::start().await;
    let (id, key) = create(&app, 1).await;
    assert_eq!(key.post("/v1/messages", &message(json!({"to": "x"}))).await.status, 422);
    assert_eq!(key.post("/v1/messages?dry_run=true", &to(5)).await.status, 200);
    let send = async || {
        let request = key.request(Method::POST, "/v1/messages").header("Idempotency-Key", "a").json(&to(1));
        crate::support::client::ApiResponse::to(request).await
    };
    assert_eq!([send().await.status, send().await.status], [202, 202]);
    assert_eq!(used(&app, &id).await["recipients"], 1);
}

#[tokio::test]
async fn recipients_of_a_failed_commit_are_returned() {
    let app = TestApp::start().await;
    let (_, key) = create(&app, 3).await;
    app.sql("ALTER TABLE recipients RENAME TO recipients_away").await;
    let failed = key.request(Method::POST, "/v1/messages").json(&to(2)).send().await.unwrap();
    app.sql("ALTER TABLE recipients_away RENAME TO recipients").await;
    assert!(failed.status().is_server_error(), "{failed:?}");
    assert_eq!(key.post("/v1/messages", &to(3)).await.status, 202);
}

#[tokio::test]
async fn replicas_never_exceed_the_quota_together() {
    let app = TestApp::start().await;
    let (other, other_api) = app.another_api().await;
    let (id, key) = create(&app, 500).await;
    let there = other_api.with_key(&key.key);
    let apis = [&key, &there];
    let mut sent = 0;
    for _ in 0..4 {
        let sending = (0..20).map(|n| async move { apis[n % 2].post("/v1/messages", &to(9)).await });
        for response in futures_util::future::join_all(sending).await {
            match response.status {
                202 => sent += 9,
                status => assert_eq!((status, response.problem().1), (429, "daily_quota_exceeded")),
            }
        }
    }
    assert!((450..=500).contains(&sent), "{sent} recipients");
    // What a replica has leased and not used is returned, so that the other one can use it.
    until("the whole quota is used", Duration::from_secs(20), async || {
        for api in apis {
            while api.post("/v1/messages", &to(1)).await.status == 202 {
                sent += 1;
            }
        }
        assert!(sent <= 500, "{sent} recipients");
        if sent == 500 { Ok(()) } else { Err(format!("{sent} recipients")) }
    })
    .await;
    let kinds: Vec<String> = reports(&app).await.into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["key.quota_warning", "key.quota_reached"]);
    assert_eq!(used(&app, &id).await["recipients"], 500);
    other.stop().await;
}

#[tokio::test]
async fn change_of_the_quota_takes_effect_at_once() {
    let app = TestApp::start().await;
    let (id, key) = create(&app, 1_000).await;
    let path = format!("/v1/keys/{id}");
    assert_eq!(key.post("/v1/messages", &to(5)).await.status, 202);
    let changed = app.patch(&path, &json!({"quota": {"recipients_per_day": 6}})).await;
    assert_eq!((changed.status, &changed.body["quota"]["recipients_per_day"]), (200, &json!(6)));
    assert_eq!(key.post("/v1/messages", &to(2)).await.problem(), (429, "daily_quota_exceeded"));
    assert_eq!(key.post("/v1/messages", &to(1)).await.status, 202);
    assert_eq!(app.patch(&path, &json!({"quota": {"recipients_per_day": 10}})).await.body["usage"]["remaining"], 4);
    assert_eq!(key.post("/v1/messages", &to(4)).await.status, 202);
    let kinds: Vec<String> = reports(&app).await.into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["key.quota_reached", "key.quota_reached"], "the new quota has its own report");
    let free = app.patch(&path, &json!({"quota": null})).await.body;
    assert_eq!((&free["quota"], &free["usage"]), (&json!(null), &json!(null)));
    assert_eq!(key.post("/v1/messages", &to(20)).await.status, 202);
}
