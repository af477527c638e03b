//! The quota of a key after a commit without a response.

use reqwest::Method;
use serde_json::{Value, json};

use super::postgres::wait_until_one;
use crate::support::site::{NAME, Site};

#[tokio::test]
async fn recipients_of_an_unknown_commit_count() {
    let mut site = Site::start().await;
    site.wait_until_working().await;
    let limits = json!({"name": "shop", "quota": {"recipients_per_day": 4}});
    let created = site.api.post("/v1/keys", &limits).await.body;
    let key = site.api.with_key(created["secret"].as_str().unwrap());
    let email = json!({
        "from": "billing@acme.test", "to": ["ann@example.test", "bo@example.test"], "subject": "Hi", "text": "Hello",
    });
    let send = || key.request(Method::POST, "/emails").json(&email).send();
    assert_eq!(send().await.unwrap().status(), 200);

    site.block_commits().await;
    let mut lock = site.postgres.connect(NAME).await;
    sqlx::raw_sql("SELECT pg_advisory_lock(1)").execute(&mut lock).await.unwrap();
    let cut_off = async {
        wait_until_one(&mut lock, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted").await;
        site.postgres.proxy.go_silent();
        sqlx::raw_sql("SELECT pg_advisory_unlock(1)").execute(&mut lock).await.unwrap();
    };
    let (unknown, ()) = tokio::join!(send(), cut_off);
    let unknown = unknown.unwrap();
    assert!(unknown.status() == 500 && unknown.headers().contains_key("retry-after"), "{unknown:?}");
    let body: Value = unknown.json().await.unwrap();
    assert_eq!(body["name"], "internal_server_error");
    site.postgres.proxy.open();
    site.wait_until_working().await;

    let usage = site.api.get(&format!("/v1/keys/{}", created["id"].as_str().unwrap())).await.body["usage"].clone();
    assert_eq!(usage["recipients"], 4, "the second message may have been committed: {usage}");
    site.end().await;
}
