//! A recipient unsubscribes from a stream with one click (RFC 8058).

use postrider::config::{Config, SecretKey};
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::redirect::Policy;
use reqwest::{Client, Response};
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::message;
use crate::support::clock::{hours, minutes};

const PUBLIC: &str = "https://mail.acme.test/post";

fn configured(config: &mut Config) {
    config.public_url = Some(PUBLIC.parse().unwrap());
    config.secret_key = Some(SecretKey::from("0123456789abcdef0123456789abcdef".to_owned()));
}

/// Starts the service with a stream whose messages have unsubscribe links.
async fn start() -> TestApp {
    let app = TestApp::builder().config(configured).start().await;
    let created = app.post("/v1/streams", &json!({"name": "news", "unsubscribe": true})).await;
    assert_eq!((created.status, &created.body["unsubscribe"]), (201, &json!(true)), "{}", created.body);
    app
}

/// Returns a message's header field, unfolded.
fn field(raw: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(raw).replace("\r\n ", " ");
    let head = text.split("\r\n\r\n").next().unwrap();
    head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned))
}

/// Returns the link's path without the prefix that a proxy would remove.
fn path(raw: &[u8]) -> String {
    let link = field(raw, "List-Unsubscribe").expect("a link");
    let url = link.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).expect("angle brackets");
    url.strip_prefix(PUBLIC).expect("the public URL").to_owned()
}

/// Sends a message of the stream and returns its id and the path of its link.
async fn sent(app: &TestApp, fields: Value) -> (String, String) {
    let mut all = json!({"stream": "news"});
    all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let accepted = app.send(all).await;
    app.run_until_idle().await;
    let path = path(&app.smtp.messages().last().unwrap().raw);
    (accepted.id, path)
}

fn browser() -> Client {
    Client::builder().redirect(Policy::none()).build().unwrap()
}

/// Posts to the link as a mailbox provider does.
async fn one_click(app: &TestApp, path: &str) -> Response {
    let request =
        browser().post(format!("{}{path}", app.base)).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    request.body("List-Unsubscribe=One-Click").send().await.unwrap()
}

async fn entries(app: &TestApp) -> Vec<Value> {
    app.get("/v1/suppressions").await.body["data"].as_array().unwrap().clone()
}

#[tokio::test]
async fn one_click_unsubscribes_from_one_stream_only() {
    let app = start().await;
    let (id, path) = sent(&app, json!({"to": "Ann@example.test"})).await;
    let raw = app.smtp.messages()[0].raw.clone();
    assert_eq!(field(&raw, "List-Unsubscribe-Post").as_deref(), Some("List-Unsubscribe=One-Click"));
    assert_eq!(app.get(&format!("/v1/messages/{id}/raw")).await.bytes, raw, "the raw message equals the sent one");

    for _ in 0..2 {
        let done = one_click(&app, &path).await;
        assert_eq!((done.status().as_u16(), done.headers().get("set-cookie")), (200, None));
        assert!(done.headers()[CONTENT_TYPE].to_str().unwrap().starts_with("text/plain"));
    }
    let list = entries(&app).await;
    assert_eq!(list.len(), 1);
    let entry = (&list[0]["address"], &list[0]["stream"], &list[0]["reason"], &list[0]["message_id"]);
    assert_eq!(entry, (&json!("ann@example.test"), &json!("news"), &json!("unsubscribe"), &json!(id)));
    assert_eq!(app.events(&id).await, ["accepted", "relayed", "unsubscribed"], "one event for two clicks");
    let event = app.event_list(&id).await[2]["data"].clone();
    assert_eq!((&event["recipient"], &event["attempt"]), (&json!("Ann@example.test"), &json!(null)));

    let status = async |stream: &str| app.send(json!({"stream": stream})).await.body["status"].clone();
    assert_eq!(
        [status("news").await, status("bulk").await, status("transactional").await],
        ["suppressed", "queued", "queued"]
    );
    app.run_until_idle().await;
}

