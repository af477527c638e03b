//! A bounce comes back: the recipient changes its state once, with an event and an explanation.

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::Answer;
use crate::support::reports::{AWAY, About, complaint, delivered, dsn, failed};
use crate::support::smtp::{Action, Gate};

async fn start() -> TestApp {
    TestApp::builder().taking_returns().start().await
}

/// With a separate return path for each recipient.
async fn start_with_verp() -> TestApp {
    TestApp::builder().taking_returns().config(|config| config.return_path.verp = true).start().await
}

/// The return path of a message to this recipient.
fn path_to(app: &TestApp, recipient: &str) -> String {
    let mails = app.smtp.mails();
    mails.iter().rev().find(|mail| mail.to.iter().any(|to| to == recipient)).unwrap().from.clone()
}

/// The data of a message's events of this type.
async fn told(app: &TestApp, id: &str, kind: &str) -> Vec<Value> {
    let events = app.event_list(id).await;
    events
        .into_iter()
        .filter(|event| event["type"] == format!("message.{kind}"))
        .map(|event| event["data"].clone())
        .collect()
}

/// Sends a message and returns its id and its return path.
async fn relayed(app: &TestApp, fields: Value) -> (String, String) {
    let sent = app.send(fields).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&sent.id).await, "relayed");
    (sent.id, app.smtp.mails().last().unwrap().from.clone())
}

#[tokio::test]
async fn a_relayed_mail_bounces_once_however_often_the_bounce_comes() {
    let app = start().await;
    let (id, path) = relayed(&app, json!({"tags": [{"name": "kind", "value": "invoice"}]})).await;
    assert!(path.starts_with("b+") && path.ends_with("@return.acme.test"), "{path}");
    let bounce = dsn(None, None, &[failed("ann@example.test")]);
    assert_eq!(app.bring_back(&path, &bounce).await, "250 2.0.0 Accepted as dsn, 1 recipients changed\r\n");

    let recipient = app.recipient(&id).await;
    assert_eq!((&recipient["status"], &recipient["response"]["code"]), (&json!("bounced"), &json!(550)));
    assert_eq!((&recipient["response"]["enhanced"], &recipient["attempts"]), (&json!("5.1.1"), &json!(1)));
    assert_eq!(app.events(&id).await, ["accepted", "relayed", "bounced"]);
    let event = app.event_list(&id).await.pop().unwrap()["data"].clone();
    assert_eq!(event["bounce"], json!({"type": "hard", "category": "unknown_user", "source": "dsn"}));
    assert_eq!((&event["attempt"], &event["duration_ms"], &event["mx"]), (&Value::Null, &Value::Null, &Value::Null));
    assert_eq!((&event["response"]["text"], &event["tags"][0]["value"]), (&json!("no such user"), &json!("invoice")));

    // Again, and from a server that upper-cases addresses.
    assert_eq!(app.bring_back(&path, &bounce).await, "250 2.0.0 Accepted as dsn, 0 recipients changed\r\n");
    assert_eq!(
        app.bring_back(&path.to_uppercase(), &bounce).await,
        "250 2.0.0 Accepted as dsn, 0 recipients changed\r\n"
    );
    let late = dsn(None, None, &[delivered("ann@example.test")]);
    assert_eq!(app.bring_back(&path, &late).await, "250 2.0.0 Accepted as dsn, 0 recipients changed\r\n");
    assert_eq!(app.events(&id).await.len(), 3);
    let ledger = app.get("/v1/ledger").await.body;
    assert_eq!((&ledger["balanced"], &ledger["bounced"], &ledger["relayed"]), (&json!(true), &json!(1), &json!(0)));

    let explained = app.get(&format!("/v1/messages/{id}/explain")).await.body["recipients"][0].clone();
    let summary = explained["summary"].as_str().unwrap();
    assert!(summary.starts_with("A delivery report received at 2026-11-23T12:00:00Z says"), "{summary}");
    assert!(summary.ends_with("after 1 attempt: “550 5.1.1 no such user”."), "{summary}");
}

