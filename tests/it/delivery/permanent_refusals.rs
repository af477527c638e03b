//! A permanent refusal ends its recipient at once, with the server's reply.

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::clock::minutes;

#[tokio::test]
async fn a_refused_recipient_has_bounced() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["550 5.1.1 no such user"]);
    let mail = app.send(json!({"tags": [{"name": "kind", "value": "invoice"}], "metadata": {"order": "42"}})).await;
    app.run_until_idle().await;

    let ann = app.recipient(&mail.id).await;
    assert_eq!((&ann["status"], &ann["next_attempt_at"]), (&json!("bounced"), &json!(null)));
    assert_eq!(ann["response"], json!({"code": 550, "enhanced": "5.1.1", "text": "no such user"}));
    let events = app.event_list(&mail.id).await;
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
async fn a_refused_mail_has_bounced_for_all_who_were_taken() {
    let app = TestApp::start().await;
    app.smtp.dot().replies(["554 5.7.1 we think it is spam"]);
    let mail = app.send(json!({"to": ["ann@example.test", "bo@example.test"]})).await;
    app.run_until_idle().await;
    assert_eq!(app.states(&mail.id).await, ["bounced", "bounced"]);
    assert_eq!(app.status(&mail.id).await, "bounced");
}

/// A permanent refusal is classified; a deferral is not.
#[tokio::test]
async fn each_bounce_says_what_it_means() {
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
    let mail = app.send(json!({"to": to})).await;
    app.run_until_idle().await;
    let events = app.event_list(&mail.id).await;
    let bounce = |address: &str| {
        let event = events.iter().find(|event| event["data"]["recipient"] == address).unwrap();
        (event["type"].as_str().unwrap(), event["data"]["bounce"].clone())
    };
    let says = |kind: &str, category: &str| json!({"type": kind, "category": category, "source": "smtp"});
    assert_eq!(bounce(to[0]), ("message.bounced", says("soft", "mailbox_full")));
    assert_eq!(bounce(to[1]), ("message.bounced", says("block", "blocklist")));
    assert_eq!(bounce(to[2]), ("message.bounced", says("undetermined", "other")));
    assert_eq!(bounce(to[3]), ("message.deferred", json!(null)));
}

/// Four are accepted, three deferred and three refused: each gets its own reply, and only the deferred ones are
/// retried.
#[tokio::test]
async fn ten_recipients_with_three_fates() {
    let app = TestApp::start().await;
    let to: Vec<String> = (0..10).map(|n| format!("r{n}@example.test")).collect();
    for address in &to[4..7] {
        app.smtp.rcpt(address).replies(["452 4.2.2 mailbox full"]);
    }
    for address in &to[7..] {
        app.smtp.rcpt(address).replies(["550 5.1.1 unknown"]);
    }
    let mail = app.send(json!({"to": to})).await;
    app.run_until_idle().await;
    assert_eq!(app.states(&mail.id).await, [vec!["relayed"; 4], vec!["deferred"; 3], vec!["bounced"; 3]].concat());
    assert_eq!(app.status(&mail.id).await, "deferred");

    app.clock.advance(minutes(2));
    app.run_until_idle().await;
    assert_eq!(app.states(&mail.id).await, [vec!["relayed"; 7], vec!["bounced"; 3]].concat());
    assert_eq!(app.status(&mail.id).await, "partial");
    let [first, second] = app.smtp.mails().try_into().expect("two messages");
    let sorted = |mut addresses: Vec<String>| {
        addresses.sort();
        addresses
    };
    assert_eq!((sorted(first.to), sorted(second.to)), (to[..4].to_vec(), to[4..7].to_vec()));
    assert_eq!(first.raw, second.raw, "a retry is the same mail");
}

#[tokio::test]
async fn message_above_the_servers_size_bounces_without_being_sent() {
    let app = TestApp::start().await;
    app.smtp.offers(["PIPELINING", "SIZE 2000"]);
    let mail = app.send(json!({"text": "A line of the mail.\n".repeat(200)})).await;
    app.run_until_idle().await;
    let ann = app.recipient(&mail.id).await;
    assert_eq!((&ann["status"], &ann["response"]["enhanced"]), (&json!("bounced"), &json!("5.3.4")));
    assert_eq!((app.smtp.count("MAIL"), app.smtp.count("DATA")), (0, 0));
}

#[tokio::test]
async fn address_that_needs_smtputf8_bounces_and_the_others_do_not() {
    let app = TestApp::start().await;
    app.smtp.offers(["PIPELINING"]);
    let mail = app.send(json!({"to": "ann@example.test", "bcc": "jörg@example.test"})).await;
    app.run_until_idle().await;
    assert_eq!(app.states(&mail.id).await, ["relayed", "bounced"]);
    assert_eq!(app.message(&mail.id).await["recipients"][1]["response"]["enhanced"], "5.6.7");
    assert!(app.smtp.mails()[0].raw.is_ascii(), "8BITMIME was not offered");
}

#[tokio::test]
async fn nobody_at_the_relay_is_temporary() {
    let app = TestApp::builder().start().await;
    app.smtp.greeting().replies(["554 5.3.2 not now"]);
    let mail = app.send(json!({})).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&mail.id).await, "deferred");
}
