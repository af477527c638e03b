//! Inbound routes with the action `relay`: received messages are passed on unchanged, with retries.

use std::time::Duration;

use postrider::clock::Clock as _;
use postrider::config::PrivateMx;
use postrider::db::messages::relays::RelayRow;
use postrider::domain::records::retention::Period;
use serde_json::{Value, json};
use sqlx::Row as _;

use super::{deliver, mime, received};
use crate::support::app::{TestApp, TestAppBuilder};
use crate::support::client::Api;
use crate::support::clock::{hours, seconds};
use crate::support::smtp::SmtpServer;
use crate::support::until::until;

/// Address of the recipient in most tests.
pub(crate) const SUPPORT: &str = "support@reply.acme.test";

/// Returns a service that receives messages, and may pass them on to servers on this machine.
pub(crate) fn builder() -> TestAppBuilder {
    TestApp::builder()
        .with_inbound()
        .config(|config| config.inbound.allow_private_relays = PrivateMx::These(vec!["127.0.0.0/8".into()]))
}

/// Starts a service with a route that passes the messages to `support@reply.acme.test` on to a server.
async fn start() -> (TestApp, SmtpServer) {
    let (app, inside) = (builder().start().await, SmtpServer::start().await);
    relay_route(&app, SUPPORT, &url(&inside)).await;
    (app, inside)
}

/// Returns the URL of a server.
pub(crate) fn url(server: &SmtpServer) -> String {
    format!("smtp://{}?tls=none", server.address())
}

/// Creates a route that passes messages on, and returns it.
pub(crate) async fn relay_route(api: &Api, matches: &str, to: &str) -> Value {
    let body = json!({"match": matches, "action": {"type": "relay", "to": to}});
    let created = api.post("/v1/inbound-routes", &body).await;
    assert_eq!(created.status, 201, "{}", created.body);
    created.body
}

/// Waits until the `field` of all relays of the newest received message is set, and returns them.
pub(crate) async fn relays(api: &Api, field: &str) -> Vec<Value> {
    let id = received(api).await[0]["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/received/{id}");
    until("relays", Duration::from_secs(20), async || {
        let relays = api.get(&path).await.body["relays"].clone();
        let is_set =
            relays.as_array().is_some_and(|all| !all.is_empty() && all.iter().all(|one| !one[field].is_null()));
        if is_set { Ok(()) } else { Err(relays) }
    })
    .await;
    api.get(&path).await.body["relays"].as_array().unwrap().clone()
}

