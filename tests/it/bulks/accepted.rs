//! Each recipient of a bulk gets a message of its own.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mail_parser::{MessageParser, MimeHeaders as _};
use serde_json::{Value, json};

use super::{PATH, accepted, bulk, counts, expanded, messages, read, recipients, send};
use crate::support::app::TestApp;
use crate::support::until::until;

/// Publishes a template that greets `name` in `city`.
async fn template(app: &TestApp) {
    let fields = json!({
        "name": "News", "alias": "news", "subject": "News for {{ name }}",
        "html": "<p>Dear {{ name }},</p><p>we are in {{ city }} now.</p>", "from": "news@acme.test",
        "variables": [{"key": "name", "type": "string", "max_length": 20}, {"key": "city", "type": "string"}],
    });
    assert_eq!(app.post("/v1/templates", &fields).await.status, 201);
    assert!(matches!(app.post("/v1/templates/news/publish", &json!({})).await.status, 200 | 201));
}

fn templated(recipients: &Value) -> Value {
    json!({
        "template": {"id": "news", "variables": {"city": "Rome"}}, "metadata": {"campaign": "7", "kind": "news"},
        "recipients": recipients,
    })
}

#[tokio::test]
async fn each_recipient_gets_its_own_rendered_message() {
    let app = TestApp::start().await;
    template(&app).await;
    let body = templated(&json!([
        {"to": "Ann <ann@example.test>", "variables": {"name": "Ann <b>"}},
        {"to": {"email": "bo@example.test"}, "variables": {"name": "Bo", "city": "Oslo"}, "metadata": {"kind": "vip"}},
    ]));
    let sent = app.post(PATH, &body).await;
    let id = accepted(&sent);
    assert_eq!(sent.body, json!({"id": id, "accepted": 2, "rejected": 0, "replayed": 0, "errors": []}));
    expanded(&app.database).await;
    let bulk = read(&app, &id).await;
    assert_eq!((&bulk["status"], counts(&bulk)), (&json!("sending"), json!({"queued": 2})));
    assert_eq!(
        (&bulk["stream"], &bulk["subject"], &bulk["template"]["version"]),
        (&json!("bulk"), &json!(null), &json!(1))
    );

    // Changes of the template do not change what was accepted, nor does its deletion.
    app.patch("/v1/templates/news", &json!({"html": "<p>Other</p>"})).await;
    app.run_until_idle().await;
    let received = app.smtp.messages();
    let bodies: BTreeMap<String, (String, String, String)> = received
        .iter()
        .map(|message| {
            let mail = MessageParser::default().parse(&message.raw).unwrap();
            assert_eq!(mail.to().unwrap().iter().count(), 1, "no message names another recipient");
            let html = mail.body_html(0).unwrap().into_owned();
            (message.to[0].clone(), (mail.subject().unwrap().to_owned(), html, mail.body_text(0).unwrap().into_owned()))
        })
        .collect();
    let (subject, html, text) = &bodies["ann@example.test"];
    assert_eq!(subject, "News for Ann <b>");
    assert!(
        html.contains("Dear Ann &lt;b&gt;,") && html.contains("in Rome now") && text.contains("Dear Ann <b>,"),
        "{bodies:?}"
    );
    let (subject, html, _) = &bodies["bo@example.test"];
    assert!(subject == "News for Bo" && html.contains("in Oslo now"), "{bodies:?}");

    let all = messages(&app, &id).await;
    let fields: Vec<_> =
        all.iter().map(|one| (&one["recipients"][0]["address"], &one["metadata"]["kind"], &one["bulk_id"])).collect();
    let id_value = json!(id);
    assert_eq!(
        fields,
        [
            (&json!("ann@example.test"), &json!("news"), &id_value),
            (&json!("bo@example.test"), &json!("vip"), &id_value)
        ]
    );
    let first = all[0]["id"].as_str().unwrap();
    assert_eq!(app.events(first).await, ["accepted", "relayed"]);
    let bulk = read(&app, &id).await;
    assert_eq!((&bulk["status"], counts(&bulk)), (&json!("completed"), json!({"relayed": 2})));
    // What was sent can be shown as long as the message is stored, even if the template is gone.
    assert_eq!(app.delete("/v1/templates/news").await.status, 204);
    let raw = app.get(&format!("/v1/messages/{first}/raw")).await.bytes;
    let ann = received.iter().find(|message| message.to == ["ann@example.test"]).unwrap();
    assert_eq!(String::from_utf8_lossy(&raw), String::from_utf8_lossy(&ann.raw));
}

