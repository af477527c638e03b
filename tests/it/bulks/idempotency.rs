//! Idempotency keys of bulks.

use serde_json::{Value, json};

use super::{PATH, accepted, bulk, expanded, recipients, send_keyed};
use crate::support::app::TestApp;

#[tokio::test]
async fn repeated_call_returns_the_first_response() {
    let app = TestApp::start().await;
    let list = json!([{"to": "ann@example.test"}, {"to": "no"}]);
    let first = send_keyed(&app, "news-7", &bulk(&list, json!({}))).await;
    let id = accepted(&first);
    let second = send_keyed(&app, "news-7", &bulk(&list, json!({}))).await;
    assert_eq!((accepted(&second), &second.body), (id, &first.body));
    assert_eq!(second.headers["idempotent-replayed"], "true");
    let other = send_keyed(&app, "news-7", &bulk(&list, json!({"text": "Other"}))).await;
    assert_eq!((other.status, &other.body["code"]), (422, &json!("idempotency_key_reused")));
    // All calls that send messages share their idempotency keys.
    let batch = app.request(reqwest::Method::POST, "/v1/messages/batch").header("idempotency-key", "news-7");
    let batch = batch.json(&json!([{"from": "a@acme.test", "to": "b@example.test", "subject": "", "text": ""}]));
    assert_eq!(crate::support::client::ApiResponse::to(batch).await.status, 422);
    expanded(&app.database).await;
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 1);
}

/// Returns recipients with these numbers, each with an idempotency key.
fn keyed(numbers: std::ops::Range<usize>) -> Value {
    numbers.map(|n| json!({"to": format!("u{n}@example.test"), "idempotency_key": format!("news-7-{n}")})).collect()
}

#[tokio::test]
async fn recipients_with_used_keys_are_not_sent_to_again() {
    let app = TestApp::start().await;
    accepted(&app.post(PATH, &bulk(&keyed(0..5), json!({}))).await);
    let second = app.post(PATH, &bulk(&keyed(3..8), json!({}))).await;
    assert_eq!(
        (&second.body["accepted"], &second.body["replayed"], &second.body["rejected"]),
        (&json!(3), &json!(2), &json!(0))
    );
    let all_again = app.post(PATH, &bulk(&keyed(0..8), json!({}))).await;
    assert_eq!(
        (all_again.status, &all_again.body["accepted"], &all_again.body["replayed"]),
        (202, &json!(0), &json!(8))
    );
    let changed = app.post(PATH, &bulk(&keyed(7..9), json!({"text": "Other"}))).await;
    assert_eq!((&changed.body["accepted"], &changed.body["rejected"]), (&json!(1), &json!(1)));
    assert_eq!(changed.body["errors"][0]["errors"][0]["pointer"], "/recipients/0/idempotency_key");
    let twice = json!([{"to": "x@example.test", "idempotency_key": "x"}, {"to": "x@example.test", "idempotency_key": "x"},
                       {"to": "y@example.test", "idempotency_key": "x"}]);
    let twice = app.post(PATH, &bulk(&twice, json!({}))).await;
    assert_eq!(
        (&twice.body["accepted"], &twice.body["replayed"], &twice.body["rejected"]),
        (&json!(1), &json!(1), &json!(1))
    );
    expanded(&app.database).await;
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 5 + 3 + 1 + 1);
}

#[tokio::test]
async fn key_of_the_request_is_refused_for_a_recipient() {
    let app = TestApp::start().await;
    let list = json!([{"to": "ann@example.test", "idempotency_key": "news"}, {"to": "bo@example.test", "idempotency_key": "bo"}]);
    for replayed in [false, true] {
        let sent = send_keyed(&app, "news", &bulk(&list, json!({}))).await;
        assert_eq!((&sent.body["accepted"], &sent.body["rejected"]), (&json!(1), &json!(1)), "{}", sent.body);
        assert_eq!(sent.body["errors"][0]["errors"][0]["code"], "duplicate_value");
        assert_eq!(sent.headers.contains_key("idempotent-replayed"), replayed);
    }
    expanded(&app.database).await;
    app.run_until_idle().await;
}

#[tokio::test]
async fn bulk_without_keys_sends_each_time() {
    let app = TestApp::start().await;
    for _ in 0..2 {
        accepted(&app.post(PATH, &bulk(&recipients(2), json!({}))).await);
    }
    expanded(&app.database).await;
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 4);
}
