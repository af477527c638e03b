//! Idempotency keys of whole batches and of their messages.

use postrider::domain::key::Scope;
use reqwest::Method;
use serde_json::{Value, json};

use super::{PATH, count, ids, indexes, is_replayed, messages, send_keyed};
use crate::support::app::TestApp;
use crate::support::client::{Api, ApiResponse, message};
use crate::support::clock::hours;

async fn stored(app: &TestApp) -> i64 {
    count(&mut app.database.connect().await).await
}

/// Returns a message with this idempotency key.
fn keyed(key: &str, fields: Value) -> Value {
    let mut message = message(fields);
    message["idempotency_key"] = key.into();
    message
}

/// Sends a single message with the header.
async fn send_single(api: &Api, key: &str, body: &Value) -> ApiResponse {
    ApiResponse::to(api.request(Method::POST, "/v1/messages").header("idempotency-key", key).json(body)).await
}

#[tokio::test]
async fn repeated_batch_returns_the_first_response() {
    let app = TestApp::start().await;
    app.post("/v1/suppressions", &json!({"address": "u3@example.test", "reason": "complaint"})).await;
    let mut all = messages(20);
    all[7] = message(json!({"to": "x"}));
    all[8] = message(json!({"scheduled_at": app.clock.text_in(hours(30)), "expires_at": app.clock.text_in(hours(40))}));
    let body = json!({"messages": all, "validation": "permissive"});
    let first = send_keyed(&app, "run-1", &body).await;
    assert_eq!((ids(&first).len(), is_replayed(&first)), (19, false));
    app.run_until_idle().await;
    // The expiry of a message has passed, so the request would no longer be valid.
    app.clock.advance(hours(50));
    let again = send_keyed(&app, "run-1", &body).await;
    assert_eq!((again.status, is_replayed(&again)), (202, true));
    assert_eq!(again.body, first.body);
    assert_eq!(stored(&app).await, 19);

    let strict = json!(messages(3));
    let first = send_keyed(&app, "run-2", &strict).await;
    for same in [strict.clone(), json!({"validation": "strict", "messages": strict})] {
        let again = send_keyed(&app, "run-2", &same).await;
        assert_eq!((is_replayed(&again), &again.body), (true, &first.body));
    }
    assert_eq!(stored(&app).await, 22);
}

#[tokio::test]
async fn different_batch_with_the_same_key_is_refused() {
    let app = TestApp::start().await;
    let all = messages(3);
    ids(&send_keyed(&app, "run-1", &json!(all)).await);
    let reversed: Vec<Value> = all.iter().rev().cloned().collect();
    let longer = messages(4);
    for other in [json!(reversed), json!(longer), json!({"messages": all, "validation": "permissive"}), json!(all[..2])]
    {
        assert_eq!(send_keyed(&app, "run-1", &other).await.problem(), (422, "idempotency_key_reused"));
    }
    assert_eq!(send_single(&app, "run-1", &all[0]).await.problem(), (422, "idempotency_key_reused"));
    assert_eq!(send_single(&app, "order-1", &all[0]).await.status, 202);
    assert_eq!(send_keyed(&app, "order-1", &json!(all[..1])).await.problem(), (422, "idempotency_key_reused"));
    assert_eq!(stored(&app).await, 4);
}

#[tokio::test]
async fn batch_that_creates_nothing_does_not_use_its_key() {
    let app = TestApp::start().await;
    let bad = json!([message(json!({"to": "x"}))]);
    assert_eq!(send_keyed(&app, "run-1", &bad).await.status, 422);
    assert_eq!(send_keyed(&app, "run-1", &json!({"messages": bad, "validation": "permissive"})).await.status, 202);
    assert_eq!(ids(&send_keyed(&app, "run-1", &json!(messages(2))).await).len(), 2);
}

#[tokio::test]
async fn message_keys_are_those_of_single_messages() {
    let app = TestApp::start().await;
    let single = send_single(&app, "order-1", &message(json!({}))).await;
    let body = json!([message(json!({})), keyed("order-1", json!({})), keyed("order-2", json!({}))]);
    let batch = app.post(PATH, &body).await;
    let batch_ids = ids(&batch);
    assert_eq!(
        (&batch_ids[1], &batch.body["data"][1]["replayed"]),
        (&single.body["id"].as_str().unwrap().to_owned(), &json!(true))
    );
    assert_eq!(batch.body["data"][1]["recipients"], single.body["recipients"]);
    assert_eq!(batch.body["data"][2].get("replayed"), None);

    let again = app.post(PATH, &body).await;
    assert_eq!(ids(&again)[1..], batch_ids[1..], "the keyed messages are not accepted again");
    let alone = send_single(&app, "order-2", &message(json!({}))).await;
    assert_eq!((alone.body["id"].as_str(), is_replayed(&alone)), (Some(batch_ids[2].as_str()), true));
    assert_eq!(stored(&app).await, 4, "the message without a key was accepted twice");
}

