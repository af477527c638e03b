//! The limits of a tenant apply to all its API keys together, in addition to the limits of each key.

use std::time::Duration;

use serde_json::{Value, json};

use super::{PATH, Tenant, key, tenant};
use crate::support::app::TestApp;
use crate::support::client::{Api, message};
use crate::support::clock::hours;
use crate::support::json_schema::check_event;
use crate::support::until::until;

fn to(count: usize) -> Value {
    message(json!({"to": (0..count).map(|n| format!("r{n}@example.test")).collect::<Vec<_>>()}))
}

/// Returns the types of the tenant's events about quotas.
async fn reports(api: &Api) -> Vec<String> {
    let types = "key.quota_warning,key.quota_reached,tenant.quota_warning,tenant.quota_reached";
    let events = api.get(&format!("/v1/events?type={types}")).await.body["data"].as_array().unwrap().clone();
    events.iter().for_each(check_event);
    events.iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
}

/// Returns a client that uses another API key of the tenant. The key has these limits.
async fn second(app: &TestApp, tenant: &Tenant, limits: Value) -> Api {
    app.with_key(&key(app, &tenant.id, limits).await)
}

#[tokio::test]
async fn quota_counts_the_recipients_of_all_keys() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({"quota": {"recipients_per_day": 10}})).await;
    let other = second(&app, &acme, json!({})).await;
    assert_eq!(acme.api.post("/v1/messages", &to(4)).await.status, 202);
    let sent = other.post("/v1/messages", &to(4)).await;
    assert_eq!(sent.status, 202);
    assert_eq!(sent.headers["ratelimit"], "\"daily\";r=2;t=43200");
    assert_eq!(reports(&acme.api).await, ["tenant.quota_warning"]);

    let refused = acme.api.post("/v1/messages", &to(3)).await;
    assert_eq!(refused.problem(), (429, "daily_quota_exceeded"));
    assert!(refused.body["detail"].as_str().unwrap().starts_with("This tenant may send to 10"), "{}", refused.body);
    assert_eq!(refused.headers["retry-after"], "43200");
    assert_eq!(other.post("/v1/messages", &to(2)).await.status, 202);
    assert_eq!(reports(&acme.api).await, ["tenant.quota_warning", "tenant.quota_reached"]);
    assert!(reports(&app).await.is_empty(), "the events are the tenant's");
    let usage = app.get(&format!("{PATH}/{}", acme.id)).await.body["usage"].clone();
    assert_eq!((&usage["recipients"], &usage["remaining"]), (&json!(10), &json!(0)));
    app.send(json!({})).await;

    app.clock.advance(hours(12));
    assert_eq!(acme.api.post("/v1/messages", &to(10)).await.status, 202);
}

#[tokio::test]
async fn stricter_quota_of_key_and_tenant_wins() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({"quota": {"recipients_per_day": 10}})).await;
    let small = second(&app, &acme, json!({"quota": {"recipients_per_day": 4}})).await;
    let refused = small.post("/v1/messages", &to(5)).await;
    assert!(refused.body["detail"].as_str().unwrap().starts_with("This key may send to 4"), "{}", refused.body);
    assert_eq!(refused.headers["ratelimit-policy"], "\"daily\";q=4;w=86400;qu=\"recipients\"");
    assert_eq!(small.post("/v1/messages", &to(2)).await.status, 202);
    assert_eq!(acme.api.post("/v1/messages", &to(7)).await.status, 202);
    let refused = small.post("/v1/messages", &to(2)).await;
    assert!(refused.body["detail"].as_str().unwrap().starts_with("This tenant may send to 10"), "{}", refused.body);
    assert_eq!(refused.headers["ratelimit-policy"], "\"daily\";q=10;w=86400;qu=\"recipients\"");
    // The refused request did not use any of the key's quota.
    assert_eq!(small.post("/v1/messages", &to(1)).await.status, 202);
    let keys = acme.api.get("/v1/keys").await.body["data"].as_array().unwrap().clone();
    let id = keys.iter().find(|key| !key["quota"].is_null()).unwrap()["id"].as_str().unwrap();
    // The process soon returns the part of the key's quota that it has leased and not used.
    until("three recipients of the key are used", Duration::from_secs(20), async || {
        let used = acme.api.get(&format!("/v1/keys/{id}")).await.body["usage"]["recipients"].clone();
        if used == 3 { Ok(()) } else { Err(used) }
    })
    .await;
}

#[tokio::test]
async fn rate_counts_the_requests_of_all_keys() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({"rate": {"requests_per_second": 1, "burst": 4}})).await;
    let other = second(&app, &acme, json!({"rate": {"requests_per_second": 1, "burst": 3}})).await;
    for api in [&acme.api, &other, &acme.api, &other] {
        assert_eq!(api.get("/v1/messages").await.status, 200);
    }
    let refused = other.get("/v1/messages").await;
    assert_eq!(refused.problem(), (429, "rate_limit_exceeded"));
    assert!(refused.body["detail"].as_str().unwrap().starts_with("This tenant may make 1 "), "{}", refused.body);
    assert_eq!([&refused.headers["ratelimit-limit"], &refused.headers["ratelimit-remaining"]], ["4", "0"]);
    assert_eq!(app.get("/v1/messages").await.status, 200, "other tenants are not limited");
    app.clock.advance(hours(1));
    // The refused request did not use any of the key's rate.
    for _ in 0..3 {
        assert_eq!(other.get("/v1/messages").await.status, 200);
    }
    let refused = other.get("/v1/messages").await;
    assert!(refused.body["detail"].as_str().unwrap().starts_with("This key may make 1 "), "{}", refused.body);
}

#[tokio::test]
async fn replicas_never_exceed_the_quota_of_a_tenant_together() {
    let app = TestApp::start().await;
    let (other, other_api) = app.another_api().await;
    let acme = tenant(&app, "Acme", json!({"quota": {"recipients_per_day": 300}})).await;
    let second = second(&app, &acme, json!({})).await;
    let apis = [acme.api.clone(), other_api.with_key(&second.key)];
    let mut sent = 0;
    until("the whole quota is used", Duration::from_secs(20), async || {
        for api in &apis {
            while api.post("/v1/messages", &to(7)).await.status == 202 {
                sent += 7;
            }
            while api.post("/v1/messages", &to(1)).await.status == 202 {
                sent += 1;
            }
        }
        assert!(sent <= 300, "{sent} recipients");
        if sent == 300 { Ok(()) } else { Err(format!("{sent} recipients")) }
    })
    .await;
    assert_eq!(reports(&acme.api).await, ["tenant.quota_warning", "tenant.quota_reached"]);
    other.stop().await;
}

#[tokio::test]
async fn change_of_a_tenants_quota_takes_effect_at_once() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({})).await;
    assert!(!acme.api.post("/v1/messages", &to(5)).await.headers.contains_key("ratelimit-policy"));
    let path = format!("{PATH}/{}", acme.id);
    assert_eq!(app.patch(&path, &json!({"quota": {"recipients_per_day": 2}})).await.status, 200);
    assert_eq!(acme.api.post("/v1/messages", &to(3)).await.status, 429);
    assert_eq!(acme.api.post("/v1/messages", &to(2)).await.status, 202);
    assert_eq!(app.patch(&path, &json!({"quota": null})).await.status, 200);
    assert_eq!(acme.api.post("/v1/messages", &to(3)).await.status, 202);
}
