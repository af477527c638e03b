//! `/v1/blobs/{sha256}`: a file is stored if and only if its content has this digest.

use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream;
use postrider::db::keys::{self, NewKey};
use postrider::domain::id::{KeyId, TenantId};
use postrider::domain::key::{KeyMode, Scope, Secret};
use reqwest::{Body, Method};
use serde_json::json;
use uuid::Uuid;

use crate::support::app::TestApp;
use crate::support::client::{Api, ApiResponse, message};
use crate::support::clock::hours;
use crate::support::postgres::Database;
use crate::support::process::{Service, key, serve};
use crate::support::raw_http::{Raw, status};
use crate::support::smtp::SmtpServer;
use crate::support::until::until;
use crate::support::uploads::{attached, file, head, put, put_as, sha256, stored, stored_in};

const MIB: usize = 1 << 20;

const LIMIT: Duration = Duration::from_secs(20);

/// Sends the head of an upload.
async fn begin(api: &Api, data: &[u8]) -> Raw {
    let mut raw = Raw::connect(&api.base).await;
    let (digest, key, length) = (sha256(data), &api.key, data.len());
    raw.send(format!(
        "PUT /v1/blobs/{digest} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: {length}\r\n\r\n"
    ))
    .await;
    raw
}

/// Waits until this number of chunks is stored.
async fn chunks_are_stored(database: &Database, count: i64) {
    until("chunks are stored", LIMIT, async || match stored_in(database).await {
        (_, chunks, _) if chunks == count => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

#[tokio::test]
async fn upload_of_a_killed_process_is_deleted() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let key = key(&database.url).await;
    let service = Service::start(serve(&database.url, smtp.address(), &["--only", "api"])).await;
    let data = file(1, 20 * MIB);
    let mut raw = begin(&Api::new(service.address.clone().unwrap(), key), &data).await;
    raw.send(&data[..19 * MIB]).await;
    chunks_are_stored(&database, 18).await;
    service.kill().await;
    let expire = "UPDATE uploads SET expires_at = expires_at - interval '1 day' WHERE expires_at > now()";
    let mut connection = database.connect().await;
    assert_eq!(sqlx::query(expire).execute(&mut connection).await.unwrap().rows_affected(), 1);
    let worker = Service::start(serve(&database.url, smtp.address(), &["--only", "worker"])).await;
    chunks_are_stored(&database, 0).await;
    assert!(worker.terminate().await.success());
    assert_eq!(stored_in(&database).await, (0, 0, 0));
}

#[tokio::test]
async fn file_of_any_size_is_stored_once() {
    let app = TestApp::start().await;
    let sizes = [0, 5, 200_000, MIB - 1, MIB, MIB + 1, 3 * MIB];
    for (seed, size) in (0..).zip(sizes) {
        let data = file(seed, size);
        let digest = sha256(&data);
        assert_eq!(head(&app, &digest).await, None);
        let created = put(&app, &data).await;
        assert_eq!((created.status, &created.body), (201, &json!({"sha256": digest, "size": size})));
        assert_eq!(created.headers["location"], format!("/v1/blobs/{digest}"));
        assert_eq!(head(&app, &digest.to_uppercase()).await, Some(size as u64));
        let again = put(&app, &data).await;
        assert_eq!((again.status, &again.body), (200, &created.body));
    }
    assert_eq!(stored(&app).await, (7, 1 + 1 + 1 + 1 + 1 + 2 + 3, 0));
}

#[tokio::test]
async fn body_without_length_is_stored() {
    let app = TestApp::start().await;
    let data = file(1, 2 * MIB + 7);
    let pieces: Vec<Result<Vec<u8>, std::io::Error>> = data.chunks(70_001).map(|piece| Ok(piece.to_vec())).collect();
    let path = format!("/v1/blobs/{}", sha256(&data));
    let request = app.request(Method::PUT, &path).body(Body::wrap_stream(stream::iter(pieces)));
    assert_eq!(ApiResponse::to(request).await.status, 201);
    assert_eq!(head(&app, &sha256(&data)).await, Some(data.len() as u64));
}

#[tokio::test]
async fn body_with_another_digest_is_refused() {
    let app = TestApp::start().await;
    for size in [5, 300_000, 2 * MIB] {
        let (digest, other) = (sha256(&file(1, size)), file(2, size));
        let refused = put_as(&app, &digest, &other).await;
        assert_eq!(
            (refused.problem(), refused.faults()),
            ((422, "invalid_request"), vec![("sha256", "digest_mismatch")])
        );
        assert!(refused.body["detail"].as_str().unwrap().contains(&sha256(&other)), "{}", refused.body);
        assert_eq!(head(&app, &digest).await, None);
        // A stored file is verified too.
        put(&app, &file(1, size)).await;
        assert_eq!(put_as(&app, &digest, &other).await.status, 422);
    }
    app.worker.clean_up().await.unwrap();
    assert_eq!(stored(&app).await, (3, 4, 0), "the chunks of refused bodies are deleted");
}

#[tokio::test]
async fn too_large_file_and_invalid_digest_are_refused() {
    let app = TestApp::builder().config(|config| config.accept.max_upload_mib = 2).start().await;
    let data = file(1, 2 * MIB + 1);
    let refused = put(&app, &data).await;
    assert_eq!(refused.problem(), (413, "too_large"));
    let pieces: Vec<Result<Vec<u8>, std::io::Error>> = data.chunks(100_000).map(|piece| Ok(piece.to_vec())).collect();
    let path = format!("/v1/blobs/{}", sha256(&data));
    let request = app.request(Method::PUT, &path).body(Body::wrap_stream(stream::iter(pieces)));
    assert_eq!(ApiResponse::to(request).await.problem(), (413, "too_large"));
    assert_eq!(put(&app, &data[..2 * MIB]).await.status, 201);
    for digest in ["x", "0123", &"g".repeat(64), &"0".repeat(65)] {
        assert_eq!(put_as(&app, digest, b"").await.faults(), [("sha256", "invalid_value")], "{digest}");
        assert_eq!(head(&app, digest).await, None, "{digest}");
    }
    app.worker.clean_up().await.unwrap();
    assert_eq!(stored(&app).await, (1, 2, 0));
}

#[tokio::test]
async fn interrupted_upload_is_deleted() {
    let app = TestApp::start().await;
    let data = file(1, 5 * MIB);
    let mut raw = begin(app.api(), &data).await;
    raw.send(&data[..3 * MIB]).await;
    chunks_are_stored(&app.database, 2).await;
    app.worker.clean_up().await.unwrap();
    assert_eq!(stored(&app).await.2, 1, "an upload in progress is kept");
    drop(raw);
    until("the upload is deleted", LIMIT, async || match app.worker.clean_up().await.unwrap().uploads {
        0 => Err("nothing deleted"),
        _ => Ok(()),
    })
    .await;
    assert_eq!(stored(&app).await, (0, 0, 0));
}

#[tokio::test]
async fn upload_that_expired_stores_nothing() {
    let app = TestApp::start().await;
    let data = file(1, 2 * MIB + 10);
    let mut raw = begin(app.api(), &data).await;
    raw.send(&data[..2 * MIB]).await;
    chunks_are_stored(&app.database, 1).await;
    app.clock.advance(hours(25));
    app.worker.clean_up().await.unwrap();
    raw.send(&data[2 * MIB..]).await;
    assert_eq!(status(&raw.response().await), 503);
    app.worker.clean_up().await.unwrap();
    assert_eq!(stored(&app).await, (0, 0, 0));
}

#[tokio::test]
async fn upload_whose_chunk_was_lost_can_be_repeated() {
    let app = TestApp::start().await;
    let data = file(1, 3 * MIB);
    let mut raw = begin(app.api(), &data).await;
    raw.send(&data[..2 * MIB + 10]).await;
    chunks_are_stored(&app.database, 2).await;
    // As in a crash of Postgres, which does not flush chunks one by one.
    app.sql("DELETE FROM blob_chunks WHERE n = 1").await;
    raw.send(&data[2 * MIB + 10..]).await;
    let response = raw.response().await;
    assert_eq!(status(&response), 503, "{response}");
    assert!(response.to_lowercase().contains("\r\nretry-after: "), "{response}");
    assert_eq!(head(&app, &sha256(&data)).await, None);
    app.worker.clean_up().await.unwrap();
    assert_eq!(stored(&app).await, (0, 0, 0), "the other chunks are deleted");
    assert_eq!(put(&app, &data).await.status, 201);
    assert_eq!(head(&app, &sha256(&data)).await, Some(data.len() as u64));
}

#[tokio::test]
async fn upload_that_was_lost_can_be_repeated() {
    let app = TestApp::start().await;
    let data = file(1, 2 * MIB);
    let mut raw = begin(app.api(), &data).await;
    raw.send(&data[..MIB + 10]).await;
    chunks_are_stored(&app.database, 1).await;
    app.sql("DELETE FROM blob_chunks; DELETE FROM uploads").await;
    raw.send(&data[MIB + 10..]).await;
    assert_eq!(status(&raw.response().await), 503);
    assert_eq!(stored(&app).await, (0, 0, 0));
    assert_eq!(put(&app, &data).await.status, 201);
}

#[tokio::test]
async fn concurrent_uploads_of_one_file_store_it_once() {
    let app = TestApp::start().await;
    let (other, api) = app.another_api().await;
    for (seed, size) in [(1, 1_000), (2, 500_000), (3, 3 * MIB)] {
        let data = file(seed, size);
        let responses = join_all([app.api(), &api].repeat(3).into_iter().map(|api| put(api, &data))).await;
        assert!(responses.iter().all(|response| [200, 201].contains(&response.status)), "{responses:?}");
    }
    app.worker.clean_up().await.unwrap();
    assert_eq!(stored(&app).await, (3, 5, 0));
    drop(api);
    other.stop().await;
}

#[tokio::test]
async fn another_tenant_cannot_find_a_file() {
    let app = TestApp::start().await;
    let data = file(1, 1_000);
    let digest = sha256(&data);
    put(&app, &data).await;
    let (tenant, secret) = (TenantId(Uuid::from_u128(7)), Secret::new(KeyMode::Live, None, [7; 32]));
    app.sql("INSERT INTO tenants (id, name, created_at) VALUES ('00000000-0000-0000-0000-000000000007', 'b', now())")
        .await;
    let key = NewKey {
        id: KeyId(Uuid::from_u128(7)),
        tenant,
        name: "b",
        hash: Secret::hash(secret.expose()),
        mode: KeyMode::Live,
        scopes: &[Scope::Send.as_str().to_owned()],
        sender_domains: None,
        allowed_ips: None,
        rate: None,
        quota: None,
        created_at: "2026-11-23T12:00:00Z".parse().unwrap(),
        expires_at: None,
    };
    keys::insert(&app.db, &key).await.unwrap();
    let other = app.with_key(secret.expose());
    assert_eq!(head(&other, &digest).await, None);
    let refused = other.post("/v1/messages", &message(attached(&[&digest]))).await;
    assert_eq!(refused.faults(), [("/attachments/0/sha256", "unknown_blob")]);
    assert_eq!(put(&other, &data).await.status, 201, "stored for this tenant");
    assert_eq!(head(&other, &digest).await, Some(1_000));
    assert_eq!(stored(&app).await.0, 2);
}

#[tokio::test]
async fn key_revoked_during_an_upload_stores_nothing() {
    let app = TestApp::start().await;
    let created = app.post("/v1/keys", &json!({"name": "leaked", "scopes": ["send"]})).await;
    let (id, key) = (created.body["id"].as_str().unwrap(), created.body["secret"].as_str().unwrap());
    let mut raw = Raw::connect(&app.base).await;
    raw.send(format!(
        "PUT /v1/blobs/{} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nExpect: 100-continue\r\n\
         Content-Length: 5\r\nConnection: close\r\n\r\n",
        sha256(b"hello")
    ))
    .await;
    assert_eq!(status(&raw.head().await), 100, "the key is valid");
    assert_eq!(app.delete(&format!("/v1/keys/{id}")).await.status, 204);
    raw.send("hello").await;
    assert_eq!(status(&raw.rest().await), 401);
    assert_eq!(stored(&app).await.0, 0);
}