#[tokio::test]
async fn used_message_key_is_a_fault_of_its_message() {
    let app = TestApp::start().await;
    send_single(&app, "order-1", &message(json!({}))).await;
    let all = json!([message(json!({})), keyed("order-1", json!({"subject": "Another"})), keyed("order-2", json!({}))]);
    let refused = app.post(PATH, &all).await;
    let fault = ("/1/idempotency_key", "idempotency_key_reused");
    assert_eq!((refused.status, refused.faults()), (422, vec![fault]));
    assert_eq!(stored(&app).await, 1);
    let permissive = app.post(PATH, &json!({"messages": all, "validation": "permissive"})).await;
    assert_eq!((indexes(&permissive.body["data"]), indexes(&permissive.body["errors"])), (vec![0, 2], vec![1]));
    assert_eq!(permissive.body["errors"][0]["errors"][0]["code"], "idempotency_key_reused");
}

#[tokio::test]
async fn equal_keys_in_one_batch_create_one_message() {
    let app = TestApp::start().await;
    let mut reordered = serde_json::Map::new();
    let same = keyed("order-1", json!({}));
    reordered.extend(same.as_object().unwrap().iter().rev().map(|(name, value)| (name.clone(), value.clone())));
    let body = json!([same, message(json!({})), reordered]);
    let response = app.post(PATH, &body).await;
    let all = ids(&response);
    assert_eq!((&all[0], response.body["data"][0].get("replayed")), (&all[2], None));
    assert_eq!(response.body["data"][2]["replayed"], true);
    assert_eq!(stored(&app).await, 2);

    let different = json!([same, keyed("order-2", json!({})), keyed("order-2", json!({"subject": "x"}))]);
    let refused = app.post(PATH, &different).await;
    assert_eq!((refused.status, refused.faults()), (422, vec![("/2/idempotency_key", "duplicate_value")]));
    let permissive = app.post(PATH, &json!({"messages": different, "validation": "permissive"})).await;
    assert_eq!((indexes(&permissive.body["data"]), indexes(&permissive.body["errors"])), (vec![0, 1], vec![2]));
    assert_eq!(stored(&app).await, 3);
}

#[tokio::test]
async fn key_of_the_batch_cannot_be_that_of_a_message() {
    let app = TestApp::start().await;
    let refused = send_keyed(&app, "run-1", &json!([keyed("run-1", json!({}))])).await;
    assert_eq!((refused.status, refused.faults()), (422, vec![("/0/idempotency_key", "duplicate_value")]));
    assert_eq!(stored(&app).await, 0);
}

#[tokio::test]
async fn replay_repeats_earlier_and_equal_messages() {
    let app = TestApp::start().await;
    let earlier = send_single(&app, "order-1", &message(json!({}))).await;
    let body = json!({"validation": "permissive", "messages": [
        keyed("order-1", json!({})), keyed("order-2", json!({})), message(json!({"to": "x"})), keyed("order-2", json!({})),
        message(json!({})), keyed("order-1", json!({"subject": "Another"})),
    ]});
    let first = send_keyed(&app, "run-1", &body).await;
    assert_eq!((indexes(&first.body["data"]), indexes(&first.body["errors"])), (vec![0, 1, 3, 4], vec![2, 5]));
    assert_eq!(first.body["data"][0]["id"], earlier.body["id"]);
    let again = send_keyed(&app, "run-1", &body).await;
    assert_eq!((is_replayed(&again), &again.body), (true, &first.body));
    assert_eq!(stored(&app).await, 3);
}

#[tokio::test]
async fn keys_of_batches_are_scoped_to_the_api_key() {
    let app = TestApp::start().await;
    let (shop, blog) = (app.with_scopes(&[Scope::Send]).await, app.with_scopes(&[Scope::Send]).await);
    let body = json!([keyed("order-1", json!({})), message(json!({}))]);
    let of_shop = ids(&send_keyed(&shop, "run-1", &body).await);
    let of_blog = ids(&send_keyed(&blog, "run-1", &body).await);
    assert!(of_blog.iter().all(|id| !of_shop.contains(id)));
    for (api, first) in [(&shop, &of_shop), (&blog, &of_blog)] {
        let again = send_keyed(api, "run-1", &body).await;
        assert_eq!((is_replayed(&again), &ids(&again)), (true, first));
        let by_message = api.post(PATH, &body).await;
        assert_eq!(ids(&by_message)[0], first[0]);
    }
    assert_eq!(stored(&app).await, 6);
}

#[tokio::test]
async fn invalid_key_of_a_batch_is_refused() {
    let app = TestApp::start().await;
    for key in ["", &"k".repeat(257)] {
        let refused = send_keyed(&app, key, &json!(messages(1))).await;
        assert_eq!((refused.status, refused.faults()), (422, vec![("Idempotency-Key", "invalid_value")]));
    }
}
