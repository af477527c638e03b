//! Messages wait for the quota of their tenant, and are refused if no day's quota suffices for them.

use chrono::TimeDelta;
use postrider::domain::id::MessageId;
use serde_json::{Value, json};
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{LIMIT, accepted, execute, inbox_is_empty, problem, send, sender};
use crate::support::app::TestApp;
use crate::support::client::message;
use crate::support::until::until;

/// Returns a message to this number of recipients.
fn to(recipients: usize) -> Value {
    message(json!({"to": (0..recipients).map(|n| format!("r{n}@example.test")).collect::<Vec<_>>()}))
}

/// Sets the quota of the tenant.
async fn set_quota(owner: &mut PgConnection, recipients: i32) {
    sqlx::query("UPDATE tenants SET recipients_per_day = $1").bind(recipients).execute(owner).await.unwrap();
}

/// Waits until a row waits for the quota, and returns the number of its recipients.
async fn waiting(owner: &mut PgConnection, id: &str) -> i32 {
    let id: MessageId = id.parse().unwrap();
    let recipients = "SELECT recipients FROM sql_inbox WHERE id = $1 AND waits_for = 'quota'";
    let mut found = None;
    until("the row does not wait for the quota", LIMIT, async || {
        found = sqlx::query_scalar::<_, i32>(recipients).bind(id.0).fetch_optional(&mut *owner).await.unwrap();
        if found.is_some() { Ok(()) } else { Err("no row") }
    })
    .await;
    found.unwrap()
}

/// Waits until a message is rejected, and returns its errors.
async fn rejected(app: &TestApp, id: &str) -> Value {
    let find = async || {
        let listed = app.get("/v1/messages/rejected?limit=100").await.body["data"].clone();
        listed.as_array().unwrap().iter().find(|one| one["id"] == id).cloned()
    };
    until("the message is not rejected", LIMIT, async || find().await.map(drop).ok_or("not listed")).await;
    find().await.unwrap()["errors"].clone()
}

#[tokio::test]
async fn messages_wait_for_the_quota_of_the_tenant() {
    let app = TestApp::start().await;
    let mut owner = app.database.connect().await;
    set_quota(&mut owner, 2).await;
    let mut sql = sender(&app.database).await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(send(&mut sql, &to(1), None).await.unwrap());
    }
    for id in &ids {
        accepted(&app, id).await;
    }
    let later = send(&mut sql, &to(1), None).await.unwrap();
    assert_eq!(waiting(&mut owner, &later).await, 1);
    let response = app.get(&format!("/v1/messages/{later}")).await;
    assert_eq!(response.problem(), (409, "not_accepted"));
    assert!(response.body["detail"].as_str().unwrap().contains("quota of this day"), "{}", response.body);
    app.clock.advance(TimeDelta::days(1));
    accepted(&app, &later).await;
}

#[tokio::test]
async fn large_message_waits_without_being_read_again() {
    let app = TestApp::start().await;
    let mut owner = app.database.connect().await;
    set_quota(&mut owner, 4).await;
    let mut sql = sender(&app.database).await;
    let first = send(&mut sql, &to(2), None).await.unwrap();
    accepted(&app, &first).await;
    let large = send(&mut sql, &to(3), None).await.unwrap();
    assert_eq!(waiting(&mut owner, &large).await, 3);
    // The version of the row, which a claim would change.
    let version = "SELECT xmin::text FROM sql_inbox";
    let before: String = sqlx::query_scalar(version).fetch_one(&mut owner).await.unwrap();
    let small = send(&mut sql, &to(1), None).await.unwrap();
    accepted(&app, &small).await;
    assert_eq!(sqlx::query_scalar::<_, String>(version).fetch_one(&mut owner).await.unwrap(), before);
    // Raising the quota is enough.
    set_quota(&mut owner, 6).await;
    accepted(&app, &large).await;
    app.run_until_idle().await;
}

