//! Attachments in every form that the SDKs send, and links to download them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value, json};

use super::{email, get, post, send, start};
use crate::support::app::TestApp;

/// Bytes of every value, so that any wrong decoding shows.
fn bytes() -> Vec<u8> {
    (0..=255).collect()
}

/// Returns the attachments of a message.
async fn attachments(app: &TestApp, id: &str) -> Vec<Value> {
    let list = get(app, &format!("/emails/{id}/attachments")).await.ok();
    assert_eq!((&list["object"], &list["has_more"]), (&json!("list"), &json!(false)));
    list["data"].as_array().unwrap().clone()
}

/// Downloads a link without an API key.
async fn download(url: &str) -> (u16, Vec<u8>) {
    let response = reqwest::get(url).await.unwrap();
    (response.status().as_u16(), response.bytes().await.unwrap().to_vec())
}

#[tokio::test]
async fn every_form_of_content_arrives_as_the_same_bytes() {
    let app = start().await;
    let data = bytes();
    let contents = [
        json!(STANDARD.encode(&data)),
        json!(data),
        json!({"type": "Buffer", "data": data}),
        json!(STANDARD.encode(&data).trim_end_matches('=')),
    ];
    let files: Vec<Value> = contents
        .into_iter()
        .enumerate()
        .map(|(n, content)| json!({"filename": format!("{n}.bin"), "content": content, "path": null}))
        .chain([json!({"filename": "notes.txt", "content": "Hello, world!"})])
        .collect();
    let id = send(&app, json!({"attachments": files})).await;
    let shown = attachments(&app, &id).await;
    let names: Vec<&str> = shown.iter().map(|file| file["filename"].as_str().unwrap()).collect();
    assert_eq!(names, ["0.bin", "1.bin", "2.bin", "3.bin", "notes.txt"]);
    for file in &shown[..4] {
        assert_eq!(download(file["download_url"].as_str().unwrap()).await, (200, data.clone()), "{file}");
        assert_eq!(file["size"], 256);
    }
    assert_eq!(download(shown[4]["download_url"].as_str().unwrap()).await, (200, b"Hello, world!".to_vec()));
    app.run_until_idle().await;
    let mime = String::from_utf8(app.smtp.messages().remove(0).raw).unwrap();
    assert!(mime.contains("filename=2.bin") || mime.contains("filename=\"2.bin\""), "{mime}");
}

#[tokio::test]
async fn file_as_numbers_may_be_as_large_as_in_base64() {
    let app = super::builder().config(|config| config.accept.max_body_mib = 1).start().await;
    let data: Vec<u8> = (0_u32..700_000).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect();
    let body = email(json!({"attachments": [{"filename": "a.bin", "content": data}]}));
    assert!(body.to_string().len() > 2 << 20, "larger than the limit of /v1");
    let id = post(&app, "/emails", &body).await.id();
    let file = attachments(&app, &id).await.remove(0);
    assert_eq!(download(file["download_url"].as_str().unwrap()).await, (200, data));
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 1);
    let larger = email(json!({"attachments": [{"filename": "a.bin", "content": vec![100; 1_100_000]}]}));
    assert_eq!(post(&app, "/emails", &larger).await.error(), (422, "invalid_attachment"));
    let text = email(json!({"text": "x".repeat(2 << 20)}));
    assert_eq!(post(&app, "/emails", &text).await.error(), (422, "invalid_attachment"), "only files may be larger");
}

#[tokio::test]
async fn inline_images_and_files_without_a_name() {
    let app = start().await;
    let files = json!([
        {"filename": "logo.png", "content": "aGk=", "content_id": "logo", "content_type": "image/png"},
        {"filename": false, "content": "aGk=", "inline_content_id": "old"},
        {"content": "aGk="},
    ]);
    let id = send(&app, json!({"html": "<img src=\"cid:logo\">", "attachments": files})).await;
    let shown = attachments(&app, &id).await;
    let of = |file: &Value, name: &str| file[name].clone();
    let logo = &shown[0];
    assert_eq!(
        (of(logo, "object"), of(logo, "content_disposition"), of(logo, "content_id"), of(logo, "content_type")),
        (json!("attachment"), json!("inline"), json!("logo"), json!("image/png"))
    );
    assert_eq!((of(&shown[1], "content_id"), of(&shown[2], "content_id")), (json!("old"), Value::Null));
    assert_eq!(of(&shown[2], "content_disposition"), "attachment");
    assert!(shown.iter().all(|file| !file["filename"].as_str().unwrap().is_empty()));
}

