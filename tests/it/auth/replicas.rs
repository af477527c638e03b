//! Changes of API keys take effect on every replica within a second.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::Api;
use crate::support::until::until;

/// A second, and another one for a busy machine.
const LIMIT: Duration = Duration::from_secs(2);

/// Starts two more replicas, and returns a client of each of the three with a new key.
async fn three_replicas(app: &TestApp) -> (Vec<postrider::app::App>, String, Vec<Api>) {
    three_replicas_of(app, json!({"name": "shop"})).await
}

/// The same, with the fields of the key.
async fn three_replicas_of(app: &TestApp, key: Value) -> (Vec<postrider::app::App>, String, Vec<Api>) {
    let created = app.post("/v1/keys", &key).await.body;
    let (path, secret) = (format!("/v1/keys/{}", created["id"].as_str().unwrap()), created["secret"].as_str().unwrap());
    let (mut others, mut apis) = (Vec::new(), vec![app.with_key(secret)]);
    for _ in 0..2 {
        let (other, api) = app.another_api().await;
        others.push(other);
        apis.push(api.with_key(secret));
    }
    (others, path, apis)
}

/// Calls every replica repeatedly until each has returned `status`. Returns how long that took.
async fn time_until(apis: &[Api], status: u16) -> Duration {
    let since = Instant::now();
    let each = apis.iter().map(|api| async move {
        while api.get("/v1/messages?limit=1").await.status != status {
            assert!(since.elapsed() < Duration::from_secs(20), "the change did not take effect");
        }
    });
    futures_util::future::join_all(each).await;
    since.elapsed()
}

/// Sends an invalid request to every replica repeatedly until each has returned `status`. Returns how long that took.
async fn time_until_refused(apis: &[Api], status: u16) -> Duration {
    let since = Instant::now();
    let each = apis.iter().map(|api| async move {
        while api.post("/v1/messages", &json!({})).await.status != status {
            assert!(since.elapsed() < Duration::from_secs(20), "the change did not take effect");
        }
    });
    futures_util::future::join_all(each).await;
    since.elapsed()
}

/// Calls every replica repeatedly until each has returned 200 ten times in a row. Returns how long that took.
async fn time_until_unlimited(apis: &[Api]) -> Duration {
    let since = Instant::now();
    let each = apis.iter().map(|api| async move {
        let mut in_a_row = 0;
        while in_a_row < 10 {
            in_a_row = if api.get("/v1/messages?limit=1").await.status == 200 { in_a_row + 1 } else { 0 };
            assert!(since.elapsed() < Duration::from_secs(20), "the change did not take effect");
        }
    });
    futures_util::future::join_all(each).await;
    since.elapsed()
}

/// Uses the key for a while on every replica, so that it is cached and confirmed, and not only loaded.
async fn use_for_a_while(apis: &[Api]) {
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(1_500) {
        for api in apis {
            assert_eq!(api.get("/v1/messages?limit=1").await.status, 200);
        }
    }
}

#[tokio::test]
async fn revocation_takes_effect_on_three_replicas_within_1_s() {
    let app = TestApp::start().await;
    let (others, path, apis) = three_replicas(&app).await;
    use_for_a_while(&apis).await;
    assert_eq!(app.delete(&path).await.status, 204);
    let took = time_until(&apis, 401).await;
    assert!(took < LIMIT, "{took:?}");
    for other in others {
        other.stop().await;
    }
}

#[tokio::test]
async fn change_takes_effect_on_three_replicas_within_1_s() {
    let app = TestApp::start().await;
    let (others, path, apis) = three_replicas(&app).await;
    use_for_a_while(&apis).await;
    let networks: Value = json!({"allowed_ips": ["203.0.113.1"]});
    assert_eq!(app.patch(&path, &networks).await.status, 200);
    let took = time_until(&apis, 403).await;
    assert!(took < LIMIT, "{took:?}");

    // A change by an operator in SQL, or by an older version, takes effect as fast.
    app.sql("UPDATE keys SET allowed_ips = NULL WHERE name = 'shop'").await;
    let took = time_until(&apis, 200).await;
    assert!(took < LIMIT, "{took:?}");
    for other in others {
        other.stop().await;
    }
}

#[tokio::test]
async fn suspension_takes_effect_on_three_replicas_within_1_s() {
    let app = TestApp::start().await;
    let tenant = app.post("/v1/tenants", &json!({"name": "Acme"})).await.body["id"].as_str().unwrap().to_owned();
    let (others, _, apis) = three_replicas_of(&app, json!({"name": "shop", "tenant": tenant})).await;
    use_for_a_while(&apis).await;
    for api in &apis {
        assert_eq!(api.post("/v1/messages", &json!({})).await.status, 422, "an active tenant's request is parsed");
    }
    assert_eq!(app.post(&format!("/v1/tenants/{tenant}/suspend"), &json!({})).await.status, 200);
    let took = time_until_refused(&apis, 403).await;
    assert!(took < LIMIT, "{took:?}");
    assert_eq!(app.post(&format!("/v1/tenants/{tenant}/resume"), &json!({})).await.status, 200);
    let took = time_until_refused(&apis, 422).await;
    assert!(took < LIMIT, "{took:?}");
    for other in others {
        other.stop().await;
    }
}

#[tokio::test]
async fn changed_rate_takes_effect_on_three_replicas_within_1_s() {
    let app = TestApp::start().await;
    let (others, path, apis) = three_replicas(&app).await;
    use_for_a_while(&apis).await;
    let rate = json!({"rate": {"requests_per_second": 1, "burst": 1}});
    assert_eq!(app.patch(&path, &rate).await.status, 200);
    let took = time_until(&apis, 429).await;
    assert!(took < LIMIT, "{took:?}");
    assert_eq!(app.patch(&path, &json!({"rate": null})).await.status, 200);
    let took = time_until_unlimited(&apis).await;
    assert!(took < LIMIT, "{took:?}");
    for other in others {
        other.stop().await;
    }
}

#[tokio::test]
async fn idle_replica_notices_a_revocation_too() {
    let app = TestApp::start().await;
    let (others, path, apis) = three_replicas(&app).await;
    use_for_a_while(&apis).await;
    // Sends no request for longer than a cached key is used without confirmation.
    let idle_since = Instant::now();
    until("the replicas are idle", Duration::from_secs(5), async || {
        let elapsed = idle_since.elapsed();
        if elapsed > Duration::from_secs(3) { Ok(()) } else { Err(format!("{elapsed:?}")) }
    })
    .await;
    assert_eq!(app.delete(&path).await.status, 204);
    for api in &apis {
        assert_eq!(api.get("/v1/messages").await.problem(), (401, "unauthorized"), "at once: the key is loaded again");
    }
    for other in others {
        other.stop().await;
    }
}
