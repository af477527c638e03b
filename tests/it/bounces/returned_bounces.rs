//! A received bounce changes the recipient's status once, with an event and an explanation.

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::ApiResponse;
use crate::support::reports::{AWAY, About, complaint, delivered, dsn, failed};
use crate::support::smtp::{Action, Gate};

async fn start() -> TestApp {
    TestApp::builder().with_inbound().start().await
}

/// Starts the service with a separate return path for each recipient.
async fn start_with_verp() -> TestApp {
    TestApp::builder().with_inbound().config(|config| config.return_path.verp = true).start().await
}

/// Returns the return path of the newest message to this recipient.
fn path_to(app: &TestApp, recipient: &str) -> String {
    let messages = app.smtp.messages();
    messages.iter().rev().find(|message| message.to.iter().any(|to| to == recipient)).unwrap().from.clone()
}

/// Returns the data of a message's events of this type.
async fn event_data(app: &TestApp, id: &str, kind: &str) -> Vec<Value> {
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
    (sent.id, app.smtp.messages().last().unwrap().from.clone())
}

#[tokio::test]
async fn repeated_bounce_changes_the_recipient_once() {
    let app = start().await;
    let (id, path) = relayed(&app, json!({"tags": [{"name": "kind", "value": "invoice"}]})).await;
    assert!(path.starts_with("b+") && path.ends_with("@return.acme.test"), "{path}");
    let bounce = dsn(None, None, &[failed("ann@example.test")]);
    assert_eq!(app.deliver_bounce(&path, &bounce).await, "250 2.0.0 Accepted as dsn, 1 recipients changed\r\n");

    let recipient = app.recipient(&id).await;
    assert_eq!((&recipient["status"], &recipient["response"]["code"]), (&json!("bounced"), &json!(550)));
    assert_eq!((&recipient["response"]["enhanced"], &recipient["attempts"]), (&json!("5.1.1"), &json!(1)));
    assert_eq!(app.events(&id).await, ["accepted", "relayed", "bounced"]);
    let event = app.event_list(&id).await.pop().unwrap()["data"].clone();
    assert_eq!(event["bounce"], json!({"type": "hard", "category": "unknown_user", "source": "dsn"}));
    assert_eq!((&event["attempt"], &event["duration_ms"], &event["mx"]), (&Value::Null, &Value::Null, &Value::Null));
    assert_eq!((&event["response"]["text"], &event["tags"][0]["value"]), (&json!("no such user"), &json!("invoice")));

    // The same bounce again, also from a server that writes addresses in upper case.
    assert_eq!(app.deliver_bounce(&path, &bounce).await, "250 2.0.0 Accepted as dsn, 0 recipients changed\r\n");
    assert_eq!(
        app.deliver_bounce(&path.to_uppercase(), &bounce).await,
        "250 2.0.0 Accepted as dsn, 0 recipients changed\r\n"
    );
    let late = dsn(None, None, &[delivered("ann@example.test")]);
    assert_eq!(app.deliver_bounce(&path, &late).await, "250 2.0.0 Accepted as dsn, 0 recipients changed\r\n");
    assert_eq!(app.events(&id).await.len(), 3);
    let ledger = app.get("/v1/ledger").await.body;
    assert_eq!((&ledger["balanced"], &ledger["bounced"], &ledger["relayed"]), (&json!(true), &json!(1), &json!(0)));

    let explained = app.get(&format!("/v1/messages/{id}/explain")).await.body["recipients"][0].clone();
    let summary = explained["summary"].as_str().unwrap();
    assert!(summary.starts_with("A delivery report received at 2026-11-23T12:00:00Z says"), "{summary}");
    assert!(summary.ends_with("after 1 attempt: “550 5.1.1 no such user”."), "{summary}");
}

