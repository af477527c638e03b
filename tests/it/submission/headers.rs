//! Header fields that take the place of the fields of a request.

use serde_json::json;

use super::{ANN, FROM, MESSAGE, count, signed_in, start, submit};
use crate::support::clock::hours;

#[tokio::test]
async fn instructions_are_read_and_removed() {
    let app = start().await;
    let mut client = signed_in(&app, &app).await;
    let fields = "X-Postrider-Stream: bulk\r\nX-Postrider-Tag: kind=invoice\r\nX-Postrider-Tag: month = May\r\n\
                  X-Postrider-Metadata: order=42\r\nX-Postrider-Metadata: {\"shop\": \"berlin\",\r\n \"till\": \"3\"}\r\n\
                  X-Postrider-Other: x\r\nIdempotency-Key: order-42\r\n";
    let id = submit(&mut client, &[ANN], &format!("{fields}{MESSAGE}")).await;
    let message = app.message(&id).await;
    assert_eq!(message["stream"], "bulk");
    let tags = json!([{"name": "kind", "value": "invoice"}, {"name": "month", "value": "May"}]);
    assert_eq!(message["tags"], tags);
    assert_eq!(message["metadata"], json!({"order": "42", "shop": "berlin", "till": "3"}));
    let raw = String::from_utf8(app.get(&format!("/v1/messages/{id}/raw")).await.bytes).unwrap();
    assert!(!raw.contains("Postrider-") && !raw.contains("Idempotency") && raw.contains("Subject: Hi"), "{raw}");
}

#[tokio::test]
async fn scheduled_message_waits() {
    let app = start().await;
    let mut client = signed_in(&app, &app).await;
    let mime = format!("X-Postrider-Schedule: {}\r\n{MESSAGE}", app.clock.text_in(hours(2)));
    let id = submit(&mut client, &[ANN], &mime).await;
    assert_eq!(app.status(&id).await, "scheduled");
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 0);
    app.clock.advance(hours(2));
    app.run_until_idle().await;
    assert_eq!(app.status(&id).await, "relayed");
}

#[tokio::test]
async fn invalid_instructions_are_named_in_the_refusal() {
    let app = start().await;
    let mut client = signed_in(&app, &app).await;
    for (fields, expected) in [
        ("X-Postrider-Stream: none\r\n", "550 5.6.0 invalid_request (unknown_stream): X-Postrider-Stream: "),
        ("X-Postrider-Tag: kind\r\n", "550 5.6.0 invalid_request (invalid_value): X-Postrider-Tag: write `name=value`"),
        ("X-Postrider-Metadata: {\"a\": 1}\r\n", "550 5.6.0 invalid_request (invalid_type): X-Postrider-Metadata: "),
        ("X-Postrider-Schedule: tomorrow\r\n", "550 5.6.0 invalid_request (invalid_timestamp): X-Postrider-Schedule: "),
        ("Idempotency-Key: a\r\nIdempotency-Key: b\r\n", "550 5.6.0 invalid_request (invalid_value): "),
    ] {
        let reply = client.submit(FROM, &[ANN], &format!("{fields}{MESSAGE}")).await;
        assert!(reply.starts_with(expected), "{reply}");
    }
    assert_eq!(count(&app).await, 0);
}

#[tokio::test]
async fn message_in_a_loop_is_refused() {
    let app = start().await;
    let mut client = signed_in(&app, &app).await;
    let hops = |count: usize| format!("{}{MESSAGE}", "Received: by a; now\r\n".repeat(count));
    submit(&mut client, &[ANN], &hops(50)).await;
    let reply = client.submit(FROM, &[ANN], &hops(51)).await;
    assert!(reply.starts_with("554 5.4.6 "), "{reply}");
    assert_eq!(count(&app).await, 1);
}
