//! Bounces, complaints and unsubscriptions after simulated deliveries survive a crash, and take effect once.

use std::time::Duration;

use serde_json::json;

use super::{address, run, send};
use crate::support::app::TestApp;
use crate::support::client::Api;
use crate::support::clock::{hours, minutes};
use crate::support::postgres::Database;
use crate::support::process::{Service, key, serve};
use crate::support::smtp::SmtpServer;
use crate::support::until::until;

/// Time limit of each wait.
const LIMIT: Duration = Duration::from_secs(30);

/// Returns the number of pending follow-ups.
async fn waiting(app: &TestApp) -> i64 {
    let query = sqlx::query_scalar("SELECT count(*) FROM simulator_followups");
    query.fetch_one(&mut app.database.connect().await).await.unwrap()
}

#[tokio::test]
async fn another_worker_plays_what_follows_a_delivery() {
    let app = TestApp::builder().with_inbound().start().await;
    let id = send(&app, "dsn").await;
    app.run_until_idle().await;
    assert_eq!((app.events(&id).await, waiting(&app).await), (vec!["accepted".into(), "delivered".into()], 1));
    app.another_worker().await.play_simulated_followups().await.unwrap();
    assert_eq!(app.events(&id).await, ["accepted", "delivered", "bounced"]);
    let bounced = app.event_list(&id).await.pop().unwrap()["data"].clone();
    assert_eq!(bounced["bounce"], json!({"type": "hard", "category": "unknown_user", "source": "dsn"}));
    assert_eq!(bounced["response"]["code"], 550);
    app.worker.play_simulated_followups().await.unwrap();
    assert_eq!((app.events(&id).await.len(), waiting(&app).await), (3, 0));
}

#[tokio::test]
async fn complaint_comes_after_its_delay() {
    let app = TestApp::builder().with_inbound().start().await;
    let id = send(&app, "complaint-1h").await;
    run(&app).await;
    app.clock.advance(minutes(59));
    run(&app).await;
    assert_eq!(app.events(&id).await, ["accepted", "delivered"]);
    app.clock.advance(minutes(1));
    run(&app).await;
    assert_eq!(app.events(&id).await, ["accepted", "delivered", "complained"]);
    let entry = app.get("/v1/suppressions/complaint-1h%2B0@simulator.postrider.test").await.body;
    assert_eq!(entry["data"][0]["reason"], "complaint", "{entry}");
}

#[tokio::test]
async fn reports_about_several_recipients_are_told_apart() {
    let app = TestApp::builder().with_inbound().start().await;
    let to = [address("dsn", 1), address("delivered", 2), address("complaint", 3), "ann@example.test".into()];
    let id = app.send(json!({"to": to})).await.id;
    run(&app).await;
    assert_eq!(app.states(&id).await, ["bounced", "delivered", "delivered", "relayed"]);
    let complained: Vec<_> =
        app.event_list(&id).await.into_iter().filter(|event| event["type"] == "message.complained").collect();
    assert_eq!((complained.len(), &complained[0]["data"]["recipient"]), (1, &json!(address("complaint", 3))));
}

#[tokio::test]
async fn unsubscribe_uses_the_link_of_the_message() {
    let app = TestApp::builder()
        .with_inbound()
        .config(|config| config.public_url = Some("https://mail.acme.test/post".parse().unwrap()))
        .start()
        .await;
    assert_eq!(app.post("/v1/streams", &json!({"name": "news", "unsubscribe": true})).await.status, 201);
    let id = app.send(json!({"to": address("unsubscribe", 0), "stream": "news"})).await.id;
    let without_link = send(&app, "unsubscribe").await;
    run(&app).await;
    assert_eq!(app.events(&id).await, ["accepted", "delivered", "unsubscribed"]);
    assert_eq!(app.events(&without_link).await, ["accepted", "delivered"]);
    let entries = app.get("/v1/suppressions").await.body["data"].clone();
    assert_eq!((&entries[0]["reason"], &entries[0]["stream"]), (&json!("unsubscribe"), &json!("news")));
}