#[tokio::test]
async fn bounce_after_a_success_report_is_applied() {
    let app = start().await;
    let (id, path) = relayed(&app, json!({})).await;
    for (about, state) in [
        (About { recipient: "ann@example.test", action: "delayed", said: "450 4.2.2 mailbox full" }, "relayed"),
        (About { recipient: "ann@example.test", action: "relayed", said: "250 2.0.0 on it goes" }, "relayed"),
        (delivered("ann@example.test"), "delivered"),
        (delivered("ann@example.test"), "delivered"),
        (failed("ann@example.test"), "bounced"),
    ] {
        app.deliver_bounce(&path, &dsn(None, None, &[about])).await;
        assert_eq!(app.status(&id).await, state);
    }
    assert_eq!(app.events(&id).await, ["accepted", "relayed", "delivered", "bounced"]);
    let explained = app.get(&format!("/v1/messages/{id}/explain")).await.body;
    assert!(explained["recipients"][0]["unblock"][0]["action"].as_str().unwrap().contains("new message"));
}

#[tokio::test]
async fn bounce_by_a_shared_return_path_changes_no_state() {
    let app = start().await;
    let (id, path) = relayed(&app, json!({"to": ["ann@example.test", "bo@example.test", "cy@example.test"]})).await;
    let about = [failed("BO@example.test"), delivered("cy@example.test"), failed("nobody@example.test")];
    for _ in 0..2 {
        let reply = app.deliver_bounce(&path, &dsn(None, None, &about)).await;
        assert_eq!(reply, "250 2.0.0 Accepted as dsn, 0 recipients changed\r\n");
    }
    assert_eq!((app.states(&id).await, suppressed(&app).await), (vec!["relayed".to_owned(); 3], vec![]));
    // Each report is recorded as one event.
    let bounced = event_data(&app, &id, "bounced").await;
    assert_eq!((bounced.len(), &bounced[0]["recipient"]), (1, &json!("bo@example.test")));
    assert_eq!((&bounced[0]["vouched"], &bounced[0]["bounce"]["category"]), (&json!(false), &json!("unknown_user")));
    let arrived = event_data(&app, &id, "delivered").await;
    assert_eq!((arrived.len(), &arrived[0]["vouched"]), (1, &json!(false)));
}

#[tokio::test]
async fn co_recipient_cannot_forge_complaints() {
    let app = start().await;
    let to = ["ann@example.test", "bo@example.test", "cy@example.test"];
    let (id, path) = relayed(&app, json!({"to": to})).await;
    let named = to.map(|to| format!("Original-Rcpt-To: {to}\r\n")).concat();
    let forged = complaint(&path).replace("Version: 1\r\n", &format!("Version: 1\r\n{named}"));
    for address in [path.as_str(), "fbl@return.acme.test"] {
        let reply = app.deliver_bounce(address, &forged).await;
        assert_eq!(reply, "250 2.0.0 Accepted as complaint, 0 recipients changed\r\n");
    }
    let complaints = event_data(&app, &id, "complained").await;
    assert_eq!((complaints.len(), &complaints[0]["vouched"]), (1, &json!(false)), "a complaint is about one recipient");
    assert_eq!(suppressed(&app).await, []);
    let (reset, _) = relayed(&app, json!({"to": "bo@example.test"})).await;
    assert_eq!(app.status(&reset).await, "relayed");
}

#[tokio::test]
async fn forwarded_message_bounces_by_its_return_path() {
    let app = start().await;
    let (id, path) = relayed(&app, json!({})).await;
    app.deliver_bounce(&path, &dsn(None, None, &[failed("ann@elsewhere.test")])).await;
    assert_eq!(app.status(&id).await, "bounced");
    assert_eq!(event_data(&app, &id, "bounced").await[0]["vouched"], true);
}

#[tokio::test]
async fn verp_gives_each_recipient_its_own_return_path() {
    let app = start_with_verp().await;
    let sent = app.send(json!({"to": ["ann@example.test", "bo@example.test"]})).await;
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 2);
    let to_bo = path_to(&app, "bo@example.test");
    assert_ne!(path_to(&app, "ann@example.test"), to_bo);
    app.deliver_bounce(&to_bo, &dsn(None, None, &[failed("someone@elsewhere.test")])).await;
    assert_eq!(app.states(&sent.id).await, ["relayed", "bounced"]);
    // A bounce to this return path has no effect on other recipients.
    app.deliver_bounce(&to_bo, &dsn(None, None, &[failed("ann@example.test"), failed("bo@example.test")])).await;
    let forged = complaint(&to_bo).replace("Version: 1\r\n", "Version: 1\r\nOriginal-Rcpt-To: ann@example.test\r\n");
    app.deliver_bounce("fbl@return.acme.test", &forged).await;
    assert_eq!(app.states(&sent.id).await, ["relayed", "bounced"]);
    assert_eq!(suppressed(&app).await, [("bo@example.test".into(), "complaint".into())]);
}

