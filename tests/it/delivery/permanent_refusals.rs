//! A recipient that is refused permanently bounces at once, with the server's reply.

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::clock::minutes;

#[tokio::test]
async fn refused_recipient_bounces() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["550 5.1.1 no such user"]);
    let sent = app.send(json!({"tags": [{"name": "kind", "value": "invoice"}], "metadata": {"order": "42"}})).await;
    app.run_until_idle().await;

    let ann = app.recipient(&sent.id).await;
    assert_eq!((&ann["status"], &ann["next_attempt_at"]), (&json!("bounced"), &json!(null)));
    assert_eq!(ann["response"], json!({"code": 550, "enhanced": "5.1.1", "text": "no such user"}));
    let events = app.event_list(&sent.id).await;
    let data = &events[1]["data"];
    assert_eq!((&events[0]["type"], &events[1]["type"]), (&json!("message.accepted"), &json!("message.bounced")));
    assert_eq!(
        (&data["attempt"], &data["recipient"], &data["response"]),
        (&json!(1), &ann["address"], &ann["response"])
    );
    assert_eq!(data["bounce"], json!({"type": "hard", "category": "unknown_user", "source": "smtp"}));
    assert_eq!(events[0]["data"]["bounce"], json!(null));
    assert_eq!(data["tags"], json!([{"name": "kind", "value": "invoice"}]));
    assert_eq!(data["metadata"], json!({"order": "42"}));
}

#[tokio::test]
async fn refused_message_bounces_for_all_accepted_recipients() {
    let app = TestApp::start().await;
    app.smtp.dot().replies(["554 5.7.1 we think it is spam"]);
    let sent = app.send(json!({"to": ["ann@example.test", "bo@example.test"]})).await;
    app.run_until_idle().await;
    assert_eq!(app.states(&sent.id).await, ["bounced", "bounced"]);
    assert_eq!(app.status(&sent.id).await, "bounced");
}

/// A permanent refusal is classified; a deferral is not.
#[tokio::test]
async fn bounces_are_classified() {
    let app = TestApp::start().await;
    for (address, replies) in [
        ("full@example.test", "552 5.2.2 over quota"),
        ("listed@example.test", "550 5.1.1 blocked using zen.spamhaus.org"),
        ("odd@example.test", "550 no"),
        ("later@example.test", "450 4.1.1 user unknown"),
    ] {
        app.smtp.rcpt(address).replies([replies]);
    }
    let to = ["full@example.test", "listed@example.test", "odd@example.test", "later@example.test"];
    let sent = app.send(json!({"to": to})).await;
    app.run_until_idle().await;
    let events = app.event_list(&sent.id).await;
    let bounce = |address: &str| {
        let event = events.iter().find(|event| event["data"]["recipient"] == address).unwrap();
        (event["type"].as_str().unwrap(), event["data"]["bounce"].clone())
    };
    let expected = |kind: &str, category: &str| json!({"type": kind, "category": category, "source": "smtp"});
    assert_eq!(bounce(to[0]), ("message.bounced", expected("soft", "mailbox_full")));
    assert_eq!(bounce(to[1]), ("message.bounced", expected("block", "blocklist")));
    assert_eq!(bounce(to[2]), ("message.bounced", expected("undetermined", "other")));
    assert_eq!(bounce(to[3]), ("message.deferred", json!(null)));
}

/// Four recipients are accepted, three deferred and three refused. Only the deferred ones are retried.
#[tokio::test]
async fn recipients_with_different_replies_are_handled_separately() {
    let app = TestApp::start().await;
    let to: Vec<String> = (0..10).map(|n| format!("r{n}@example.test")).collect();
    for address in &to[4..7] {
        app.smtp.rcpt(address).replies(["452 4.2.2 mailbox full"]);
    }
    for address in &to[7..] {
        app.smtp.rcpt(address).replies(["550 5.1.1 unknown"]);
    }
    let sent = app.send(json!({"to": to})).await;
    app.run_until_idle().await;
    assert_eq!(app.states(&sent.id).await, [vec!["relayed"; 4], vec!["deferred"; 3], vec!["bounced"; 3]].concat());
    assert_eq!(app.status(&sent.id).await, "deferred");

    app.clock.advance(minutes(2));
    app.run_until_idle().await;
    assert_eq!(app.states(&sent.id).await, [vec!["relayed"; 7], vec!["bounced"; 3]].concat());
    assert_eq!(app.status(&sent.id).await, "partial");
    let [first, second] = app.smtp.messages().try_into().expect("two messages");
    let sorted = |mut addresses: Vec<String>| {
        addresses.sort();
        addresses
    };
    assert_eq!((sorted(first.to), sorted(second.to)), (to[..4].to_vec(), to[4..7].to_vec()));
    assert_eq!(first.raw, second.raw, "a retry must send the same bytes");
}

#[tokio::test]
async fn message_above_the_size_limit_bounces_without_mail() {
    let app = TestApp::start().await;
    app.smtp.offers(["PIPELINING", "SIZE 2000"]);
    let sent = app.send(json!({"text": "A line of text.\n".repeat(200)})).await;
    app.run_until_idle().await;
    let ann = app.recipient(&sent.id).await;
    assert_eq!((&ann["status"], &ann["response"]["enhanced"]), (&json!("bounced"), &json!("5.3.4")));
    assert_eq!((app.smtp.count("MAIL"), app.smtp.count("DATA")), (0, 0));
}

#[tokio::test]
async fn address_that_needs_smtputf8_bounces_alone() {
    let app = TestApp::start().await;
    app.smtp.offers(["PIPELINING"]);
    let sent = app.send(json!({"to": "ann@example.test", "bcc": "jörg@example.test"})).await;
    app.run_until_idle().await;
    assert_eq!(app.states(&sent.id).await, ["relayed", "bounced"]);
    assert_eq!(app.message(&sent.id).await["recipients"][1]["response"]["enhanced"], "5.6.7");
    assert!(app.smtp.messages()[0].raw.is_ascii(), "8BITMIME is not offered, so the message must be ASCII");
}

#[tokio::test]
async fn refused_connection_greeting_is_temporary() {
    let app = TestApp::builder().start().await;
    app.smtp.greeting().replies(["554 5.3.2 not now"]);
    let sent = app.send(json!({})).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&sent.id).await, "deferred");
}
