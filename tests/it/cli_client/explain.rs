//! `postrider explain`.

use serde_json::{Value, json};

use super::{failure, output};
use crate::support::app::TestApp;

#[tokio::test]
async fn explanation_names_state_reply_and_next_attempt() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.7.1 Try again later"]);
    let sent = app.send(json!({"to": ["ann@example.test", "bo@example.test"]})).await;
    app.run_until_idle().await;
    let printed = output(&app, &["explain", &sent.id]).await;
    let explanation = app.get(&format!("/v1/messages/{}/explain", sent.id)).await.body;
    assert!(
        printed.starts_with(&format!(
            "{}  deferred  stream transactional\n\nann@example.test (to)  deferred  1 attempt\n",
            sent.id
        )),
        "{printed}"
    );
    let [ann, bo] = [0, 1].map(|n| explanation["recipients"][n].clone());
    for part in [&ann["summary"], &ann["gives_up_at"], &ann["lane"]["id"], &ann["estimate"]["at"], &bo["summary"]] {
        assert!(printed.contains(part.as_str().unwrap()), "{part}: {printed}");
    }
    assert!(
        printed.contains("\n  reason:   retry_wait") && printed.contains("\n  reply:    451 4.7.1 Try again later\n"),
        "{printed}"
    );
    assert!(printed.contains("\nbo@example.test (to)  relayed  1 attempt\n"), "{printed}");

    let json: Value = serde_json::from_str(&output(&app, &["explain", "--json", &sent.id]).await).unwrap();
    assert_eq!(json, explanation);
}

#[tokio::test]
async fn unknown_message_is_not_found() {
    let app = TestApp::start().await;
    for id in ["msg_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b", "x", "../keys", "a b"] {
        let (code, errors) = failure(&app, &["explain", id]).await;
        assert_eq!(code, 3, "{id}: {errors}");
    }
}
