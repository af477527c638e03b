//! Publishing checks a draft, and creates a version that never changes.

use serde_json::{Value, json};

use super::{create, publish, sorted};
use crate::support::app::TestApp;
use crate::support::clock::minutes;

#[tokio::test]
async fn published_version_never_changes() {
    let app = TestApp::start().await;
    let template = create(&app, json!({"alias": "a", "subject": "One", "html": "<p>1</p>"})).await;
    let id = template["id"].as_str().unwrap();
    let published = app.post("/v1/templates/a/publish", &json!({})).await;
    assert_eq!(published.status, 201, "{}", published.body);
    assert_eq!(published.headers["location"], format!("/v1/templates/{id}/versions/1"));
    assert_eq!((&published.body["template"], &published.body["version"]), (&json!(id), &json!(1)));
    assert_eq!((&published.body["subject"], &published.body["html"]), (&json!("One"), &json!("<p>1</p>")));
    assert!(published.body["compiled"]["html"].as_str().unwrap().contains('1'), "{}", published.body);

    app.clock.advance(minutes(1));
    let changed = app.patch("/v1/templates/a", &json!({"subject": "Two"})).await.body;
    assert_eq!((&changed["version"], &changed["has_unpublished_changes"]), (&json!(1), &json!(true)));
    assert_eq!(publish(&app, id).await["version"], 2);
    let template = app.get("/v1/templates/a").await.body;
    assert_eq!((&template["version"], &template["has_unpublished_changes"]), (&json!(2), &json!(false)));
    assert_eq!(template["published_at"], "2026-11-23T12:01:00Z");

    let first = app.get("/v1/templates/a/versions/1").await;
    assert_eq!(first.body, published.body);
    let list = app.get("/v1/templates/a/versions?limit=1").await.body;
    assert_eq!((&list["data"][0]["version"], &list["has_more"]), (&json!(2), &json!(true)));
    let rest = app.get(&format!("/v1/templates/{id}/versions?after=2")).await.body;
    assert_eq!((&rest["data"][0]["subject"], &rest["next"]), (&json!("One"), &Value::Null));
    for missing in ["a/versions/3", "a/versions/x", "b/versions/1", "b/versions"] {
        assert_eq!(app.get(&format!("/v1/templates/{missing}")).await.status, 404, "{missing}");
    }
}

#[tokio::test]
async fn publishing_again_creates_a_version_only_after_a_change() {
    let app = TestApp::start().await;
    create(&app, json!({"alias": "page", "html": "<h1>Acme</h1>{% block content %}{% endblock %}"})).await;
    publish(&app, "page").await;
    create(&app, json!({"alias": "a", "subject": "S", "html": "<p>1</p>", "layout": "page"})).await;
    assert_eq!(publish(&app, "a").await["version"], 1);
    let again = app.post("/v1/templates/a/publish", &json!({})).await;
    assert_eq!((again.status, &again.body["version"]), (200, &json!(1)));

    app.patch("/v1/templates/page", &json!({"html": "<h1>Acme Ltd</h1>{% block content %}{% endblock %}"})).await;
    assert_eq!(app.post("/v1/templates/a/publish", &json!({})).await.status, 200, "the layout is not published");
    publish(&app, "page").await;
    let first = app.get("/v1/templates/a/versions/1").await.body;
    assert!(first["compiled"]["html"].as_str().unwrap().contains("<h1>Acme</h1>"), "{first}");
    let second = publish(&app, "a").await;
    assert_eq!(second["version"], 2);
    let html = second["compiled"]["html"].as_str().unwrap();
    assert!(html.contains("Acme Ltd") && html.contains("<p>1</p>"), "{html}");
}

#[tokio::test]
async fn faulty_draft_is_not_published() {
    let app = TestApp::start().await;
    let draft = json!({
        "alias": "a", "subject": "{{ who }}", "html": "<p>{% if x %}</p>", "text": "{{ name | upcase }}",
        "variables": [{"key": "name", "type": "string", "default": 5}],
    });
    create(&app, draft).await;
    let refused = app.post("/v1/templates/a/publish", &json!({})).await;
    assert_eq!(refused.problem(), (422, "invalid_request"), "{}", refused.body);
    let pointers: Vec<&str> = sorted(refused.faults()).into_iter().map(|(pointer, _)| pointer).collect();
    for expected in ["/html", "/subject", "/text", "/variables/0/default"] {
        assert!(pointers.contains(&expected), "{expected}: {}", refused.body);
    }
    assert_eq!(app.get("/v1/templates/a").await.body["version"], Value::Null);
    assert_eq!(app.get("/v1/templates/a/versions").await.body["data"], json!([]));
}

#[tokio::test]
async fn layouts_in_a_cycle_are_refused() {
    let app = TestApp::start().await;
    let body = "{% block content %}{% endblock %}";
    create(&app, json!({"alias": "a", "subject": "S", "html": body})).await;
    create(&app, json!({"alias": "b", "subject": "S", "html": body, "layout": "a"})).await;
    publish(&app, "a").await;
    publish(&app, "b").await;
    app.patch("/v1/templates/a", &json!({"layout": "b"})).await;
    let refused = app.post("/v1/templates/a/publish", &json!({})).await;
    assert_eq!((refused.status, refused.faults()[0].0), (422, "/layout"), "{}", refused.body);
}

#[tokio::test]
async fn layout_in_use_is_not_deleted() {
    let app = TestApp::start().await;
    create(&app, json!({"alias": "page", "html": "{% block content %}{% endblock %}"})).await;
    create(&app, json!({"alias": "a", "layout": "page"})).await;
    let refused = app.delete("/v1/templates/page").await;
    assert_eq!(refused.problem(), (409, "template_in_use"));
    app.patch("/v1/templates/a", &json!({"layout": null})).await;
    assert_eq!(app.delete("/v1/templates/page").await.status, 204);
}

#[tokio::test]
async fn concurrent_publications_are_one_version() {
    let app = TestApp::start().await;
    create(&app, json!({"alias": "a", "subject": "S", "html": "<p>1</p>"})).await;
    let requests = [(); 5].map(|()| app.post("/v1/templates/a/publish", &Value::Null));
    for response in futures_util::future::join_all(requests).await {
        assert!(matches!(response.status, 200 | 201), "{}", response.body);
    }
    assert_eq!(app.get("/v1/templates/a/versions").await.body["data"][0]["version"], 1);
}
