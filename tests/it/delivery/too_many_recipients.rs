//! If a server limits the recipients of a transaction, the remaining ones get further transactions
//! (RFC 5321 §4.5.3.1.10).

use std::time::Duration;

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::clock::minutes;

#[tokio::test]
async fn fifty_recipients_need_five_transactions_in_one_attempt() {
    let app = TestApp::start().await;
    let to: Vec<String> = (0..50).map(|n| format!("u{n}@example.test")).collect();
    for address in &to[10..] {
        app.smtp.rcpt(address).replies(["452 4.5.3 too many recipients"]);
    }
    let sent = app.send(json!({"to": to})).await;
    app.run_until_idle().await;
    assert_eq!(app.states(&sent.id).await, vec!["relayed"; 50]);
    assert_eq!(app.smtp.messages().iter().map(|message| message.to.len()).collect::<Vec<_>>(), [10; 5]);
    let recipients = app.get(&format!("/v1/messages/{}", sent.id)).await.body["recipients"].clone();
    assert!(recipients.as_array().unwrap().iter().all(|one| one["attempts"] == 1), "{recipients}");
}

#[tokio::test]
async fn recipient_refused_twice_is_deferred_and_retried() {
    let app = TestApp::start().await;
    let refusal = "552 too many recipients";
    app.smtp.rcpt("cy@example.test").replies([refusal, refusal]);
    let sent = app.send(json!({"to": ["ann@example.test", "bo@example.test", "cy@example.test"]})).await;
    app.run_until_idle().await;
    assert_eq!(app.states(&sent.id).await, ["relayed", "relayed", "deferred"]);

    app.clock.advance(minutes(2));
    app.run_until_idle().await;
    assert_eq!(app.states(&sent.id).await, ["relayed", "relayed", "relayed"]);
    let copies = app.smtp.messages();
    assert_eq!((copies[0].to.len(), copies[1].to.as_slice()), (2, ["cy@example.test".to_owned()].as_slice()));
}

#[tokio::test]
async fn outcomes_are_recorded_after_each_transaction() {
    let app = TestApp::start().await;
    app.smtp.rcpt("cy@example.test").replies(["452 4.5.3 too many recipients"]);
    app.smtp.dot().replies(["250 2.0.0 queued"]);
    let gate = app.smtp.dot().stalls();
    let sent = app.send(json!({"to": ["ann@example.test", "bo@example.test", "cy@example.test"]})).await;
    let working = app.start_working();
    gate.reached().await;
    let recorded = async {
        while app.states(&sent.id).await[..2] != ["relayed", "relayed"] {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), recorded).await.expect("the first two are relayed");
    gate.open();
    working.await.unwrap().unwrap();
    assert_eq!(app.states(&sent.id).await, ["relayed"; 3]);
    assert_eq!(app.events(&sent.id).await.iter().filter(|event| *event == "relayed").count(), 3);
    assert_eq!(app.smtp.messages().len(), 2);
}
