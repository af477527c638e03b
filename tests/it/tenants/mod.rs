//! Tenants: they never see each other's data, and are suspended, limited and deleted by operators.

mod bulks;
mod deletion;
mod fairness;
mod isolation;
mod limits;
mod moved_templates;
mod moving;
mod operator_keys;
mod resource;
mod same_names;
mod small_tenant;
mod suspension;
mod test_data;
mod turns;

use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::Api;

const PATH: &str = "/v1/tenants";

/// A tenant, with a client whose key may do everything in it.
pub struct Tenant {
    pub id: String,
    pub api: Api,
}

/// Creates a tenant with these fields besides its name.
pub async fn tenant(app: &TestApp, name: &str, fields: Value) -> Tenant {
    let mut body = json!({"name": name});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let created = app.post(PATH, &body).await;
    assert_eq!(created.status, 201, "{}", created.body);
    let id = created.body["id"].as_str().unwrap().to_owned();
    let api = app.with_key(&key(app, &id, json!({"scopes": ["send", "read", "admin"]})).await);
    Tenant { id, api }
}

/// Creates an API key of a tenant with these fields, and returns its secret.
async fn key(app: &TestApp, tenant: &str, fields: Value) -> String {
    let mut body = json!({"name": "shop", "tenant": tenant});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let created = app.post("/v1/keys", &body).await;
    assert_eq!((created.status, &created.body["tenant"]), (201, &json!(tenant)), "{}", created.body);
    created.body["secret"].as_str().unwrap().to_owned()
}

/// Calls `POST /v1/tenants/{id}/{action}`, and returns the tenant.
pub async fn act(app: &TestApp, id: &str, action: &str) -> Value {
    let done = app.post(&format!("{PATH}/{id}/{action}"), &json!({})).await;
    assert_eq!(done.status, 200, "{}", done.body);
    done.body
}