#[tokio::test]
async fn partly_delivered_alias_is_not_suppressed() {
    let app = start().await;
    let (id, path) = relayed(&app, json!({})).await;
    let both = dsn(None, None, &[failed("ann@example.test"), delivered("ann@example.test")]);
    app.deliver_bounce(&path, &both).await;
    assert_eq!((app.status(&id).await.as_str(), suppressed(&app).await), ("bounced", vec![]));
    // The success report may arrive before or after the bounce.
    for order in [[delivered, failed], [failed, delivered]] {
        let (id, path) = relayed(&app, json!({})).await;
        for about in order {
            app.deliver_bounce(&path, &dsn(None, None, &[about("ann@example.test")])).await;
        }
        assert_eq!((app.status(&id).await.as_str(), suppressed(&app).await), ("bounced", vec![]));
    }
}

#[tokio::test]
async fn complaint_is_an_event_without_a_status_change() {
    let app = start().await;
    let (id, path) = relayed(&app, json!({})).await;
    for changed in [1, 0] {
        let reply = app.deliver_bounce("fbl@return.acme.test", &complaint(&path)).await;
        assert_eq!(reply, format!("250 2.0.0 Accepted as complaint, {changed} recipients changed\r\n"));
    }
    assert_eq!(app.status(&id).await, "relayed");
    assert_eq!(app.events(&id).await, ["accepted", "relayed", "complained"]);
    let explained = app.get(&format!("/v1/messages/{id}/explain")).await.body;
    assert!(explained["recipients"][0]["summary"].as_str().unwrap().contains("reported it as spam"));
    // A bounce may arrive after the complaint.
    app.deliver_bounce(&path, &dsn(None, None, &[failed("ann@example.test")])).await;
    assert_eq!(app.events(&id).await, ["accepted", "relayed", "complained", "bounced"]);
}

#[tokio::test]
async fn auto_reply_is_not_a_bounce() {
    let app = start().await;
    let (id, path) = relayed(&app, json!({})).await;
    assert_eq!(app.deliver_bounce(&path, AWAY).await, "250 2.0.0 Accepted as auto_reply, 0 recipients changed\r\n");
    assert_eq!(app.deliver_bounce(&path, "Subject: hello\r\n\r\nHow are you?\r\n").await[..3], *"250");
    assert_eq!(app.events(&id).await, ["accepted", "relayed"]);
}

#[tokio::test]
async fn bounce_does_not_change_a_deferred_recipient() {
    let app = start().await;
    app.smtp.dot().replies(["451 4.3.0 later"]);
    let sent = app.send(json!({})).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&sent.id).await, "deferred");
    let path = return_path_in(&app.smtp.lines().iter().find(|line| line.text.starts_with("MAIL")).unwrap().text);
    let bounce = dsn(None, None, &[failed("ann@example.test")]);
    assert_eq!(app.deliver_bounce(&path, &bounce).await, "250 2.0.0 Accepted as dsn, 0 recipients changed\r\n");
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
    let path = return_path_in(&app.smtp.lines().iter().find(|line| line.text.starts_with("MAIL")).unwrap().text);
    let bounce = dsn(None, None, &[failed("ann@example.test")]);
    assert_eq!(
        app.deliver_bounce(&path, &bounce).await,
        "451 4.3.2 Try again later: the message is still being sent\r\n"
    );
    let request = app.request(Method::POST, &format!("/v1/inbound?recipient={}", path.replace('+', "%2B")));
    let response = ApiResponse::to(request.header("content-type", "message/rfc822").body(bounce.clone())).await;
    assert_eq!((response.problem(), &response.headers["retry-after"]), ((409, "still_sending"), &"2".parse().unwrap()));
    gate.open();
    working.await.unwrap().unwrap();
    assert_eq!(app.deliver_bounce(&path, &bounce).await, "250 2.0.0 Accepted as dsn, 1 recipients changed\r\n");
    assert_eq!(app.events(&sent.id).await, ["accepted", "relayed", "bounced"]);
}