#[tokio::test]
async fn success_report_makes_delivered_and_a_bounce_may_follow() {
    let app = start().await;
    let (id, path) = relayed(&app, json!({})).await;
    for (about, state) in [
        (About { recipient: "ann@example.test", action: "delayed", said: "450 4.2.2 mailbox full" }, "relayed"),
        (About { recipient: "ann@example.test", action: "relayed", said: "250 2.0.0 on it goes" }, "relayed"),
        (delivered("ann@example.test"), "delivered"),
        (delivered("ann@example.test"), "delivered"),
        (failed("ann@example.test"), "bounced"),
    ] {
        app.bring_back(&path, &dsn(None, None, &[about])).await;
        assert_eq!(app.status(&id).await, state);
    }
    assert_eq!(app.events(&id).await, ["accepted", "relayed", "delivered", "bounced"]);
    let explained = app.get(&format!("/v1/messages/{id}/explain")).await.body;
    assert!(explained["recipients"][0]["unblock"][0]["action"].as_str().unwrap().contains("new message"));
}

#[tokio::test]
async fn bounce_by_a_shared_return_path_moves_no_state() {
    let app = start().await;
    let (id, path) = relayed(&app, json!({"to": ["ann@example.test", "bo@example.test", "cy@example.test"]})).await;
    let about = [failed("BO@example.test"), delivered("cy@example.test"), failed("nobody@example.test")];
    for _ in 0..2 {
        let reply = app.bring_back(&path, &dsn(None, None, &about)).await;
        assert_eq!(reply, "250 2.0.0 Accepted as dsn, 0 recipients changed\r\n");
    }
    assert_eq!((app.states(&id).await, suppressed(&app).await), (vec!["relayed".to_owned(); 3], vec![]));
    // Each is recorded once, with its type.
    let bounced = told(&app, &id, "bounced").await;
    assert_eq!((bounced.len(), &bounced[0]["recipient"]), (1, &json!("bo@example.test")));
    assert_eq!((&bounced[0]["vouched"], &bounced[0]["bounce"]["category"]), (&json!(false), &json!("unknown_user")));
    let arrived = told(&app, &id, "delivered").await;
    assert_eq!((arrived.len(), &arrived[0]["vouched"]), (1, &json!(false)));
}

#[tokio::test]
async fn co_recipient_cannot_forge_complaints() {
    let app = start().await;
    let to = ["ann@example.test", "bo@example.test", "cy@example.test"];
    let (id, path) = relayed(&app, json!({"to": to})).await;
    let named = to.map(|to| format!("Original-Rcpt-To: {to}\r\n")).concat();
    let forged = complaint(&path).replace("Version: 1\r\n", &format!("Version: 1\r\n{named}"));
    for way in [path.as_str(), "fbl@return.acme.test"] {
        let reply = app.bring_back(way, &forged).await;
        assert_eq!(reply, "250 2.0.0 Accepted as complaint, 0 recipients changed\r\n");
    }
    let complaints = told(&app, &id, "complained").await;
    assert_eq!((complaints.len(), &complaints[0]["vouched"]), (1, &json!(false)), "one report is about one recipient");
    assert_eq!(suppressed(&app).await, []);
    let (reset, _) = relayed(&app, json!({"to": "bo@example.test"})).await;
    assert_eq!(app.status(&reset).await, "relayed");
}

#[tokio::test]
async fn forwarded_mail_bounces_by_its_return_path() {
    let app = start().await;
    let (id, path) = relayed(&app, json!({})).await;
    app.bring_back(&path, &dsn(None, None, &[failed("ann@elsewhere.test")])).await;
    assert_eq!(app.status(&id).await, "bounced");
    assert_eq!(told(&app, &id, "bounced").await[0]["vouched"], true);
}

#[tokio::test]
async fn with_verp_every_recipient_has_a_return_path_of_its_own() {
    let app = start_with_verp().await;
    let sent = app.send(json!({"to": ["ann@example.test", "bo@example.test"]})).await;
    app.run_until_idle().await;
    assert_eq!(app.smtp.mails().len(), 2);
    let to_bo = path_to(&app, "bo@example.test");
    assert_ne!(path_to(&app, "ann@example.test"), to_bo);
    app.bring_back(&to_bo, &dsn(None, None, &[failed("someone@elsewhere.test")])).await;
    assert_eq!(app.states(&sent.id).await, ["relayed", "bounced"]);
    // It has no effect on other recipients.
    app.bring_back(&to_bo, &dsn(None, None, &[failed("ann@example.test"), failed("bo@example.test")])).await;
    let forged = complaint(&to_bo).replace("Version: 1\r\n", "Version: 1\r\nOriginal-Rcpt-To: ann@example.test\r\n");
    app.bring_back("fbl@return.acme.test", &forged).await;
    assert_eq!(app.states(&sent.id).await, ["relayed", "bounced"]);
    assert_eq!(suppressed(&app).await, [("bo@example.test".into(), "complaint".into())]);
}