#[tokio::test]
async fn invalid_attachments_are_refused() {
    let app = start().await;
    for (file, part) in [
        (json!({"filename": "a", "path": "ftp://example.test/a.pdf"}), "attachments[0].path"),
        (json!({"filename": "a"}), "attachments[0].content"),
        (json!({"filename": "a", "content": "data:text/plain;base64,aGk="}), "attachments[0].content"),
        (json!({"filename": "a", "content": "aGk=", "content_type": "nonsense"}), "attachments[0].content_type"),
    ] {
        let refused = post(&app, "/emails", &email(json!({"attachments": [file]}))).await;
        assert_eq!(refused.error(), (422, "invalid_attachment"), "{file}");
        assert!(refused.message().contains(part), "{}", refused.message());
    }
    for content in [json!([256]), json!({}), json!(5)] {
        let refused = post(&app, "/emails", &email(json!({"attachments": [{"content": content}]}))).await;
        assert_eq!(refused.error(), (422, "invalid_attachment"), "{content}");
    }
}

#[tokio::test]
async fn link_works_without_a_key_until_it_expires() {
    let app = start().await;
    let id = send(&app, json!({"attachments": [{"filename": "a.txt", "content": "aGk="}]})).await;
    let file = attachments(&app, &id).await.remove(0);
    let path = format!("/emails/{id}/attachments/{}", file["id"].as_str().unwrap());
    assert_eq!(get(&app, &path).await.ok()["filename"], "a.txt");
    let url = file["download_url"].as_str().unwrap();
    assert!(url.starts_with(&app.base), "{url}");
    let expires_at: DateTime<Utc> = file["expires_at"].as_str().unwrap().parse().unwrap();

    let response = reqwest::get(url).await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/octet-stream");
    assert!(response.headers()["content-disposition"].to_str().unwrap().starts_with("attachment"));
    let (start, token) = url.split_once("?token=").unwrap();
    let first = if token.starts_with('A') { "B" } else { "A" };
    for forged in [start.to_owned(), format!("{start}?token="), format!("{start}?token={first}{}", &token[1..])] {
        assert_eq!(download(&forged).await.0, 404, "{forged}");
    }
    app.clock.advance(TimeDelta::minutes(59));
    assert_eq!(download(url).await, (200, b"hi".to_vec()));
    app.clock.advance(TimeDelta::minutes(1));
    assert_eq!(download(url).await.0, 404, "expired at {expires_at}");
    for path in [format!("/emails/{id}/attachments/{id}"), format!("/emails/{id}/attachments/0"), format!("{path}/x")] {
        assert_eq!(get(&app, &path).await.error(), (404, "not_found"), "{path}");
    }
}

#[tokio::test]
async fn attachments_are_paged_in_both_directions() {
    let app = start().await;
    let files: Vec<Value> = (1..=3).map(|n| json!({"filename": format!("{n}.txt"), "content": "aGk="})).collect();
    let id = send(&app, json!({"attachments": files})).await;
    let all = attachments(&app, &id).await;
    let of = |n: usize| all[n]["id"].as_str().unwrap();
    for (query, names, has_more) in [
        ("limit=2".to_owned(), &["1.txt", "2.txt"][..], true),
        (format!("after={}", of(0)), &["2.txt", "3.txt"], false),
        (format!("limit=1&before={}", of(2)), &["2.txt"], true),
        (format!("after={}", of(2)), &[], false),
    ] {
        let page = get(&app, &format!("/emails/{id}/attachments?{query}")).await.ok();
        let shown: Vec<&str> =
            page["data"].as_array().unwrap().iter().map(|file| file["filename"].as_str().unwrap()).collect();
        assert_eq!((shown.as_slice(), &page["has_more"]), (names, &json!(has_more)), "{query}");
    }
}

#[tokio::test]
async fn link_uses_the_host_and_scheme_of_the_client() {
    let app = start().await;
    let id = send(&app, json!({"attachments": [{"filename": "a.txt", "content": "aGk="}]})).await;
    let request = app
        .request(Method::GET, &format!("/emails/{id}/attachments"))
        .header("host", "mail.acme.test")
        .header("x-forwarded-proto", "https");
    let list = super::Response::to(request).await.ok();
    let url = list["data"][0]["download_url"].as_str().unwrap();
    assert!(url.starts_with("https://mail.acme.test/emails/"), "{url}");
}

#[tokio::test]
async fn links_need_a_secret_key() {
    let app = TestApp::start().await;
    let id = send(&app, json!({"attachments": [{"filename": "a.txt", "content": "aGk="}]})).await;
    let refused = get(&app, &format!("/emails/{id}/attachments")).await;
    assert_eq!(refused.error(), (422, "validation_error"));
    assert!(refused.message().contains("secret_key"), "{}", refused.message());
    let without = send(&app, json!({})).await;
    assert!(attachments(&app, &without).await.is_empty());
}
