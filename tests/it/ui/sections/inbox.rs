//! The inbox of `dev`, as a section of the dashboard.

use std::time::Duration;

use serde_json::json;

use crate::support::dev::{Dev, directory};
use crate::support::until::until;
use crate::ui::browser::Browser;

/// Fails unless the inbox has received this many messages.
async fn received(dev: &Dev, n: u64) {
    let response = dev.api("api_key").get(&format!("/v1/dev/inbox/{n}?wait=30")).await;
    assert_eq!(response.status, 200, "{}", response.body);
}

#[tokio::test]
async fn message_in_the_inbox_is_read_and_answered() {
    let dir = directory();
    let dev = Dev::start(dir.path()).await;
    let sender = dev.api("api_key");
    let file = json!([{"filename": "a<b>.txt", "content": "SGk="}]);
    let hostile = "<script>alert(1)</script>";
    let bounced = sender.send(json!({"subject": hostile, "html": "<p>Hi</p>", "attachments": file})).await;
    received(&dev, 1).await;
    let reported = sender.send(json!({"to": "bo@example.test", "subject": "Second"})).await;
    received(&dev, 2).await;
    let base = dev.fact("api");
    let anonymous = Browser::open(base);
    assert_eq!(anonymous.get("/inbox").await.location(), "/ui/inbox");
    assert_eq!(anonymous.get("/inbox/1").await.location(), "/ui/inbox/1");
    assert_eq!(anonymous.get("/ui/inbox").await.status, 303);
    anonymous.page("/ui/login").await.shows(&["dev.env"]);

    let browser = Browser::signed_in(base, dev.fact("admin_key")).await;
    let list = browser.page("/ui/inbox").await;
    list.shows(&["Second", "ann@example.test", "&#60;script&#62;", "data-poll"]);
    let found = browser.page("/ui/inbox?q=second").await;
    assert!(found.text.contains("Second") && !found.text.contains("alert(1)"), "{}", found.text);
    let page = browser.page("/ui/inbox/1").await;
    page.shows(&["sandbox=\"allow-popups", "Attachments (1)", "Reply with a bounce"]);
    assert!(page.tags().iter().all(|tag| tag.name != "script" || tag.attributes.iter().any(|(name, _)| name == "src")));
    let html = browser.page("/ui/inbox/1/html").await;
    assert!(html.header("content-security-policy").starts_with("sandbox allow-popups"), "{:?}", html.headers);
    browser.page("/ui/inbox/1?tab=headers").await.shows(&["Return path", "@return.postrider.test"]);
    browser.page("/ui/inbox/1?tab=attachments").await.shows(&["a&#60;b&#62;.txt"]);
    let file = browser.page("/ui/inbox/1/attachments/0").await;
    assert_eq!((file.header("content-type"), file.text.as_str()), ("application/octet-stream", "Hi"));
    assert!(browser.page("/ui/inbox/1/raw").await.header("content-disposition").starts_with("attachment"));

    for id in [&bounced.id, &reported.id] {
        until("the message is relayed", Duration::from_secs(20), async || {
            let status = sender.status(id).await;
            if status == "relayed" { Ok(()) } else { Err(status) }
        })
        .await;
    }
    let location = browser.submit("/ui/inbox/1/bounce", &[]).await;
    assert_eq!(location, format!("/ui/messages/{}?done=bounced", bounced.id));
    browser.page(&location).await.shows(&["The bounce was received.", "bounced", "550"]);
    assert_eq!(sender.status(&bounced.id).await, "bounced");
    let again = browser.submit("/ui/inbox/1/bounce", &[]).await;
    browser.page(&again).await.shows(&["The report changed nothing"]);
    let location = browser.submit("/ui/inbox/2/complain", &[("recipient", "bo@example.test")]).await;
    browser.page(&location).await.shows(&["The complaint was received."]);
    assert!(sender.events(&reported.id).await.contains(&"complained".to_owned()));

    assert_eq!(Browser::signed_in(base, dev.fact("api_key")).await.post("/ui/inbox/2/bounce", &[]).await.status, 403);
    browser.submit("/ui/inbox/1/delete", &[]).await;
    assert_eq!(browser.get("/ui/inbox/1").await.status, 404);
    browser.submit("/ui/inbox/clear", &[]).await;
    browser.page("/ui/inbox").await.shows(&["No messages yet", "curl -sS"]);
    assert!(dev.stop().await.success());
}

#[tokio::test]
async fn service_without_an_inbox_has_no_such_section() {
    let (_app, browser) = super::admin().await;
    assert!(!browser.page("/ui").await.text.contains("/ui/inbox"));
    assert_eq!(browser.get("/ui/inbox").await.status, 404);
}
