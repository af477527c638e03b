//! Weeks are dropped as a whole.

use std::sync::Arc;
use std::time::Duration;

use postrider::app::retention_periods;
use postrider::config::Config;
use postrider::db::RestoreGate;
use postrider::worker::Retention;
use reqwest::Method;
use serde_json::json;

use super::{advance, delete_old_data, number};
use crate::support::app::TestApp;
use crate::support::client::{ApiResponse, message};
use crate::support::clock::hours;
use crate::support::uploads::{put, sha256, stored};

/// Sends a message with everything that is deleted with it.
async fn send(app: &TestApp) -> String {
    put(app, b"the terms").await;
    let file = json!([{"filename": "terms.txt", "sha256": sha256(b"the terms")}]);
    let sent =
        app.send(json!({"html": "<p>secret</p>", "attachments": file, "tags": [{"name": "a", "value": "b"}]})).await;
    app.run_until_idle().await;
    app.worker.count_events().await.unwrap();
    sent.id
}

#[tokio::test]
async fn nothing_is_deleted_before_its_time() {
    let app = TestApp::start().await;
    let id = send(&app).await;
    for days in [0, 20, 31] {
        advance(&app, days).await;
        delete_old_data(&app).await;
        assert_eq!(app.get(&format!("/v1/messages/{id}/raw")).await.status, 200, "after {days} more days");
    }
    assert_eq!(app.message(&id).await["content_deleted_at"], json!(null));
    advance(&app, 2).await;
    assert_eq!(delete_old_data(&app).await.weeks[0], 1);
    assert_eq!(app.get(&format!("/v1/messages/{id}/raw")).await.problem(), (410, "content_deleted"));
}

#[tokio::test]
async fn nothing_is_deleted_while_the_restore_guard_holds() {
    let app = TestApp::start().await;
    let id = send(&app).await;
    advance(&app, 380).await;
    let periods = retention_periods(&Config::default());
    let retention = Retention::new(app.db.clone(), app.clock.clone(), periods, Arc::new(RestoreGate::default()));
    assert_eq!(retention.once(true).await.unwrap(), None);
    assert_eq!(app.get(&format!("/v1/messages/{id}/raw")).await.status, 200);
    let gate = Arc::new(RestoreGate::always_open());
    let deleted = Retention::new(app.db.clone(), app.clock.clone(), periods, gate).once(true).await.unwrap();
    assert!(deleted.is_some_and(|deleted| deleted.weeks[0] >= 1), "{deleted:?}");
}

#[tokio::test]
async fn attachments_are_deleted_with_their_last_message() {
    let app = TestApp::start().await;
    send(&app).await;
    advance(&app, 30).await;
    send(&app).await;
    advance(&app, 30).await;
    delete_old_data(&app).await;
    assert_eq!(app.worker.clean_up().await.unwrap().blobs, 0, "the second message has it");
    assert_eq!(stored(&app).await.0, 1);
    advance(&app, 30).await;
    delete_old_data(&app).await;
    app.worker.clean_up().await.unwrap();
    advance(&app, 8).await;
    app.worker.clean_up().await.unwrap();
    assert_eq!(stored(&app).await, (0, 0, 0));
}

