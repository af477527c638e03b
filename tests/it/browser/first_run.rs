//! A new user: from the link that `postrider dev` prints to the first message.

use serde_json::json;

use super::webdriver::Chromium;
use crate::support::dev::{Dev, directory};

#[tokio::test]
async fn new_user_gets_from_the_link_to_a_read_message() {
    let dir = directory();
    let dev = Dev::start(dir.path()).await;
    let base = dev.fact("api").to_owned();
    let Some(browser) = Chromium::start(&base).await else { return };
    let link = dev
        .printed
        .split_whitespace()
        .filter_map(|word| word.strip_prefix(&*base))
        .find(|path| path.starts_with("/ui/login/link"));
    browser.open(link.expect("a link")).await;
    browser.wait_for("the overview", "location.pathname === '/ui'").await;
    browser.open("/ui/messages").await;
    // The empty page has a command with a key that works.
    let example = browser.run("return document.querySelector('.empty .code').textContent").await;
    let key = example.as_str().unwrap().split_once("Bearer ").unwrap().1.split('\'').next().unwrap().to_owned();
    browser.wait_for("the page is live", "typeof source === 'undefined' || source !== null").await;
    let api = crate::support::client::Api::new(base, key);
    let message = json!({
        "from": "hello@acme.test", "to": "ann@example.test", "subject": "Hello", "text": "It works.", "html": "<p>It works.</p>"
    });
    assert_eq!(api.post("/v1/messages", &message).await.status, 202);
    browser.wait_for("the message is announced", "!document.querySelector('.new-rows').hidden").await;
    browser.run("document.querySelector('.new-rows a').click()").await;
    browser.wait_for("the message is listed", "document.querySelector('a.row-link')?.textContent === 'Hello'").await;
    browser.wait_for("the row is refreshed", "document.querySelector('tbody .badge').textContent === 'relayed'").await;
    browser.run("document.querySelector('a.row-link').click()").await;
    browser.wait_for("its page is open", "document.querySelector('h1').textContent === 'Hello'").await;
    browser.wait_for("its frame is loaded", "document.querySelector('iframe.preview') !== null").await;
    browser.open("/ui").await;
    browser.wait_for("the overview counts it", "document.querySelector('.figures dd').textContent === '1'").await;
    assert_eq!(browser.complaints().await, Vec::<serde_json::Value>::new());
    drop(browser);
    assert!(dev.stop().await.success());
}
