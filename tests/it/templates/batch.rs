//! Templates in batches and in forms.

use reqwest::Method;
use serde_json::{Value, json};

use super::{create, greeting, publish};
use crate::support::app::TestApp;
use crate::support::client::{Api, ApiResponse};
use crate::support::form::Form;
use crate::support::uploads::{attached, file, put, sha256};

/// Returns a message with the template `greeting` and these variables.
fn greet(variables: &Value) -> Value {
    json!({"to": "ann@example.test", "template": {"id": "greeting", "variables": variables}})
}

async fn send(api: &Api, body: &Value) -> ApiResponse {
    api.post("/v1/messages/batch", body).await
}

#[tokio::test]
async fn messages_of_a_batch_are_rendered_from_their_templates() {
    let app = TestApp::start().await;
    greeting(&app).await;
    create(
        &app,
        json!({"alias": "plain", "subject": "S", "text": "Plain {{ n }}", "from": "b@acme.test",
                        "variables": [{"key": "n", "type": "number"}]}),
    )
    .await;
    publish(&app, "plain").await;
    let plain = json!({"to": "bo@example.test", "template": {"id": "plain", "version": 1, "variables": {"n": 7}}});
    let own = json!({"from": "c@acme.test", "to": "cy@example.test", "subject": "Own", "text": "Own"});
    let sent = send(&app, &json!([greet(&json!({"name": "Ann"})), plain, own])).await;
    assert_eq!(sent.status, 202, "{}", sent.body);
    app.run_until_idle().await;
    let received: Vec<String> = app.smtp.messages().into_iter().map(|m| String::from_utf8(m.raw).unwrap()).collect();
    for text in ["Dear Ann, you owe 0.", "Plain 7", "Own"] {
        assert_eq!(received.iter().filter(|raw| raw.contains(text)).count(), 1, "{text}");
    }
    let templates = [json!({"alias": "greeting", "version": 1}), json!({"alias": "plain", "version": 1}), Value::Null];
    for (n, expected) in templates.iter().enumerate() {
        let stored = app.message(sent.body["data"][n]["id"].as_str().unwrap()).await;
        assert_eq!(stored["template"]["alias"], expected["alias"]);
        assert_eq!(stored["template"]["version"], expected["version"]);
    }
}

#[tokio::test]
async fn each_message_of_a_batch_has_its_own_faults_and_warnings() {
    let app = TestApp::start().await;
    greeting(&app).await;
    let messages = json!([
        greet(&json!({"name": "Ann", "colour": "red"})),
        greet(&json!({"amount": "much"})),
        json!({"to": "ann@example.test", "template": {"id": "missing"}}),
        greet(&json!({"name": "Bo"})),
    ]);
    let strict = send(&app, &json!({"messages": messages})).await;
    let faults = [
        ("/messages/1/template/variables/name", "required"),
        ("/messages/1/template/variables/amount", "invalid_type"),
        ("/messages/2/template/id", "unknown_template"),
    ];
    assert_eq!((strict.status, super::sorted(strict.faults())), (422, super::sorted(faults.to_vec())));

    let sent = send(&app, &json!({"messages": messages, "validation": "permissive"})).await;
    assert_eq!(sent.status, 202, "{}", sent.body);
    let (data, errors) = (&sent.body["data"], &sent.body["errors"]);
    assert_eq!((&data[0]["index"], &data[1]["index"], &data[2]), (&json!(0), &json!(3), &Value::Null));
    assert_eq!(data[0]["warnings"][0]["code"], "unknown_variable");
    assert_eq!(data[1].get("warnings"), None);
    assert_eq!((&errors[0]["index"], &errors[1]["index"]), (&json!(1), &json!(2)));
    assert_eq!(errors[1]["errors"][0]["code"], "unknown_template");
}

