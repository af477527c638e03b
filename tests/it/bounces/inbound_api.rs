//! `POST /v1/inbound` processes bounces received by another server, and interprets any message.

use postrider::domain::key::Scope;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::{Api, ApiResponse};
use crate::support::reports::{AWAY, About, complaint, delivered, dsn, failed};

async fn submit(api: &Api, query: &str, mime: &str) -> ApiResponse {
    let request = api.request(Method::POST, &format!("/v1/inbound{query}")).header("content-type", "message/rfc822");
    ApiResponse::to(request.body(mime.to_owned())).await
}

/// Sends a message and returns its id and its return path.
async fn relayed(app: &TestApp, fields: Value) -> (String, String) {
    let sent = app.send(fields).await;
    app.run_until_idle().await;
    (sent.id, app.smtp.messages().last().unwrap().from.clone())
}

#[tokio::test]
async fn dry_run_reports_the_effect_and_changes_nothing() {
    let app = TestApp::builder().with_inbound().start().await;
    let (id, path) = relayed(&app, json!({})).await;
    let rcp = app.recipient(&id).await["id"].clone();
    let bounce = dsn(None, Some(&path), &[failed("ann@example.test")]);
    let mut expected = json!({
        "kind": "dsn", "rule": "rfc3464", "message_id": id, "found_by": "reference", "reason": null, "applied": false,
        "recipients": [{
            "recipient": "ann@example.test", "recipient_id": rcp, "action": "failed",
            "response": {"code": 550, "enhanced": "5.1.1", "text": "no such user"},
            "bounce": {"type": "hard", "category": "unknown_user"},
            "effect": "bounced", "applied": false, "reason": "dry_run",
        }],
    });
    let mut interpretation = submit(&app, "?dry_run=true", &bounce).await.body;
    let rule = interpretation["recipients"][0]["bounce"].as_object_mut().unwrap().remove("rule").unwrap();
    assert!(rule.is_string());
    assert_eq!(interpretation, expected);
    assert_eq!(app.status(&id).await, "relayed");

    expected["applied"] = json!(true);
    expected["recipients"][0]["applied"] = json!(true);
    expected["recipients"][0]["reason"] = json!(null);
    let mut interpretation = submit(&app, "", &bounce).await.body;
    interpretation["recipients"][0]["bounce"].as_object_mut().unwrap().remove("rule");
    assert_eq!(interpretation, expected);
    assert_eq!(app.events(&id).await, ["accepted", "relayed", "bounced"]);

    let again = submit(&app, "", &bounce).await.body;
    assert_eq!((&again["applied"], &again["recipients"][0]["reason"]), (&json!(false), &json!("already_known")));
    assert_eq!(app.events(&id).await.len(), 3);
}

#[tokio::test]
async fn reports_about_other_messages_are_interpreted() {
    let app = TestApp::start().await;
    let about = [
        About { recipient: "x@y.test", action: "failed", said: "550 5.1.1 nobody" },
        About { recipient: "z@y.test", action: "delayed", said: "451 4.3.0 later" },
    ];
    let interpretation = submit(&app, "?dry_run=true", &dsn(None, Some("bounce@y.test"), &about)).await.body;
    assert_eq!((&interpretation["message_id"], &interpretation["reason"]), (&Value::Null, &json!("no_return_path")));
    let recipients = interpretation["recipients"].as_array().unwrap();
    assert_eq!((&recipients[0]["action"], &recipients[0]["bounce"]["type"]), (&json!("failed"), &json!("hard")));
    assert_eq!((&recipients[1]["action"], &recipients[1]["bounce"]), (&json!("delayed"), &Value::Null));
    assert_eq!(recipients[0]["reason"], "not_a_recipient");
    for (mime, kind) in [(AWAY, "auto_reply"), ("Subject: hello\r\n\r\nHow are you?\r\n", "unknown"), ("", "unknown")] {
        let interpretation = submit(&app, "", mime).await.body;
        assert_eq!(
            (&interpretation["kind"], &interpretation["recipients"], &interpretation["applied"]),
            (&json!(kind), &json!([]), &json!(false))
        );
    }
}

#[tokio::test]
async fn forged_and_unknown_tokens_change_nothing_and_are_reported() {
    let app = TestApp::builder().with_inbound().start().await;
    let (id, path) = relayed(&app, json!({})).await;
    let about = || [failed("ann@example.test")];
    let forged = format!("b+{}@return.acme.test", "a".repeat(48));
    let response = submit(&app, "", &dsn(None, Some(&forged), &about())).await.body;
    assert_eq!((&response["reason"], &response["applied"]), (&json!("forged_return_path"), &json!(false)));
    app.clock.advance(chrono::TimeDelta::days(61));
    let response = submit(&app, "", &dsn(None, Some(&path), &about())).await.body;
    assert_eq!((&response["reason"], &response["applied"]), (&json!("expired_return_path"), &json!(false)));
    assert_eq!(app.status(&id).await, "relayed");
}

