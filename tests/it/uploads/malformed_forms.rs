//! Malformed forms, and forms beyond the limits, are refused with a clear error.

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::json;

use crate::support::app::TestApp;
use crate::support::client::{ApiResponse, message};
use crate::support::form::{BOUNDARY, Form, post};
use crate::support::raw_http::{Raw, status};
use crate::support::uploads::{file, stored};

const MIB: usize = 1 << 20;

#[tokio::test]
async fn malformed_form_is_refused_with_400() {
    let app = TestApp::start().await;
    let good = || Form::default().message(&message(json!({})));
    let disposition = |value: &str| Form::default().part(&format!("Content-Disposition: {value}"), b"x").bytes();
    for (body, detail) in [
        (Vec::new(), "truncated"),
        (good().unfinished(), "truncated"),
        (good().file("f", &file(1, 2 * MIB)).unfinished(), "truncated"),
        (format!("--{BOUNDARY}\r\nContent-Disposition: form-da").into_bytes(), "truncated"),
        (b"{\"from\": \"a@acme.test\"}".to_vec(), "truncated"),
        (disposition("form-data"), "`Content-Disposition: form-data; name="),
        (disposition("form-data; filename=\"a; name=b\""), "`Content-Disposition: form-data; name="),
        (disposition("attachment; name=\"a\""), "`Content-Disposition: form-data; name="),
        (disposition("form-data; name=\"\""), "`Content-Disposition: form-data; name="),
        (disposition(&format!("form-data; name=\"{}\"", "n".repeat(201))), "`Content-Disposition: form-data; name="),
        (Form::default().part("", b"x").bytes(), "`Content-Disposition: form-data; name="),
        (Form::default().part("no colon", b"x").bytes(), "headers of a part"),
        (Form::default().part(&"X: y\r\n".repeat(40), b"x").bytes(), "headers of a part"),
        (Form::default().part(&format!("X: {}", "y".repeat(200_000)), b"x").bytes(), "64 KiB"),
        ("preamble ".repeat(20_000).into_bytes(), "64 KiB"),
        (
            Form::default()
                .part("Content-Disposition: form-data; name=\"f\"\r\nContent-Transfer-Encoding: base64", b"eA==")
                .bytes(),
            "`Content-Transfer-Encoding`",
        ),
        (Form::default().part("Content-Disposition: form-data; name=\"message\"", b"{").bytes(), "EOF"),
        (Form::default().part("Content-Disposition: form-data; name=\"message\"", b"").bytes(), "must not be empty"),
    ] {
        let response = post(&app, "/v1/messages", body.clone()).await;
        let text = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        assert_eq!(response.problem(), (400, "malformed_request"), "{text}");
        assert!(response.body["detail"].as_str().unwrap().contains(detail), "{text}: {}", response.body);
    }
    app.worker.clean_up().await.unwrap();
    assert_eq!(stored(&app).await, (0, 0, 0));
}

#[tokio::test]
async fn boundary_is_required() {
    let app = TestApp::start().await;
    for content_type in [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=\"\"",
        "multipart/form-data; charset=utf-8",
        &format!("multipart/form-data; boundary={}", "b".repeat(71)),
    ] {
        let body = Form::default().message(&message(json!({}))).bytes();
        let request = app.request(Method::POST, "/v1/messages").header(CONTENT_TYPE, content_type).body(body);
        let response = ApiResponse::to(request).await;
        assert_eq!(response.problem(), (400, "malformed_request"), "{content_type}");
        assert!(response.body["detail"].as_str().unwrap().contains("`boundary`"), "{}", response.body);
    }
}

#[tokio::test]
async fn invalid_parts_are_refused_with_422() {
    let app = TestApp::builder().config(|config| config.accept.max_attachments = 3).start().await;
    let good = || Form::default().message(&message(json!({})));
    for (form, pointer, code) in [
        (Form::default(), "message", "required"),
        (Form::default().file("f", b"x"), "message", "required"),
        (good().message(&json!({})), "message", "duplicate_field"),
        (good().file("f", b"x").file("f", b"y"), "f", "duplicate_field"),
        (good().file("1", b"").file("2", b"").file("3", b"").file("4", b""), "4", "too_many"),
        (good().file("unused", b"x"), "unused", "unused_part"),
    ] {
        let response = form.send(&app).await;
        assert_eq!((response.status, response.faults()), (422, vec![(pointer, code)]), "{pointer} {code}");
    }
    assert_eq!(stored(&app).await, (0, 0, 0));
}

#[tokio::test]
async fn too_large_parts_are_refused_with_413() {
    let app = TestApp::builder().config(|config| config.accept.max_upload_mib = 2).start().await;
    let good = || Form::default().message(&message(json!({})));
    let text = message(json!({"text": "x".repeat(MIB)}));
    for (form, detail) in [
        (good().file("a", &file(1, MIB)).file("b", &file(2, MIB + 1)), "The files of a form together"),
        (Form::default().message(&text), "The part `message` of a form"),
        (good().file("a", &file(1, 4 * MIB)), "request body"),
    ] {
        let response = form.send(&app).await;
        assert_eq!(response.problem(), (413, "too_large"));
        assert!(response.body["detail"].as_str().unwrap().contains(detail), "{}", response.body);
    }
    app.worker.clean_up().await.unwrap();
    assert_eq!(stored(&app).await.2, 0);
}

#[tokio::test]
async fn form_that_ends_early_is_refused() {
    let app = TestApp::start().await;
    let body = Form::default().file("f", &file(1, 2 * MIB)).unfinished();
    let mut raw = Raw::connect(&app.base).await;
    raw.send(format!(
        "POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nTransfer-Encoding: chunked\r\n\
         Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n{:x}\r\n",
        app.api().key,
        body.len()
    ))
    .await;
    raw.send(&body).await;
    // An invalid chunk.
    raw.send("\r\nnonsense\r\n").await;
    let response = raw.response().await;
    assert_eq!(status(&response), 400, "{response}");
    app.worker.clean_up().await.unwrap();
    assert_eq!(stored(&app).await, (0, 0, 0));
}

#[tokio::test]
async fn connection_can_be_used_again_after_a_form() {
    let app = TestApp::start().await;
    let mut raw = Raw::connect(&app.base).await;
    let mut body = Form::default().message(&message(json!({}))).bytes();
    body.extend_from_slice(&b"epilogue ".repeat(10_000));
    for _ in 0..2 {
        raw.send(format!(
            "POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\
             Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n",
            app.api().key,
            body.len()
        ))
        .await;
        raw.send(&body).await;
        let response = raw.response().await;
        assert_eq!(status(&response), 202, "{response}");
    }
}
