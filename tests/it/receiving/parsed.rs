//! The parsed form of received messages.

use serde_json::json;

use super::{deliver, received, route, start};

const REPLY: &str = "From: =?utf-8?q?Bo_=C3=85?= <bo@example.test>\r\nSubject: =?utf-8?q?Caf=C3=A9?=\r\n\
    Content-Type: multipart/mixed; boundary=m\r\n\r\n\
    --m\r\nContent-Type: multipart/alternative; boundary=a\r\n\r\n\
    --a\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nYes.\r\n\r\nOn Mon, 30 Nov 2026, Acme wrote:\r\n> Tea?\r\n\
    --a\r\nContent-Type: text/html\r\n\r\n<p>Yes.</p>\r\n--a--\r\n\
    --m\r\nContent-Type: application/pdf\r\nContent-Disposition: attachment; filename=\"../a b.pdf\"\r\n\
    Content-Transfer-Encoding: base64\r\n\r\nJVBERi0=\r\n\
    --m\r\nContent-Type: text/html; name=evil.html\r\nContent-Disposition: attachment\r\n\r\n<script>x</script>\r\n--m--\r\n";

#[tokio::test]
async fn texts_and_attachments_are_decoded() {
    let app = start().await;
    route(&app, "*@reply.acme.test", "store").await;
    deliver(&app, "bo@example.test", &["x@reply.acme.test"], REPLY).await;
    let id = received(&app).await[0]["id"].as_str().unwrap().to_owned();
    let one = app.get(&format!("/v1/received/{id}")).await.body;
    assert_eq!(one["from"], json!({"email": "bo@example.test", "name": "Bo Å"}));
    assert_eq!((&one["subject"], &one["reply_text"]), (&json!("Café"), &json!("Yes.")));
    assert!(one["text"].as_str().unwrap().contains("> Tea?") && one["html"].as_str().unwrap().contains("<p>Yes.</p>"));
    let files = one["attachments"].as_array().unwrap();
    assert_eq!(files.len(), 2, "{one}");
    assert_eq!((&files[0]["content_type"], &files[0]["size"]), (&json!("application/pdf"), &json!(5)));

    let file = app.get(&format!("/v1/received/{id}/attachments/0")).await;
    assert_eq!((file.status, file.bytes.as_slice()), (200, &b"%PDF-"[..]));
    let html = app.get(&format!("/v1/received/{id}/attachments/1")).await;
    for download in [&file, &html] {
        assert_eq!(download.headers["content-type"], "application/octet-stream");
        assert_eq!(download.headers["x-content-type-options"], "nosniff");
        assert!(download.headers["content-disposition"].to_str().unwrap().starts_with("attachment"));
    }
    for n in ["2", "-1", "x", "99999999999999999999"] {
        assert_eq!(app.get(&format!("/v1/received/{id}/attachments/{n}")).await.status, 404, "{n}");
    }
}

#[tokio::test]
async fn automatic_replies_are_marked() {
    let app = start().await;
    route(&app, "*@reply.acme.test", "store").await;
    for (field, rule) in [
        ("Auto-Submitted: auto-replied", json!("auto-submitted")),
        ("X-Autoreply: yes", json!("x-autoreply")),
        ("Precedence: auto_reply", json!("precedence-auto-reply")),
        ("Auto-Submitted: no", json!(null)),
        ("X-Nothing: 1", json!(null)),
    ] {
        deliver(&app, "", &["x@reply.acme.test"], &super::mime(&format!("{field}\r\n"))).await;
        assert_eq!(received(&app).await[0]["auto_reply"], rule, "{field}");
    }
}
