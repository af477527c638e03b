//! Batches as `multipart/form-data`: the JSON in the part `messages`, and files that the messages share.

use std::time::Duration;

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

use super::{PATH, count, ids, indexes, is_replayed, send_keyed};
use crate::support::app::TestApp;
use crate::support::client::{Api, ApiResponse, message};
use crate::support::form::Form;
use crate::support::postgres::Database;
use crate::support::process::{Service, key, serve};
use crate::support::smtp::SmtpServer;
use crate::support::uploads::{file, sha256, stored};

const MIB: usize = 1 << 20;

/// Returns a message that attaches these parts.
fn with_parts(parts: &[&str]) -> Value {
    let attachment = |(n, part): (usize, &&str)| json!({"filename": format!("{n}.bin"), "part": part});
    message(json!({"attachments": parts.iter().enumerate().map(attachment).collect::<Vec<_>>()}))
}

/// Returns an attachment of a message.
async fn attachment(api: &Api, id: &str, n: usize) -> Vec<u8> {
    api.get(&format!("/v1/messages/{id}/attachments/{n}")).await.bytes
}

#[tokio::test]
async fn messages_share_a_part() {
    let app = TestApp::start().await;
    let (shared, own) = (file(1, 300_000), file(2, 50));
    let body = json!([with_parts(&["shared"]), with_parts(&["own", "shared", "empty"])]);
    let response = Form::default()
        .file("shared", &shared)
        .json("messages", &body)
        .file("own", &own)
        .file("empty", b"")
        .post(&app, PATH)
        .await;
    let ids = ids(&response);
    assert_eq!(indexes(&response.body["data"]), [0, 1]);
    assert!(attachment(&app, &ids[0], 0).await == shared);
    assert!(attachment(&app, &ids[1], 0).await == own && attachment(&app, &ids[1], 1).await == shared);
    assert_eq!(attachment(&app, &ids[1], 2).await, b"");
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 2);
    for id in &ids {
        assert_eq!(app.states(id).await, ["relayed"]);
    }
    app.worker.clean_up().await.unwrap();
    assert_eq!(stored(&app).await, (3, 3, 0));
}

#[tokio::test]
async fn each_message_can_have_its_own_file() {
    let app = TestApp::start().await;
    let count = 60;
    let names: Vec<String> = (0..count).map(|n| format!("invoice-{n}")).collect();
    let files: Vec<Vec<u8>> = (0..count).map(|n| file(n, 10_000)).collect();
    let body: Value = names.iter().map(|name| with_parts(&[name.as_str()])).collect();
    let form = names.iter().zip(&files).fold(Form::default(), |form, (name, data)| form.file(name, data));
    let response = form.json("messages", &body).post(&app, PATH).await;
    for (id, data) in ids(&response).iter().zip(&files) {
        assert!(attachment(&app, id, 0).await == *data);
    }
    assert_eq!(stored(&app).await, (60, 60, 0));
}

#[tokio::test]
async fn unknown_part_is_a_fault_of_its_message() {
    let app = TestApp::start().await;
    let mut bad = with_parts(&["b"]);
    bad["to"] = json!("nobody");
    let messages = json!([with_parts(&["a"]), with_parts(&["missing"]), bad]);
    let form = |body: &Value| Form::default().json("messages", body).file("a", b"1").file("b", b"2");
    let permissive = form(&json!({"messages": messages, "validation": "permissive"})).post(&app, PATH).await;
    assert_eq!((ids(&permissive).len(), indexes(&permissive.body["data"])), (1, vec![0]));
    assert_eq!(indexes(&permissive.body["errors"]), [1, 2]);
    let fault = &permissive.body["errors"][0]["errors"][0];
    assert_eq!(
        (fault["pointer"].as_str(), fault["code"].as_str()),
        (Some("/messages/1/attachments/0/part"), Some("unknown_part"))
    );
    let strict = form(&messages).post(&app, PATH).await;
    let expected = vec![("/1/attachments/0/part", "unknown_part"), ("/2/to", "invalid_address")];
    assert_eq!((strict.status, strict.faults()), (422, expected));
    assert_eq!(count(&mut app.database.connect().await).await, 1);
}

#[tokio::test]
async fn unused_part_is_a_fault_of_the_whole_batch() {
    let app = TestApp::start().await;
    for validation in ["strict", "permissive"] {
        let body = json!({"messages": [with_parts(&["a"]), message(json!({"to": "x"}))], "validation": validation});
        let form = Form::default().json("messages", &body).file("a", b"1").file("unused", b"2");
        let refused = form.post(&app, PATH).await;
        let expected = vec![("unused", "unused_part"), ("/messages/1/to", "invalid_address")];
        assert_eq!((refused.status, refused.faults()), (422, expected), "{validation}");
    }
    assert_eq!(count(&mut app.database.connect().await).await, 0);
}