#[tokio::test]
async fn content_and_attachments_are_stored_once() {
    let app = TestApp::start().await;
    let file = json!({"filename": "map.txt", "content": STANDARD.encode("here"), "content_type": "text/plain"});
    let id = send(&app, &bulk(&recipients(5), json!({"attachments": [file], "html": "<p>We have moved.</p>"}))).await;
    app.run_until_idle().await;
    assert_eq!(counts(&read(&app, &id).await), json!({"relayed": 5}));
    for message in app.smtp.messages() {
        let mail = MessageParser::default().parse(&message.raw).unwrap();
        let file = mail.attachment(0).unwrap();
        assert_eq!((file.attachment_name(), file.contents()), (Some("map.txt"), &b"here"[..]));
        assert_eq!(mail.body_text(0).unwrap().trim_end(), "We have moved.");
    }
    let mut connection = app.database.connect().await;
    for (table, rows) in [("contents", 1_i64), ("blobs", 1), ("messages", 5)] {
        let count: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}")))
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(count, rows, "{table}");
    }
}

#[tokio::test]
async fn suppressed_recipients_are_not_sent_to() {
    let app = TestApp::start().await;
    assert_eq!(app.post("/v1/suppressions", &json!([{"address": "u1@example.test"}])).await.status, 200);
    let id = send(&app, &bulk(&recipients(3), json!({}))).await;
    app.run_until_idle().await;
    assert_eq!(counts(&read(&app, &id).await), json!({"relayed": 2, "suppressed": 1}));
}

#[tokio::test]
async fn bulk_is_sent_by_a_process_with_all_roles() {
    let app = TestApp::builder().with_all_roles().start().await;
    template(&app).await;
    let list: Value =
        (0..300).map(|n| json!({"to": format!("u{n}@example.test"), "variables": {"name": format!("n{n}")}})).collect();
    let id = accepted(&app.post(PATH, &templated(&list)).await);
    until("messages are not sent", super::LIMIT, async || {
        let bulk = read(&app, &id).await;
        if bulk["status"] == "completed" { Ok(()) } else { Err(bulk["counts"].clone()) }
    })
    .await;
    let mut received = BTreeMap::<String, usize>::new();
    for message in app.smtp.messages() {
        let number = message.to[0].trim_start_matches('u').split('@').next().unwrap().to_owned();
        let mail = MessageParser::default().parse(&message.raw).unwrap();
        assert_eq!(mail.subject(), Some(&*format!("News for n{number}")));
        assert!(mail.body_html(0).unwrap().contains(&format!("Dear n{number},")));
        *received.entry(number).or_default() += 1;
    }
    assert!(received.len() == 300 && received.values().all(|count| *count == 1), "{received:?}");
}

#[tokio::test]
async fn lists_show_bulks_newest_first() {
    let app = TestApp::start().await;
    let first = send(&app, &bulk(&recipients(2), json!({}))).await;
    app.run_until_idle().await;
    app.clock.advance(chrono::TimeDelta::seconds(1));
    let second = send(&app, &bulk(&recipients(2), json!({"stream": "transactional"}))).await;
    let page = app.get("/v1/bulks?limit=1").await.body;
    assert_eq!((&page["data"][0]["id"], &page["data"][0]["status"]), (&json!(second), &json!("sending")));
    assert_eq!((&page["has_more"], page["data"][0].get("counts")), (&json!(true), None));
    let next = app.get(&format!("/v1/bulks?limit=1&after={}", page["next"].as_str().unwrap())).await.body;
    assert_eq!((&next["data"][0]["id"], &next["data"][0]["status"]), (&json!(first), &json!("completed")));
    assert_eq!(next["has_more"], false);
    app.run_until_idle().await;
}
