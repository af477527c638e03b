//! `POST /v1/messages/bulk` and `/v1/bulks`.

mod accepted;
mod control;
mod forms;
mod idempotency;
mod kills;
mod refused;

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::{Api, ApiResponse};
use crate::support::postgres::Database;
use crate::support::until::until;

const PATH: &str = "/v1/messages/bulk";
const LIMIT: Duration = Duration::from_secs(30);

/// Returns a bulk to these recipients, with these fields in place of the usual ones.
fn bulk(recipients: &Value, fields: Value) -> Value {
    let mut body = json!({"from": "Acme News <news@acme.test>", "subject": "Our news", "text": "We have moved."});
    let Value::Object(fields) = fields else { panic!("{fields} is not an object") };
    body.as_object_mut().unwrap().extend(fields);
    body["recipients"] = recipients.clone();
    body
}

/// Returns this many recipients: u0@example.test and so on.
fn recipients(count: usize) -> Value {
    (0..count).map(|n| json!({"to": format!("u{n}@example.test")})).collect()
}

/// Sends a bulk, and returns its id once a message exists for each of its recipients.
async fn send(app: &TestApp, body: &Value) -> String {
    let id = accepted(&app.post(PATH, body).await);
    expanded(&app.database).await;
    id
}

/// Sends a bulk with an idempotency key.
async fn send_keyed(api: &Api, key: &str, body: &Value) -> ApiResponse {
    ApiResponse::to(api.request(Method::POST, PATH).header("idempotency-key", key).json(body)).await
}

/// Returns the id of an accepted bulk.
fn accepted(response: &ApiResponse) -> String {
    assert_eq!(response.status, 202, "{}", response.body);
    let id = response.body["id"].as_str().unwrap().to_owned();
    assert_eq!(response.headers["location"], format!("/v1/bulks/{id}"));
    id
}

/// Waits until a message exists for each recipient of every bulk.
async fn expanded(database: &Database) {
    let mut connection = database.connect().await;
    until("recipients without a message", LIMIT, async || {
        let waiting = "SELECT count(*) FROM bulk_recipients";
        let count: i64 = sqlx::query_scalar(waiting).fetch_one(&mut connection).await.unwrap();
        if count == 0 { Ok(()) } else { Err(count) }
    })
    .await;
}

/// Returns a bulk.
async fn read(api: &Api, id: &str) -> Value {
    let response = api.get(&format!("/v1/bulks/{id}")).await;
    assert_eq!(response.status, 200, "{}", response.body);
    response.body
}

/// Returns the counts of a bulk that are not zero.
fn counts(bulk: &Value) -> Value {
    bulk["counts"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, count)| **count != json!(0))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

/// Returns up to 100 messages of a bulk, in the order of the request.
async fn messages(api: &Api, id: &str) -> Vec<Value> {
    let page = api.get(&format!("/v1/messages?bulk={id}&limit=100")).await;
    assert_eq!(page.status, 200, "{}", page.body);
    let mut messages = page.body["data"].as_array().unwrap().clone();
    messages.reverse();
    messages
}
