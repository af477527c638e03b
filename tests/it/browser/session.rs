//! What other people can do with a session in a real browser.

use serde_json::json;

use super::webdriver::Chromium;
use crate::support::app::TestApp;

#[tokio::test]
async fn scripts_cannot_read_the_session() {
    let app = TestApp::start().await;
    let Some(browser) = Chromium::start(&app.base).await else { return };
    browser.sign_in(&app.key).await;
    assert_eq!(browser.run("return document.cookie").await, json!(""));
    let stored = browser.run("return JSON.stringify([localStorage, sessionStorage])").await;
    assert!(!stored.as_str().unwrap().contains("pr_"), "{stored}");
}

#[tokio::test]
async fn signing_in_never_adopts_a_cookie_that_was_there() {
    let app = TestApp::start().await;
    let Some(browser) = Chromium::start(&app.base).await else { return };
    browser.open("/ui/login").await;
    let (_, port) = app.base.rsplit_once(':').unwrap();
    let cookie = format!("postrider-{port}={}", "0".repeat(64));
    browser.run(&format!("document.cookie = '{cookie}; path=/'; return document.cookie")).await;
    assert_eq!(browser.run("return document.cookie").await, json!(cookie));
    browser.sign_in(&app.key).await;
    // The session has another token, and the person who set the cookie is not signed in with it.
    assert_eq!(browser.run("return document.cookie").await, json!(""));
    let stranger = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let page = stranger.get(format!("{}/ui", app.base)).header("cookie", cookie).send().await.unwrap();
    assert_eq!(page.status(), 303);
}

#[tokio::test]
async fn page_of_another_site_cannot_change_anything() {
    let app = TestApp::start().await;
    let Some(browser) = Chromium::start(&app.base).await else { return };
    browser.sign_in(&app.key).await;
    // The same machine by another name is another site: the browser sends no cookie, and says where the form is from.
    let form = format!(
        "<form method=post action='{}/ui/suppressions'><input name=address value=bo@example.test></form><script>document.forms[0].submit()</script>",
        app.base
    );
    let page: String = url::form_urlencoded::byte_serialize(form.as_bytes()).collect();
    let page = page.replace('+', "%20");
    browser.open_url(&format!("data:text/html,{page}")).await;
    browser.wait_for("the refusal", "document.body.textContent.includes('must not send this request')").await;
    assert_eq!(app.get("/v1/suppressions").await.body["data"], json!([]));
}
