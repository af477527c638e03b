//! A key with the scope `metadata` sees messages without their content.

use postrider::domain::key::Scope;
use serde_json::json;

use super::admin;
use crate::ui::browser::Browser;

#[tokio::test]
async fn metadata_key_sees_states_but_no_content() {
    let (app, _) = admin().await;
    let file = json!([{"filename": "plan.txt", "content": "U2VjcmV0"}]);
    let sent = app.send(json!({"html": "<p>the secret</p>", "text": "the secret", "attachments": file})).await;
    app.run_until_idle().await;
    let viewer = app.with_scopes(&[Scope::Metadata]).await;
    let browser = Browser::signed_in(&app.base, &viewer.key).await;
    browser.page("/ui").await.shows(&["read only, without content", "Your invoice"]);
    let path = format!("/ui/messages/{}", sent.id);
    for tab in ["preview", "text", "headers", "attachments"] {
        let page = browser.page(&format!("{path}?tab={tab}")).await;
        assert!(!page.text.contains("the secret") && !page.text.contains("<iframe"), "{tab}: {}", page.text);
        assert!(!page.text.contains("/raw\"") && !page.text.contains("/attachments/0\""), "{tab}: {}", page.text);
        page.shows(&["relayed", "ann@example.test"]);
    }
    browser.page(&path).await.shows(&["without their content: that needs the scope `read`"]);
    browser.page(&format!("{path}?tab=attachments")).await.shows(&["plan.txt"]);
    for part in ["html", "raw", "attachments/0"] {
        let page = browser.get(&format!("{path}/{part}")).await;
        assert_eq!(page.status, 403, "{part}: {}", page.text);
    }
    assert_eq!(viewer.get(&format!("/v1/messages/{}/raw", sent.id)).await.problem(), (403, "forbidden"));
    assert_eq!(viewer.get(&format!("/v1/messages/{}/events", sent.id)).await.status, 200);
}

#[tokio::test]
async fn read_key_still_sees_the_content() {
    let (app, _) = admin().await;
    let sent = app.send(json!({"html": "<p>Hi</p>"})).await;
    let reader = app.with_scopes(&[Scope::Read]).await;
    let browser = Browser::signed_in(&app.base, &reader.key).await;
    browser.page(&format!("/ui/messages/{}", sent.id)).await.shows(&["<iframe", "Raw"]);
    assert!(browser.page(&format!("/ui/messages/{}/html", sent.id)).await.text.contains("<p>Hi</p>"));
}

#[tokio::test]
async fn content_of_an_ended_message_is_redacted() {
    let (app, browser) = admin().await;
    let sent = app.send(json!({"subject": "Secret plans", "text": "at midnight"})).await;
    let path = format!("/ui/messages/{}", sent.id);
    let waiting = browser.page(&path).await;
    assert!(!waiting.text.contains("Redact the message"), "{}", waiting.text);
    assert_eq!(browser.post(&format!("{path}/redact"), &[]).await.status, 409);
    app.run_until_idle().await;
    browser.page(&path).await.shows(&["Secret plans", "Redact the message"]);
    let location = browser.submit(&format!("{path}/redact"), &[]).await;
    let redacted = browser.page(&location).await;
    redacted.shows(&["The content of the message was erased.", "ann@example.test"]);
    for gone in ["Secret plans", "at midnight", "Redact the message"] {
        assert!(!redacted.text.contains(gone), "{gone}: {}", redacted.text);
    }
}