#[tokio::test]
async fn report_resolves_an_uncertain_recipient() {
    let app = start().await;
    app.smtp.dot().does([Action::Drop]);
    let sent = app.send(json!({"on_uncertain": "hold"})).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&sent.id).await, "uncertain");
    assert_eq!(event_data(&app, &sent.id, "uncertain").await[0]["final"], true);
    let path = return_path_in(&app.smtp.lines().iter().find(|line| line.text.starts_with("MAIL")).unwrap().text);
    app.deliver_bounce(&path, &dsn(None, None, &[delivered("ann@example.test")])).await;
    assert_eq!(app.events(&sent.id).await, ["accepted", "uncertain", "delivered"]);
    let retried = app.post(&format!("/v1/messages/{}/retry", sent.id), &json!({})).await;
    assert_eq!(app.status(&sent.id).await, "delivered", "{}", retried.body);
}

#[tokio::test]
async fn concurrent_copies_of_a_bounce_are_one_event() {
    for (app, state) in [(start().await, "relayed"), (start_with_verp().await, "bounced")] {
        let sent = app.send(json!({"to": ["ann@example.test", "bo@example.test"]})).await;
        app.run_until_idle().await;
        let paths = ["ann@example.test", "bo@example.test"].map(|to| path_to(&app, to));
        let ascending = dsn(None, None, &[failed("ann@example.test"), failed("bo@example.test")]);
        let descending = dsn(None, None, &[failed("bo@example.test"), failed("ann@example.test")]);
        let all =
            (0..8).map(|n| app.deliver_bounce(&paths[n / 2 % 2], if n % 2 == 0 { &ascending } else { &descending }));
        for reply in futures_util::future::join_all(all).await {
            assert!(reply.starts_with("250"), "{reply}");
        }
        assert_eq!(app.states(&sent.id).await, [state, state]);
        assert_eq!(app.events(&sent.id).await.iter().filter(|kind| *kind == "bounced").count(), 2);
    }
}

#[tokio::test]
async fn dsn_is_requested_from_servers_that_offer_it() {
    let app = TestApp::builder().with_inbound().config(|config| config.delivery.dsn_success = true).start().await;
    app.smtp.offers(["PIPELINING", "SMTPUTF8", "DSN"]);
    let (id, path) = relayed(&app, json!({"to": "ann+x@example.test"})).await;
    let token = path.strip_prefix("b+").unwrap().split('@').next().unwrap().to_owned();
    let message = &app.smtp.messages()[0];
    assert_eq!(message.mail_command, format!("MAIL FROM:<{path}> RET=HDRS ENVID={token}"));
    assert_eq!(
        app.smtp.count("RCPT TO:<ann+x@example.test> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;ann+2Bx@example.test"),
        1
    );
    // The envelope id alone identifies the message, regardless of the address of the notification.
    let report = dsn(Some(&token), None, &[delivered("ann+x@example.test")]);
    app.deliver_bounce("fbl@return.acme.test", &report).await;
    assert_eq!(app.status(&id).await, "delivered");
}

#[tokio::test]
async fn without_return_path_domain_the_sender_is_the_return_path() {
    let app = TestApp::start().await;
    app.smtp.offers(["PIPELINING", "DSN"]);
    app.send(json!({})).await;
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages()[0].mail_command, "MAIL FROM:<billing@acme.test>");
    assert_eq!(app.smtp.lines().iter().filter(|line| line.text.contains("NOTIFY")).count(), 0);
}

/// Returns the suppression list: addresses and reasons.
async fn suppressed(app: &TestApp) -> Vec<(String, String)> {
    let list = app.get("/v1/suppressions").await.body["data"].clone();
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap().to_owned();
    list.as_array().unwrap().iter().map(|entry| (text(entry, "address"), text(entry, "reason"))).collect()
}