#[tokio::test]
async fn repeated_form_returns_the_first_response() {
    let app = TestApp::start().await;
    let (one, two) = (file(1, 400_000), file(2, 100));
    let body = |a: &str, b: &str| json!([with_parts(&[a, b]), with_parts(&[a])]);
    let first = Form::default().file("a", &one).file("b", &two).json("messages", &body("a", "b"));
    let first = first.post_with_key(&app, PATH, "run-1").await;
    assert_eq!((ids(&first).len(), is_replayed(&first)), (2, false));
    let renamed = Form::default().json("messages", &body("x", "y")).file("y", &two).file("x", &one);
    let again = renamed.post_with_key(&app, PATH, "run-1").await;
    assert_eq!((is_replayed(&again), &again.body), (true, &first.body));
    // The same messages with stored files.
    let stored = |data: &[u8], n: usize| json!({"filename": format!("{n}.bin"), "sha256": sha256(data)});
    let by_digest = json!([
        message(json!({"attachments": [stored(&one, 0), stored(&two, 1)]})),
        message(json!({"attachments": [stored(&one, 0)]})),
    ]);
    let again = send_keyed(&app, "run-1", &by_digest).await;
    assert_eq!((is_replayed(&again), &again.body), (true, &first.body));
    let other = Form::default().file("a", &file(3, 400_000)).file("b", &two).json("messages", &body("a", "b"));
    assert_eq!(other.post_with_key(&app, PATH, "run-1").await.problem(), (422, "idempotency_key_reused"));
    assert_eq!(count(&mut app.database.connect().await).await, 2);
}

#[tokio::test]
async fn keyed_message_is_recognized_in_a_single_message_form() {
    let app = TestApp::start().await;
    let mut keyed = with_parts(&["a"]);
    keyed["idempotency_key"] = json!("order-1");
    let first = Form::default().json("messages", &json!([keyed])).file("a", b"1").post(&app, PATH).await;
    let single = Form::default().file("z", b"1").message(&with_parts(&["z"])).send_with_key(&app, "order-1").await;
    assert_eq!((single.status, &single.body["id"]), (202, &first.body["data"][0]["id"]), "{}", single.body);
    keyed["attachments"][0]["part"] = json!("z");
    let again = Form::default().file("z", b"1").json("messages", &json!([keyed])).post(&app, PATH).await;
    assert_eq!((ids(&again), &again.body["data"][0]["replayed"]), (ids(&first), &json!(true)));
    let other = Form::default().file("z", b"2").json("messages", &json!([keyed])).post(&app, PATH).await;
    assert_eq!(other.faults(), [("/0/idempotency_key", "idempotency_key_reused")]);
}

#[tokio::test]
async fn json_part_may_be_as_large_as_a_json_body() {
    let app = TestApp::builder().config(|config| config.accept.max_body_mib = 2).start().await;
    let texts = |size: usize| json!([message(json!({"text": "x".repeat(size)})), with_parts(&["a"])]);
    let form = |size: usize| Form::default().file("a", b"1").json("messages", &texts(size));
    assert_eq!(ids(&form(MIB + MIB / 2).post(&app, PATH).await).len(), 2);
    let refused = form(2 * MIB).post(&app, PATH).await;
    assert_eq!(refused.problem(), (413, "too_large"));
    let detail = refused.body["detail"].as_str().unwrap();
    assert!(detail.contains("The part `messages` of a form"), "{detail}");
}

#[tokio::test]
async fn form_without_messages_and_other_types_are_refused() {
    let app = TestApp::start().await;
    let refused = Form::default().message(&message(json!({}))).post(&app, PATH).await;
    assert_eq!((refused.status, refused.faults()), (422, vec![("messages", "required")]));
    for content_type in ["text/plain", "message/rfc822"] {
        let request = app.request(Method::POST, PATH).header(CONTENT_TYPE, content_type).body("[]");
        let refused = ApiResponse::to(request).await;
        assert_eq!(refused.problem(), (415, "unsupported_media_type"));
        assert_eq!(refused.body["detail"], "Send the body as application/json or multipart/form-data.");
    }
}

#[tokio::test]
async fn file_of_a_thousand_messages_is_in_memory_once() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let mut command = serve(&database.url, smtp.address(), &["--only", "api"]);
    command.env("POSTRIDER_ACCEPT__MAX_BODY_MIB", "8").env("POSTRIDER_ACCEPT__BODY_MEMORY_MIB", "8");
    let service = Service::start(command).await;
    let api = Api::new(service.address.clone().unwrap(), key(&database.url).await);
    let before = service.memory();
    let form = Form::default().json("messages", &json!(vec![with_parts(&["a"]); 1_000])).file("a", &file(1, 250_000));
    let response = tokio::time::timeout(Duration::from_mins(1), form.post(&api, PATH)).await.expect("a response");
    assert_eq!(ids(&response).len(), 1_000);
    let most = service.peak_memory();
    // A copy for each message would take 250 MB.
    assert!(most <= before + 100, "{most} MiB, {before} MiB before");
    assert!(service.terminate().await.success());
}