/// Delivers a message to `to`, and waits until it is queued. Returns the id of the message that passes it on.
async fn queued(app: &TestApp, from: &str, to: &str, mime: &str) -> String {
    let replies = deliver(app, from, &[to], mime).await;
    assert_eq!(replies[1], "250 2.0.0 Accepted\r\n");
    relays(app, "message_id").await[0]["message_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn message_is_relayed_once_and_unchanged() {
    let (app, inside) = start().await;
    let odd = "From: Ann <ann@example.test>\r\nSUBJECT:Hello\r\nX-Odd:   a\r\n\tb \r\nDKIM-Signature: v=1; b=x\r\n\
               List-Id: <x.test>\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nGr\u{fc}\u{df}e  \r\n..dot\r\n\r\n\r\n";
    let message = queued(&app, "ann@example.test", SUPPORT, odd).await;
    app.run_until_idle().await;
    let copies = inside.received(1).await;
    assert_eq!((copies[0].from.as_str(), copies[0].to.as_slice()), ("ann@example.test", &[SUPPORT.to_owned()][..]));
    let id = received(&app).await[0]["id"].as_str().unwrap().to_owned();
    let original = app.get(&format!("/v1/received/{id}/raw")).await.bytes;
    let (added, rest) = copies[0].raw.split_at(copies[0].raw.len() - original.len());
    assert_eq!(String::from_utf8_lossy(rest), String::from_utf8_lossy(&original));
    assert_eq!(original, odd.replace("\r\n..", "\r\n.").into_bytes());
    let added = String::from_utf8(added.to_vec()).unwrap();
    let trace = format!(
        "Received: from mx.example.test ([127.0.0.1])\r\n by postrider.test (Postrider) with ESMTP id {id};\r\n "
    );
    assert!(added.starts_with(&trace) && added.matches("\r\n").count() == 3, "{added}");

    let shown = app.message(&message).await;
    assert_eq!((&shown["status"], &shown["received_id"]), (&json!("relayed"), &json!(id)));
    assert_eq!(app.events(&message).await, ["accepted", "relayed"]);
    assert_eq!(app.get(&format!("/v1/messages/{message}/raw")).await.bytes, copies[0].raw, "it is not signed");
    let relays = relays(&app, "message_id").await;
    let expected = json!({"to": SUPPORT, "message_id": message, "status": "relayed", "report_id": null});
    assert_eq!(relays, [expected]);
    app.run_until_idle().await;
    assert_eq!((inside.messages().len(), app.smtp.messages().len()), (1, 0));
}

#[tokio::test]
async fn temporary_refusal_is_retried() {
    let (app, inside) = start().await;
    inside.rcpt(SUPPORT).replies(["451 4.3.0 later"]);
    let message = queued(&app, "ann@example.test", SUPPORT, &mime("")).await;
    app.run_until_idle().await;
    assert_eq!((app.status(&message).await.as_str(), inside.messages().len()), ("deferred", 0));
    app.clock.advance(hours(1));
    app.run_until_idle().await;
    assert_eq!((app.status(&message).await.as_str(), inside.messages().len()), ("relayed", 1));
}

#[tokio::test]
async fn recipients_get_a_copy_each() {
    let (app, inside) = start().await;
    let other = "sales@reply.acme.test";
    relay_route(&app, other, &url(&inside)).await;
    let replies = deliver(&app, "ann@example.test", &[SUPPORT, other], &mime("")).await;
    assert_eq!(replies[2], "250 2.0.0 Accepted\r\n");
    until("both are queued", Duration::from_secs(20), async || {
        let messages = app.get("/v1/messages").await.body["data"].as_array().unwrap().len();
        if messages == 2 { Ok(()) } else { Err(messages) }
    })
    .await;
    app.run_until_idle().await;
    let mut to: Vec<String> = inside.received(2).await.into_iter().flat_map(|copy| copy.to).collect();
    to.sort();
    assert_eq!(to, [other, SUPPORT]);
}

#[tokio::test]
async fn permanent_failure_is_reported_once_to_the_sender() {
    let (app, inside) = start().await;
    inside.rcpt(SUPPORT).replies(["550 5.1.1 No such mailbox"]);
    let message = queued(&app, "ann@example.test", SUPPORT, &mime("Message-ID: <m1@example.test>\r\n")).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&message).await, "bounced");
    let report = relays(&app, "report_id").await[0]["report_id"].as_str().unwrap().to_owned();
    // The report is refused, too, and nothing follows from that.
    app.smtp.rcpt("ann@example.test").replies(["450 4.2.1 busy"]);
    app.run_until_idle().await;
    app.clock.advance(hours(1));
    app.run_until_idle().await;
    let reports = app.smtp.received(1).await;
    assert_eq!((reports[0].from.as_str(), reports[0].to.as_slice()), ("", &["ann@example.test".to_owned()][..]));
    let text = String::from_utf8(reports[0].raw.clone()).unwrap();
    for line in [
        "From: Mail Delivery System <MAILER-DAEMON@reply.acme.test>",
        "Auto-Submitted: auto-replied",
        "In-Reply-To: <m1@example.test>",
        "Reporting-MTA: dns; postrider.test",
        "Final-Recipient: rfc822; support@reply.acme.test",
        "Action: failed",
        "Status: 5.1.1",
        "Diagnostic-Code: smtp; 550 5.1.1 No such mailbox",
        "Subject: Hello",
    ] {
        assert!(text.contains(&format!("\r\n{line}\r\n")) || text.starts_with(line), "{line}: {text}");
    }
    assert!(!text.contains("How are you?"), "only the header is returned");
    assert_eq!(app.status(&report).await, "relayed");
    let suppressions = app.get("/v1/suppressions").await.body["data"].clone();
    assert_eq!(suppressions, json!([]), "the tenant's own mailbox is not suppressed");
    // The next message shows that the task has nothing left to do for the first one.
    queued(&app, "ann@example.test", SUPPORT, &mime("")).await;
    assert_eq!(app.get("/v1/messages").await.body["data"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn failed_report_creates_nothing() {
    let (app, inside) = start().await;
    inside.rcpt(SUPPORT).replies(["550 5.1.1 No such mailbox"]);
    app.smtp.rcpt("ann@example.test").replies(["550 5.7.1 No"]);
    queued(&app, "ann@example.test", SUPPORT, &mime("")).await;
    app.run_until_idle().await;
    let report = relays(&app, "report_id").await[0]["report_id"].as_str().unwrap().to_owned();
    app.run_until_idle().await;
    assert_eq!(app.status(&report).await, "bounced");
    queued(&app, "ann@example.test", SUPPORT, &mime("")).await;
    assert_eq!(app.get("/v1/messages").await.body["data"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn null_sender_gets_no_report() {
    let (app, inside) = start().await;
    inside.rcpt(SUPPORT).replies(["550 5.1.1 No such mailbox"]);
    let message = queued(&app, "", SUPPORT, &mime("")).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&message).await, "bounced");
    // The row of the failed message is worked off before, or with, that of the next one.
    queued(&app, "ann@example.test", SUPPORT, &mime("")).await;
    app.run_until_idle().await;
    until("the row is closed", Duration::from_secs(20), async || {
        let query = "SELECT count(*) FROM relays WHERE failed_at IS NOT NULL";
        let open: i64 = sqlx::query_scalar(query).fetch_one(&mut app.database.connect().await).await.unwrap();
        if open == 0 { Ok(()) } else { Err(open) }
    })
    .await;
    assert_eq!((inside.messages().len(), app.smtp.messages().len()), (1, 0));
    assert_eq!(app.get("/v1/messages").await.body["data"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn expired_message_is_reported() {
    let app = builder().start().await;
    relay_route(&app, SUPPORT, "smtp://127.0.0.1:1?tls=none").await;
    let message = queued(&app, "ann@example.test", SUPPORT, &mime("")).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&message).await, "deferred");
    app.clock.advance(hours(24 * 4));
    app.run_until_idle().await;
    assert_eq!(app.status(&message).await, "expired");
    relays(&app, "report_id").await;
    app.run_until_idle().await;
    let text = String::from_utf8(app.smtp.received(1).await[0].raw.clone()).unwrap();
    assert!(text.contains("\r\nStatus: 4.4.7\r\n"), "{text}");
    assert!(!text.contains("The server said"), "no server has replied: {text}");
}

#[tokio::test]
async fn failure_during_the_work_on_an_earlier_one_is_reported() {
    let (app, inside) = start().await;
    inside.rcpt(SUPPORT).replies(["550 5.1.1 No such mailbox"]);
    let message = queued(&app, "ann@example.test", SUPPORT, &mime("")).await;
    // A process has claimed the row because of an earlier failure, and has then seen that an operator retries the message.
    let now = app.clock.now();
    let claimed_until = now + hours(1);
    let row = sqlx::query(
        "UPDATE relays SET failed_at = $1, claimed_until = $2
         RETURNING tenant_id, received_id, position, route_id, reverse_path, recipient, message_id",
    );
    let row = row.bind(now).bind(claimed_until).fetch_one(&mut app.database.connect().await).await.unwrap();
    let claimed = RelayRow {
        tenant_id: row.get("tenant_id"),
        received_id: row.get("received_id"),
        position: row.get("position"),
        route_id: row.get("route_id"),
        reverse_path: row.get("reverse_path"),
        recipient: row.get("recipient"),
        message_id: row.get("message_id"),
    };
    app.run_until_idle().await;
    assert_eq!(app.status(&message).await, "bounced");
    postrider::db::messages::relays::close(&app.db, &claimed, claimed_until).await.unwrap();
    relays(&app, "report_id").await;
    app.run_until_idle().await;
    let reports = app.smtp.received(1).await;
    assert_eq!((reports.len(), reports[0].to.as_slice()), (1, &["ann@example.test".to_owned()][..]));
}

#[tokio::test]
async fn received_message_is_kept_until_its_relay_has_ended() {
    let app =
        builder().config(|config| config.retention.received = Period(Some(Duration::from_hours(24)))).start().await;
    relay_route(&app, SUPPORT, "smtp://127.0.0.1:1?tls=none").await;
    let message = queued(&app, "ann@example.test", SUPPORT, &mime("")).await;
    app.run_until_idle().await;
    app.clock.advance(hours(24 * 2));
    app.worker.delete_old_data().await.unwrap();
    assert_eq!((app.status(&message).await.as_str(), received(&app).await.len()), ("deferred", 1));
}

#[tokio::test]
async fn unreachable_server_delays_no_other_message() {
    let (app, inside) = start().await;
    let broken = relay_route(&app, "broken@reply.acme.test", "smtp://127.0.0.1:1?tls=none").await;
    let stuck = queued(&app, "ann@example.test", "broken@reply.acme.test", &mime("")).await;
    let passed = queued(&app, "ann@example.test", SUPPORT, &mime("")).await;
    let own = app.send(json!({})).await;
    app.run_until_idle().await;
    assert_eq!((inside.messages().len(), app.smtp.messages().len()), (1, 1));
    assert_eq!((app.status(&stuck).await.as_str(), app.status(&passed).await.as_str()), ("deferred", "relayed"));
    assert_eq!(app.status(&own.id).await, "relayed");
    let lanes = app.get("/v1/lanes").await.body["data"].clone();
    let name = format!("inbound:{}", broken["id"].as_str().unwrap());
    let lane = lanes.as_array().unwrap().iter().find(|lane| lane["route"] == name.as_str());
    assert!(lane.is_some(), "{lanes}");
}

#[tokio::test]
async fn corrected_url_helps_messages_that_wait() {
    let (app, inside) = (builder().start().await, SmtpServer::start().await);
    let route = relay_route(&app, SUPPORT, "smtp://127.0.0.1:1?tls=none").await;
    let path = format!("/v1/inbound-routes/{}", route["id"].as_str().unwrap());
    let message = queued(&app, "ann@example.test", SUPPORT, &mime("")).await;
    app.run_until_idle().await;
    // A route that does not pass messages on any more keeps those that wait from being sent.
    assert_eq!(app.patch(&path, &json!({"action": {"type": "store"}})).await.status, 200);
    app.clock.advance(hours(1));
    app.run_until_idle().await;
    assert_eq!(app.recipient(&message).await["attempts"], 1);
    let changed = app.patch(&path, &json!({"action": {"type": "relay", "to": url(&inside)}})).await;
    assert_eq!((changed.status, &changed.body["action"]["to"]), (200, &json!(url(&inside))));
    app.clock.advance(hours(1));
    app.run_until_idle().await;
    assert_eq!((app.status(&message).await.as_str(), inside.messages().len()), ("relayed", 1));
}

#[tokio::test]
async fn password_is_used_and_never_shown() {
    let (app, inside) = (builder().start().await, SmtpServer::start().await);
    inside.offers(["AUTH PLAIN", "8BITMIME"]);
    let to = format!("smtp://acme:hunter2@{}?tls=none", inside.address());
    let route = relay_route(&app, SUPPORT, &to).await;
    let shown = format!("smtp://acme@{}?tls=none", inside.address());
    assert_eq!(route["action"], json!({"type": "relay", "to": shown}));
    let stored: Vec<u8> = sqlx::query_scalar("SELECT relay_url FROM inbound_routes")
        .fetch_one(&mut app.database.connect().await)
        .await
        .unwrap();
    assert!(!stored.windows(7).any(|window| window == b"hunter2"));
    for path in ["/v1/audit", "/v1/inbound-routes", "/v1/events"] {
        assert!(!app.get(path).await.body.to_string().contains("hunter2"), "{path}");
    }
    queued(&app, "ann@example.test", SUPPORT, &mime("")).await;
    app.run_until_idle().await;
    // The user and the password of RFC 4616 in base64.
    let credentials = "AUTH PLAIN AGFjbWUAaHVudGVyMg==";
    assert_eq!((inside.count(credentials), inside.messages().len()), (1, 1), "{:?}", inside.lines());
}

#[tokio::test]
async fn servers_inside_the_network_need_a_setting() {
    let app = TestApp::builder().with_inbound().start().await;
    for to in ["smtp://127.0.0.1:25", "smtp://10.0.0.1", "smtp://[::1]", "smtp://169.254.169.254", "smtp://[fd00::1]"] {
        let body = json!({"match": SUPPORT, "action": {"type": "relay", "to": to}});
        let refused = app.post("/v1/inbound-routes", &body).await;
        assert_eq!((refused.status, refused.faults()), (422, vec![("/action/to", "invalid_value")]), "{to}");
    }
    // A name is checked when it is connected to.
    let inside = SmtpServer::start().await;
    relay_route(&app, SUPPORT, &format!("smtp://localhost:{}?tls=none", inside.address().port())).await;
    let message = queued(&app, "ann@example.test", SUPPORT, &mime("")).await;
    app.run_until_idle().await;
    let ann = app.recipient(&message).await;
    assert_eq!((&ann["status"], inside.connections()), (&json!("deferred"), 0));
    assert!(ann["response"]["text"].as_str().unwrap().contains("inbound.allow_private_relays"), "{ann}");
}

#[tokio::test]
async fn test_data_stays_in_the_simulator() {
    let (app, inside) = (builder().start().await, SmtpServer::start().await);
    let test = app.with_test_key().await;
    relay_route(&test, SUPPORT, &url(&inside)).await;
    deliver(&app, "ann@example.test", &[SUPPORT], &mime("")).await;
    let message = relays(&test, "message_id").await[0]["message_id"].as_str().unwrap().to_owned();
    app.run_until_idle().await;
    let status = test.status(&message).await;
    assert!(status == "delivered" || status == "relayed", "{status}");
    assert_eq!((inside.connections(), app.smtp.messages().len()), (0, 0));
}

#[tokio::test]
async fn message_in_a_loop_is_refused() {
    let (app, inside) = start().await;
    let passed = |times| "Received: from a.test by postrider.test (Postrider) with ESMTP id x; now\r\n".repeat(times);
    let replies = deliver(&app, "ann@example.test", &[SUPPORT], &mime(&passed(4))).await;
    assert_eq!(replies[1], "554 5.4.6 Too many Received fields: this is a loop\r\n");
    queued(&app, "ann@example.test", SUPPORT, &mime(&passed(3))).await;
    app.run_until_idle().await;
    assert_eq!(inside.messages().len(), 1);
}

#[tokio::test]
async fn deleted_received_message_is_not_relayed_twice() {
    let (app, inside) = start().await;
    let message = queued(&app, "ann@example.test", SUPPORT, &mime("")).await;
    let id = received(&app).await[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(app.delete(&format!("/v1/received/{id}")).await.status, 204);
    app.clock.advance(seconds(90));
    app.run_until_idle().await;
    assert_eq!((app.status(&message).await.as_str(), inside.messages().len()), ("relayed", 1));
    assert_eq!(app.get(&format!("/v1/received/{id}")).await.status, 404);
}

#[tokio::test]
async fn what_was_relayed_is_deleted_with_the_received_message() {
    let (app, _inside) = start().await;
    queued(&app, "ann@example.test", SUPPORT, &mime("")).await;
    app.run_until_idle().await;
    let rows = async || -> i64 {
        let query = "SELECT count(*) FROM relays";
        sqlx::query_scalar(query).fetch_one(&mut app.database.connect().await).await.unwrap()
    };
    app.clock.advance(hours(24 * 89));
    app.worker.delete_old_data().await.unwrap();
    assert_eq!((rows().await, received(&app).await.len()), (1, 1));
    app.clock.advance(hours(24 * 2));
    app.worker.delete_old_data().await.unwrap();
    assert_eq!((rows().await, received(&app).await.len()), (0, 0));
}
