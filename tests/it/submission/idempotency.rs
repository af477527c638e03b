//! `Idempotency-Key` in the header of a message.

use super::{ANN, FROM, MESSAGE, count, signed_in, start, submit};

/// Returns a message with a key, as a library builds it at some time: with its own date, id and boundary.
fn built(key: &str, time: &str, text: &str) -> String {
    format!(
        "Idempotency-Key: {key}\r\nDate: {time}\r\nMessage-ID: <{time}@acme.test>\r\nFrom: billing@acme.test\r\n\
         To: ann@example.test\r\nSubject: Hi\r\nMIME-Version: 1.0\r\nContent-Type: multipart/alternative; \
         boundary=\"=={time}==\"\r\n\r\n--=={time}==\r\nContent-Type: text/plain\r\n\r\n{text}\r\n--=={time}==--\r\n"
    )
}

#[tokio::test]
async fn repeated_key_returns_the_first_message() {
    let app = start().await;
    let mut client = signed_in(&app, &app).await;
    let first = submit(&mut client, &[ANN], &built("order-42", "1", "Hello")).await;
    assert_eq!(submit(&mut client, &[ANN], &built("order-42", "1", "Hello")).await, first);
    let rebuilt = built("\"order-42\"", "2", "Hello");
    assert_eq!(submit(&mut client, &[ANN], &rebuilt).await, first, "the application has built it again");
    assert_ne!(submit(&mut client, &[ANN], &built("order-43", "1", "Hello")).await, first);
    assert_eq!(count(&app).await, 2);
}

#[tokio::test]
async fn key_of_another_message_is_refused() {
    let app = start().await;
    let mut client = signed_in(&app, &app).await;
    submit(&mut client, &[ANN], &built("order-42", "1", "Hello")).await;
    for (to, text) in [(ANN, "Hallo"), ("bo@example.test", "Hello")] {
        let reply = client.submit(FROM, &[to], &built("order-42", "1", text)).await;
        assert!(reply.starts_with("550 5.6.0 idempotency_key_reused: "), "{reply}");
    }
    // Another API key has its own idempotency keys.
    let other = app.with_sender_domains(&["acme.test"]).await;
    submit(&mut signed_in(&app, &other).await, &[ANN], &built("order-42", "1", "Hallo")).await;
    assert_eq!(count(&app).await, 2);
}

#[tokio::test]
async fn key_at_the_same_moment_creates_one_message() {
    let app = start().await;
    let mut ids = Vec::new();
    let sends = (0..6).map(|_| async {
        let mut client = signed_in(&app, &app).await;
        client.submit(FROM, &[ANN], &format!("Idempotency-Key: k\r\n{MESSAGE}")).await
    });
    for reply in futures_util::future::join_all(sends).await {
        // A message with the same key may be in progress.
        if !reply.starts_with("450 4.3.2 idempotency_key_in_flight: ") {
            ids.push(super::id(&reply));
        }
    }
    ids.dedup();
    assert_eq!((ids.len(), count(&app).await), (1, 1));
}
