//! Test keys of tenants: their data is suspended and deleted with the tenant, and does not count in its quota.

use std::time::Duration;

use postrider::domain::id::TenantId;
use postrider::domain::key::{KeyMode, Scope};
use serde_json::{Value, json};

use super::deletion::{advance, rows};
use super::{PATH, Tenant, act, key, tenant};
use crate::support::app::{TestApp, make_key_of};
use crate::support::client::{Api, message};
use crate::support::clock::{hours, seconds};
use crate::support::process::{on, run, stderr_of};
use crate::support::until::until;
use crate::support::uploads::put;

/// Returns a client of the tenant, whose test key may do everything that test keys may do.
async fn test_key(app: &TestApp, Tenant { id, .. }: &Tenant) -> Api {
    app.with_key(&key(app, id, json!({"mode": "test", "scopes": ["send", "read", "admin"]})).await)
}

/// Returns the id of the test tenant, which no response contains.
fn test_tenant(Tenant { id, .. }: &Tenant) -> String {
    id.parse::<TenantId>().unwrap().test().to_string()
}

/// Returns whether the tenant has a test tenant, and the weight of that.
async fn weight(app: &TestApp, tenant: &Tenant) -> Option<i16> {
    let query = sqlx::query_scalar("SELECT weight FROM tenants WHERE test_of = $1");
    let id = tenant.id.parse::<TenantId>().unwrap().0;
    query.bind(id).fetch_optional(&mut app.database.connect().await).await.unwrap()
}

#[tokio::test]
async fn test_tenant_has_the_priority_limit_of_its_tenant() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({"min_priority": 20})).await;
    test_key(&app, &acme).await;
    let limit = async || {
        let query = sqlx::query_scalar::<_, Option<i16>>("SELECT min_priority FROM tenants WHERE test_of = $1");
        let id = acme.id.parse::<TenantId>().unwrap().0;
        query.bind(id).fetch_one(&mut app.database.connect().await).await.unwrap()
    };
    assert_eq!(limit().await, Some(20));
    assert_eq!(app.patch(&format!("{PATH}/{}", acme.id), &json!({"min_priority": 30})).await.status, 200);
    assert_eq!(limit().await, Some(30));
}

#[tokio::test]
async fn test_data_of_tenants_is_separate() {
    let app = TestApp::start().await;
    let (acme, other) = (tenant(&app, "Acme", json!({})).await, tenant(&app, "other", json!({})).await);
    let operator = app.with_scopes(&[Scope::Operator]).await;
    let body = json!({"name": "ci", "tenant": acme.id, "mode": "test"});
    let created = operator.post("/v1/keys", &body).await;
    assert_eq!((created.status, &created.body["tenant"]), (201, &json!(acme.id)), "{}", created.body);
    let test = app.with_key(created.body["secret"].as_str().unwrap());
    let sent = test.send(json!({})).await;
    app.run_until_idle().await;
    assert_eq!((test.status(&sent.id).await.as_str(), app.smtp.connections()), ("delivered", 0));
    for api in [&acme.api, &other.api, &test_key(&app, &other).await, &app.with_test_key().await] {
        assert_eq!(api.get(&format!("/v1/messages/{}", sent.id)).await.status, 404);
        assert_eq!(api.get("/v1/ledger").await.body["accepted"], 0);
    }
    assert_eq!(test.get("/v1/ledger").await.body["accepted"], 1);
}

#[tokio::test]
async fn test_tenants_are_not_shown() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({})).await;
    test_key(&app, &acme).await;
    let (id, listed) = (test_tenant(&acme), app.get(PATH).await.body);
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(2), "{listed}");
    let path = format!("{PATH}/{id}");
    assert_eq!(app.get(&path).await.status, 404);
    assert_eq!(app.patch(&path, &json!({"weight": 1})).await.status, 404);
    assert_eq!(app.delete(&path).await.status, 404);
    for action in ["suspend", "resume"] {
        assert_eq!(app.post(&format!("{path}/{action}"), &json!({})).await.status, 404);
    }
    let named = json!({"name": "x", "tenant": id});
    assert_eq!(app.post("/v1/keys", &named).await.faults(), [("/tenant", "unknown_tenant")]);
    assert_eq!(app.get(&format!("/v1/keys?tenant={id}")).await.faults(), [("tenant", "invalid_value")]);
    assert_eq!(app.get(&format!("{PATH}?status=active")).await.body["data"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn test_key_is_never_an_operators() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({})).await;
    let body = json!({"name": "x", "mode": "test", "scopes": ["operator"]});
    assert_eq!(app.post("/v1/keys", &body).await.faults(), [("/scopes", "invalid_value")]);
    // Such a key cannot be created, and has no effect if it exists.
    let test = app.with_key(&make_key_of(KeyMode::Test, &app.db, &*app.clock, &Scope::ALL, None).await);
    for path in [PATH.to_owned(), format!("{PATH}/{}", acme.id), format!("/v1/keys?tenant={}", acme.id)] {
        assert_eq!(test.get(&path).await.problem(), (403, "forbidden"), "{path}");
    }
    assert_eq!(test.get("/v1/keys").await.status, 200);
    let own = json!({"name": "x", "mode": "test"});
    let foreign = json!({"name": "x", "tenant": acme.id});
    for body in [own, foreign] {
        assert_eq!(test.post("/v1/keys", &body).await.problem(), (403, "forbidden"), "{body}");
    }
}

