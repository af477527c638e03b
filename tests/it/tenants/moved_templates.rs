//! Templates work in another cell as before, and files are uploaded again there: nothing that moves refers to a file.

use mail_parser::{MessageParser, MimeHeaders as _};
use serde_json::{Value, json};

use super::moving::Cells;
use super::tenant;
use crate::support::app::TestApp;
use crate::support::client::Api;
use crate::support::clock::hours;
use crate::support::dns::DnsServer;
use crate::support::uploads::{attached, file, put, sha256, stored};

/// Creates a template, and publishes it.
async fn publish(api: &Api, template: Value) {
    let created = api.post("/v1/templates", &template).await;
    assert_eq!(created.status, 201, "{}", created.body);
    publish_again(api, template["alias"].as_str().unwrap(), json!({})).await;
}

/// Changes a template, and publishes the next version.
async fn publish_again(api: &Api, alias: &str, change: Value) {
    let changed = api.patch(&format!("/v1/templates/{alias}"), &change).await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    let published = api.post(&format!("/v1/templates/{alias}/publish"), &json!({})).await;
    assert!(matches!(published.status, 200 | 201), "{}", published.body);
}

/// Creates templates of every syntax and format, with a layout, two versions and a draft.
async fn create_templates(api: &Api) {
    let page = "<style>h1 { color: red }</style><h1>Acme</h1>{% block content %}{% endblock %}<p>Acme Ltd</p>";
    publish(api, json!({"name": "Letterhead", "alias": "letterhead", "html": page})).await;
    let html = "<p>Dear {{ name | title }},</p>{% for item in items %}<p>{{ item.title }}: {{ item.price }}</p>{% endfor %}\
                <p>{{ address.city }}</p><img src=\"cid:logo\">";
    let invoice = json!({
        "name": "Invoice", "alias": "invoice", "layout": "letterhead", "from": "Acme Billing <billing@acme.test>",
        "reply_to": ["help@acme.test"], "subject": "Invoice {{ number }}{% if paid %} (paid){% endif %}", "html": html,
        "variables": [
            {"key": "number", "type": "number"}, {"key": "paid", "type": "boolean", "default": true},
            {"key": "name", "type": "string", "default": "customer", "max_length": 100},
            {"key": "items", "type": "array"}, {"key": "address", "type": "object"},
        ],
    });
    publish(api, invoice).await;
    publish_again(api, "invoice", json!({"html": format!("{html}<p>Second version</p>")})).await;
    let draft = api.patch("/v1/templates/invoice", &json!({"subject": "Draft {{ number }}"})).await;
    assert_eq!(draft.status, 200, "{}", draft.body);
    let mjml = "<mjml><mj-body><mj-section><mj-column><mj-text>Dear {{ name }}</mj-text></mj-column></mj-section></mj-body></mjml>";
    publish(
        api,
        json!({"name": "Note", "alias": "note", "format": "mjml", "subject": "Note", "html": mjml, "from": "a@acme.test",
               "variables": [{"key": "name", "type": "string"}]}),
    )
    .await;
    publish(
        api,
        json!({"name": "Plain", "alias": "plain", "syntax": "vars", "subject": "Hi {{NAME}}", "text": "Dear {{NAME}}.",
               "html": "<p>{{NAME}}</p>", "from": "a@acme.test", "variables": [{"key": "NAME", "type": "string"}]}),
    )
    .await;
}

/// Sends a message of each template, and returns what arrives of each: headers, bodies, and attachments.
async fn arrived(app: &TestApp, api: &Api, logo: &str) -> Vec<Value> {
    let variables = json!({"number": 42, "name": "ann", "items": [{"title": "Tea & <b>", "price": 4.2}], "address": {"city": "London"}});
    let mut all = Vec::new();
    for template in [
        json!({"id": "invoice", "version": 1, "variables": variables}),
        json!({"id": "invoice", "variables": variables}),
        json!({"id": "note", "variables": {"name": "Ann"}}),
        json!({"id": "plain", "variables": {"NAME": "Ann"}}),
    ] {
        let attachments = json!([{"filename": "logo.png", "sha256": logo, "content_id": "logo"}]);
        let message = json!({"to": "ann@example.test", "template": template, "attachments": attachments});
        let sent = api.post("/v1/messages", &message).await;
        assert_eq!(sent.status, 202, "{}", sent.body);
        app.run_until_idle().await;
        let raw = app.smtp.messages().pop().expect("a message").raw;
        let parsed = MessageParser::default().parse(&raw).unwrap();
        let address = |header: Option<&mail_parser::Address<'_>>| {
            header.and_then(|header| header.first()).map(|one| json!([one.name(), one.address()]))
        };
        let files = parsed.attachments().map(|file| {
            json!([file.attachment_name(), file.content_id(), sha256(file.contents()), file.contents().len()])
        });
        all.push(json!({
            "subject": parsed.subject(), "from": address(parsed.from()), "reply_to": address(parsed.reply_to()),
            "html": parsed.body_html(0), "text": parsed.body_text(0), "files": files.collect::<Vec<_>>(),
        }));
    }
    all
}

#[tokio::test]
async fn templates_and_files_work_after_a_move() {
    let dns = DnsServer::start().await;
    let cells = Cells::start(&dns).await;
    let acme = tenant(&cells.old, "Acme", json!({})).await;
    create_templates(&acme.api).await;
    let logo = file(1, 300_000);
    let digest = sha256(&logo);
    assert_eq!(put(&acme.api, &logo).await.status, 201);
    let before = arrived(&cells.old, &acme.api, &digest).await;
    assert_eq!(before[0]["subject"], "Invoice 42 (paid)");
    assert!(before[1]["html"].as_str().unwrap().contains("Second version"), "{}", before[1]);
    assert!(before.iter().all(|message| message["files"][0][2] == digest), "{before:?}");
    let mut scheduled = attached(&[&digest]);
    scheduled["scheduled_at"] = json!(cells.old.clock.text_in(hours(48)));
    let scheduled = acme.api.send(scheduled).await.id;
    cells.move_tenant("Acme").await;

    let api = cells.new.with_key(&acme.api.key);
    for path in [
        "/v1/templates",
        "/v1/templates/invoice",
        "/v1/templates/invoice/versions/1",
        "/v1/templates/invoice/versions/2",
        "/v1/templates/note/versions/1",
        "/v1/templates/plain/versions/1",
    ] {
        assert_eq!(api.get(path).await.body, acme.api.get(path).await.body, "{path}");
    }
    assert_eq!(stored(&cells.new).await, (0, 0, 0), "files stay");
    let refused = api.post("/v1/messages", &crate::support::client::message(attached(&[&digest]))).await;
    assert_eq!(refused.faults(), [("/attachments/0/sha256", "unknown_blob")]);
    assert_eq!(put(&api, &logo).await.status, 201);
    assert_eq!(arrived(&cells.new, &api, &digest).await, before);

    cells.old.clock.advance(hours(49));
    cells.old.run_until_idle().await;
    assert_eq!(acme.api.status(&scheduled).await, "relayed", "what was scheduled is sent with its file");
}