#[tokio::test]
async fn address_stays_good_where_a_member_has_the_mail() {
    let app = start().await;
    let (id, path) = relayed(&app, json!({})).await;
    let both = dsn(None, None, &[failed("ann@example.test"), delivered("ann@example.test")]);
    app.bring_back(&path, &both).await;
    assert_eq!((app.status(&id).await.as_str(), suppressed(&app).await), ("bounced", vec![]));
    // The success report comes before or after.
    for order in [[delivered, failed], [failed, delivered]] {
        let (id, path) = relayed(&app, json!({})).await;
        for about in order {
            app.bring_back(&path, &dsn(None, None, &[about("ann@example.test")])).await;
        }
        assert_eq!((app.status(&id).await.as_str(), suppressed(&app).await), ("bounced", vec![]));
    }
}

#[tokio::test]
async fn a_complaint_is_an_event_and_the_mail_stays_where_it_is() {
    let app = start().await;
    let (id, path) = relayed(&app, json!({})).await;
    for changed in [1, 0] {
        let reply = app.bring_back("fbl@return.acme.test", &complaint(&path)).await;
        assert_eq!(reply, format!("250 2.0.0 Accepted as complaint, {changed} recipients changed\r\n"));
    }
    assert_eq!(app.status(&id).await, "relayed");
    assert_eq!(app.events(&id).await, ["accepted", "relayed", "complained"]);
    let explained = app.get(&format!("/v1/messages/{id}/explain")).await.body;
    assert!(explained["recipients"][0]["summary"].as_str().unwrap().contains("reported it as spam"));
    // A bounce may come after it.
    app.bring_back(&path, &dsn(None, None, &[failed("ann@example.test")])).await;
    assert_eq!(app.events(&id).await, ["accepted", "relayed", "complained", "bounced"]);
}

#[tokio::test]
async fn who_is_away_has_not_bounced() {
    let app = start().await;
    let (id, path) = relayed(&app, json!({})).await;
    assert_eq!(app.bring_back(&path, AWAY).await, "250 2.0.0 Accepted as auto_reply, 0 recipients changed\r\n");
    assert_eq!(app.bring_back(&path, "Subject: hello\r\n\r\nHow are you?\r\n").await[..3], *"250");
    assert_eq!(app.events(&id).await, ["accepted", "relayed"]);
}

#[tokio::test]
async fn who_waits_for_another_attempt_is_not_touched() {
    let app = start().await;
    app.smtp.dot().replies(["451 4.3.0 later"]);
    let sent = app.send(json!({})).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&sent.id).await, "deferred");
    let path = from_of(&app.smtp.lines().iter().find(|line| line.text.starts_with("MAIL")).unwrap().text);
    let bounce = dsn(None, None, &[failed("ann@example.test")]);
    assert_eq!(app.bring_back(&path, &bounce).await, "250 2.0.0 Accepted as dsn, 0 recipients changed\r\n");
    assert_eq!(app.status(&sent.id).await, "deferred");
    app.clock.advance(TimeDelta::minutes(10));
    app.run_until_idle().await;
    assert_eq!(app.events(&sent.id).await, ["accepted", "deferred", "relayed"]);
}

