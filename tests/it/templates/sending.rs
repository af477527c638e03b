//! Messages are rendered from published templates when they are accepted.

use mail_parser::MessageParser;
use postrider::domain::key::Scope;
use serde_json::{Value, json};

use super::{create, greeting, publish, sorted};
use crate::support::app::TestApp;
use crate::support::client::{Api, ApiResponse};

/// Sends a message with this template and these fields, to ann@example.test.
async fn send(api: &Api, template: Value, fields: Value) -> ApiResponse {
    let mut body = json!({"to": "ann@example.test", "template": template});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    api.post("/v1/messages", &body).await
}

#[tokio::test]
async fn message_is_rendered_from_its_template() {
    let app = TestApp::start().await;
    let id = greeting(&app).await;
    let sender = app.with_scopes(&[Scope::Send]).await;
    let variables = json!({"name": "Ann <b>", "amount": 12});
    let sent = send(&sender, json!({"id": "greeting", "variables": variables}), json!({})).await;
    assert_eq!((sent.status, sent.body.get("warnings")), (202, None), "{}", sent.body);
    app.run_until_idle().await;
    let raw = app.smtp.messages()[0].raw.clone();
    let mail = MessageParser::default().parse(&raw).unwrap();
    assert_eq!(mail.subject(), Some("Hello Ann <b>"));
    assert!(mail.body_html(0).unwrap().contains("Dear Ann &lt;b&gt;, you owe 12."), "{:?}", mail.body_html(0));
    assert!(mail.body_text(0).unwrap().contains("Dear Ann <b>, you owe 12."), "{:?}", mail.body_text(0));
    assert_eq!(mail.from().unwrap().first().unwrap().address(), Some("billing@acme.test"));
    assert_eq!(mail.reply_to().unwrap().first().unwrap().address(), Some("help@acme.test"));

    let message = app.message(sent.body["id"].as_str().unwrap()).await;
    assert_eq!(message["template"], json!({"id": id, "alias": "greeting", "version": 1}));
    assert_eq!((&message["subject"], &message["status"]), (&json!("Hello Ann <b>"), &json!("relayed")));
}

#[tokio::test]
async fn request_takes_precedence_over_the_template() {
    let app = TestApp::start().await;
    let id = greeting(&app).await;
    let template = json!({"id": id, "version": 1, "variables": {"name": "Ann"}});
    let fields = json!({"subject": "Mine", "from": "me@acme.test", "reply_to": []});
    let sent = send(&app, template.clone(), fields).await;
    let message = app.message(sent.body["id"].as_str().unwrap()).await;
    assert_eq!((&message["subject"], &message["from"]["email"]), (&json!("Mine"), &json!("me@acme.test")));
    assert_eq!(message["reply_to"], json!([]));
    let refused = send(&app, template, json!({"html": "<p>", "text": ""})).await;
    assert_eq!(sorted(refused.faults()), [("/html", "invalid_value"), ("/text", "invalid_value")]);
}

#[tokio::test]
async fn every_fault_is_reported_at_once() {
    let app = TestApp::start().await;
    greeting(&app).await;
    let template = json!({"id": "greeting", "variables": {"amount": "12"}});
    let refused = send(&app, template, json!({"to": "ann", "stream": "none"})).await;
    let expected = [
        ("/stream", "unknown_stream"),
        ("/template/variables/amount", "invalid_type"),
        ("/template/variables/name", "required"),
        ("/to", "invalid_address"),
    ];
    assert_eq!((refused.status, sorted(refused.faults())), (422, expected.to_vec()), "{}", refused.body);

    create(&app, json!({"alias": "draft"})).await;
    for (template, pointer, code) in [
        (json!({"id": "missing"}), "/template/id", "unknown_template"),
        (json!({"id": "tpl_00000000000070008000000000000000"}), "/template/id", "unknown_template"),
        (json!({"id": "no such id"}), "/template/id", "invalid_value"),
        (json!({"id": "draft"}), "/template/id", "not_published"),
        (
            json!({"id": "greeting", "version": 2, "variables": {"name": "Ann"}}),
            "/template/version",
            "unknown_template",
        ),
        (json!({"id": "greeting", "version": 0}), "/template/version", "invalid_value"),
        (json!({"id": "greeting", "variables": []}), "/template/variables", "invalid_type"),
        (json!({"id": "greeting", "variables": {"name": "a\u{0}"}}), "/template/variables/name", "control_character"),
        (json!({"id": "greeting", "variables": {"name": "x".repeat(21)}}), "/template/variables/name", "too_long"),
        (json!({"variables": {}}), "/template/id", "required"),
        (json!({"id": "greeting", "name": "x", "variables": {"name": "Ann"}}), "/template/name", "unknown_field"),
        (json!(5), "/template", "invalid_type"),
    ] {
        let refused = send(&app, template.clone(), json!({})).await;
        assert_eq!((refused.status, refused.faults()), (422, vec![(pointer, code)]), "{template}");
    }
}

#[tokio::test]
async fn unknown_variables_are_warnings() {
    let app = TestApp::start().await;
    greeting(&app).await;
    let sent = send(&app, json!({"id": "greeting", "variables": {"name": "Ann", "colour": "red"}}), json!({})).await;
    let warnings = sent.body["warnings"].as_array().unwrap();
    assert_eq!((sent.status, warnings.len(), &warnings[0]["code"]), (202, 1, &json!("unknown_variable")));
    assert!(warnings[0]["message"].as_str().unwrap().starts_with("`/template/variables/colour`: "), "{warnings:?}");
}

