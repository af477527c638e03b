//! Forms: how large and slow they may be, and what happens to what was typed.

use futures_util::{StreamExt as _, stream};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Body, Method};

use super::browser::{Browser, Page};
use crate::support::app::TestApp;

/// Sends the beginning of a form, and returns the status of the response.
async fn begin(app: &TestApp, path: &str) -> u16 {
    let body = stream::iter([Ok::<_, std::io::Error>("key=pr_")]).chain(stream::pending());
    let request = Browser::open(&app.base).request(Method::POST, path).header("origin", &app.base);
    let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    Page::to(request.body(Body::wrap_stream(body))).await.status
}

#[tokio::test]
async fn form_that_does_not_arrive_is_refused() {
    let app = TestApp::start().await;
    let (login, theme) = tokio::join!(begin(&app, "/ui/login"), begin(&app, "/ui/theme"));
    assert_eq!((login, theme), (408, 408));
}

#[tokio::test]
async fn large_form_is_refused() {
    let app = TestApp::start().await;
    let value = "a".repeat(2 << 20);
    let page = Browser::open(&app.base).post("/ui/theme", &[("theme", &value)]).await;
    assert_eq!(page.status, 413);
    page.shows(&["larger than 2 MiB", "Request <code>"]);
}

#[tokio::test]
async fn form_without_its_fields_is_refused_with_a_page() {
    let app = TestApp::start().await;
    let page = Browser::open(&app.base).post("/ui/login", &[]).await;
    assert_eq!((page.status, page.header("content-type")), (422, "text/html; charset=utf-8"));
}

#[tokio::test]
async fn refused_form_keeps_what_was_typed() {
    let app = TestApp::start().await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    for (path, field, value) in [
        ("/ui/suppressions", "address", "nobody"),
        ("/ui/webhooks", "url", "ftp://hooks.acme.test"),
        ("/ui/domains", "name", "-.test"),
        ("/ui/inbound-routes", "match", "re*@acme.test"),
        ("/ui/streams", "name", "Not A Name"),
        ("/ui/templates", "name", "a".repeat(256).as_str()),
        ("/ui/tenants", "name", "a".repeat(129).as_str()),
    ] {
        let page = browser.post(path, &[(field, value)]).await;
        assert_eq!(page.status, 422, "{path}: {}", page.text);
        page.shows(&["role=\"alert\"", &format!("value=\"{value}\"")]);
    }
    // Taken names are refused with another status.
    for (path, name) in [("/ui/streams", "bulk"), ("/ui/tenants", "acme")] {
        browser.post(path, &[("name", name)]).await;
        let page = browser.post(path, &[("name", name)]).await;
        if page.status != 303 {
            assert_eq!(page.status, 422, "{path}: {}", page.text);
            page.shows(&["role=\"alert\"", &format!("value=\"{name}\"")]);
        }
    }
    let page = browser.post("/ui/keys", &[("name", "shop"), ("role", "read"), ("sender_domains", "-.test")]).await;
    assert_eq!(page.status, 422);
    page.shows(&["value=\"shop\"", "value=\"read\" selected", "value=\"-.test\""]);
}

#[tokio::test]
async fn failed_preview_is_explained_in_its_frame() {
    let app = TestApp::start().await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    for (id, variables, text) in [("none", "{}", "No template has this id")] {
        let page = browser.post(&format!("/ui/templates/{id}/preview"), &[("variables", variables)]).await;
        assert_eq!((page.status, page.header("x-frame-options")), (200, "SAMEORIGIN"), "{variables}");
        assert!(page.text.contains(text), "{}", page.text);
    }
}
