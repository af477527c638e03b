//! Rate limits of API keys, and the headers that show them.

use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::{Api, ApiResponse};
use crate::support::clock::{millis, seconds};

async fn create(app: &TestApp, limits: Value) -> (String, Api) {
    let mut body = json!({"name": "shop"});
    body.as_object_mut().unwrap().extend(limits.as_object().unwrap().clone());
    let created = app.post("/v1/keys", &body).await;
    assert_eq!(created.status, 201, "{}", created.body);
    let path = format!("/v1/keys/{}", created.body["id"].as_str().unwrap());
    (path, app.with_key(created.body["secret"].as_str().unwrap()))
}

fn header<'a>(response: &'a ApiResponse, name: &str) -> &'a str {
    response.headers.get(name).map_or("", |value| value.to_str().unwrap())
}

/// Sends requests to the replicas in turn until all of them refuse in a row, and returns the number of admitted
/// requests.
async fn admitted(apis: &[&Api]) -> usize {
    let (mut count, mut refused) = (0, 0);
    for api in apis.iter().cycle() {
        let response = api.get("/v1/messages?limit=1").await;
        match response.status {
            200 => (count, refused) = (count + 1, 0),
            429 => refused += 1,
            other => panic!("{other}: {}", response.body),
        }
        if refused == apis.len() {
            break;
        }
    }
    count
}

#[tokio::test]
async fn responses_show_the_rate_and_429_says_when_to_retry() {
    let app = TestApp::start().await;
    let (path, key) = create(&app, json!({"rate": {"requests_per_second": 2, "burst": 5}})).await;
    let first = key.get("/v1/messages").await;
    assert_eq!(header(&first, "ratelimit-policy"), "\"rate\";q=5;w=3");
    assert_eq!(header(&first, "ratelimit"), "\"rate\";r=4;t=1");
    let older = ["ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"].map(|name| header(&first, name));
    assert_eq!(older, ["5", "4", "1"]);
    assert_eq!(header(&key.get("/v1/nothing").await, "ratelimit"), "", "not a request of the API");
    assert_eq!(admitted(&[&key]).await, 4);

    let refused = key.get("/v1/messages").await;
    assert_eq!(refused.problem(), (429, "rate_limit_exceeded"));
    assert_eq!((header(&refused, "retry-after"), header(&refused, "ratelimit")), ("1", "\"rate\";r=0;t=3"));
    assert!(refused.body["detail"].as_str().unwrap().contains("2 requests per second"), "{}", refused.body);
    app.clock.advance(millis(500));
    assert_eq!(admitted(&[&key]).await, 1);
    app.clock.advance(seconds(60));
    assert_eq!(admitted(&[&key]).await, 5);

    let shown = app.get(&path).await.body;
    assert_eq!(shown["rate"], json!({"requests_per_second": 2, "burst": 5}));
    assert_eq!((&shown["quota"], &shown["usage"]), (&json!(null), &json!(null)));
}

#[tokio::test]
async fn slow_client_keeps_its_burst() {
    let app = TestApp::start().await;
    let (_, key) = create(&app, json!({"rate": {"requests_per_second": 1, "burst": 20}})).await;
    // 0.4 requests of the burst are used each time.
    for n in 0..30 {
        assert_eq!(key.get("/v1/messages?limit=1").await.status, 200, "request {n}");
        app.clock.advance(millis(600));
    }
}

#[tokio::test]
async fn key_without_limits_has_no_headers() {
    let app = TestApp::start().await;
    let response = app.get("/v1/messages").await;
    assert_eq!(response.status, 200);
    assert!(!response.headers.keys().any(|name| name.as_str().contains("ratelimit")), "{:?}", response.headers);
}

#[tokio::test]
async fn replicas_share_the_rate() {
    let app = TestApp::start().await;
    let (other, other_api) = app.another_api().await;
    let (_, key) = create(&app, json!({"rate": {"requests_per_second": 10, "burst": 20}})).await;
    let there = other_api.with_key(&key.key);
    assert_eq!(admitted(&[&key, &there]).await, 20, "the burst");
    app.clock.advance(seconds(1));
    assert_eq!(admitted(&[&there, &key]).await, 10);
    other.stop().await;
}

#[tokio::test]
async fn change_of_the_rate_takes_effect_at_once() {
    let app = TestApp::start().await;
    let (path, key) = create(&app, json!({"rate": {"requests_per_second": 1}})).await;
    assert_eq!(admitted(&[&key]).await, 1);
    let changed = app.patch(&path, &json!({"rate": {"requests_per_second": 3}})).await;
    assert_eq!((changed.status, &changed.body["rate"]["burst"]), (200, &json!(3)));
    app.clock.advance(seconds(5));
    assert_eq!(admitted(&[&key]).await, 3);
    assert_eq!(app.patch(&path, &json!({"rate": null})).await.body["rate"], json!(null));
    let free = key.get("/v1/messages").await;
    assert_eq!((free.status, header(&free, "ratelimit-policy")), (200, ""));
}