#[tokio::test]
async fn message_above_the_quota_of_a_day_is_refused() {
    let app = TestApp::start().await;
    let mut owner = app.database.connect().await;
    set_quota(&mut owner, 2).await;
    let mut sql = sender(&app.database).await;
    let above = ("PR422".to_owned(), vec![("/to".to_owned(), "daily_quota_exceeded".to_owned())]);
    assert_eq!(problem(&send(&mut sql, &to(3), None).await.unwrap_err()), above);
    let fields = json!({"to": "a@example.test", "cc": [{"email": "b@example.test"}], "bcc": "C <c@example.test>"});
    assert_eq!(problem(&send(&mut sql, &message(fields), None).await.unwrap_err()), above);
    // Duplicates count once, as in the API.
    let fields = json!({"to": ["a@example.test", "A <a@EXAMPLE.test>"], "cc": "b@example.test"});
    let id = send(&mut sql, &message(fields), None).await.unwrap();
    accepted(&app, &id).await;
    assert_eq!(app.message(&id).await["recipients"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn lowered_quota_rejects_what_it_cannot_admit() {
    let app = TestApp::start().await;
    let mut owner = app.database.connect().await;
    set_quota(&mut owner, 3).await;
    let mut sql = sender(&app.database).await;
    execute(&mut sql, "BEGIN").await;
    let large = send(&mut sql, &to(3), None).await.unwrap();
    set_quota(&mut owner, 2).await;
    execute(&mut sql, "COMMIT").await;
    let errors = rejected(&app, &large).await;
    assert_eq!((&errors[0]["pointer"], &errors[0]["code"]), (&json!("/to"), &json!("daily_quota_exceeded")));
    assert!(errors[0]["message"].as_str().unwrap().contains("has 3 recipients"), "{errors}");
    let response = app.get(&format!("/v1/messages/{large}")).await;
    assert_eq!(response.problem(), (409, "message_rejected"));
    assert!(response.body["detail"].as_str().unwrap().contains("2 per day"), "{}", response.body);
    let events = app.get("/v1/events?type=message.rejected").await.body["data"].clone();
    assert_eq!(events.as_array().unwrap().len(), 1, "{events}");
    assert_eq!(events[0]["data"]["message_id"], json!(large));

    // An operator raises the quota, and lets it be tried again.
    set_quota(&mut owner, 3).await;
    execute(&mut owner, "UPDATE sql_inbox SET refused_at = NULL, errors = NULL").await;
    app.clock.advance(TimeDelta::minutes(2));
    accepted(&app, &large).await;
}

#[tokio::test]
async fn messages_above_the_quota_do_not_hide_later_ones() {
    // More than a claim looks at.
    const ABOVE: i64 = 1_100;
    let app = TestApp::start().await;
    let mut owner = app.database.connect().await;
    set_quota(&mut owner, 2).await;
    let mut sql = sender(&app.database).await;
    let first = send(&mut sql, &to(2), None).await.unwrap();
    accepted(&app, &first).await;
    let small = send(&mut sql, &to(1), None).await.unwrap();
    assert_eq!(waiting(&mut owner, &small).await, 1);
    // They waited before the quota was lowered.
    let above = "INSERT INTO sql_inbox (tenant_id, id, payload, size, role, created_at, waits_for, recipients)
                 SELECT '00000000-0000-0000-0000-000000000000', uuid_floor(now() - interval '1 hour' + n * interval '1 ms'),
                        $1, 200, 'x', now(), 'quota', 3
                 FROM generate_series(1, $2) AS n";
    sqlx::query(above).bind(to(3)).bind(ABOVE).execute(&mut owner).await.unwrap();
    app.clock.advance(TimeDelta::days(1));
    accepted(&app, &small).await;
    inbox_is_empty(&app.database).await;
    let rows = sqlx::query("SELECT id, errors FROM sql_inbox").fetch_all(&mut owner).await.unwrap();
    assert_eq!(i64::try_from(rows.len()).unwrap(), ABOVE);
    for row in rows {
        let (id, errors): (Uuid, Value) = (row.get(0), row.get(1));
        assert_eq!(errors[0]["code"], "daily_quota_exceeded", "{id}");
    }
}