#[tokio::test]
async fn everything_of_a_message_is_deleted_with_it() {
    let app = TestApp::start().await;
    app.smtp.rcpt("gone@example.test").replies(["550 5.1.1 no such user"]);
    send(&app).await;
    app.send(json!({"to": "gone@example.test"})).await;
    let keyed =
        || app.request(Method::POST, "/v1/messages").header("idempotency-key", "order-42").json(&message(json!({})));
    let first = ApiResponse::to(keyed()).await;
    let raw = "From: a@acme.test\r\nTo: ann@example.test\r\nMessage-ID: <own@acme.test>\r\nSubject: x\r\n\r\nHi\r\n";
    let request = app.request(Method::POST, "/v1/messages").header("content-type", "message/rfc822");
    assert_eq!(ApiResponse::to(request.body(raw)).await.status, 202);
    let bulk = json!({"from": "a@acme.test", "subject": "", "text": "Hi", "recipients": [{"to": "bo@example.test"}]});
    assert_eq!(app.post("/v1/messages/bulk", &bulk).await.status, 202);
    crate::support::until::until("the bulk is a message", Duration::from_secs(20), async || {
        match number(&app, "SELECT count(*) FROM bulk_recipients").await {
            0 => Ok(()),
            waiting => Err(waiting),
        }
    })
    .await;
    app.run_until_idle().await;
    app.worker.count_events().await.unwrap();
    let statistics = "/v1/statistics?since=2026-11-23T00:00:00Z&until=2026-11-24T00:00:00Z&step=day";
    let counted = app.get(statistics).await;
    assert_eq!(counted.status, 200, "{}", counted.body);

    advance(&app, 380).await;
    crate::support::until::until("the bulk is settled", Duration::from_secs(20), async || {
        match number(&app, "SELECT count(*) FROM bulks WHERE settled_at IS NULL").await {
            0 => Ok(()),
            active => Err(active),
        }
    })
    .await;
    let deleted = delete_old_data(&app).await;
    assert!(deleted.weeks.iter().all(|weeks| *weeks > 0), "{deleted:?}");
    app.worker.clean_up().await.unwrap();
    for table in [
        "messages",
        "recipients",
        "contents",
        "custom_message_ids",
        "blob_references",
        "events",
        "smtp_conversations",
        "bulks",
        "bulk_messages",
        "idempotency_keys",
        "webhook_attempts",
    ] {
        let count = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
        let rows: i64 = sqlx::query_scalar(count).fetch_one(&mut app.database.connect().await).await.unwrap();
        assert_eq!(rows, 0, "{table}");
    }
    let id = first.body["id"].as_str().unwrap();
    assert_eq!(app.get(&format!("/v1/messages/{id}")).await.problem(), (404, "not_found"));
    assert_eq!(app.get("/v1/messages").await.body["data"], json!([]));
    assert_eq!(app.get(statistics).await.body["totals"], counted.body["totals"], "statistics keep their days");
    let ledger = app.get("/v1/ledger?since=2026-11-23T00:00:00Z").await.body;
    assert_eq!((&ledger["accepted"], &ledger["balanced"]), (&json!(0), &json!(true)), "{ledger}");
    let again = ApiResponse::to(keyed()).await;
    assert_eq!(again.status, 202, "the key was deleted with its message");
    assert_ne!(again.body["id"], first.body["id"]);
}

#[tokio::test]
async fn forever_deletes_nothing() {
    use postrider::domain::records::retention::Period;
    let builder = TestApp::builder().config(|config| {
        let kept = &mut config.retention;
        (kept.content, kept.messages, kept.events, kept.webhook_log) =
            (Period::FOREVER, Period::FOREVER, Period::FOREVER, Period::FOREVER);
    });
    let app = builder.start().await;
    let id = send(&app).await;
    advance(&app, 4_000).await;
    assert_eq!(delete_old_data(&app).await.weeks, [0; 4]);
    assert_eq!(app.get(&format!("/v1/messages/{id}/raw")).await.status, 200);
}

#[tokio::test]
async fn idempotency_key_may_expire_before_its_message() {
    use postrider::domain::records::retention::Period;
    let two_days = Period(Some(Duration::from_hours(48)));
    let app = TestApp::builder().config(move |config| config.retention.idempotency = two_days).start().await;
    let keyed = || app.request(Method::POST, "/v1/messages").header("idempotency-key", "k").json(&message(json!({})));
    let first = ApiResponse::to(keyed()).await.body;
    for (passed, is_same) in [(47, true), (2, false)] {
        app.clock.advance(hours(passed));
        app.worker.clean_up().await.unwrap();
        assert_eq!(ApiResponse::to(keyed()).await.body["id"] == first["id"], is_same, "{passed} more hours");
    }
}

#[tokio::test]
async fn week_in_use_is_dropped_later() {
    let app = TestApp::start().await;
    let id = send(&app).await;
    advance(&app, 53).await;
    let mut reader = app.database.connect().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE contents IN ACCESS SHARE MODE").execute(&mut reader).await.unwrap();
    let (deleted, sent) = tokio::join!(delete_old_data(&app), async {
        for _ in 0..20 {
            app.send(json!({})).await;
        }
    });
    let () = sent;
    assert_eq!(deleted.weeks[0], 0);
    assert_eq!(app.get(&format!("/v1/messages/{id}/raw")).await.status, 200);
    sqlx::raw_sql("COMMIT").execute(&mut reader).await.unwrap();
    assert_eq!(delete_old_data(&app).await.weeks[0], 1);
}