#[tokio::test]
async fn command_line_creates_test_keys_of_a_tenant() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({})).await;
    let create = async |arguments: &[&str]| {
        let create = ["keys", "create", "--name", "ci", "--test"];
        run(on(&app.database.url, &[&create, arguments].concat())).await
    };
    let created = create(&["--tenant", "Acme"]).await;
    let test = app.with_key(String::from_utf8(created.stdout).unwrap().trim());
    test.send(json!({})).await;
    assert_eq!(acme.api.get("/v1/ledger").await.body["accepted"], 0);
    let refused = create(&["--scope", "operator"]).await;
    assert!(!refused.status.success() && stderr_of(&refused).contains("cannot have the scope operator"), "{refused:?}");
    let unknown = create(&["--tenant", &test_tenant(&acme)]).await;
    assert!(!unknown.status.success() && stderr_of(&unknown).contains("there is no tenant"), "{unknown:?}");
}

#[tokio::test]
async fn test_requests_count_in_the_tenants_rate_but_not_in_its_quota() {
    let app = TestApp::start().await;
    let limits = json!({"quota": {"recipients_per_day": 1}, "rate": {"requests_per_second": 1, "burst": 3}});
    let acme = tenant(&app, "Acme", limits).await;
    let test = test_key(&app, &acme).await;
    for _ in 0..3 {
        let sent = test.post("/v1/messages", &message(json!({"to": ["a@example.test", "b@example.test"]}))).await;
        assert_eq!((sent.status, &sent.headers["ratelimit-policy"].to_str().unwrap()), (202, &"\"rate\";q=3;w=3"));
    }
    let refused = test.get("/v1/messages").await;
    assert_eq!(refused.problem(), (429, "rate_limit_exceeded"));
    assert!(refused.body["detail"].as_str().unwrap().starts_with("This tenant may make 1 "), "{}", refused.body);
    assert_eq!(app.get(&format!("{PATH}/{}", acme.id)).await.body["usage"]["recipients"], 0);
    app.clock.advance(seconds(60));
    acme.api.send(json!({})).await;
    assert_eq!(acme.api.post("/v1/messages", &message(json!({}))).await.problem(), (429, "daily_quota_exceeded"));
    test.send(json!({})).await;
}

#[tokio::test]
async fn test_messages_of_a_suspended_tenant_wait() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({})).await;
    let test = test_key(&app, &acme).await;
    let sent = test.send(json!({"to": "defer-1@simulator.postrider.test"})).await;
    app.post(&format!("{PATH}/{}/suspend", acme.id), &json!({"reason": "unpaid"})).await;
    // A test key that is created during the suspension is suspended, too.
    for api in [&test, &test_key(&app, &acme).await] {
        for (path, body) in [("/v1/messages", message(json!({}))), ("/v1/test/clock", json!({"advance": "1h"}))] {
            assert_eq!(api.post(path, &body).await.problem(), (403, "tenant_suspended"), "{path}");
        }
        assert_eq!(api.status(&sent.id).await, "queued");
    }
    // Longer than the retry window.
    app.clock.advance(hours(24 * 14));
    app.run_until_idle().await;
    assert_eq!(test.status(&sent.id).await, "queued");
    let explanation = test.get(&format!("/v1/messages/{}/explain", sent.id)).await.body["recipients"][0].clone();
    assert_eq!(explanation["blocker"]["kind"], "tenant_suspended", "{explanation}");

    act(&app, &acme.id, "resume").await;
    app.run_until_idle().await;
    assert_eq!(test.status(&sent.id).await, "deferred", "its retry window did not run");
    app.clock.advance(hours(1));
    app.run_until_idle().await;
    assert_eq!(test.status(&sent.id).await, "delivered");
}

#[tokio::test]
async fn first_test_key_of_a_suspended_tenant_is_suspended() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({})).await;
    act(&app, &acme.id, "suspend").await;
    let test = test_key(&app, &acme).await;
    assert_eq!(test.post("/v1/messages", &message(json!({}))).await.problem(), (403, "tenant_suspended"));
    let state = test.get("/v1/lanes").await;
    assert_eq!((state.status, &state.body["data"]), (200, &json!([])));
    act(&app, &acme.id, "resume").await;
    let sent = test.send(json!({})).await;
    app.run_until_idle().await;
    assert_eq!(test.status(&sent.id).await, "delivered");
}

#[tokio::test]
async fn test_tenant_has_the_weight_of_its_tenant() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({"weight": 300})).await;
    assert_eq!(weight(&app, &acme).await, None, "the first test key creates it");
    test_key(&app, &acme).await;
    assert_eq!(weight(&app, &acme).await, Some(300));
    let changed = app.patch(&format!("{PATH}/{}", acme.id), &json!({"weight": 7, "name": "Acme Inc"})).await;
    assert_eq!((changed.status, weight(&app, &acme).await), (200, Some(7)));
}