#[tokio::test]
async fn bounce_before_the_outcome_is_recorded_is_deferred() {
    let app = start().await;
    let gate = Gate::default();
    app.smtp.dot().does([Action::Stall(gate.clone())]);
    let sent = app.send(json!({})).await;
    let working = app.start_working();
    gate.reached().await;
    let path = from_of(&app.smtp.lines().iter().find(|line| line.text.starts_with("MAIL")).unwrap().text);
    let bounce = dsn(None, None, &[failed("ann@example.test")]);
    assert_eq!(app.bring_back(&path, &bounce).await, "451 4.3.2 Try again later: the message is still being sent\r\n");
    let request = app.request(Method::POST, &format!("/v1/inbound?recipient={}", path.replace('+', "%2B")));
    let answer = Answer::to(request.header("content-type", "message/rfc822").body(bounce.clone())).await;
    assert_eq!((answer.problem(), &answer.headers["retry-after"]), ((409, "still_sending"), &"2".parse().unwrap()));
    gate.open();
    working.await.unwrap().unwrap();
    assert_eq!(app.bring_back(&path, &bounce).await, "250 2.0.0 Accepted as dsn, 1 recipients changed\r\n");
    assert_eq!(app.events(&sent.id).await, ["accepted", "relayed", "bounced"]);
}

#[tokio::test]
async fn what_nobody_knew_a_report_settles() {
    let app = start().await;
    app.smtp.dot().does([Action::Drop]);
    let sent = app.send(json!({"on_uncertain": "hold"})).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&sent.id).await, "uncertain");
    assert_eq!(told(&app, &sent.id, "uncertain").await[0]["final"], true);
    let path = from_of(&app.smtp.lines().iter().find(|line| line.text.starts_with("MAIL")).unwrap().text);
    app.bring_back(&path, &dsn(None, None, &[delivered("ann@example.test")])).await;
    assert_eq!(app.events(&sent.id).await, ["accepted", "uncertain", "delivered"]);
    let retried = app.post(&format!("/v1/messages/{}/retry", sent.id), &json!({})).await;
    assert_eq!(app.status(&sent.id).await, "delivered", "{}", retried.body);
}

#[tokio::test]
async fn the_same_bounce_from_many_servers_at_once_is_one_event() {
    for (app, state) in [(start().await, "relayed"), (start_with_verp().await, "bounced")] {
        let sent = app.send(json!({"to": ["ann@example.test", "bo@example.test"]})).await;
        app.run_until_idle().await;
        let paths = ["ann@example.test", "bo@example.test"].map(|to| path_to(&app, to));
        let there = dsn(None, None, &[failed("ann@example.test"), failed("bo@example.test")]);
        let back = dsn(None, None, &[failed("bo@example.test"), failed("ann@example.test")]);
        let all = (0..8).map(|n| app.bring_back(&paths[n / 2 % 2], if n % 2 == 0 { &there } else { &back }));
        for reply in futures_util::future::join_all(all).await {
            assert!(reply.starts_with("250"), "{reply}");
        }
        assert_eq!(app.states(&sent.id).await, [state, state]);
        assert_eq!(app.events(&sent.id).await.iter().filter(|word| *word == "bounced").count(), 2);
    }
}

#[tokio::test]
async fn servers_that_offer_it_are_asked_for_notifications() {
    let app = TestApp::builder().taking_returns().config(|config| config.delivery.dsn_success = true).start().await;
    app.smtp.offers(["PIPELINING", "SMTPUTF8", "DSN"]);
    let (id, path) = relayed(&app, json!({"to": "ann+x@example.test"})).await;
    let token = path.strip_prefix("b+").unwrap().split('@').next().unwrap().to_owned();
    let mail = &app.smtp.mails()[0];
    assert_eq!(mail.mail_command, format!("MAIL FROM:<{path}> RET=HDRS ENVID={token}"));
    assert_eq!(
        app.smtp.count("RCPT TO:<ann+x@example.test> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;ann+2Bx@example.test"),
        1
    );
    // The id alone is enough, wherever the notification was sent.
    let told = dsn(Some(&token), None, &[delivered("ann+x@example.test")]);
    app.bring_back("fbl@return.acme.test", &told).await;
    assert_eq!(app.status(&id).await, "delivered");
}

#[tokio::test]
async fn without_return_path_domain_the_sender_is_the_return_path() {
    let app = TestApp::start().await;
    app.smtp.offers(["PIPELINING", "DSN"]);
    app.send(json!({})).await;
    app.run_until_idle().await;
    assert_eq!(app.smtp.mails()[0].mail_command, "MAIL FROM:<billing@acme.test>");
    assert_eq!(app.smtp.lines().iter().filter(|line| line.text.contains("NOTIFY")).count(), 0);
}

