//! The dashboard without a mouse.

use serde_json::json;

use super::webdriver::Chromium;
use crate::support::app::TestApp;

const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";
const ESCAPE: &str = "\u{e00c}";

/// A page on which a message waits after a failed attempt.
async fn with_deferred_message(app: &TestApp) -> String {
    app.smtp.rcpt("ann@example.test").replies(["451 4.7.1 Greylisted, come back later"]);
    let sent = app.send(json!({"subject": "Invoice"})).await;
    app.run_until_idle().await;
    sent.id
}

#[tokio::test]
async fn message_is_found_inspected_and_retried_by_keys() {
    let app = TestApp::start().await;
    let id = with_deferred_message(&app).await;
    let Some(browser) = Chromium::start(&app.base).await else { return };
    browser.sign_in(&app.key).await;
    browser.press("gm").await;
    browser.wait_for("the messages", "location.pathname === '/ui/messages'").await;
    browser.press("/").await;
    browser.wait_for("the search box has the focus", "document.activeElement.id === 'search'").await;
    browser.press("status:deferred").await;
    browser.wait_for("the search", "location.search.includes('deferred')").await;
    browser.press(ESCAPE).await;
    browser.press("j").await;
    browser.wait_for("the row has the focus", "document.activeElement.matches('tr.is-selected a.row-link')").await;
    browser.press(ENTER).await;
    browser.wait_for("its page", &format!("location.pathname === '/ui/messages/{id}'")).await;
    focus(&browser, "Retry now").await;
    browser.press(ENTER).await;
    browser
        .wait_for("what was done", "document.querySelector('.note-good')?.textContent === 'The message is due now.'")
        .await;
    app.run_until_idle().await;
    browser.open(&format!("/ui/messages/{id}")).await;
    browser.wait_for("it is relayed", "document.querySelector('#summary .badge').textContent === 'relayed'").await;
}

/// Presses Tab until the button with this text has the focus, which must be visible.
async fn focus(browser: &Chromium, text: &str) {
    for _ in 0..60 {
        browser.press(TAB).await;
        if browser.run("return document.activeElement.textContent.trim()").await == json!(text) {
            let outline = browser.run("return getComputedStyle(document.activeElement).outlineStyle").await;
            assert_eq!(outline, json!("solid"), "the focus is not visible");
            return;
        }
    }
    panic!("Tab does not reach {text}");
}

#[tokio::test]
async fn escape_closes_a_form_and_gives_the_focus_back() {
    let app = TestApp::start().await;
    let Some(browser) = Chromium::start(&app.base).await else { return };
    browser.sign_in(&app.key).await;
    browser.open("/ui/suppressions").await;
    focus(&browser, "Add").await;
    browser.press(ENTER).await;
    browser.wait_for("the form is open", "document.querySelector('details.confirm').open").await;
    browser.press(TAB).await;
    browser.press("bo@example.test").await;
    browser.press(ESCAPE).await;
    browser.wait_for("the form is closed", "!document.querySelector('details.confirm').open").await;
    assert_eq!(browser.run("return document.activeElement.textContent").await, json!("Add"));
    browser.press("?").await;
    browser.wait_for("the help is open", "document.getElementById('help').open").await;
}
