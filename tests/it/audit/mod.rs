//! The audit log.

mod command_line;
mod entries;
mod operations;
mod resend;
mod tenants;

use serde_json::Value;

use crate::support::client::Api;

/// Returns the entries that match a query, newest first.
async fn entries(api: &Api, query: &str) -> Vec<Value> {
    let page = api.get(&format!("/v1/audit?limit=100&{query}")).await;
    assert_eq!((page.status, &page.body["has_more"]), (200, &Value::Bool(false)), "{}", page.body);
    page.body["data"].as_array().unwrap().clone()
}

/// Returns the only entry that matches a query.
async fn entry(api: &Api, query: &str) -> Value {
    let mut found = entries(api, query).await;
    assert_eq!(found.len(), 1, "{query}: {found:?}");
    found.remove(0)
}