#[tokio::test]
async fn bounce_of_an_alias_member_keeps_the_alias() {
    let app = start().await;
    let (id, path) = relayed(&app, json!({})).await;
    let member = dsn(None, None, &[failed("member@elsewhere.test")]);
    let member = member.replace("Final-Recipient:", "Original-Recipient: rfc822; ann@example.test\r\nFinal-Recipient:");
    app.deliver_bounce(&path, &member).await;
    assert_eq!((app.status(&id).await.as_str(), suppressed(&app).await), ("bounced", vec![]));
    // Exim and Sendmail report the alias as recipient, and name the member only in the text of the reply.
    let (id, path) = relayed(&app, json!({})).await;
    let said = "550 5.1.1 <member@elsewhere.test>: User unknown";
    app.deliver_bounce(&path, &dsn(None, None, &[About { said, ..failed("ann@example.test") }])).await;
    assert_eq!((app.status(&id).await.as_str(), suppressed(&app).await), ("bounced", vec![]));
    let (_, path) = relayed(&app, json!({})).await;
    app.deliver_bounce(&path, &dsn(None, None, &[failed("Ann@example.test")])).await;
    assert_eq!(suppressed(&app).await, [("ann@example.test".into(), "hard_bounce".into())]);
}

#[tokio::test]
async fn complaint_about_the_first_copy_stops_the_retry() {
    let app = start().await;
    app.smtp.dot().does([Action::Drop]);
    let sent = app.send(json!({"on_uncertain": "retry"})).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&sent.id).await, "deferred");
    let path = return_path_in(&app.smtp.lines().iter().find(|line| line.text.starts_with("MAIL")).unwrap().text);
    for changed in [1, 0] {
        let reply = app.deliver_bounce("fbl@return.acme.test", &complaint(&path)).await;
        assert_eq!(reply, format!("250 2.0.0 Accepted as complaint, {changed} recipients changed\r\n"));
    }
    assert_eq!(suppressed(&app).await, [("ann@example.test".into(), "complaint".into())]);
    app.clock.advance(TimeDelta::minutes(10));
    app.run_until_idle().await;
    assert_eq!(app.events(&sent.id).await, ["accepted", "uncertain", "complained", "suppressed"]);
    assert_eq!(event_data(&app, &sent.id, "uncertain").await[0]["final"], false);
    assert_eq!((app.status(&sent.id).await.as_str(), app.smtp.messages().len()), ("suppressed", 0));
}

#[tokio::test]
async fn complaint_after_a_suppressed_retry_is_recorded() {
    let app = start().await;
    app.smtp.dot().does([Action::Drop]);
    let sent = app.send(json!({"on_uncertain": "retry"})).await;
    app.run_until_idle().await;
    let path = return_path_in(&app.smtp.lines().iter().find(|line| line.text.starts_with("MAIL")).unwrap().text);
    app.post("/v1/suppressions", &json!({"address": "ann@example.test"})).await;
    app.clock.advance(TimeDelta::minutes(10));
    app.run_until_idle().await;
    app.deliver_bounce("fbl@return.acme.test", &complaint(&path)).await;
    assert_eq!(app.events(&sent.id).await, ["accepted", "uncertain", "suppressed", "complained"]);
}

#[tokio::test]
async fn return_path_is_the_same_at_each_attempt() {
    let app = start().await;
    app.smtp.rcpt("bo@example.test").replies(["451 4.7.1 greylisted"]);
    let sent = app.send(json!({"to": ["ann@example.test", "bo@example.test"]})).await;
    app.run_until_idle().await;
    app.clock.advance(TimeDelta::minutes(10));
    app.run_until_idle().await;
    assert_eq!(app.states(&sent.id).await, ["relayed", "relayed"]);
    let messages = app.smtp.messages();
    assert_eq!((messages.len(), &messages[0].from), (2, &messages[1].from));
}

/// Returns the address in a MAIL command.
fn return_path_in(command: &str) -> String {
    command.split(['<', '>']).nth(1).unwrap().to_owned()
}
