//! Templates in Resend's syntax.

use serde_json::{Value, json};

use super::{delete, email, get, patch, post, start};

fn template() -> Value {
    json!({
        "name": "Invoice", "alias": "invoice", "subject": "Invoice {{{NUMBER}}}", "from": "Acme <billing@acme.test>",
        "html": "<p>Hello {{{NAME}}}, number {{{NUMBER}}}</p>",
        "variables": [
            {"key": "NAME", "type": "string", "fallback_value": "you"}, {"key": "NUMBER", "type": "number"},
        ],
    })
}

#[tokio::test]
async fn message_is_rendered_from_a_published_template() {
    let app = start().await;
    let created = post(&app, "/templates", &template()).await;
    assert_eq!((created.status, &created.body["object"]), (201, &json!("template")), "{}", created.body);
    let id = created.id();
    let message = |id: &str, variables: Value| json!({"from": "", "subject": "", "html": "", "to": ["ann@example.test"], "template": {"id": id, "variables": variables}});
    let draft = post(&app, "/emails", &message(&id, json!({"NUMBER": 42}))).await;
    assert_eq!(draft.error(), (422, "validation_error"), "a draft cannot be sent");
    let published = post(&app, &format!("/templates/{id}/publish"), &json!({})).await.ok();
    assert_eq!(published, json!({"object": "template", "id": id}));
    for name in [id.as_str(), "invoice"] {
        let sent = post(&app, "/emails", &message(name, json!({"NUMBER": 42}))).await.id();
        let shown = get(&app, &format!("/emails/{sent}")).await.ok();
        assert_eq!((&shown["subject"], &shown["from"]), (&json!("Invoice 42"), &json!("Acme <billing@acme.test>")));
        assert!(shown["html"].as_str().unwrap().contains("Hello you, number 42"), "{shown}");
    }
    let missing = post(&app, "/emails", &message(&id, json!({"NAME": "Ann"}))).await;
    assert_eq!(missing.error(), (422, "missing_required_field"));
    assert_eq!(missing.message(), "Missing `template.variables.NUMBER` field.");
    let both = post(&app, "/emails", &email(json!({"template": {"id": id, "variables": {"NUMBER": 1}}}))).await;
    assert_eq!(both.error(), (422, "validation_error"), "a template excludes a text");
}

#[tokio::test]
async fn templates_are_listed_changed_copied_and_deleted() {
    let app = start().await;
    let id = post(&app, "/templates", &template()).await.id();
    let path = format!("/templates/{id}");
    let shown = get(&app, &path).await.ok();
    for (name, value) in [
        ("object", json!("template")),
        ("id", json!(id)),
        ("alias", json!("invoice")),
        ("name", json!("Invoice")),
        ("status", json!("draft")),
        ("subject", json!("Invoice {{{NUMBER}}}")),
        ("text", Value::Null),
        ("published_at", Value::Null),
        ("has_unpublished_versions", json!(true)),
    ] {
        assert_eq!(shown[name], value, "{name}");
    }
    let variable = &shown["variables"][0];
    assert_eq!(
        (&variable["key"], &variable["type"], &variable["fallback_value"]),
        (&json!("NAME"), &json!("string"), &json!("you"))
    );
    let changed = patch(&app, "/templates/invoice", &json!({"id": id, "name": "", "subject": "Bill"})).await.ok();
    assert_eq!(changed, json!({"object": "template", "id": id}));
    let shown = get(&app, "/templates/invoice").await.ok();
    assert_eq!((&shown["name"], &shown["subject"]), (&json!("Invoice"), &json!("Bill")));

    app.clock.advance(chrono::TimeDelta::seconds(1));
    let copy = post(&app, &format!("{path}/duplicate"), &json!({})).await.id();
    let list = get(&app, "/templates?limit=1").await.ok();
    assert_eq!((&list["has_more"], &list["data"][0]["id"]), (&json!(true), &json!(copy)));
    let rest = get(&app, &format!("/templates?after={copy}")).await.ok();
    assert_eq!((&rest["has_more"], &rest["data"][0]["id"]), (&json!(false), &json!(id)));
    assert_eq!(get(&app, &format!("/templates?before={id}")).await.ok()["data"][0]["id"], json!(copy));

    assert_eq!(post(&app, "/templates", &template()).await.error(), (422, "validation_error"), "the alias is taken");
    assert_eq!(post(&app, "/templates", &json!({"html": "x"})).await.message(), "Missing `name` field.");
    assert_eq!(delete(&app, &path).await.ok(), json!({"object": "template", "id": id, "deleted": true}));
    assert_eq!(get(&app, &path).await.error(), (404, "not_found"));
}
