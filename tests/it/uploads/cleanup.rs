//! Cleanup deletes unused files and old idempotency keys, and nothing else.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use postrider::worker::CleanedUp;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::{ApiResponse, message};
use crate::support::clock::{hours, minutes};
use crate::support::uploads::{attached, file, head, put, sha256, stored};

const MIB: usize = 1 << 20;
const WEEK: i64 = 7 * 24;

async fn clean_up(app: &TestApp) -> CleanedUp {
    app.worker.clean_up().await.unwrap()
}

/// Deletes all messages, as retention does with the partitions of old weeks.
async fn delete_messages(app: &TestApp) {
    app.sql("DELETE FROM queue; DELETE FROM recipients; DELETE FROM messages; DELETE FROM contents").await;
}

#[tokio::test]
async fn unused_file_is_deleted_after_its_time() {
    let app = TestApp::start().await;
    let sizes = [0, 1_000, 300_000, 20 * MIB];
    for (seed, size) in (0..).zip(sizes) {
        put(&app, &file(seed, size)).await;
    }
    for passed in [0, 1, 24, WEEK - 26] {
        app.clock.advance(hours(passed));
        let cleaned = CleanedUp { conversations: 0, ..clean_up(&app).await };
        assert_eq!(cleaned, CleanedUp::default());
    }
    assert_eq!(stored(&app).await.0, 4);
    app.clock.advance(hours(2));
    let expected =
        CleanedUp { blobs: 4, bytes: sizes.iter().sum::<usize>() as u64, uploads: 4, ..CleanedUp::default() };
    assert_eq!(clean_up(&app).await, expected);
    assert_eq!(stored(&app).await, (0, 0, 0));
    assert_eq!(put(&app, &file(1, 1_000)).await.status, 201, "it can be uploaded again");
}

#[tokio::test]
async fn time_is_configurable() {
    let app =
        TestApp::builder().config(|config| config.retention.unused_blobs = Duration::from_hours(30)).start().await;
    put(&app, b"x").await;
    for (passed, blobs) in [(25, 0), (4, 0), (2, 1)] {
        app.clock.advance(hours(passed));
        assert_eq!(clean_up(&app).await.blobs, blobs);
    }
}

#[tokio::test]
async fn every_use_starts_the_time_again() {
    let app = TestApp::start().await;
    let (data, other) = (file(1, 1_000), file(2, 1_000));
    put(&app, &data).await;
    put(&app, &other).await;
    let digest = sha256(&data);
    for n in 0..4 {
        app.clock.advance(hours(WEEK - 10));
        match n {
            0 => assert_eq!(put(&app, &data).await.status, 200),
            1 => assert!(head(&app, &digest).await.is_some()),
            2 => {
                let plan = app.post("/v1/messages?dry_run=true", &message(attached(&[&digest]))).await;
                assert_eq!(plan.status, 200);
            }
            _ => {
                let refused = app
                    .post(
                        "/v1/messages",
                        &message(json!({"to": "x", "attachments": [
                            {"filename": "a", "sha256": digest}
                        ]})),
                    )
                    .await;
                assert_eq!(refused.status, 422);
            }
        }
        clean_up(&app).await;
        assert_eq!(stored(&app).await.0, if n == 0 { 2 } else { 1 }, "{n}");
    }
    app.clock.advance(hours(WEEK + 1));
    assert_eq!(clean_up(&app).await.blobs, 1);
}