#[tokio::test]
async fn unsubscribe_link_of_another_message_is_not_used() {
    let app = TestApp::builder()
        .with_inbound()
        .config(|config| config.public_url = Some("https://mail.acme.test/post".parse().unwrap()))
        .start()
        .await;
    assert_eq!(app.post("/v1/streams", &json!({"name": "news", "unsubscribe": true})).await.status, 201);
    let real = app.send(json!({"stream": "news"})).await.id;
    run(&app).await;
    let raw = String::from_utf8(app.smtp.messages().remove(0).raw).unwrap();
    let token = raw.split("/u/").nth(1).unwrap().split('>').next().unwrap();
    let headers = json!({"List-Unsubscribe": format!("<https://mail.acme.test/post/u/{token}>")});
    let id = app.send(json!({"to": address("unsubscribe", 0), "headers": headers})).await.id;
    run(&app).await;
    assert_eq!((app.events(&id).await, waiting(&app).await), (vec!["accepted".into(), "delivered".into()], 0));
    assert_eq!(app.events(&real).await, ["accepted", "relayed"]);
    assert_eq!(app.get("/v1/suppressions").await.body["data"], json!([]));
}

#[tokio::test]
async fn failing_followup_does_not_stop_the_others() {
    let app = TestApp::builder().with_inbound().start().await;
    let [failing, other] = [send(&app, "complaint").await, send(&app, "dsn").await];
    app.run_until_idle().await;
    // The earlier follow-up, the complaint, cannot be deleted.
    app.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'check_violation'; END $$;
         UPDATE simulator_followups SET due_at = due_at - interval '1 second' WHERE envelope_to IS NULL;
         CREATE TRIGGER refuse BEFORE DELETE ON simulator_followups FOR EACH ROW WHEN (OLD.envelope_to IS NULL)
         EXECUTE FUNCTION refuse()",
    )
    .await;
    app.worker.play_simulated_followups().await.unwrap();
    assert_eq!((app.events(&other).await.pop(), waiting(&app).await), (Some("bounced".into()), 1));
    app.sql("DROP TRIGGER refuse ON simulator_followups").await;
    app.clock.advance(minutes(1));
    run(&app).await;
    assert_eq!(app.events(&failing).await, ["accepted", "delivered", "complained"], "it takes effect once");
    assert_eq!(waiting(&app).await, 0);
}

#[tokio::test]
async fn followup_of_a_canceled_message_has_no_effect() {
    let app = TestApp::builder().with_inbound().start().await;
    let [complained, canceled] = [send(&app, "complaint-1h").await, send(&app, "defer-9").await];
    app.run_until_idle().await;
    assert_eq!(app.post(&format!("/v1/messages/{canceled}/cancel"), &json!({})).await.status, 200);
    // As if the worker had died after it stored the complaint, and before it recorded the delivery.
    app.sql(
        "UPDATE simulator_followups SET message_id = r.message_id, recipient_id = r.id
         FROM recipients r WHERE r.status = 'canceled'",
    )
    .await;
    app.clock.advance(hours(1));
    app.worker.play_simulated_followups().await.unwrap();
    assert_eq!((app.events(&complained).await, waiting(&app).await), (vec!["accepted".into(), "delivered".into()], 0));
}

#[tokio::test]
async fn followup_waits_until_the_recipient_has_ended() {
    let app = TestApp::builder().with_inbound().start().await;
    let id = app.send(json!({"to": address("drop-after-dot.dsn", 0)})).await.id;
    app.run_until_idle().await;
    // As if the worker had died after it stored the bounce, and before it recorded the delivery.
    app.sql(
        "INSERT INTO simulator_followups (tenant_id, message_id, recipient_id, due_at, report)
         SELECT tenant_id, message_id, id, timestamptz '2026-11-23T12:00:00Z', convert_to('Subject: early', 'UTF8')
         FROM recipients",
    )
    .await;
    app.worker.play_simulated_followups().await.unwrap();
    assert_eq!((app.events(&id).await.len(), waiting(&app).await), (2, 1));
    app.clock.advance(hours(1));
    run(&app).await;
    assert_eq!(app.events(&id).await, ["accepted", "uncertain", "delivered", "bounced"]);
    assert_eq!(waiting(&app).await, 0);
}

#[tokio::test]
async fn complaint_survives_sigkill() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let first = Service::start(serve(&database.url, smtp.address(), &[])).await;
    let api = Api::new(first.address.clone().unwrap(), key(&database.url).await);
    let id = api.send(json!({"to": address("complaint-3s", 0)})).await.id;
    until("the message is delivered", LIMIT, async || {
        let status = api.status(&id).await;
        if status == "delivered" { Ok(()) } else { Err(status) }
    })
    .await;
    first.kill().await;

    let second = Service::start(serve(&database.url, smtp.address(), &[])).await;
    let api = Api::new(second.address.clone().unwrap(), api.key);
    until("the complaint has arrived", LIMIT, async || {
        let events = api.events(&id).await;
        if events == ["accepted", "delivered", "complained"] { Ok(()) } else { Err(events.join(", ")) }
    })
    .await;
    assert!(second.terminate().await.success());
    assert_eq!(smtp.connections(), 0);
}
