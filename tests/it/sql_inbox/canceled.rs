//! Messages are canceled before they are accepted.

use chrono::TimeDelta;
use postrider::clock::Clock as _;
use serde_json::json;

use super::{LIMIT, accepted, execute, inbox_is_empty, send, sender};
use crate::support::app::TestApp;
use crate::support::client::{ApiResponse, message};
use crate::support::until::until;

/// Cancels a message. While it is being accepted, the call is repeated.
async fn cancel(app: &TestApp, id: &str) -> ApiResponse {
    let path = format!("/v1/messages/{id}/cancel");
    let mut canceled = None;
    until("the message cannot be canceled", LIMIT, async || {
        let response = app.post(&path, &json!({})).await;
        if response.status == 200 {
            canceled = Some(response);
            return Ok(());
        }
        assert_eq!(response.problem(), (409, "not_accepted"));
        assert_eq!(response.headers["retry-after"], "1");
        Err("being accepted")
    })
    .await;
    canceled.unwrap()
}

#[tokio::test]
async fn message_that_waits_for_a_quota_is_canceled() {
    let app = TestApp::start().await;
    app.sql("UPDATE tenants SET recipients_per_day = 3").await;
    let mut sql = sender(&app.database).await;
    let first = send(&mut sql, &message(json!({"to": ["a@example.test", "b@example.test"]})), None).await.unwrap();
    accepted(&app, &first).await;
    let fields = json!({"to": ["c@example.test", "d@example.test"], "metadata": {"order": "7"}});
    let waiting = send(&mut sql, &message(fields.clone()), Some("order-7")).await.unwrap();
    until("the row does not wait", LIMIT, async || {
        let detail = app.get(&format!("/v1/messages/{waiting}")).await.body["detail"].clone();
        if detail.as_str().is_some_and(|detail| detail.contains("quota")) { Ok(()) } else { Err(detail) }
    })
    .await;
    let canceled = cancel(&app, &waiting).await.body;
    assert_eq!(
        (&canceled["canceled"], &canceled["too_late"]),
        (&json!(["c@example.test", "d@example.test"]), &json!([]))
    );
    assert_eq!((&canceled["message"]["id"], &canceled["message"]["status"]), (&json!(waiting), &json!("canceled")));
    assert_eq!(app.events(&waiting).await, ["accepted", "canceled", "canceled"]);
    assert_eq!(app.message(&waiting).await["metadata"], json!({"order": "7"}));
    assert_eq!(app.get(&format!("/v1/messages/{waiting}/raw")).await.status, 200);
    inbox_is_empty(&app.database).await;

    // It has not counted towards the quota, and stays canceled.
    let last = send(&mut sql, &message(json!({"to": "e@example.test"})), None).await.unwrap();
    accepted(&app, &last).await;
    app.clock.advance(TimeDelta::days(1));
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 2);
    let again = cancel(&app, &waiting).await.body;
    assert_eq!((&again["canceled"], &again["too_late"]), (&json!([]), &json!([])));
    assert_eq!(send(&mut sql, &message(fields), Some("order-7")).await.unwrap(), waiting);
}

#[tokio::test]
async fn canceling_races_with_accepting() {
    const MESSAGES: usize = 60;
    let app = TestApp::start().await;
    let mut sql = sender(&app.database).await;
    execute(&mut sql, "BEGIN").await;
    let mut ids = Vec::new();
    for n in 0..MESSAGES {
        let fields = json!({"to": format!("r{n}@example.test"), "subject": n.to_string()});
        ids.push(send(&mut sql, &message(fields), None).await.unwrap());
    }
    execute(&mut sql, "COMMIT").await;
    // Some are canceled before they are accepted, and some after it.
    futures_util::future::join_all(ids.iter().map(|id| cancel(&app, id))).await;
    inbox_is_empty(&app.database).await;
    for id in &ids {
        assert_eq!(app.status(id).await, "canceled", "{id}");
        assert_eq!(app.events(id).await, ["accepted", "canceled"], "{id}");
    }
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 0);
}

#[tokio::test]
async fn message_that_is_no_longer_valid_is_rejected() {
    let app = TestApp::start().await;
    // Its template was deleted. The task that accepts messages leaves it alone, because the quota is used up.
    let day = app.clock.now().date_naive();
    app.sql("UPDATE tenants SET recipients_per_day = 1").await;
    let usage =
        "INSERT INTO tenant_usage (tenant_id, day, recipients) VALUES ('00000000-0000-0000-0000-000000000000', $1, 1)
                 ON CONFLICT (tenant_id) DO UPDATE SET day = excluded.day, recipients = excluded.recipients";
    let mut owner = app.database.connect().await;
    sqlx::query(usage).bind(day).execute(&mut owner).await.unwrap();
    let row = "INSERT INTO sql_inbox (tenant_id, id, payload, size, role, created_at, waits_for, recipients)
               VALUES ('00000000-0000-0000-0000-000000000000', uuid_floor(now()),
                       '{\"from\": \"a@acme.test\", \"to\": \"x@example.test\", \"subject\": \"\", \"template\": {\"id\": \"gone\"}}',
                       80, 'x', now(), 'quota', 1)
               RETURNING 'msg_' || replace(id::text, '-', '')";
    let id: String = sqlx::query_scalar(row).fetch_one(&mut owner).await.unwrap();
    let response = app.post(&format!("/v1/messages/{id}/cancel"), &json!({})).await;
    assert_eq!(response.problem(), (409, "message_rejected"));
    assert_eq!(app.get("/v1/events?type=message.rejected").await.body["data"].as_array().unwrap().len(), 1);
}