/// The suppression list, with reasons.
async fn suppressed(app: &TestApp) -> Vec<(String, String)> {
    let list = app.get("/v1/suppressions").await.body["data"].clone();
    let word = |entry: &Value, name: &str| entry[name].as_str().unwrap().to_owned();
    list.as_array().unwrap().iter().map(|entry| (word(entry, "address"), word(entry, "reason"))).collect()
}

#[tokio::test]
async fn a_dead_member_of_an_alias_does_not_give_the_alias_up() {
    let app = start().await;
    let (id, path) = relayed(&app, json!({})).await;
    let member = dsn(None, None, &[failed("member@elsewhere.test")]);
    let member = member.replace("Final-Recipient:", "Original-Recipient: rfc822; ann@example.test\r\nFinal-Recipient:");
    app.bring_back(&path, &member).await;
    assert_eq!((app.status(&id).await.as_str(), suppressed(&app).await), ("bounced", vec![]));
    // Exim and Sendmail name the alias, and the member in the text of the reply.
    let (id, path) = relayed(&app, json!({})).await;
    let said = "550 5.1.1 <member@elsewhere.test>: User unknown";
    app.bring_back(&path, &dsn(None, None, &[About { said, ..failed("ann@example.test") }])).await;
    assert_eq!((app.status(&id).await.as_str(), suppressed(&app).await), ("bounced", vec![]));
    let (_, path) = relayed(&app, json!({})).await;
    app.bring_back(&path, &dsn(None, None, &[failed("Ann@example.test")])).await;
    assert_eq!(suppressed(&app).await, [("ann@example.test".into(), "hard_bounce".into())]);
}

#[tokio::test]
async fn who_complains_of_a_first_copy_gets_no_second() {
    let app = start().await;
    app.smtp.dot().does([Action::Drop]);
    let sent = app.send(json!({"on_uncertain": "retry"})).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&sent.id).await, "deferred");
    let path = from_of(&app.smtp.lines().iter().find(|line| line.text.starts_with("MAIL")).unwrap().text);
    for changed in [1, 0] {
        let reply = app.bring_back("fbl@return.acme.test", &complaint(&path)).await;
        assert_eq!(reply, format!("250 2.0.0 Accepted as complaint, {changed} recipients changed\r\n"));
    }
    assert_eq!(suppressed(&app).await, [("ann@example.test".into(), "complaint".into())]);
    app.clock.advance(TimeDelta::minutes(10));
    app.run_until_idle().await;
    assert_eq!(app.events(&sent.id).await, ["accepted", "uncertain", "complained", "suppressed"]);
    assert_eq!(told(&app, &sent.id, "uncertain").await[0]["final"], false);
    assert_eq!((app.status(&sent.id).await.as_str(), app.smtp.mails().len()), ("suppressed", 0));
}

#[tokio::test]
async fn a_complaint_counts_where_the_retry_was_suppressed_already() {
    let app = start().await;
    app.smtp.dot().does([Action::Drop]);
    let sent = app.send(json!({"on_uncertain": "retry"})).await;
    app.run_until_idle().await;
    let path = from_of(&app.smtp.lines().iter().find(|line| line.text.starts_with("MAIL")).unwrap().text);
    app.post("/v1/suppressions", &json!({"address": "ann@example.test"})).await;
    app.clock.advance(TimeDelta::minutes(10));
    app.run_until_idle().await;
    app.bring_back("fbl@return.acme.test", &complaint(&path)).await;
    assert_eq!(app.events(&sent.id).await, ["accepted", "uncertain", "suppressed", "complained"]);
}

#[tokio::test]
async fn the_return_path_is_the_same_at_each_attempt() {
    let app = start().await;
    app.smtp.rcpt("bo@example.test").replies(["451 4.7.1 greylisted"]);
    let sent = app.send(json!({"to": ["ann@example.test", "bo@example.test"]})).await;
    app.run_until_idle().await;
    app.clock.advance(TimeDelta::minutes(10));
    app.run_until_idle().await;
    assert_eq!(app.states(&sent.id).await, ["relayed", "relayed"]);
    let mails = app.smtp.mails();
    assert_eq!((mails.len(), &mails[0].from), (2, &mails[1].from));
}

/// Between the angle brackets of a MAIL command.
fn from_of(command: &str) -> String {
    command.split(['<', '>']).nth(1).unwrap().to_owned()
}