#[tokio::test]
async fn envelope_or_message_id_with_address_identifies_the_recipient() {
    let app = TestApp::builder().with_inbound().start().await;
    let (id, path) = relayed(&app, json!({})).await;
    let query = format!("?recipient={}", path.replace('+', "%2B"));
    let response = submit(&app, &query, &dsn(None, None, &[delivered("ann@example.test")])).await.body;
    assert_eq!((&response["found_by"], &response["applied"]), (&json!("envelope"), &json!(true)));
    assert_eq!(app.status(&id).await, "delivered");

    let headers = format!("Message-ID: <{}@acme.test>\r\nFrom: billing@acme.test", id.strip_prefix("msg_").unwrap());
    let by_id = |about| dsn(None, None, &[about]).replace("From: billing@acme.test", &headers);
    let response = submit(&app, "", &by_id(failed("else@example.test"))).await.body;
    assert_eq!((&response["found_by"], &response["applied"]), (&json!("message_id"), &json!(false)));
    assert_eq!(response["recipients"][0]["reason"], "not_a_recipient");
    // Over SMTP, anyone could send this.
    app.deliver_bounce("fbl@return.acme.test", &by_id(failed("ann@example.test"))).await;
    assert_eq!(app.status(&id).await, "delivered");
    let response = submit(&app, "", &by_id(failed("ann@example.test"))).await.body;
    assert_eq!(response["applied"], true, "{response}");
    assert_eq!(app.status(&id).await, "bounced");
}

#[tokio::test]
async fn plus_in_a_return_path_may_be_sent_as_a_space() {
    let app = TestApp::builder().with_inbound().start().await;
    let (id, path) = relayed(&app, json!({})).await;
    let response =
        submit(&app, &format!("?recipient={path}"), &dsn(None, None, &[failed("ann@example.test")])).await.body;
    assert_eq!((&response["found_by"], &response["message_id"]), (&json!("envelope"), &json!(id)));
}

#[tokio::test]
async fn complaint_can_be_submitted() {
    let app = TestApp::builder().with_inbound().start().await;
    let (id, path) = relayed(&app, json!({})).await;
    let response = submit(&app, "", &complaint(&path)).await.body;
    assert_eq!((&response["kind"], &response["message_id"]), (&json!("complaint"), &json!(id)));
    assert_eq!(
        (&response["recipients"][0]["recipient"], &response["recipients"][0]["effect"]),
        (&json!("ann@example.test"), &json!("complained"))
    );
    assert_eq!(app.events(&id).await, ["accepted", "relayed", "complained"]);
}

#[tokio::test]
async fn invalid_requests_have_distinct_errors() {
    let app = TestApp::builder().config(|config| config.inbound.max_message_mib = 1).start().await;
    assert_eq!(submit(&app, "?dry_run=perhaps", "x").await.faults(), [("dry_run", "invalid_value")]);
    assert_eq!(submit(&app, "?recipient=nobody", "x").await.faults(), [("recipient", "invalid_value")]);
    assert_eq!(submit(&app, "?fry_run=true", "x").await.faults(), [("fry_run", "unknown_field")]);
    assert_eq!(submit(&app, "", &"x".repeat((1 << 20) + 1)).await.problem(), (413, "too_large"));
    assert_eq!(submit(&app, "?dry_run=true", &"x".repeat(1 << 20)).await.status, 200);
    let json = app.post("/v1/inbound", &json!({})).await;
    assert_eq!(json.problem(), (415, "unsupported_media_type"));
    let reader = app.with_scopes(&[Scope::Read, Scope::Send]).await;
    assert_eq!(submit(&reader, "?dry_run=true", "x").await.problem(), (403, "forbidden"));
    assert_eq!(ApiResponse::to(app.anonymous(Method::POST, "/v1/inbound").body("x")).await.status, 401);
}

#[tokio::test]
async fn shared_return_path_is_reported_as_not_vouched() {
    let app = TestApp::builder().with_inbound().start().await;
    let (id, path) = relayed(&app, json!({"to": ["ann@example.test", "bo@example.test"]})).await;
    let bounce = dsn(None, Some(&path), &[failed("bo@example.test")]);
    let reasons = ["not_vouched", "not_vouched", "already_known"];
    for (query, reason) in ["?dry_run=true", "", ""].into_iter().zip(reasons) {
        let interpretation = submit(&app, query, &bounce).await.body;
        let one = &interpretation["recipients"][0];
        assert_eq!((&one["reason"], &one["effect"], &one["applied"]), (&json!(reason), &Value::Null, &json!(false)));
        assert_eq!((&interpretation["message_id"], &interpretation["applied"]), (&json!(id), &json!(false)));
    }
    assert_eq!(app.states(&id).await, ["relayed", "relayed"]);
}
