//! What operators see: refused rows, and roles named like the schema.

use postrider::domain::key::Scope;
use serde_json::json;

use super::{LIMIT, accepted, execute, inbox_is_empty, send, sender};
use crate::support::app::{TestApp, make_key};
use crate::support::client::message;
use crate::support::hooks::{self, Hook};
use crate::support::postgres::Database;
use crate::support::process::{on, run, stderr_of};
use crate::support::receiver::Receiver;
use crate::support::until::until;

/// A row with a payload that the API refuses, as if the validation had let it through.
const INVALID_ROW: &str = "
    INSERT INTO sql_inbox (tenant_id, id, payload, size, role, created_at)
    VALUES ('00000000-0000-0000-0000-000000000000', uuid_floor(now()), '{\"from\": \"x\"}', 20, 'x', now())";

#[tokio::test]
async fn refused_row_is_kept_and_reported() {
    let app = TestApp::start().await;
    execute(&mut app.database.connect().await, INVALID_ROW).await;
    let mut sql = sender(&app.database).await;
    let id = send(&mut sql, &message(json!({})), None).await.unwrap();
    accepted(&app, &id).await;
    inbox_is_empty(&app.database).await;
    let mut owner = app.database.connect().await;
    let errors: serde_json::Value = sqlx::query_scalar("SELECT errors FROM sql_inbox WHERE refused_at IS NOT NULL")
        .fetch_one(&mut owner)
        .await
        .unwrap();
    assert_eq!((&errors[0]["pointer"], &errors[0]["code"]), (&json!("/from"), &json!("invalid_address")), "{errors}");
    let doctor = run(on(&app.database.url, &["doctor"])).await;
    let text = String::from_utf8(doctor.stdout).unwrap();
    assert!(text.contains("BAD   sent from SQL: 1 message(s) were refused"), "{text}");

    let listed = app.get("/v1/messages/rejected").await.body["data"].clone();
    let [rejected] = listed.as_array().unwrap().as_slice() else { panic!("{listed}") };
    assert_eq!((&rejected["errors"], &rejected["from"], &rejected["role"]), (&errors, &json!("x"), &json!("x")));
    let events = app.get("/v1/events?type=message.rejected").await.body["data"].clone();
    let event = &events[0]["data"];
    assert_eq!((&event["message_id"], &event["recipient"]), (&rejected["id"], &json!(null)));
    assert_eq!((&event["from"]["email"], &event["stream"]), (&json!("x"), &json!("transactional")));
    assert!(event["response"]["text"].as_str().unwrap().starts_with("/from: "), "{event}");
    let response = app.get(&format!("/v1/messages/{}", rejected["id"].as_str().unwrap())).await;
    assert_eq!(response.problem(), (409, "message_rejected"));
    assert!(response.body["detail"].as_str().unwrap().contains("/from"), "{}", response.body);

    // An operator fixes the message, and lets it be tried again.
    execute(
        &mut owner,
        "UPDATE sql_inbox SET refused_at = NULL, errors = NULL,
         payload = '{\"from\": \"a@acme.test\", \"to\": \"b@example.test\", \"subject\": \"Hello\", \"text\": \"Hello\"}'",
    )
    .await;
    // The claim of its first try ends.
    app.clock.advance(chrono::TimeDelta::minutes(2));
    until("the row is still there", LIMIT, async || {
        match sqlx::query_scalar::<_, i64>("SELECT count(*) FROM sql_inbox").fetch_one(&mut owner).await.unwrap() {
            0 => Ok(()),
            rows => Err(rows),
        }
    })
    .await;
}

#[tokio::test]
async fn rejected_message_is_posted_to_webhook_endpoints() {
    let app = hooks::builder().start().await;
    let receiver = Receiver::start().await;
    Hook::add(&app, &receiver.url("/hook"), "events = ARRAY['message.rejected']").await;
    execute(&mut app.database.connect().await, INVALID_ROW).await;
    until("the row is not refused", LIMIT, async || {
        match app.get("/v1/messages/rejected").await.body["data"].as_array().unwrap().len() {
            0 => Err(0),
            _ => Ok(()),
        }
    })
    .await;
    app.notify().await;
    let posts = receiver.posts("/hook");
    assert_eq!(posts.len(), 1);
    assert_eq!(posts[0].body["type"], "message.rejected");
}

#[tokio::test]
async fn key_with_sender_domains_sees_its_rejected_messages() {
    let app = TestApp::start().await;
    let rows = "INSERT INTO sql_inbox (tenant_id, id, payload, size, role, created_at)
                SELECT '00000000-0000-0000-0000-000000000000', uuid_floor(now() + n * interval '1 ms'),
                       jsonb_build_object('from', 'Shop <a@' || domain || '>'), 20, 'x', now()
                FROM (VALUES (1, 'Shop.test'), (2, 'other.test')) AS v (n, domain)";
    execute(&mut app.database.connect().await, rows).await;
    until("the rows are not refused", LIMIT, async || {
        match app.get("/v1/messages/rejected").await.body["data"].as_array().unwrap().len() {
            2 => Ok(()),
            rows => Err(rows),
        }
    })
    .await;
    let own = app.with_key(&make_key(&app.db, &*app.clock, &[Scope::Read], Some(&["shop.test"])).await);
    let listed = own.get("/v1/messages/rejected").await.body["data"].clone();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["from"]), (1, &json!("a@Shop.test")));
    let events = own.get("/v1/events?type=message.rejected").await.body["data"].clone();
    assert_eq!(events.as_array().unwrap().len(), 1, "{events}");
    for event in app.get("/v1/events?type=message.rejected").await.body["data"].as_array().unwrap() {
        let is_own = event["data"]["message_id"] == listed[0]["id"];
        let path = format!("/v1/messages/{}", event["data"]["message_id"].as_str().unwrap());
        assert_eq!(own.get(&path).await.status, if is_own { 409 } else { 404 });
    }
}

#[tokio::test]
async fn tables_stay_in_their_schema_for_a_role_named_postrider() {
    // The default search_path begins with the schema that is named like the role.
    let database = Database::new();
    let mut owner = database.connect().await;
    let like_the_role =
        "SET search_path = postrider, public; SELECT ensure_partition('messages', now() + interval '20 weeks')";
    execute(&mut owner, like_the_role).await;
    let tables = "SELECT count(*) FROM pg_class WHERE relnamespace = 'postrider'::regnamespace";
    assert_eq!(sqlx::query_scalar::<_, i64>(tables).fetch_one(&mut owner).await.unwrap(), 0);
    let url = format!("{}&options=-csearch_path%3Dpostrider,public", database.url);
    let migrated = run(on(&url, &["migrate"])).await;
    assert!(migrated.status.success(), "{}", stderr_of(&migrated));
    assert_eq!(sqlx::query_scalar::<_, i64>(tables).fetch_one(&mut owner).await.unwrap(), 0);
}