#[tokio::test]
async fn variables_cannot_inject_headers_or_senders() {
    let app = TestApp::start().await;
    let template = json!({
        "alias": "a", "subject": "Hello {{ name }}", "text": "Hello", "from": "{{ name }} <billing@acme.test>",
        "variables": [{"key": "name", "type": "string"}],
    });
    create(&app, template).await;
    publish(&app, "a").await;
    for name in [
        "x\r\nBcc: eve@evil.test",
        "x\nSubject: y",
        "x\u{7f}",
        "Eve <eve@evil.test>",
        "Eve <eve@evil.test",
        "x>",
        "\"Eve\" <eve@evil.test>, ",
        "eve@evil.test,",
        "\"",
    ] {
        let response = send(&app, json!({"id": "a", "variables": {"name": name}}), json!({})).await;
        if response.status == 202 {
            let message = app.message(response.body["id"].as_str().unwrap()).await;
            assert_eq!(message["from"]["email"], "billing@acme.test", "{name:?}");
        } else {
            assert_eq!(response.status, 422, "{name:?}: {}", response.body);
            assert!(response.faults().iter().all(|(pointer, _)| pointer.starts_with("/template")), "{}", response.body);
        }
    }
    let with_break = send(&app, json!({"id": "a", "variables": {"name": "x\r\nBcc: eve@evil.test"}}), json!({})).await;
    assert_eq!(with_break.status, 422);
}

#[tokio::test]
async fn template_without_subject_or_sender_needs_the_requests() {
    let app = TestApp::start().await;
    create(&app, json!({"alias": "a", "html": "<p>Hello</p>"})).await;
    publish(&app, "a").await;
    let refused = send(&app, json!({"id": "a"}), json!({})).await;
    assert_eq!(sorted(refused.faults()), [("/from", "required"), ("/subject", "required")]);
    let sent = send(&app, json!({"id": "a"}), json!({"from": "me@acme.test", "subject": "S"})).await;
    assert_eq!(sent.status, 202, "{}", sent.body);
}

#[tokio::test]
async fn sender_of_a_template_must_be_allowed_for_the_key() {
    let app = TestApp::start().await;
    greeting(&app).await;
    let limited = app.with_sender_domains(&["other.test"]).await;
    let template = json!({"id": "greeting", "variables": {"name": "Ann"}});
    assert_eq!(send(&limited, template.clone(), json!({})).await.problem(), (403, "forbidden"));
    assert_eq!(send(&limited, template, json!({"from": "me@other.test"})).await.status, 202);
}

#[tokio::test]
async fn dry_run_renders_and_stores_nothing() {
    let app = TestApp::start().await;
    greeting(&app).await;
    let template = json!({"id": "greeting", "variables": {"name": "Ann", "x": 1}});
    let body = json!({"to": "ann@example.test", "template": template});
    let plan = app.post("/v1/messages?dry_run=true", &body).await;
    assert_eq!(plan.status, 200, "{}", plan.body);
    let mime = plan.body["mime"]["content"].as_str().unwrap();
    assert!(mime.contains("Subject: Hello Ann") && mime.contains("you owe 0."), "{mime}");
    assert_eq!(plan.body["warnings"][0]["code"], "unknown_variable");
    let faulty = json!({"to": "ann@example.test", "template": {"id": "greeting"}});
    let refused = app.post("/v1/messages?dry_run=true", &faulty).await;
    assert_eq!(refused.faults(), [("/template/variables/name", "required")]);
    assert_eq!(app.get("/v1/messages").await.body["data"], json!([]));
}

#[tokio::test]
async fn messages_are_found_by_template() {
    let app = TestApp::start().await;
    let id = greeting(&app).await;
    app.send(json!({})).await;
    let sent = send(&app, json!({"id": "greeting", "variables": {"name": "Ann"}}), json!({})).await;
    for name in ["greeting", &id] {
        let found = app.get(&format!("/v1/messages?template={name}")).await.body;
        assert_eq!(found["data"].as_array().unwrap().len(), 1, "{found}");
        assert_eq!((&found["data"][0]["id"], &found["data"][0]["template"]["id"]), (&sent.body["id"], &json!(id)));
    }
    assert_eq!(app.get("/v1/messages?template=missing").await.faults(), [("template", "unknown_template")]);
    assert_eq!(app.get("/v1/messages?template=a%20b").await.faults(), [("template", "invalid_value")]);
}

#[tokio::test]
async fn hostile_template_is_refused_when_it_is_rendered() {
    let app = TestApp::start().await;
    let html = "{% for i in range(n) %}{% for j in range(n) %}x{% endfor %}{% endfor %}";
    let variables = json!([{"key": "n", "type": "number"}]);
    create(&app, json!({"alias": "a", "subject": "S", "html": html, "from": "a@acme.test", "variables": variables}))
        .await;
    publish(&app, "a").await;
    assert_eq!(send(&app, json!({"id": "a", "variables": {"n": 3}}), json!({})).await.status, 202);
    let refused = send(&app, json!({"id": "a", "variables": {"n": 100_000}}), json!({})).await;
    assert_eq!((refused.status, refused.faults()[0].0), (422, "/template"), "{}", refused.body);
}