/// Sends a message with three files: by digest, by part and in base64.
async fn send(app: &TestApp, seed: u8, fields: Value) -> String {
    let (one, two, three) = (file(seed, 300_000), file(seed, 1_000), file(seed, 2_000));
    put(app, &one).await;
    let mut body = message(fields);
    body["attachments"] = json!([
        {"filename": "1", "sha256": sha256(&one)},
        {"filename": "2", "part": "two"},
        {"filename": "3", "content": STANDARD.encode(&three)},
    ]);
    let response = crate::support::form::Form::default().message(&body).file("two", &two).send(app).await;
    assert_eq!(response.status, 202, "{}", response.body);
    response.body["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn files_of_every_stored_message_are_kept() {
    let app = TestApp::start().await;
    let relayed = send(&app, 1, json!({})).await;
    app.run_until_idle().await;
    app.smtp.rcpt("no@example.test").replies(["550 5.1.1 no"]);
    let bounced = send(&app, 2, json!({"to": "no@example.test"})).await;
    app.run_until_idle().await;
    let suppressed = send(&app, 3, json!({"to": "no@example.test"})).await;
    let scheduled = send(&app, 4, json!({"scheduled_at": app.clock.text_in(hours(300 * 24))})).await;
    let canceled = send(&app, 5, json!({"scheduled_at": app.clock.text_in(hours(24))})).await;
    app.post(&format!("/v1/messages/{canceled}/cancel"), &json!({})).await;
    let queued = send(&app, 6, json!({"to": "queued@example.test"})).await;
    let held = send(&app, 7, json!({"to": "held@example.test"})).await;
    app.sql(
        "UPDATE queue SET held = 'held by the test', due_at = 'infinity' FROM recipients r
         WHERE r.id = recipient_id AND r.address = 'held@example.test'",
    )
    .await;
    let expired = send(&app, 8, json!({"to": "late@example.test", "expires_at": app.clock.text_in(hours(1))})).await;
    let all = [
        (relayed, "relayed"),
        (bounced, "bounced"),
        (suppressed, "suppressed"),
        (scheduled, "scheduled"),
        (canceled, "canceled"),
        (queued, "queued"),
        (held, "queued"),
        (expired, "queued"),
    ];
    for (id, status) in &all {
        assert_eq!(app.status(id).await, *status);
    }
    let before = stored(&app).await;
    assert_eq!(before.0, 8 * 3);
    for _ in 0..5 {
        app.clock.advance(hours(10 * 24));
        let cleaned = CleanedUp { conversations: 0, ..clean_up(&app).await };
        assert_eq!(cleaned, CleanedUp::default());
    }
    assert_eq!(stored(&app).await, before);
    for (id, _) in &all {
        for n in 0..3 {
            assert_eq!(app.get(&format!("/v1/messages/{id}/attachments/{n}")).await.status, 200);
        }
    }
    delete_messages(&app).await;
    app.clock.advance(hours(WEEK + 1));
    assert_eq!(clean_up(&app).await.blobs, 8 * 3);
    assert_eq!(stored(&app).await, (0, 0, 0));
}

#[tokio::test]
async fn file_is_kept_while_one_of_its_messages_is_stored() {
    let app = TestApp::start().await;
    let data = file(1, 1_000);
    put(&app, &data).await;
    let digest = sha256(&data);
    let kept = app.send(attached(&[&digest])).await.id;
    // More deleted messages than one step checks; they are newer than the one that is kept.
    app.clock.advance(minutes(1));
    for _ in 0..250 {
        app.send(attached(&[&digest])).await;
    }
    app.run_until_idle().await;
    let others = format!("id <> '{}'", kept.trim_start_matches("msg_"));
    let mut connection = app.database.connect().await;
    for (table, column) in [("recipients", "message_id"), ("messages", "id"), ("contents", "id")] {
        let sql = format!("DELETE FROM {table} WHERE {}", others.replace("id", column));
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    }
    let references = async || {
        let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM blob_references");
        count.fetch_one(&mut app.database.connect().await).await.unwrap()
    };
    assert_eq!(references().await, 251);
    app.clock.advance(hours(2 * WEEK));
    assert_eq!(clean_up(&app).await, CleanedUp::default());
    assert_eq!((references().await, stored(&app).await.0), (1, 1));
    delete_messages(&app).await;
    app.clock.advance(hours(WEEK + 1));
    assert_eq!(clean_up(&app).await.blobs, 1);
    assert_eq!(references().await, 0);
}

#[tokio::test]
async fn file_of_an_earlier_version_is_never_deleted() {
    let app = TestApp::start().await;
    put(&app, b"x").await;
    app.sql("UPDATE blobs SET check_at = NULL").await;
    app.clock.advance(hours(100 * WEEK));
    assert_eq!(clean_up(&app).await, CleanedUp::default());
}

#[tokio::test]
async fn message_races_the_cleanup() {
    let app = TestApp::start().await;
    let worker = app.another_worker().await;
    let (mut accepted, mut refused) = (0, 0);
    for seed in 0..20 {
        let size = if seed % 2 == 0 { 1_000 } else { 2 * MIB };
        let data = file(seed, size);
        let digest = sha256(&data);
        put(&app, &data).await;
        app.clock.advance(hours(WEEK + 1));
        let send = async |fields: Value| {
            let response = app.post("/v1/messages", &message(fields)).await;
            match response.status {
                202 => true,
                422 => {
                    assert_eq!(response.faults(), [("/attachments/0/sha256", "unknown_blob")]);
                    false
                }
                other => panic!("{other}"),
            }
        };
        let base64 = json!({"attachments": [{"filename": "a", "content": STANDARD.encode(&data)}]});
        let sends = async {
            let sent = join_all((0..3).map(|_| send(attached(&[&digest])))).await;
            (sent, send(base64).await)
        };
        let ((by_digest, by_content), first, second) = tokio::join!(sends, app.worker.clean_up(), worker.clean_up());
        assert!(by_content && first.is_ok() && second.is_ok());
        accepted += by_digest.iter().filter(|sent| **sent).count();
        refused += by_digest.iter().filter(|sent| !**sent).count();
    }
    eprintln!("{accepted} accepted, {refused} refused");
    app.run_until_idle().await;
    // The invariants, checked at the end, include that each attachment is stored.
    assert_eq!(stored(&app).await.0, 20);
    worker.stop().await;
}

#[tokio::test]
async fn cleanup_waits_for_a_request_that_uses_the_file() {
    let app = TestApp::start().await;
    let data = file(1, 1_000);
    put(&app, &data).await;
    app.clock.advance(hours(WEEK + 1));
    let mut request = app.database.connect().await;
    // A request has found the file, and its statement is not committed yet.
    sqlx::raw_sql("BEGIN; UPDATE blobs SET used_at = used_at + interval '7 days'").execute(&mut request).await.unwrap();
    assert_eq!(clean_up(&app).await.blobs, 0, "the file is skipped");
    sqlx::raw_sql("COMMIT").execute(&mut request).await.unwrap();
    assert_eq!(clean_up(&app).await.blobs, 0);
    app.clock.advance(hours(WEEK + 1));
    assert_eq!(clean_up(&app).await.blobs, 1);
}

#[tokio::test]
async fn message_that_is_not_committed_yet_keeps_its_file() {
    let app = TestApp::start().await;
    let data = file(1, 1_000);
    put(&app, &data).await;
    let mut request = app.database.connect().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE contents").execute(&mut request).await.unwrap();
    let sending = tokio::spawn({
        let (api, body) = (app.api().clone(), message(attached(&[&sha256(&data)])));
        async move { api.post("/v1/messages", &body).await.status }
    });
    crate::support::until::until("the reference is stored", Duration::from_secs(20), async || {
        let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM blob_references");
        let count = count.fetch_one(&mut app.database.connect().await).await.unwrap();
        if count == 1 { Ok(()) } else { Err(count) }
    })
    .await;
    // The file is kept even if its retention time is over.
    app.sql("UPDATE blobs SET used_at = used_at - interval '8 days', check_at = check_at - interval '8 days'").await;
    let removed = app.worker.clean_up();
    let release = async { sqlx::raw_sql("ROLLBACK").execute(&mut request).await.unwrap() };
    let (removed, _) = tokio::join!(removed, release);
    assert_eq!((removed.unwrap().blobs, sending.await.unwrap()), (0, 202));
    app.run_until_idle().await;
}

#[tokio::test]
async fn several_workers_delete_each_file_once() {
    let app = TestApp::start().await;
    let other = app.another_worker().await;
    for response in join_all((0..120).map(async |seed| put(&app, &file(seed, 100 + usize::from(seed))).await)).await {
        assert_eq!(response.status, 201);
    }
    app.clock.advance(hours(WEEK + 1));
    let (one, two) = tokio::join!(app.worker.clean_up(), other.clean_up());
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!((one.blobs + two.blobs, one.uploads + two.uploads), (120, 120));
    assert_eq!(stored(&app).await, (0, 0, 0));
    other.stop().await;
}

async fn send_with_key(app: &TestApp, key: &str) -> ApiResponse {
    let request = app.request(Method::POST, "/v1/messages").header("idempotency-key", key);
    ApiResponse::to(request.json(&message(json!({})))).await
}

#[tokio::test]
async fn idempotency_key_is_kept_as_long_as_its_message() {
    let app = TestApp::start().await;
    let first = send_with_key(&app, "order-42").await;
    app.run_until_idle().await;
    app.clock.advance(hours(100 * WEEK));
    assert_eq!(clean_up(&app).await, CleanedUp::default());
    assert_eq!(send_with_key(&app, "order-42").await.body["id"], first.body["id"]);
    delete_messages(&app).await;
    assert_eq!(clean_up(&app).await.idempotency_keys, 1);
    let again = send_with_key(&app, "order-42").await;
    assert_eq!((again.status, again.headers.get("idempotent-replayed")), (202, None));
    app.run_until_idle().await;
}

#[tokio::test]
async fn idempotency_key_is_kept_for_24_hours() {
    let app = TestApp::start().await;
    send_with_key(&app, "order-42").await;
    delete_messages(&app).await;
    app.clock.advance(hours(23));
    assert_eq!(clean_up(&app).await.idempotency_keys, 0);
    assert_eq!(send_with_key(&app, "order-42").await.problem(), (404, "not_found"));
    app.clock.advance(hours(2));
    assert_eq!(clean_up(&app).await.idempotency_keys, 1);
}

#[tokio::test]
async fn many_idempotency_keys_are_deleted_in_steps() {
    let app = TestApp::start().await;
    let kept = send_with_key(&app, "kept").await;
    app.run_until_idle().await;
    // One or two rows in each block of the table, in more blocks than one run reads.
    app.sql(
        "ALTER TABLE idempotency_keys SET (fillfactor = 10);
         INSERT INTO idempotency_keys (tenant_id, key, fingerprint, message_ids, created_at)
         SELECT '00000000-0000-0000-0000-000000000000', lpad(n::text, 280, 'k'), decode(repeat('00', 32), 'hex'),
                ARRAY[gen_random_uuid()], '2026-11-01'
         FROM generate_series(1, 12000) AS n",
    )
    .await;
    let (mut removed, mut runs) = (0, 0);
    while removed < 12_000 {
        let step = clean_up(&app).await.idempotency_keys;
        assert!(step > 0 && runs < 10, "{removed} after {runs} runs");
        (removed, runs) = (removed + step, runs + 1);
    }
    assert!(runs > 1, "a run is limited");
    app.clock.advance(hours(25));
    assert_eq!(send_with_key(&app, "kept").await.body["id"], kept.body["id"]);
}