#[tokio::test]
async fn opening_the_link_changes_nothing() {
    let app = start().await;
    let (id, path) = sent(&app, json!({})).await;
    let url = format!("{}{path}", app.base);
    let page = browser().get(&url).header(ACCEPT, "text/html").send().await.unwrap();
    assert_eq!(page.status(), 200);
    assert!(page.headers()["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
    let html = page.text().await.unwrap();
    assert!(
        html.contains("<form method=\"post\">") && html.contains("<button>") && html.contains("ann@example.test"),
        "{html}"
    );
    assert!(html.contains("lang=\"en\"") && !html.contains("<script"), "{html}");
    let head = browser().head(&url).send().await.unwrap();
    assert_eq!((head.status().as_u16(), head.text().await.unwrap().len()), (200, 0));
    assert_eq!(browser().put(&url).send().await.unwrap().status(), 405);
    assert_eq!((entries(&app).await.len(), app.events(&id).await.len()), (0, 2));

    let done = browser().post(&url).header(ACCEPT, "text/html,*/*;q=0.8").body("List-Unsubscribe=One-Click");
    let done = done.send().await.unwrap();
    assert!(done.headers()[CONTENT_TYPE].to_str().unwrap().starts_with("text/html"));
    assert!(done.text().await.unwrap().contains("You are unsubscribed"));
    assert_eq!(entries(&app).await.len(), 1);
}

#[tokio::test]
async fn forged_links_are_not_found() {
    let app = start().await;
    let (_, path) = sent(&app, json!({})).await;
    let token = path.strip_prefix("/u/").unwrap();
    let flipped: String = token.chars().rev().collect();
    let longer = format!("{token}AAAA");
    for forged in ["", "x", &token[1..], &token[..token.len() - 1], &flipped, &longer, "%00", "%FF", &"A".repeat(5_000)]
    {
        for request in
            [browser().get(format!("{}/u/{forged}", app.base)), browser().post(format!("{}/u/{forged}", app.base))]
        {
            assert_eq!(request.send().await.unwrap().status(), 404, "{forged}");
        }
    }
    let large = browser().post(format!("{}{path}", app.base)).body(vec![b'x'; 1 << 20]).send().await;
    assert!(large.is_err() || large.unwrap().status() == 413);
    assert_eq!(entries(&app).await.len(), 0);
}

#[tokio::test]
async fn link_works_after_its_message_was_deleted() {
    let app = start().await;
    let (_, path) = sent(&app, json!({})).await;
    let waiting = app.send(json!({"stream": "news", "scheduled_at": app.clock.text_in(hours(1))})).await;
    // Deletes the sent message. The event of the other message is replaced by one with number 1, because the invariants
    // require event numbers without gaps.
    app.sql(
        "DELETE FROM events; UPDATE event_counters SET last_seq = 0; DELETE FROM recipients WHERE status <> 'queued';
             DELETE FROM messages WHERE scheduled_at IS NULL; DELETE FROM contents",
    )
    .await;
    app.sql("INSERT INTO events (tenant_id, seq, recorded_at, type, message_id)
             SELECT tenant_id, 1, created_at, 'message.scheduled', id FROM messages; UPDATE event_counters SET last_seq = 1")
        .await;
    app.clock.advance(hours(24 * 365));
    assert_eq!(one_click(&app, &path).await.status(), 200);
    app.run_until_idle().await;
    assert_eq!(app.states(&waiting.id).await, ["suppressed"]);
    assert_eq!(entries(&app).await[0]["address"], "ann@example.test");
    let events = app.get("/v1/events").await.body["data"].as_array().unwrap().clone();
    assert_eq!(events.iter().filter(|event| event["type"] == "message.unsubscribed").count(), 1);
}

#[tokio::test]
async fn concurrent_clicks_on_two_replicas_are_one_event() {
    let app = start().await;
    let (id, path) = sent(&app, json!({})).await;
    let (_other, other) = app.another_api().await;
    let mut tasks = tokio::task::JoinSet::new();
    for base in [&app.base, &other.base, &app.base, &other.base, &app.base, &other.base] {
        let request = browser().post(format!("{base}{path}")).body("List-Unsubscribe=One-Click");
        tasks.spawn(async move { request.send().await.unwrap().status().as_u16() });
    }
    assert!(tasks.join_all().await.iter().all(|status| *status == 200));
    assert_eq!(
        (entries(&app).await.len(), app.events(&id).await),
        (1, vec!["accepted".into(), "relayed".into(), "unsubscribed".into()])
    );
}

#[tokio::test]
async fn second_unsubscribe_after_removal_is_a_second_event() {
    let app = start().await;
    let (id, path) = sent(&app, json!({})).await;
    one_click(&app, &path).await;
    assert_eq!(app.delete("/v1/suppressions/ann@example.test?stream=news").await.status, 204);
    one_click(&app, &path).await;
    assert_eq!(app.events(&id).await[2..], ["unsubscribed", "unsubscribed"]);
    // The address is already suppressed by another entry: the event is still recorded.
    app.delete("/v1/suppressions/ann@example.test").await;
    let (other, path) = sent(&app, json!({})).await;
    app.post("/v1/suppressions", &json!({"address": "ann@example.test", "stream": "news", "reason": "manual"})).await;
    one_click(&app, &path).await;
    assert_eq!(
        (app.events(&other).await[2..].to_vec(), &entries(&app).await[0]["reason"]),
        (vec!["unsubscribed".to_owned()], &json!("manual"))
    );
}

#[tokio::test]
async fn only_messages_to_one_recipient_have_a_link() {
    let app = start().await;
    for fields in [
        json!({"stream": "bulk"}),
        json!({"stream": "news", "to": ["ann@example.test", "bo@example.test"]}),
        json!({"stream": "news", "bcc": ["bo@example.test"]}),
    ] {
        let is_news = fields["stream"] == "news";
        let warnings = app.send(fields).await.body["warnings"].clone();
        assert_eq!(warnings[0]["code"] == "unsubscribe_needs_one_recipient", is_news, "{warnings}");
    }
    app.run_until_idle().await;
    for received in app.smtp.messages() {
        assert_eq!(field(&received.raw, "List-Unsubscribe"), None);
        assert_eq!(field(&received.raw, "List-Unsubscribe-Post"), None);
    }
    let own_header = json!({"stream": "news", "headers": {"list-unsubscribe": "<mailto:off@acme.test>"}});
    app.send(own_header).await;
    app.run_until_idle().await;
    let raw = app.smtp.messages().last().unwrap().raw.clone();
    assert_eq!(field(&raw, "list-unsubscribe").as_deref(), Some("<mailto:off@acme.test>"));
    assert_eq!((field(&raw, "List-Unsubscribe"), field(&raw, "List-Unsubscribe-Post")), (None, None));

    let plan = async |fields: Value| app.post("/v1/messages?dry_run=true", &message(fields)).await.body;
    let two = plan(json!({"stream": "news", "to": ["ann@example.test", "bo@example.test"]})).await;
    assert_eq!(two["warnings"][0]["code"], "unsubscribe_needs_one_recipient");
    let one = plan(json!({"stream": "news"})).await;
    assert_eq!(one["warnings"], json!([]));
    assert!(
        field(one["mime"]["content"].as_str().unwrap().as_bytes(), "List-Unsubscribe")
            .unwrap()
            .starts_with("<https://")
    );
}

#[tokio::test]
async fn every_attempt_sends_the_same_bytes_if_the_stream_changes() {
    let app = start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.3.2 later"]);
    let accepted = app.send(json!({"stream": "news"})).await;
    app.run_until_idle().await;
    let before = app.get(&format!("/v1/messages/{}/raw", accepted.id)).await.bytes;
    let off = app.patch("/v1/streams/news", &json!({"unsubscribe": false})).await;
    assert_eq!((off.status, &off.body["unsubscribe"]), (200, &json!(false)));
    app.clock.advance(hours(1));
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages()[0].raw, before);
    assert!(field(&before, "List-Unsubscribe").is_some(), "the earlier message keeps its link");
    app.send(json!({"stream": "news"})).await;
    app.run_until_idle().await;
    assert_eq!(field(&app.smtp.messages()[1].raw, "List-Unsubscribe"), None, "new messages have no link");
}

#[tokio::test]
async fn stream_cannot_enable_links_without_settings() {
    let app = TestApp::start().await;
    for response in [
        app.post("/v1/streams", &json!({"name": "news", "unsubscribe": true})).await,
        app.patch("/v1/streams/bulk", &json!({"unsubscribe": true})).await,
    ] {
        assert_eq!((response.status, response.faults()), (422, vec![("/unsubscribe", "not_configured")]));
        let message = response.body["errors"][0]["message"].as_str().unwrap();
        assert!(message.contains("POSTRIDER_PUBLIC_URL") && message.contains("POSTRIDER_SECRET_KEY"), "{message}");
    }
    assert_eq!(app.patch("/v1/streams/bulk", &json!({"unsubscribe": false})).await.status, 200);
    assert_eq!(
        app.patch("/v1/streams/bulk", &json!({"unsubscribe": "yes"})).await.faults(),
        [("/unsubscribe", "invalid_type")]
    );
    assert_eq!(
        app.patch("/v1/streams/bulk", &json!({"unsubscribe": null})).await.faults(),
        [("/unsubscribe", "invalid_type")]
    );
}

#[tokio::test]
async fn worker_without_link_settings_makes_no_attempt() {
    let app = TestApp::start().await;
    app.sql("UPDATE streams SET unsubscribe = true WHERE name = 'bulk'").await;
    let accepted = app.send(json!({"stream": "bulk"})).await;
    app.run_until_idle().await;
    let ann = app.recipient(&accepted.id).await;
    assert_eq!((&ann["status"], &ann["attempts"], app.smtp.connections()), (&json!("queued"), &json!(0), 0));
    assert_eq!((&ann["response"], app.events(&accepted.id).await), (&json!(null), vec!["accepted".to_owned()]));
    let explained = app.get(&format!("/v1/messages/{}/explain", accepted.id)).await.body["recipients"][0].clone();
    assert_eq!(explained["blocker"]["kind"], "unprepared");
    assert_eq!(app.get(&format!("/v1/messages/{}/raw", accepted.id)).await.problem(), (409, "not_configured"));
    let plan = app.post("/v1/messages?dry_run=true", &message(json!({"stream": "bulk"}))).await.body;
    assert_eq!(plan["warnings"][0]["code"], "not_configured");

    let short = app.send(json!({"stream": "bulk", "expires_at": app.clock.text_in(minutes(2))})).await;
    app.run_until_idle().await;
    app.clock.advance(minutes(2));
    app.run_until_idle().await;
    assert_eq!(app.status(&short.id).await, "expired", "its expiry still applies");
    let mut fixed = app.config.clone();
    configured(&mut fixed);
    app.clock.advance(minutes(3));
    app.worker_with(&fixed).await.drain().await.unwrap();
    assert_eq!(app.events(&accepted.id).await, ["accepted", "relayed"]);
}
