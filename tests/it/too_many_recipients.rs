//! A server that takes so many recipients at a time gets the others in another mail (RFC 5321 §4.5.3.1.10).

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::clock::minutes;

#[tokio::test]
async fn the_third_recipient_is_taken_the_next_time() {
    let app = TestApp::start().await;
    app.smtp.rcpt("cy@example.test").replies(["452 4.5.3 too many recipients"]);
    let mail = app.send(json!({"to": ["ann@example.test", "bo@example.test", "cy@example.test"]})).await;
    app.run_until_idle().await;
    assert_eq!(app.states(&mail.id).await, ["relayed", "relayed", "deferred"]);

    app.clock.advance(minutes(2));
    app.run_until_idle().await;
    assert_eq!(app.states(&mail.id).await, ["relayed", "relayed", "relayed"]);
    let copies = app.smtp.mails();
    assert_eq!((copies[0].to.len(), copies[1].to.as_slice()), (2, ["cy@example.test".to_owned()].as_slice()));
}
