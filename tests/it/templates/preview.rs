//! A template is rendered and checked without sending anything.

use serde_json::{Value, json};

use super::{create, greeting};
use crate::support::app::TestApp;

async fn preview(app: &TestApp, body: Value) -> crate::support::client::ApiResponse {
    app.post("/v1/templates/greeting/preview", &body).await
}

#[tokio::test]
async fn preview_renders_the_draft_or_a_version() {
    let app = TestApp::start().await;
    greeting(&app).await;
    app.patch("/v1/templates/greeting", &json!({"subject": "Good morning {{ name }}"})).await;

    let draft = preview(&app, json!({"variables": {"name": "Ann & Bo", "extra": 1}})).await;
    assert_eq!(draft.status, 200, "{}", draft.body);
    assert_eq!(draft.body["subject"], "Good morning Ann & Bo");
    let (html, text) = (draft.body["html"].as_str().unwrap(), draft.body["text"].as_str().unwrap());
    assert!(html.contains("Dear Ann &amp; Bo, you owe 0."), "{html}");
    assert!(text.contains("Dear Ann & Bo, you owe 0."), "{text}");
    assert_eq!(draft.body["size"], html.len() + text.len());
    assert!(draft.body["fuel"].as_u64().unwrap() > 0);
    assert_eq!(draft.body["from"], "Acme Billing <billing@acme.test>");
    assert_eq!(draft.body["reply_to"], json!(["help@acme.test"]));
    let warning = &draft.body["warnings"][0];
    assert_eq!((&warning["code"], &warning["pointer"]), (&json!("unknown_variable"), &json!("/variables/extra")));

    let version = preview(&app, json!({"variables": {"name": "Ann"}, "version": 1})).await;
    assert_eq!(version.body["subject"], "Hello Ann");
    assert_eq!(preview(&app, json!({"version": 2})).await.status, 404);
    assert_eq!(app.post("/v1/templates/other/preview", &json!({})).await.status, 404);
}

#[tokio::test]
async fn preview_reports_every_fault() {
    let app = TestApp::start().await;
    greeting(&app).await;
    let refused = preview(&app, json!({"variables": {"amount": "much", "name": "x".repeat(21)}})).await;
    let mut faults = refused.faults();
    faults.sort_unstable();
    assert_eq!(faults, [("/variables/amount", "invalid_type"), ("/variables/name", "too_long")]);
    let injected = preview(&app, json!({"variables": {"name": "a\r\nBcc: x@y.test"}})).await;
    assert_eq!(injected.status, 422, "{}", injected.body);
    app.patch("/v1/templates/greeting", &json!({"html": "{% for %}"})).await;
    let faulty = preview(&app, json!({"variables": {"name": "Ann"}})).await;
    assert_eq!((faulty.status, faulty.faults()[0].0), (422, "/html"), "{}", faulty.body);
}

#[tokio::test]
async fn validation_suggests_variables_and_renders() {
    let app = TestApp::start().await;
    let body = json!({
        "subject": "Order {{ number }}",
        "html": "<table>{% for row in rows %}<tr><td>{{ row.title }}</td></tr>{% endfor %}</table>",
    });
    let valid = app.post("/v1/templates/validate", &body).await;
    assert_eq!(valid.status, 200, "{}", valid.body);
    assert_eq!((&valid.body["valid"], &valid.body["errors"]), (&json!(true), &json!([])));
    let suggested = valid.body["suggested_variables"].as_object().unwrap();
    assert!(suggested.contains_key("number") && suggested["rows"].is_array(), "{suggested:?}");
    assert!(valid.body["rendered"]["html"].as_str().unwrap().contains("<td>"), "{}", valid.body);
    let mut keys: Vec<&str> = valid.body["suggested_declarations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|variable| variable["key"].as_str().unwrap())
        .collect();
    keys.sort_unstable();
    assert_eq!(keys, ["number", "rows"]);

    let mut body = body;
    body["values"] = json!({"number": 7, "rows": [{"title": "<Tea>"}]});
    let rendered = app.post("/v1/templates/validate", &body).await.body;
    assert_eq!(rendered["rendered"]["subject"], "Order 7");
    assert!(rendered["rendered"]["html"].as_str().unwrap().contains("&lt;Tea&gt;"), "{rendered}");
}

#[tokio::test]
async fn validation_reports_faults_without_saving() {
    let app = TestApp::start().await;
    let body = json!({"subject": "{{ a", "html": "<p>{{ b }}</p>", "variables": [{"key": "c", "type": "string"}]});
    let report = app.post("/v1/templates/validate", &body).await;
    assert_eq!((report.status, &report.body["valid"], &report.body["rendered"]), (200, &json!(false), &Value::Null));
    let pointers: Vec<&str> = report.faults().into_iter().map(|(pointer, _)| pointer).collect();
    assert!(pointers.contains(&"/subject") && pointers.contains(&"/html"), "{}", report.body);
    let wrong =
        json!({"subject": "S", "html": "{{ n }}", "variables": [{"key": "n", "type": "number"}], "values": {"n": "x"}});
    let report = app.post("/v1/templates/validate", &wrong).await;
    assert_eq!((&report.body["valid"], report.faults()[0].0), (&json!(false), "/values/n"), "{}", report.body);
    let invalid = app.post("/v1/templates/validate", &json!({"html": 5, "name": "x"})).await;
    assert_eq!((invalid.status, invalid.faults().len()), (422, 2), "{}", invalid.body);
    assert_eq!(app.get("/v1/templates").await.body["data"], json!([]));
}

#[tokio::test]
async fn unescaped_output_is_a_warning() {
    let app = TestApp::start().await;
    create(&app, json!({"alias": "page", "html": "{% block content %}{% endblock %}"})).await;
    let body = json!({"subject": "S", "html": "<p>{{ a | safe }}</p>"});
    let report = app.post("/v1/templates/validate", &body).await.body;
    let codes: Vec<&Value> = report["warnings"].as_array().unwrap().iter().map(|warning| &warning["code"]).collect();
    assert!(codes.contains(&&json!("unescaped_output")), "{report}");
}
