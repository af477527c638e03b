//! Texts of strangers (subjects, names, replies of servers, file names, notes) on every page: they are shown, and never
//! become elements or attributes.

use serde_json::json;

use super::browser::{Browser, Page};
use super::pages::{OPERATOR_SECTIONS, SECTIONS};
use crate::browser::pages::mime_with;
use crate::receiving::{deliver, received, route};
use crate::support::app::TestApp;

const HOSTILE: &str = "\"><img src=x onerror=alert(1)><script>alert(1)</script>' hx-get='/x' {{7*7}}";

/// Fails if the page has an element or an attribute that no template has.
fn check(path: &str, page: &Page) {
    for tag in page.tags() {
        let is_hostile = |(name, value): &(String, String)| {
            name.starts_with("on") || (name == "src" && value == "x") || (name == "hx-get" && value == "/x")
        };
        assert!(!tag.attributes.iter().any(is_hostile), "{path}: {tag:?}");
        let has_source = tag.attributes.iter().any(|(name, _)| name == "src");
        assert!(tag.name != "script" || has_source, "{path}: {tag:?}");
    }
    assert!(!page.text.contains("<img src=x"), "{path}");
}

/// Puts the text into every field that takes it. Returns the pages of a message and of a received one.
async fn fill(app: &TestApp) -> [String; 2] {
    app.smtp.rcpt("ann@example.test").replies([&*format!("451 4.3.2 {HOSTILE}")]);
    let sent = app
        .send(json!({
            "from": {"email": "billing@acme.test", "name": HOSTILE}, "subject": HOSTILE, "text": HOSTILE,
            "tags": [{"name": "order", "value": "42"}], "metadata": {"note": HOSTILE},
            "attachments": [{"filename": format!("{HOSTILE}.txt"), "content": "SGk="}],
        }))
        .await;
    app.run_until_idle().await;
    app.post("/v1/suppressions", &json!({"address": "bo@example.test", "note": HOSTILE})).await;
    app.post("/v1/keys", &json!({"name": HOSTILE})).await;
    app.post("/v1/streams/bulk/pause", &json!({"reason": HOSTILE})).await;
    app.post("/v1/templates", &json!({"name": HOSTILE, "subject": HOSTILE, "text": HOSTILE})).await;
    let lane = app.get("/v1/lanes").await.body["data"][0]["id"].as_str().unwrap().to_owned();
    app.post(&format!("/v1/lanes/{lane}/pause"), &json!({"reason": HOSTILE})).await;
    let tenant = app.post("/v1/tenants", &json!({"name": HOSTILE})).await.body["id"].as_str().unwrap().to_owned();
    app.post(&format!("/v1/tenants/{tenant}/suspend"), &json!({"reason": HOSTILE})).await;
    route(app, "*@reply.acme.test", "store").await;
    deliver(app, "ann@example.test", &["x@reply.acme.test"], &mime_with(HOSTILE)).await;
    let received = received(app).await[0]["id"].as_str().unwrap().to_owned();
    [format!("/ui/messages/{}", sent.id), format!("/ui/received/{received}")]
}

#[tokio::test]
async fn texts_of_strangers_never_become_elements() {
    let app = TestApp::builder().with_inbound().start().await;
    let [message, received] = fill(&app).await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    let tabs = ["preview", "text", "headers", "attachments"].map(|tab| format!("{message}?tab={tab}"));
    let query = url::form_urlencoded::byte_serialize(HOSTILE.as_bytes()).collect::<String>();
    let received_tabs =
        ["preview", "text", "reply", "headers", "attachments"].map(|tab| format!("{received}?tab={tab}"));
    let filters = ["route", "answers"].map(|name| format!("/ui/received?{name}={query}"));
    let searches = ["messages", "lanes", "suppressions"].map(|name| format!("/ui/{name}?q={query}&filter={query}"));
    let mut shown = 0;
    let others = tabs
        .into_iter()
        .chain(received_tabs)
        .chain(searches)
        .chain(filters)
        .chain([message.clone(), format!("{message}/row")]);
    let sections = SECTIONS.into_iter().chain(OPERATOR_SECTIONS).map(str::to_owned);
    for path in sections.chain(others) {
        let page = browser.get(&path).await;
        check(&path, &page);
        shown += usize::from(page.text.contains("onerror=alert(1)"));
    }
    assert!(shown >= 18, "the text is on {shown} pages");
}

#[tokio::test]
async fn errors_show_what_was_sent_as_text() {
    let app = TestApp::start().await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    for (path, field) in [
        ("/ui/suppressions", "address"),
        ("/ui/domains", "name"),
        ("/ui/webhooks", "url"),
        ("/ui/inbound-routes", "match"),
        ("/ui/inbound-routes", "action"),
    ] {
        let page = browser.post(path, &[(field, HOSTILE)]).await;
        check(path, &page);
    }
    for path in ["/ui/streams", "/ui/templates", "/ui/tenants", "/ui/keys"] {
        let page = browser.post(path, &[("name", HOSTILE), ("days", HOSTILE)]).await;
        check(path, &page);
    }
    for (path, field) in [("/ui/actions/count", "q"), ("/ui/suppressions/import", "entries")] {
        let page = browser.post(path, &[(field, HOSTILE), ("action", "cancel")]).await;
        check(path, &page);
    }
    let page = browser.post("/ui/login", &[("key", HOSTILE), ("next", HOSTILE)]).await;
    assert_eq!(page.status, 401);
    check("/ui/login", &page);
}
