//! Uploads of files, and the stored blobs.

use postrider::domain::key::hex;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::app::TestApp;
use super::client::{Api, ApiResponse};
use super::postgres::Database;

/// Returns the SHA-256 of a file.
pub fn sha256(data: &[u8]) -> String {
    hex(&Sha256::digest(data))
}

/// Returns a file that differs for each `seed`.
pub fn file(seed: u8, size: usize) -> Vec<u8> {
    (0..size).map(|n| seed ^ n.wrapping_mul(31).to_le_bytes()[1]).collect()
}

/// Uploads a file.
pub async fn put(api: &Api, data: &[u8]) -> ApiResponse {
    put_as(api, &sha256(data), data).await
}

/// Uploads a file under this digest.
pub async fn put_as(api: &Api, digest: &str, data: &[u8]) -> ApiResponse {
    ApiResponse::to(api.request(Method::PUT, &format!("/v1/blobs/{digest}")).body(data.to_vec())).await
}

/// Returns the size of a stored file; `None` if it is not stored.
pub async fn head(api: &Api, digest: &str) -> Option<u64> {
    let response = ApiResponse::to(api.request(Method::HEAD, &format!("/v1/blobs/{digest}"))).await;
    assert!(response.bytes.is_empty());
    match response.status {
        200 => Some(response.headers["content-length"].to_str().unwrap().parse().unwrap()),
        404 => None,
        other => panic!("{other}"),
    }
}

/// Returns the fields of a message with these files attached by their digests.
pub fn attached(digests: &[&str]) -> Value {
    let attachment = |digest: &&str| json!({"filename": "a.bin", "sha256": digest});
    json!({"attachments": digests.iter().map(attachment).collect::<Vec<_>>()})
}

/// Returns the number of stored blobs, of chunks, and of uploads.
pub async fn stored(app: &TestApp) -> (i64, i64, i64) {
    stored_in(&app.database).await
}

/// Like [`stored`], for a database without a [`TestApp`].
pub async fn stored_in(database: &Database) -> (i64, i64, i64) {
    let counts =
        "SELECT (SELECT count(*) FROM blobs), (SELECT count(*) FROM blob_chunks), (SELECT count(*) FROM uploads)";
    sqlx::query_as(counts).fetch_one(&mut database.connect().await).await.unwrap()
}
