//! Actions are continued, canceled and listed.

use serde_json::{Value, json};

use super::{end_leases, ended, lease_new_actions, read, start};
use crate::support::app::TestApp;

#[tokio::test]
async fn action_of_a_dead_process_continues_where_it_ended() {
    let app = TestApp::start().await;
    lease_new_actions(&app).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(app.send(json!({})).await.id);
        app.clock.advance(chrono::TimeDelta::milliseconds(5));
    }
    let action = start(&app, "cancel", json!({"stream": "transactional"})).await;
    // A process that died has examined the first two messages, and changed one.
    app.sql(
        "UPDATE message_actions SET matched = 2, changed = 1, skipped = 1, examined = 2,
            (last_message, last_recipient) = (SELECT message_id, recipient_id FROM queue ORDER BY message_id OFFSET 1 LIMIT 1)",
    )
    .await;
    assert_eq!(read(&app, &action).await["status"], "running");
    end_leases(&app).await;
    let ended = ended(&app, &action).await;
    assert_eq!([&ended["matched"], &ended["changed"], &ended["skipped"]], [4, 3, 1], "{ended}");
    let mut states = Vec::new();
    for id in &ids {
        states.push(app.status(id).await);
    }
    assert_eq!(states, ["queued", "queued", "canceled", "canceled"]);
}

#[tokio::test]
async fn canceled_action_changes_nothing_more() {
    let app = TestApp::start().await;
    lease_new_actions(&app).await;
    let id = app.send(json!({})).await.id;
    let action = start(&app, "cancel", json!({"stream": "transactional"})).await;
    let canceled = app.post(&format!("/v1/actions/{action}/cancel"), &json!({})).await;
    assert_eq!((canceled.status, &canceled.body["status"]), (200, &json!("canceled")), "{}", canceled.body);
    assert!(canceled.body["finished_at"].is_string(), "{}", canceled.body);
    end_leases(&app).await;
    // A second action proves that the first one has had its turn.
    app.sql("DROP TRIGGER lease_new ON message_actions").await;
    super::run(&app, "retry", json!({"stream": "transactional"})).await;
    assert_eq!((app.status(&id).await.as_str(), &read(&app, &action).await["changed"]), ("queued", &json!(0)));
    let again = app.post(&format!("/v1/actions/{action}/cancel"), &json!({})).await;
    assert_eq!((again.status, &again.body["status"]), (200, &json!("canceled")));
}

#[tokio::test]
async fn two_replicas_change_each_recipient_once() {
    let app = TestApp::start().await;
    let (other, _) = app.another_api().await;
    let recipients: Vec<String> = (0..40).map(|n| format!("u{n}@example.test")).collect();
    for _ in 0..5 {
        app.send(json!({"to": recipients})).await;
    }
    let actions = [
        start(&app, "cancel", json!({"stream": "transactional"})).await,
        start(&app, "cancel", json!({"to_domain": "example.test"})).await,
    ];
    let mut changed = 0;
    for action in &actions {
        changed += ended(&app, action).await["changed"].as_i64().unwrap();
    }
    assert_eq!(changed, 200);
    other.stop().await;
}

#[tokio::test]
async fn stored_action_that_cannot_be_read_fails() {
    let app = TestApp::start().await;
    lease_new_actions(&app).await;
    let action = start(&app, "cancel", json!({"stream": "transactional"})).await;
    app.sql("UPDATE message_actions SET filter = '{\"color\": \"red\"}', failures = 9").await;
    end_leases(&app).await;
    let failed = ended(&app, &action).await;
    assert_eq!(failed["status"], "failed");
    assert!(failed["error"].as_str().unwrap().contains("color"), "{failed}");
}

#[tokio::test]
async fn actions_are_listed_newest_first() {
    let app = TestApp::start().await;
    let mut started = Vec::new();
    for _ in 0..3 {
        started.push(start(&app, "retry", json!({"stream": "bulk"})).await);
        app.clock.advance(chrono::TimeDelta::seconds(1));
    }
    let first = app.get("/v1/actions?limit=2").await.body;
    let rest = app.get(&format!("/v1/actions?limit=2&after={}", first["next"].as_str().unwrap())).await.body;
    let ids = |page: &Value| page["data"].as_array().unwrap().iter().map(|one| one["id"].clone()).collect::<Vec<_>>();
    let listed: Vec<Value> = [ids(&first), ids(&rest)].concat();
    assert_eq!(listed, started.iter().rev().map(|id| json!(id)).collect::<Vec<_>>());
    assert_eq!(first["data"][0]["filter"], json!({"stream": "bulk"}));
    assert_eq!(app.get("/v1/actions/act_00000000000070008000000000000000").await.status, 404);
}
