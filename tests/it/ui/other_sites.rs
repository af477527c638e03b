//! Requests that pages of other sites make a browser send.

use super::browser::{Browser, Page};
use crate::support::app::TestApp;

/// Sends a change with these headers, and returns the status.
async fn change(browser: &Browser, headers: &[(&str, &str)]) -> u16 {
    let form = browser.form("/ui/theme", &[("theme", "dark")]);
    let form = headers.iter().fold(form, |form, (name, value)| form.header(*name, *value));
    Page::to(form).await.status
}

#[tokio::test]
async fn only_pages_of_this_host_may_change_something() {
    let app = TestApp::start().await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    let own = app.base.as_str();
    let other_port = "http://127.0.0.1:1";
    for (headers, expected) in [
        (vec![("sec-fetch-site", "same-origin")], 303),
        (vec![("sec-fetch-site", "same-origin"), ("origin", own)], 303),
        (vec![("sec-fetch-site", "same-site"), ("origin", own)], 403),
        (vec![("sec-fetch-site", "cross-site"), ("origin", own)], 403),
        (vec![("sec-fetch-site", "none")], 403),
        // Plain HTTP on another name than localhost: browsers send no Sec-Fetch-Site.
        (vec![("origin", own)], 303),
        (vec![("origin", "http://mail.lan:8080"), ("host", "mail.lan:8080")], 303),
        (vec![("origin", "https://evil.test")], 403),
        (vec![("origin", other_port)], 403),
        (vec![("origin", "null")], 403),
        (vec![], 403),
        // Without a trusted proxy, anybody could send this header.
        (vec![("origin", "https://mail.test"), ("x-forwarded-host", "mail.test")], 403),
    ] {
        assert_eq!(change(&browser, &headers).await, expected, "{headers:?}");
    }
}

#[tokio::test]
async fn host_that_a_trusted_proxy_reports_is_this_host() {
    let app = TestApp::builder().config(|config| config.http.trusted_proxies = vec!["127.0.0.1".into()]).start().await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    let headers = |origin| vec![("origin", origin), ("x-forwarded-host", "mail.test")];
    assert_eq!(change(&browser, &headers("https://mail.test")).await, 303);
    assert_eq!(change(&browser, &headers("https://evil.test")).await, 403);
}

#[tokio::test]
async fn refused_change_is_not_made() {
    let app = TestApp::start().await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    let form = browser.form("/ui/suppressions", &[("address", "ann@example.test")]);
    let page = Page::to(form.header("sec-fetch-site", "cross-site")).await;
    assert_eq!(page.status, 403);
    page.shows(&["Pages of other sites must not send this request."]);
    assert_eq!(app.get("/v1/suppressions").await.body["data"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn sign_in_from_another_site_is_refused() {
    let app = TestApp::start().await;
    let form = Browser::open(&app.base).form("/ui/login", &[("key", app.key.as_str())]);
    let page = Page::to(form.header("sec-fetch-site", "cross-site")).await;
    assert_eq!((page.status, page.header("set-cookie")), (403, ""));
}
