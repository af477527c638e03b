//! Each tenant has its own log, with the changes of its test keys. Those of operators are in the log of the operator's tenant.

use postrider::domain::key::Scope;
use serde_json::{Value, json};

use super::{entries, entry};
use crate::support::app::TestApp;
use crate::support::client::message;
use crate::support::clock::seconds;
use crate::support::process::{on, run, stderr_of};
use crate::tenants::{Tenant, tenant};

fn actions(entries: &[Value]) -> Vec<&str> {
    entries.iter().map(|entry| entry["action"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn operators_changes_are_in_their_own_log() {
    let app = TestApp::start().await;
    let Tenant { id, api: acme } = tenant(&app, "Acme", json!({})).await;
    let path = format!("/v1/tenants/{id}");
    assert_eq!(app.patch(&path, &json!({"weight": 200})).await.status, 200);
    assert_eq!(app.post(&format!("{path}/suspend"), &json!({"reason": "unpaid"})).await.status, 200);
    let updated = entry(&app, "action=update_tenant").await;
    assert_eq!((&updated["object"], &updated["tenant"]), (&json!(id), &json!(id)), "{updated}");
    assert_eq!((&updated["before"]["weight"], &updated["after"]["weight"]), (&json!(100), &json!(200)), "{updated}");
    let suspended = entry(&app, "action=suspend_tenant").await;
    assert_eq!(suspended["after"]["suspension"]["reason"], "unpaid", "{suspended}");
    let key = entry(&app, "action=create_key").await;
    assert_eq!((&key["tenant"], &key["after"]["name"]), (&json!(id), &json!("shop")), "{key}");

    // Neither the tenant nor an admin without the scope `operator` sees them.
    assert_eq!(entries(&acme, "").await, Vec::<Value>::new());
    let admin = app.with_scopes(&[Scope::Admin]).await;
    assert_eq!(entries(&admin, "").await, Vec::<Value>::new());
    assert_eq!(admin.patch(&path, &json!({"weight": 1})).await.status, 403);
    assert_eq!(actions(&entries(&admin, "").await), ["update_tenant"], "the refused request of its own tenant");
}

#[tokio::test]
async fn entry_of_a_deletion_stays() {
    let app = TestApp::start().await;
    let Tenant { id, api: acme } = tenant(&app, "Acme", json!({})).await;
    assert_eq!(acme.post("/v1/suppressions", &json!({"address": "bo@example.test"})).await.status, 200);
    assert_eq!(actions(&entries(&acme, "").await), ["add_suppressions"]);
    assert_eq!(app.delete(&format!("/v1/tenants/{id}")).await.status, 202);
    app.clock.advance(seconds(61));
    app.worker.delete_tenants().await.unwrap();
    let deleted = entry(&app, "action=delete_tenant").await;
    assert_eq!((&deleted["object"], &deleted["before"]["name"]), (&json!(id), &json!("Acme")), "{deleted}");
    let left = "SELECT count(*) FROM audit_log WHERE action = 'add_suppressions'";
    let left: i64 = sqlx::query_scalar(left).fetch_one(&mut app.database.connect().await).await.unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn changes_with_test_keys_are_in_the_tenants_log() {
    let app = TestApp::start().await;
    let test = app.with_test_key().await;
    app.post("/v1/suppressions", &json!({"address": "live@example.test"})).await;
    test.post("/v1/suppressions", &json!({"address": "test@example.test"})).await;
    app.clock.advance(seconds(1));
    assert_eq!(test.post("/v1/test/clock", &json!({"advance": "1h"})).await.status, 200);
    let live = entry(&app, "test=false").await;
    assert_eq!((&live["test"], &live["after"]["addresses"]), (&json!(false), &json!(["live@example.test"])));
    let of_tests = entries(&app, "test=true").await;
    assert_eq!(actions(&of_tests), ["advance_test_clock", "add_suppressions"]);
    assert_eq!((&of_tests[0]["test"], &of_tests[0]["after"]["advanced"]), (&json!(true), &json!(3600)));
    assert_eq!(entries(&app, "").await.len(), 3);
    // A test key sees no live data.
    assert_eq!(entries(&test, "").await, of_tests);
    assert_eq!(entries(&test, "test=false").await, Vec::<Value>::new());
    assert_eq!(app.get("/v1/audit?test=no").await.faults(), [("test", "invalid_value")]);
}

#[tokio::test]
async fn refused_changes_of_a_suspended_tenant_are_recorded() {
    let app = TestApp::start().await;
    let Tenant { id, api: acme } = tenant(&app, "Acme", json!({})).await;
    assert_eq!(app.post(&format!("/v1/tenants/{id}/suspend"), &json!({})).await.status, 200);
    assert_eq!(acme.post("/v1/streams", &json!({"name": "news"})).await.problem(), (403, "tenant_suspended"));
    assert_eq!(acme.post("/v1/messages", &message(json!({}))).await.problem(), (403, "tenant_suspended"));
    let refused = entry(&acme, "").await;
    assert_eq!((&refused["action"], &refused["result"]), (&json!("create_stream"), &json!("refused")), "{refused}");
    assert_eq!((&refused["status"], &refused["after"]), (&json!(403), &Value::Null));
}

#[tokio::test]
async fn command_for_a_tenant_names_it() {
    let app = TestApp::start().await;
    let Tenant { id, api: acme } = tenant(&app, "Acme", json!({})).await;
    let mut create = on(&app.database.url, &["keys", "create", "--name", "ci", "--test", "--tenant", "Acme"]);
    create.env_remove("SUDO_USER").env("USER", "ann");
    let created = run(create).await;
    assert!(created.status.success(), "{}", stderr_of(&created));
    let created = entry(&app, "actor=ann").await;
    assert_eq!((&created["source"], &created["action"]), (&json!("cli"), &json!("create_key")), "{created}");
    assert_eq!((&created["tenant"], &created["after"]["mode"]), (&json!(id), &json!("test")), "{created}");
    assert_eq!(entries(&acme, "").await, Vec::<Value>::new());
}