#[tokio::test]
async fn repeated_batch_has_the_first_version() {
    let app = TestApp::start().await;
    greeting(&app).await;
    let call = || {
        let request = app.request(Method::POST, "/v1/messages/batch").header("idempotency-key", "k");
        ApiResponse::to(request.json(&json!([greet(&json!({"name": "Ann"}))])))
    };
    let first = call().await;
    app.patch("/v1/templates/greeting", &json!({"subject": "Other"})).await;
    publish(&app, "greeting").await;
    let second = call().await;
    assert_eq!((first.status, second.status), (202, 202), "{}", second.body);
    let id = first.body["data"][0]["id"].as_str().unwrap();
    assert_eq!(second.body["data"][0]["id"], id);
    assert_eq!(app.message(id).await["template"]["version"], 1);
}

#[tokio::test]
async fn batch_has_a_limited_number_of_templates() {
    let app = TestApp::start().await;
    let message = |n: usize| json!({"to": "ann@example.test", "template": {"id": format!("t{n:02}")}});
    let refused = send(&app, &json!((0..52).map(message).collect::<Vec<_>>())).await;
    assert_eq!(refused.status, 422, "{}", refused.body);
    let count = |code: &str| refused.faults().iter().filter(|(_, found)| *found == code).count();
    assert_eq!((count("unknown_template"), count("too_many")), (50, 2));
    assert!(refused.faults().contains(&("/51/template/id", "too_many")), "{}", refused.body);
}

#[tokio::test]
async fn message_with_a_template_can_have_files() {
    let app = TestApp::start().await;
    greeting(&app).await;
    let data = file(1, 200_000);
    let with = |attachments: Value| {
        let mut message = greet(&json!({"name": "Ann"}));
        message["attachments"] = attachments;
        message
    };
    let form = Form::default().file("f", &data).message(&with(json!([{"filename": "f.bin", "part": "f"}])));
    let sent = form.send(&app).await;
    assert_eq!(sent.status, 202, "{}", sent.body);
    put(&app, &data).await;
    let uploaded = attached(&[&sha256(&data)])["attachments"].clone();
    let batch = send(&app, &json!([with(uploaded.clone()), greet(&json!({"name": "Bo"}))])).await;
    assert_eq!(batch.status, 202, "{}", batch.body);
    let single = app.post("/v1/messages", &with(uploaded)).await;
    for id in [&sent.body["id"], &batch.body["data"][0]["id"], &single.body["id"]] {
        let id = id.as_str().unwrap();
        assert_eq!(app.message(id).await["subject"], "Hello Ann");
        assert!(app.get(&format!("/v1/messages/{id}/attachments/0")).await.bytes == data);
    }
    let plan = app.post("/v1/messages?dry_run=true", &with(attached(&[&sha256(&data)])["attachments"].clone())).await;
    assert_eq!(plan.status, 200, "{}", plan.body);
}

#[tokio::test]
async fn finished_mime_has_no_template() {
    let app = TestApp::start().await;
    greeting(&app).await;
    let mime = "From: a@acme.test\r\nTo: ann@example.test\r\nSubject: S\r\n\r\nHello {{ name }}\r\n";
    let request = |query: &str| {
        let request =
            app.request(Method::POST, &format!("/v1/messages{query}")).header("content-type", "message/rfc822");
        ApiResponse::to(request.body(mime))
    };
    let refused = request("?template=greeting").await;
    assert_eq!(refused.faults(), [("template", "unknown_field")], "{}", refused.body);
    let sent = request("").await;
    assert_eq!(app.message(sent.body["id"].as_str().unwrap()).await["template"], Value::Null);
}

#[tokio::test]
async fn concurrent_batches_with_expensive_templates_are_accepted() {
    let app = TestApp::start().await;
    let html = "{% for i in range(300) %}<p>{{ name }} {{ i }}</p>{% endfor %}";
    create(
        &app,
        json!({"alias": "greeting", "subject": "S", "from": "a@acme.test", "html": html,
                        "variables": [{"key": "name", "type": "string"}]}),
    )
    .await;
    publish(&app, "greeting").await;
    let body = json!((0..20).map(|n| greet(&json!({"name": n.to_string()}))).collect::<Vec<_>>());
    let responses = futures_util::future::join_all((0..12).map(|_| send(&app, &body))).await;
    for response in responses {
        assert_eq!((response.status, response.body["data"].as_array().unwrap().len()), (202, 20));
    }
}