/// Gives the tenant of a test key rows in the tables that test keys write. Returns the number of messages.
async fn fill(app: &TestApp, test: &Api) -> i64 {
    assert_eq!(test.post("/v1/webhooks", &json!({"url": "http://127.0.0.1:9/"})).await.status, 201);
    assert_eq!(test.post("/v1/suppressions", &json!({"address": "no@example.test"})).await.status, 200);
    assert!(put(test, b"terms").await.status < 300);
    let to = ["ann@example.test", "bounce@simulator.postrider.test", "complaint-1h@simulator.postrider.test"];
    let batch: Vec<Value> = to.iter().map(|to| message(json!({"to": to, "idempotency_key": to}))).collect();
    assert_eq!(test.post("/v1/messages/batch", &json!(batch)).await.status, 202);
    test.send(json!({"scheduled_at": app.clock.text_in(hours(100))})).await;
    let bulk = json!({"from": "a@acme.test", "subject": "", "text": "Hi", "recipients": [{"to": "bo@example.test"}]});
    let id = test.post("/v1/messages/bulk", &bulk).await.body["id"].as_str().unwrap().to_owned();
    until("the bulk is a message", Duration::from_secs(20), async || {
        let listed = test.get(&format!("/v1/messages?bulk={id}")).await.body["data"].as_array().unwrap().len();
        if listed == 1 { Ok(()) } else { Err(listed) }
    })
    .await;
    app.run_until_idle().await;
    for action in ["pause", "resume"] {
        assert_eq!(test.post(&format!("/v1/streams/bulk/{action}"), &json!({})).await.status, 200);
    }
    5
}

/// Deletes until a condition holds, one step at a time.
async fn delete_until(app: &TestApp, condition: impl AsyncFn() -> bool) {
    for _ in 0..100 {
        if condition().await {
            return;
        }
        advance(app).await;
    }
    panic!("the deletion goes on");
}

/// Returns whether only the row of the test tenant is left to delete.
async fn is_at_last_step(app: &TestApp) -> bool {
    let step = "SELECT step FROM tenant_deletions";
    let step: i16 = sqlx::query_scalar(step).fetch_one(&mut app.database.connect().await).await.unwrap();
    step == 13
}

#[tokio::test]
async fn test_data_of_a_deleted_tenant_is_deleted_first() {
    let app = TestApp::builder().config(|config| config.webhooks.allow_private = true).start().await;
    let (gone, kept) = (tenant(&app, "gone", json!({})).await, tenant(&app, "kept", json!({})).await);
    let tests = [test_key(&app, &gone).await, test_key(&app, &kept).await];
    let messages = fill(&app, &tests[0]).await;
    fill(&app, &tests[1]).await;
    gone.api.send(json!({})).await;
    app.run_until_idle().await;
    let (of_gone, of_test) = (rows(&app, &gone.id).await, rows(&app, &test_tenant(&gone)).await);
    let of_kept = rows(&app, &test_tenant(&kept)).await;
    assert!(of_test.len() > 12, "{of_test:?}");

    assert_eq!(app.delete(&format!("{PATH}/{}", gone.id)).await.status, 202);
    assert_eq!(tests[0].get("/v1/messages").await.status, 401, "test keys are revoked, too");
    app.clock.advance(seconds(61));
    delete_until(&app, async || weight(&app, &gone).await.is_none()).await;
    assert_eq!(rows(&app, &test_tenant(&gone)).await, []);
    assert_eq!(rows(&app, &gone.id).await, of_gone, "the live data comes after the test data");

    app.worker.delete_tenants().await.unwrap();
    assert_eq!(rows(&app, &gone.id).await, []);
    assert_eq!(rows(&app, &test_tenant(&kept)).await, of_kept);
    let deleted = app.get(&format!("{PATH}/{}", gone.id)).await.body;
    let counts = (&deleted["status"], &deleted["deletion"]["messages"]);
    assert_eq!(counts, (&json!("deleted"), &json!(messages + 1)), "{deleted}");
}

#[tokio::test]
async fn test_data_that_is_added_during_the_deletion_is_deleted() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({})).await;
    test_key(&app, &acme).await.send(json!({})).await;
    app.delete(&format!("{PATH}/{}", acme.id)).await;
    app.clock.advance(seconds(61));
    delete_until(&app, async || is_at_last_step(&app).await).await;
    app.sql(
        "INSERT INTO pauses (tenant_id, stream, paused_at, resumed_at)
         SELECT id, 'bulk', now(), now() FROM tenants WHERE test_of IS NOT NULL",
    )
    .await;
    app.worker.delete_tenants().await.unwrap();
    assert_eq!(app.get(&format!("{PATH}/{}", acme.id)).await.body["status"], "deleting");
    app.clock.advance(seconds(61));
    app.worker.delete_tenants().await.unwrap();
    assert_eq!(app.get(&format!("{PATH}/{}", acme.id)).await.body["status"], "deleted");
    assert_eq!((rows(&app, &test_tenant(&acme)).await, weight(&app, &acme).await), (Vec::new(), None));
}
