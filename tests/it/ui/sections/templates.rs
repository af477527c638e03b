//! The editor of templates.

use chrono::TimeDelta;
use serde_json::json;

use super::admin;
use crate::ui::browser::Browser;

async fn create(browser: &Browser) -> String {
    let location = browser.submit("/ui/templates", &[("name", "Invoice")]).await;
    location.split('?').next().unwrap().to_owned()
}

const DRAFT: [(&str, &str); 5] = [
    ("name", "Invoice"),
    ("alias", "invoice"),
    ("subject", "Invoice {{ number }}"),
    ("html", "<p>Hello {{ name }}</p>\r\n"),
    ("declarations", r#"[{"key": "name", "type": "string"}, {"key": "number", "type": "number", "default": 7}]"#),
];

#[tokio::test]
async fn draft_is_edited_published_and_sent() {
    let (app, browser) = admin().await;
    let path = create(&browser).await;
    let location = browser.submit(&path, &DRAFT).await;
    browser.page(&location).await.shows(&["The draft was saved.", "Hello {{ name }}", "value=\"invoice\""]);
    let stored = app.get("/v1/templates/invoice").await.body;
    assert_eq!(stored["html"], "<p>Hello {{ name }}</p>\n");
    let location = browser.submit(&format!("{path}/publish"), &[]).await;
    browser.page(&location).await.shows(&["version 1", "Send a test"]);
    let variables = r#"{"name": "Ann"}"#;
    let test = [("to", "ann@example.test"), ("from", "a@acme.test"), ("variables", variables)];
    let location = browser.submit(&format!("{path}/test"), &test).await;
    browser.page(&location).await.shows(&["The test message was accepted.", "Invoice 7"]);
    let frame = browser.post(&format!("{path}/preview"), &[("version", "1"), ("variables", variables)]).await;
    assert!(frame.text.contains("<p>Hello Ann</p>"), "{}", frame.text);
}

#[tokio::test]
async fn preview_shows_what_is_typed_without_saving_it() {
    let (app, browser) = admin().await;
    let path = create(&browser).await;
    let typed = [("html", "<b>{{ a }}</b>"), ("subject", "S"), ("name", "x"), ("variables", r#"{"a": "<i>"}"#)];
    let frame = browser.post("/ui/templates/render", &typed).await;
    assert_eq!((frame.status, frame.header("x-frame-options")), (200, "SAMEORIGIN"));
    assert!(frame.text.contains("<b>&lt;i&gt;</b>"), "{}", frame.text);
    assert!(frame.header("content-security-policy").starts_with("sandbox;"));
    for (field, value, text) in [
        ("html", "{{ a", "html: "),
        ("variables", "[1]", "not a JSON object"),
        ("declarations", "{}", "not a JSON array"),
    ] {
        let frame = browser.post("/ui/templates/render", &[(field, value)]).await;
        assert!(frame.status == 200 && frame.text.contains(text), "{field}: {}", frame.text);
    }
    assert_eq!(app.get(&path.replace("/ui", "/v1")).await.body["html"], json!(null));
}

#[tokio::test]
async fn refused_draft_keeps_what_was_typed() {
    let (app, browser) = admin().await;
    app.post("/v1/templates", &json!({"name": "Other", "alias": "taken"})).await;
    let path = create(&browser).await;
    let page = browser.post(&path, &[("name", "Invoice"), ("alias", "taken"), ("html", "<p>typed</p>")]).await;
    assert_eq!(page.status, 422);
    page.shows(&["role=\"alert\"", "value=\"taken\"", "&#60;p&#62;typed"]);
    browser.submit(&path, &[("name", "Invoice"), ("subject", "S"), ("html", "{{ a")]).await;
    let page = browser.post(&format!("{path}/publish"), &[]).await;
    assert_eq!(page.status, 422, "an invalid draft: {}", page.text);
    page.shows(&["role=\"alert\"", "html: "]);
    assert!(!page.text.contains("data-unsaved"), "a saved draft");
}

#[tokio::test]
async fn publishing_saves_what_was_typed_first() {
    let (app, browser) = admin().await;
    let path = create(&browser).await;
    let api = path.replace("/ui", "/v1");
    browser.submit(&format!("{path}/publish"), &DRAFT).await;
    let published = app.get(&api).await.body;
    assert_eq!((&published["html"], &published["version"]), (&json!("<p>Hello {{ name }}</p>\n"), &json!(1)));
    // Neither is lost: a draft that cannot be saved, and one that cannot be published.
    let page = browser
        .post(&format!("{path}/publish"), &[("name", "Invoice"), ("html", "<p>v2"), ("declarations", "{}")])
        .await;
    assert_eq!(page.status, 422);
    page.shows(&["not a JSON array", "&#60;p&#62;v2", "data-unsaved"]);
    let page = browser.post(&format!("{path}/publish"), &[("name", "Invoice"), ("html", "{{ a")]).await;
    assert_eq!(page.status, 422);
    page.shows(&["The draft was saved, but it cannot be published.", "html: ", "{{ a</textarea>"]);
    assert_eq!(app.get(&api).await.body["version"], 1);
}

#[tokio::test]
async fn refused_test_message_keeps_what_was_typed() {
    let (_app, browser) = admin().await;
    let path = create(&browser).await;
    browser.submit(&format!("{path}/publish"), &DRAFT).await;
    for (to, variables) in [("nobody", r#"{"name": "Ann"}"#), ("ann@example.test", "[1]")] {
        let typed = [("to", to), ("from", "typed@acme.test"), ("variables", variables)];
        let page = browser.post(&format!("{path}/test"), &typed).await;
        assert_eq!(page.status, 422, "{}", page.text);
        page.shows(&["The test message was refused.", &format!("value=\"{to}\""), "value=\"typed@acme.test\""]);
        page.shows(&["class=\"confirm\" open"]);
    }
}

#[tokio::test]
async fn draft_that_somebody_else_has_changed_is_not_replaced() {
    let (app, browser) = admin().await;
    let path = create(&browser).await;
    let opened_at = async || {
        let tags = browser.page(&path).await.tags();
        let is_field = |tag: &crate::ui::browser::Tag| tag.attributes.contains(&("name".into(), "revision".into()));
        let field = tags.into_iter().find(is_field).expect("a field");
        field.attributes.into_iter().find(|(name, _)| name == "value").expect("a value").1
    };
    let (stale, clock) = (opened_at().await, &app.clock);
    clock.advance(TimeDelta::seconds(1));
    browser.submit(&path, &[("name", "Invoice"), ("html", "<p>theirs")]).await;
    let page = browser.post(&path, &[("name", "Invoice"), ("html", "<p>mine"), ("revision", &stale)]).await;
    assert_eq!(page.status, 422);
    page.shows(&["Somebody else has changed the draft", "&#60;p&#62;mine"]);
    assert_eq!(app.get(&path.replace("/ui", "/v1")).await.body["html"], "<p>theirs");
    let current = opened_at().await;
    browser.submit(&path, &[("name", "Invoice"), ("html", "<p>mine"), ("revision", &current)]).await;
    assert_eq!(app.get(&path.replace("/ui", "/v1")).await.body["html"], "<p>mine");
}

#[tokio::test]
async fn layout_older_than_a_hundred_templates_stays() {
    let (app, browser) = admin().await;
    let body = json!({"name": "Letterhead", "html": "<html><body>{% block content %}{% endblock %}</body></html>"});
    let layout = app.post("/v1/templates", &body).await.body["id"].as_str().unwrap().to_owned();
    assert!(app.post(&format!("/v1/templates/{layout}/publish"), &json!({})).await.status < 300);
    // The list is ordered by time.
    app.clock.advance(TimeDelta::seconds(1));
    for n in 0..101 {
        assert_eq!(app.post("/v1/templates", &json!({"name": format!("Other {n}")})).await.status, 201);
    }
    let path = create(&browser).await;
    browser.submit(&path, &[("name", "Invoice"), ("layout", &layout), ("html", "<p>Hi</p>")]).await;
    browser.page(&path).await.shows(&[&format!("<option value=\"{layout}\" selected>Letterhead")]);
}

#[tokio::test]
async fn layout_is_chosen_and_a_template_is_deleted() {
    let (app, browser) = admin().await;
    let body = json!({"name": "Letterhead", "html": "<html><body>{% block content %}{% endblock %}</body></html>"});
    let layout = app.post("/v1/templates", &body).await.body["id"].as_str().unwrap().to_owned();
    assert!(app.post(&format!("/v1/templates/{layout}/publish"), &json!({})).await.status < 300);
    let path = create(&browser).await;
    browser.page(&path).await.shows(&[&format!("<option value=\"{layout}\">Letterhead")]);
    browser.submit(&path, &[("name", "Invoice"), ("layout", &layout), ("html", "<p>Hi</p>")]).await;
    assert_eq!(app.get(&path.replace("/ui", "/v1")).await.body["layout"], json!(layout));
    browser.page(&path).await.shows(&[&format!("<option value=\"{layout}\" selected>")]);
    browser.submit(&format!("{path}/delete"), &[]).await;
    assert_eq!(browser.get(&path).await.status, 404);
}
