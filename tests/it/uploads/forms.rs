//! `multipart/form-data` on `POST /v1/messages`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::{ApiResponse, message};
use crate::support::form::{Form, content_type};
use crate::support::uploads::{file, head, sha256, stored};

const MIB: usize = 1 << 20;

/// Returns a message that attaches these parts.
fn with_parts(parts: &[&str]) -> Value {
    let attachment = |part: &&str| json!({"filename": format!("{part}.bin"), "part": part});
    message(json!({"attachments": parts.iter().map(attachment).collect::<Vec<_>>()}))
}

#[tokio::test]
async fn files_arrive_whatever_their_size_and_order() {
    let app = TestApp::start().await;
    let files = [("empty", 0), ("small", 3_000), ("medium", 300_000), ("large", 2 * MIB + 3)];
    let files = files.map(|(name, size)| (name, file(9, size)));
    let body = with_parts(&["empty", "small", "medium", "large", "small"]);
    let add = |form: Form| files.iter().fold(form, |form, (name, data)| form.file(name, data));
    for form in [add(Form::default()).message(&body), add(Form::default().message(&body))] {
        let response = form.send(&app).await;
        assert_eq!(response.status, 202, "{}", response.body);
        let id = response.body["id"].as_str().unwrap();
        for (n, (_, data)) in files.iter().enumerate() {
            assert!(app.get(&format!("/v1/messages/{id}/attachments/{n}")).await.bytes == *data);
        }
    }
    app.run_until_idle().await;
    let received = app.smtp.messages();
    assert_eq!(received.len(), 2);
    for message in received {
        let text: String = String::from_utf8(message.raw).unwrap().split("\r\n").collect();
        for (name, data) in &files {
            assert!(text.contains(&STANDARD.encode(data)), "{name}");
        }
    }
    app.worker.clean_up().await.unwrap();
    assert_eq!(stored(&app).await, (4, 6, 0));
}

#[tokio::test]
async fn bytes_that_resemble_the_boundary_are_kept() {
    let app = TestApp::start().await;
    let data = b"\r\n--a-Boundary_4\r\n--\r\n\r--a-Boundary_42 \n--a-Boundary_42--\r\n\r".repeat(3_000);
    let response = Form::default().file("f", &data).message(&with_parts(&["f"])).send(&app).await;
    let path = format!("/v1/messages/{}/attachments/0", response.body["id"].as_str().unwrap());
    assert!(app.get(&path).await.bytes == data);
}

#[tokio::test]
async fn all_faults_of_a_form_are_reported_together() {
    let app = TestApp::start().await;
    let mut body = with_parts(&["used", "missing"]);
    body["to"] = json!("nobody");
    let response = Form::default().file("used", b"1").message(&body).file("unused", b"2").send(&app).await;
    let expected = [("unused", "unused_part"), ("/to", "invalid_address"), ("/attachments/1/part", "unknown_part")];
    assert_eq!((response.status, response.faults()), (422, expected.to_vec()));
    // Small files of a refused request are not stored.
    assert_eq!(stored(&app).await, (0, 0, 0));
    let plain = app.post("/v1/messages", &with_parts(&["x"])).await;
    assert_eq!(plain.faults(), [("/attachments/0/part", "unknown_part")]);
}

#[tokio::test]
async fn forms_and_stored_files_can_be_combined() {
    let app = TestApp::start().await;
    let (one, two, three) = (file(1, 500_000), file(2, 100), file(3, 50));
    let upload = Form::default().file("x", &one).message(&with_parts(&["x"])).send(&app).await;
    assert_eq!((upload.status, head(&app, &sha256(&one)).await), (202, Some(500_000)));
    let body = message(json!({"attachments": [
        {"filename": "1", "sha256": sha256(&one)},
        {"filename": "2", "part": "two"},
        {"filename": "3", "content": STANDARD.encode(&three)},
    ]}));
    let response = Form::default().message(&body).file("two", &two).send(&app).await;
    let id = response.body["id"].as_str().unwrap();
    for (n, data) in [&one, &two, &three].into_iter().enumerate() {
        assert!(app.get(&format!("/v1/messages/{id}/attachments/{n}")).await.bytes == *data, "{n}");
    }
}

#[tokio::test]
async fn repeated_form_returns_the_first_response() {
    let app = TestApp::start().await;
    let (one, two) = (file(1, 400_000), file(2, 100));
    let body = |a: &str, b: &str| {
        let mut body = with_parts(&[a, b]);
        for (n, name) in ["1", "2"].into_iter().enumerate() {
            body["attachments"][n]["filename"] = json!(name);
        }
        body
    };
    let first = Form::default().file("a", &one).file("b", &two).message(&body("a", "b")).send_with_key(&app, "k").await;
    assert_eq!(first.status, 202, "{}", first.body);
    let renamed = Form::default().message(&body("x", "y")).file("y", &two).file("x", &one);
    let again = renamed.send_with_key(&app, "k").await;
    assert_eq!((again.status, &again.body["id"]), (202, &first.body["id"]), "{}", again.body);
    assert_eq!(again.headers["idempotent-replayed"], "true");
    // The same message with stored files.
    let mut stored = body("a", "b");
    for (n, data) in [&one, &two].into_iter().enumerate() {
        stored["attachments"][n] = json!({"filename": (n + 1).to_string(), "sha256": sha256(data)});
    }
    let request = app.request(Method::POST, "/v1/messages").header("idempotency-key", "k").json(&stored);
    assert_eq!(ApiResponse::to(request).await.body["id"], first.body["id"]);
    let other = Form::default().file("a", &file(3, 400_000)).file("b", &two).message(&body("a", "b"));
    assert_eq!(other.send_with_key(&app, "k").await.problem(), (422, "idempotency_key_reused"));
}

#[tokio::test]
async fn dry_run_of_a_form_sends_nothing() {
    let app = TestApp::start().await;
    let data = file(1, 600_000);
    let form = Form::default().file("f", &data).message(&with_parts(&["f"])).bytes();
    let request = app.request(Method::POST, "/v1/messages?dry_run=true").header(CONTENT_TYPE, content_type());
    let plan = ApiResponse::to(request.body(form)).await;
    let mime: String = plan.body["mime"]["content"].as_str().unwrap().split("\r\n").collect();
    assert!(plan.status == 200 && mime.contains(&STANDARD.encode(&data)));
    assert_eq!(app.get("/v1/messages").await.body["data"], json!([]));
}

#[tokio::test]
async fn form_of_a_limited_key_is_checked_like_json() {
    let app = TestApp::start().await;
    let limited = app.with_sender_domains(&["other.test"]).await;
    let form = || Form::default().file("f", b"x").message(&with_parts(&["f"]));
    assert_eq!(form().send(&limited).await.problem(), (403, "forbidden"));
    assert_eq!(form().send(&app.with_key("pr_wrong")).await.problem(), (401, "unauthorized"));
    let text = app.request(Method::POST, "/v1/messages").header(CONTENT_TYPE, "text/plain").body("x");
    let refused = ApiResponse::to(text).await;
    assert_eq!(refused.problem(), (415, "unsupported_media_type"));
    assert!(refused.body["detail"].as_str().unwrap().contains("multipart/form-data"), "{}", refused.body);
}
