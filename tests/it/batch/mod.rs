//! `POST /v1/messages/batch`.

mod accepted;
mod concurrent;
mod forms;
mod idempotency;
mod kills;
mod large;
mod refused;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::support::client::{Api, ApiResponse, message};

const PATH: &str = "/v1/messages/batch";

/// Returns this many valid messages, each with its number as its subject.
fn messages(count: usize) -> Vec<Value> {
    (0..count).map(|n| message(json!({"subject": n.to_string(), "to": format!("u{n}@example.test")}))).collect()
}

/// Sends a batch with an idempotency key.
async fn send_keyed(api: &Api, key: &str, body: &Value) -> ApiResponse {
    ApiResponse::to(api.request(Method::POST, PATH).header("idempotency-key", key).json(body)).await
}

/// Returns the ids in a response, in its order.
fn ids(response: &ApiResponse) -> Vec<String> {
    assert_eq!(response.status, 202, "{}", response.body);
    response.body["data"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
}

/// Returns the index of each entry of a list.
fn indexes(list: &Value) -> Vec<u64> {
    list.as_array().unwrap().iter().map(|one| one["index"].as_u64().unwrap()).collect()
}

/// Returns whether a response is the repetition of an earlier one.
fn is_replayed(response: &ApiResponse) -> bool {
    response.headers.get("idempotent-replayed").is_some_and(|value| value == "true")
}

/// Returns the number of stored messages.
async fn count(connection: &mut PgConnection) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM messages").fetch_one(connection).await.unwrap()
}
