//! The scope `operator`: it manages tenants and their keys, and includes no other scope.

use postrider::domain::key::Scope;
use serde_json::json;

use super::{PATH, key, tenant};
use crate::support::app::TestApp;
use crate::support::client::{ApiResponse, message};
use crate::support::process::{on, run, stderr_of};

#[tokio::test]
async fn operator_key_neither_sends_nor_reads() {
    let app = TestApp::start().await;
    let operator = app.with_scopes(&[Scope::Operator]).await;
    assert_eq!(operator.get(PATH).await.status, 200);
    assert_eq!(operator.post("/v1/messages", &message(json!({}))).await.problem(), (403, "forbidden"));
    for path in ["/v1/messages", "/v1/events", "/v1/ledger", "/v1/lanes", "/v1/keys"] {
        assert_eq!(operator.get(path).await.problem(), (403, "forbidden"), "{path}");
    }
}

#[tokio::test]
async fn admin_key_cannot_become_an_operator() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({})).await;
    let admin = app.with_scopes(&[Scope::Admin]).await;
    let operator = json!({"name": "x", "scopes": ["operator"]});
    assert_eq!(admin.post("/v1/keys", &operator).await.problem(), (403, "forbidden"));
    let foreign = json!({"name": "x", "tenant": acme.id});
    assert_eq!(admin.post("/v1/keys", &foreign).await.problem(), (403, "forbidden"));
    for path in [format!("/v1/keys?tenant={}", acme.id), PATH.to_owned()] {
        assert_eq!(admin.get(&path).await.problem(), (403, "forbidden"), "{path}");
    }
    assert_eq!(acme.api.post(PATH, &json!({"name": "x"})).await.problem(), (403, "forbidden"));

    let limited = json!({"name": "root", "scopes": ["operator"], "allowed_ips": ["203.0.113.1"]});
    let root = format!("/v1/keys/{}", app.post("/v1/keys", &limited).await.body["id"].as_str().unwrap());
    assert_eq!(admin.patch(&root, &json!({"allowed_ips": null})).await.problem(), (403, "forbidden"));
    assert_eq!(admin.delete(&root).await.status, 204, "an admin may revoke it");
}

#[tokio::test]
async fn operator_manages_the_keys_of_every_tenant() {
    let app = TestApp::start().await;
    let (acme, operator) = (tenant(&app, "Acme", json!({})).await, app.with_scopes(&[Scope::Operator]).await);
    app.clock.advance(crate::support::clock::seconds(1));
    let created = operator.post("/v1/keys", &json!({"name": "shop", "tenant": acme.id})).await;
    assert_eq!((created.status, &created.body["tenant"]), (201, &json!(acme.id)));
    let (id, secret) = (created.body["id"].as_str().unwrap(), created.body["secret"].as_str().unwrap());
    app.with_key(secret).send(json!({})).await;

    let of_acme = format!("tenant={}", acme.id);
    let ids = |page: &ApiResponse| {
        page.body["data"].as_array().unwrap().iter().map(|key| key["id"].clone()).collect::<Vec<_>>()
    };
    let listed = ids(&operator.get(&format!("/v1/keys?{of_acme}")).await);
    assert_eq!((listed.len(), &listed[0]), (2, &json!(id)));
    assert_eq!(ids(&acme.api.get("/v1/keys").await), listed, "the tenant's admin sees the same keys");
    assert_eq!(operator.get(&format!("/v1/keys/{id}?{of_acme}")).await.body["name"], "shop");
    let renamed = operator.patch(&format!("/v1/keys/{id}?{of_acme}"), &json!({"name": "till"})).await;
    assert_eq!((renamed.status, &renamed.body["name"]), (200, &json!("till")));
    assert_eq!(app.delete(&format!("/v1/keys/{id}")).await.status, 404, "not a key of the default tenant");
    assert_eq!(operator.delete(&format!("/v1/keys/{id}?{of_acme}")).await.status, 204);
    assert_eq!(app.with_key(secret).get("/v1/messages").await.status, 401);
    let unknown = json!({"name": "x", "tenant": "ten_00000000000070008000000000000000"});
    assert_eq!(operator.post("/v1/keys", &unknown).await.faults(), [("/tenant", "unknown_tenant")]);
}

#[tokio::test]
async fn operator_scope_excludes_sender_domains() {
    let app = TestApp::start().await;
    let body = json!({"name": "x", "scopes": ["operator"], "sender_domains": ["acme.test"]});
    assert_eq!(app.post("/v1/keys", &body).await.faults(), [("/sender_domains", "invalid_value")]);
}

#[tokio::test]
async fn keys_of_a_tenant_are_created_on_the_command_line() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({})).await;
    key(&app, &acme.id, json!({"name": "other"})).await;
    let keys = async |arguments: &[&str]| run(on(&app.database.url, &[&["keys"], arguments].concat())).await;
    let created = keys(&["create", "--name", "root", "--scope", "operator"]).await;
    let operator = app.with_key(String::from_utf8(created.stdout).unwrap().trim());
    assert_eq!(operator.get(PATH).await.status, 200, "{}", String::from_utf8_lossy(&created.stderr));
    for name in ["Acme", &acme.id] {
        let created = keys(&["create", "--name", "cli", "--tenant", name]).await;
        app.with_key(String::from_utf8(created.stdout).unwrap().trim()).send(json!({})).await;
    }
    assert_eq!(acme.api.get("/v1/ledger").await.body["accepted"], 2);
    let listed = String::from_utf8(keys(&["list", "--tenant", "Acme"]).await.stdout).unwrap();
    assert_eq!((listed.lines().count(), listed.matches("\tcli\t").count()), (5, 2), "{listed}");
    let unknown = keys(&["create", "--name", "x", "--tenant", "Nobody"]).await;
    assert!(!unknown.status.success() && stderr_of(&unknown).contains("there is no tenant Nobody"), "{unknown:?}");
}
