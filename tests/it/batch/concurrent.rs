//! Concurrent batches and single messages: keys in use, replicas, and locks.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{PATH, count, ids, is_replayed, messages, send_keyed};
use crate::support::app::TestApp;
use crate::support::client::{Api, ApiResponse, message};
use crate::support::postgres::until_waiting_for_lock;
use crate::support::until::until;

const LIMIT: Duration = Duration::from_secs(20);

/// Checks that exactly one of several concurrent equal batches was accepted, and that the other requests returned its
/// response or 409.
async fn exactly_one(app: &TestApp, responses: Vec<ApiResponse>, size: usize) {
    let mut accepted = BTreeSet::new();
    for response in &responses {
        if response.status == 409 {
            assert_eq!(response.problem(), (409, "idempotency_key_in_flight"));
            assert!(response.headers.contains_key("retry-after"));
        } else {
            accepted.insert(ids(response));
        }
    }
    assert_eq!(accepted.len(), 1);
    assert_eq!(count(&mut app.database.connect().await).await, i64::try_from(size).unwrap());
}

#[tokio::test]
async fn concurrent_equal_batches_are_accepted_once() {
    let app = TestApp::start().await;
    let body = json!(messages(10));
    let responses = join_all((0..20).map(|_| send_keyed(&app, "run-1", &body))).await;
    exactly_one(&app, responses, 10).await;
}

#[tokio::test]
async fn concurrent_batches_to_two_replicas_are_accepted_once() {
    let app = TestApp::start().await;
    let (other, api) = app.another_api().await;
    let body = json!(messages(10));
    let through: Vec<&Api> = [app.api(), &api].repeat(10);
    let responses = join_all(through.iter().map(|api| send_keyed(api, "run-1", &body))).await;
    exactly_one(&app, responses, 10).await;
    let replayed = send_keyed(&api, "run-1", &body).await;
    assert!(is_replayed(&replayed));
    drop(api);
    other.stop().await;
}

#[tokio::test]
async fn overlapping_message_keys_create_each_message_once() {
    let app = TestApp::start().await;
    let (other, api) = app.another_api().await;
    let keyed = |n: usize| {
        let mut message = message(json!({"subject": n.to_string()}));
        message["idempotency_key"] = format!("order-{n}").into();
        message
    };
    // Each list has half of the messages of the next one, in the opposite order.
    let list = |start: usize| {
        let numbers: Vec<usize> = (start..start + 10).collect();
        let ordered: Vec<Value> = if start.is_multiple_of(2) {
            numbers.into_iter().map(keyed).collect()
        } else {
            numbers.into_iter().rev().map(keyed).collect()
        };
        json!({"messages": ordered, "validation": "permissive"})
    };
    let send = async |api: &Api, start: usize| {
        until("every message is accepted", LIMIT, async || {
            let response = api.post(PATH, &list(start)).await;
            let is_complete = response.status == 202 && response.body["errors"] == json!([]);
            if is_complete { Ok(()) } else { Err(response.body) }
        })
        .await;
    };
    let calls = (0..8).map(|n| send(if n % 2 == 0 { app.api() } else { &api }, n * 5));
    tokio::time::timeout(LIMIT, join_all(calls)).await.expect("all batches");
    assert_eq!(count(&mut app.database.connect().await).await, 45);
    drop(api);
    other.stop().await;
}

#[tokio::test]
async fn key_in_use_by_another_request_gets_409_or_a_fault() {
    let app = TestApp::start().await;
    let mut lock = app.database.connect().await;
    sqlx::raw_sql("BEGIN; SELECT FROM event_counters FOR UPDATE").execute(&mut lock).await.unwrap();
    let mut keyed = messages(3);
    keyed[1]["idempotency_key"] = "order-1".into();
    let first = tokio::spawn({
        let (api, body) = (app.api().clone(), json!(keyed));
        async move { send_keyed(&api, "run-1", &body).await }
    });
    waits_for_a_lock(&app).await;
    assert_eq!(send_keyed(&app, "run-1", &json!(keyed)).await.problem(), (409, "idempotency_key_in_flight"));
    let strict = app.post(PATH, &json!(keyed)).await;
    assert_eq!(strict.problem(), (409, "idempotency_key_in_flight"));
    keyed[0]["idempotency_key"] = "run-1".into();
    let permissive = tokio::spawn({
        let (api, body) = (app.api().clone(), json!({"messages": keyed, "validation": "permissive"}));
        async move { api.post(PATH, &body).await }
    });
    sqlx::raw_sql("ROLLBACK").execute(&mut lock).await.unwrap();
    assert_eq!(ids(&first.await.unwrap()).len(), 3);
    let permissive = permissive.await.unwrap();
    assert_eq!(permissive.status, 202, "{}", permissive.body);
}

async fn waits_for_a_lock(app: &TestApp) {
    until_waiting_for_lock(&mut app.database.connect().await, "").await;
}

#[tokio::test]
async fn batch_that_waits_for_a_lock_delays_nothing_else() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    let mut lock = app.database.connect().await;
    // Acts as another replica that is about to use the key.
    let insert = "BEGIN; INSERT INTO idempotency_keys (tenant_id, key, fingerprint, message_ids, created_at)
                  SELECT tenant_id, 'run-1', sha256(''), ARRAY[id], now() FROM messages";
    sqlx::raw_sql(insert).execute(&mut lock).await.unwrap();
    let waiting = tokio::spawn({
        let api = app.api().clone();
        async move { send_keyed(&api, "run-1", &json!(messages(5))).await }
    });
    waits_for_a_lock(&app).await;
    let others = async {
        for _ in 0..20 {
            app.send(json!({})).await;
        }
        // The batch waits for a second at most before it is retried beside the others.
        ids(&app.post(PATH, &json!(messages(5))).await)
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(10), others).await.expect("others are blocked").len(), 5);
    assert!(!waiting.is_finished());
    sqlx::raw_sql("ROLLBACK").execute(&mut lock).await.unwrap();
    assert_eq!(ids(&waiting.await.unwrap()).len(), 5);
}

#[tokio::test]
async fn batch_that_the_database_refuses_fails_alone() {
    let app = TestApp::start().await;
    app.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN RAISE EXCEPTION 'refused by the test' USING ERRCODE = 'check_violation'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON messages FOR EACH ROW WHEN (NEW.subject = 'refused') EXECUTE FUNCTION refuse()",
    )
    .await;
    let send = async |n: usize| {
        let is_bad = n.is_multiple_of(4);
        let mut all = messages(5);
        all[3]["subject"] = if is_bad { "refused" } else { "good" }.into();
        let response = app.request(reqwest::Method::POST, PATH).json(&all).send().await.unwrap();
        assert_eq!(response.status(), if is_bad { 500 } else { 202 }, "{n}");
    };
    join_all((0..12).map(send)).await;
    assert_eq!(count(&mut app.database.connect().await).await, 45, "of a refused batch, nothing is stored");
}