#[tokio::test]
async fn dropping_weeks_delays_sends_by_less_than_a_second() {
    let app = TestApp::start().await;
    send(&app).await;
    advance(&app, 380).await;
    let mut session = app.database.connect().await;
    sqlx::raw_sql("SET lock_timeout = '1s'").execute(&mut session).await.unwrap();
    // The locks of a transaction that accepts a message.
    let locks = "BEGIN; LOCK TABLE contents, messages, recipients, events IN ROW EXCLUSIVE MODE; COMMIT";
    let is_done = std::cell::Cell::new(false);
    let deleting = async {
        let deleted = delete_old_data(&app).await;
        is_done.set(true);
        deleted
    };
    let sending = async {
        while !is_done.get() {
            app.send(json!({})).await;
            sqlx::raw_sql(locks).execute(&mut session).await.expect("no lock is held for a second");
        }
    };
    let (deleted, ()) = tokio::join!(deleting, sending);
    assert!(deleted.weeks[0] >= 1, "{deleted:?}");
}

#[tokio::test]
async fn one_process_at_a_time_deletes() {
    let app = TestApp::start().await;
    app.sql("UPDATE retention_runs SET holder = gen_random_uuid(), leased_until = 'infinity'").await;
    assert_eq!(app.worker.delete_old_data().await.unwrap(), None);
    app.sql("UPDATE retention_runs SET leased_until = '2026-11-23T12:00:00Z'").await;
    assert!(app.worker.delete_old_data().await.unwrap().is_some(), "the other process died");
}

#[tokio::test]
async fn failure_of_one_class_does_not_keep_the_others() {
    let app = TestApp::start().await;
    send(&app).await;
    advance(&app, 380).await;
    app.sql("ALTER TABLE recipients RENAME COLUMN last_attempt_at TO renamed").await;
    let run = app.worker.delete_old_data().await;
    app.sql("ALTER TABLE recipients RENAME COLUMN renamed TO last_attempt_at").await;
    assert!(run.is_err(), "{run:?}");
    let events = "SELECT count(*) FROM pg_class WHERE relname = 'events_20261123'";
    assert_eq!(number(&app, events).await, 0, "events are deleted all the same");
    delete_old_data(&app).await;
}

#[tokio::test]
async fn long_bulk_loses_its_content_in_steps() {
    use postrider::domain::records::retention::Period;
    let app = TestApp::builder()
        .config(|config| config.retention.content = Period(Some(Duration::from_hours(20 * 24))))
        .start()
        .await;
    let recipients: Vec<_> = (0..1_200).map(|number| json!({"to": format!("n{number}@example.test")})).collect();
    let bulk = json!({"from": "a@acme.test", "subject": "", "text": "Hi", "recipients": recipients});
    assert_eq!(app.post("/v1/messages/bulk", &bulk).await.status, 202);
    crate::support::until::until("the bulk is messages", Duration::from_mins(1), async || {
        match number(&app, "SELECT count(*) FROM bulk_recipients").await {
            0 => Ok(()),
            waiting => Err(waiting),
        }
    })
    .await;
    app.run_until_idle().await;
    crate::support::until::until("the bulk is settled", Duration::from_mins(1), async || {
        match number(&app, "SELECT count(*) FROM bulks WHERE settled_at IS NULL").await {
            0 => Ok(()),
            active => Err(active),
        }
    })
    .await;
    // One message was marked by a run that ended early.
    app.sql(
        "UPDATE messages SET content_deleted_at = '2026-12-01' WHERE id = (SELECT message_id FROM bulk_messages LIMIT 1)",
    )
    .await;
    // A message that is scheduled keeps the week, so the content is deleted row by row.
    app.send(json!({"scheduled_at": app.clock.text_in(hours(90 * 24))})).await;
    app.worker.count_events().await.unwrap();
    advance(&app, 60).await;
    assert_eq!(delete_old_data(&app).await.contents, 1);
    let marked = "SELECT count(*) FROM messages WHERE content_deleted_at IS NOT NULL";
    assert_eq!(number(&app, marked).await, 1_200);
    assert_eq!(number(&app, "SELECT count(*) FROM contents").await, 1);
}
