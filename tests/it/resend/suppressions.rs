//! The suppression list.

use postrider::clock::Clock as _;
use serde_json::{Value, json};

use super::{delete, get, post, send, start};
use crate::support::app::TestApp;

async fn emails(app: &TestApp, query: &str) -> (Vec<String>, bool) {
    let list = get(app, &format!("/suppressions{query}")).await.ok();
    let email = |entry: &Value| entry["email"].as_str().unwrap().to_owned();
    (list["data"].as_array().unwrap().iter().map(email).collect(), list["has_more"].as_bool().unwrap())
}

#[tokio::test]
async fn address_is_added_found_and_removed() {
    let app = start().await;
    let created = post(&app, "/suppressions", &json!({"email": "Ann+x@Example.test"})).await;
    assert_eq!((created.status, &created.body["object"]), (201, &json!("suppression")), "{}", created.body);
    let id = created.id();
    let shown = get(&app, &format!("/suppressions/{id}")).await.ok();
    let expected = json!({
        "object": "suppression", "id": id, "email": "ann+x@example.test", "origin": "manual", "source_id": null,
        "created_at": shown["created_at"],
    });
    assert_eq!(shown, expected);
    assert_eq!(get(&app, "/suppressions/ann%2Bx%40example.test").await.ok(), shown);
    app.clock.advance(chrono::TimeDelta::seconds(1));
    assert_eq!(post(&app, "/suppressions", &json!({"email": "ann+x@example.test"})).await.id(), id, "the first entry");
    let sent = send(&app, json!({"to": "ann+x@example.test"})).await;
    assert_eq!(get(&app, &format!("/emails/{sent}")).await.ok()["last_event"], "suppressed");

    let path = format!("/suppressions/{id}");
    assert_eq!(delete(&app, &path).await.ok(), json!({"object": "suppression", "id": id, "deleted": true}));
    for path in [path, "/suppressions/ann%2Bx%40example.test".into(), "/suppressions/nobody".into()] {
        assert_eq!(get(&app, &path).await.error(), (404, "not_found"), "{path}");
    }
    assert_eq!(post(&app, "/suppressions", &json!({"email": "x"})).await.error(), (422, "validation_error"));
    assert_eq!(post(&app, "/suppressions", &json!({})).await.error(), (422, "missing_required_field"));
}

#[tokio::test]
async fn list_is_paged_and_filtered() {
    let app = start().await;
    app.smtp.rcpt("bounced@example.test").replies(["550 5.1.1 no such user"]);
    send(&app, json!({"to": "bounced@example.test"})).await;
    app.run_until_idle().await;
    app.clock.advance(chrono::TimeDelta::seconds(1));
    // All of these entries have the same time.
    let many: Vec<String> = (0..5).map(|n| format!("u{n}@example.test")).collect();
    let added = post(&app, "/suppressions/batch/add", &json!({"emails": many})).await.ok();
    assert_eq!(added["data"].as_array().unwrap().len(), 5);
    assert_eq!(emails(&app, "?origin=bounce").await, (vec!["bounced@example.test".into()], false));
    app.sql("UPDATE suppressions SET reason = 'unsubscribe' WHERE address = 'u0@example.test'").await;
    assert_eq!(emails(&app, "?origin=manual").await.0.len(), 5, "an opt-out is shown as `manual` too");
    let (all, has_more) = emails(&app, "?limit=100").await;
    assert_eq!((all.len(), has_more), (6, false));
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let list = get(&app, &format!("/suppressions?limit=2{after}")).await.ok();
        let page = list["data"].as_array().unwrap();
        seen.extend(page.iter().map(|entry| entry["email"].as_str().unwrap().to_owned()));
        after = format!("&after={}", page.last().unwrap()["id"].as_str().unwrap());
        if list["has_more"] == false {
            break;
        }
    }
    assert_eq!(seen, all);
    for query in ["?origin=other", "?before=019a8f3c-2b7d-7c4e-8a1b-2c3d4e5f6a7b"] {
        assert_eq!(get(&app, &format!("/suppressions{query}")).await.error(), (422, "validation_error"), "{query}");
    }
}

#[tokio::test]
async fn temporary_entry_becomes_permanent() {
    let app = start().await;
    let until = app.clock.now() + chrono::TimeDelta::days(1);
    let entry = json!([{"address": "ann@example.test", "expires_at": until}]);
    assert_eq!(app.post("/v1/suppressions", &entry).await.status, 200);
    post(&app, "/suppressions", &json!({"email": "ann@example.test"})).await.id();
    app.clock.advance(chrono::TimeDelta::days(2));
    assert_eq!(get(&app, "/suppressions/ann%40example.test").await.status, 200);
}

#[tokio::test]
async fn batches_are_removed_by_address_or_id() {
    let app = start().await;
    let add = json!({"emails": ["a@example.test", "b@example.test", "A@example.test", "c@example.test"]});
    let ids: Vec<Value> = post(&app, "/suppressions/batch/add", &add).await.ok()["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["id"].clone())
        .collect();
    assert_eq!(ids.len(), 3, "duplicates collapse");
    let removed = post(&app, "/suppressions/batch/remove", &json!({"ids": [ids[0]]})).await.ok();
    assert_eq!(removed["data"], json!([{"object": "suppression", "id": ids[0], "deleted": true}]));
    let gone = json!({"emails": ["a@example.test", "b@example.test", "nobody@example.test"]});
    assert_eq!(post(&app, "/suppressions/batch/remove", &gone).await.ok()["data"].as_array().unwrap().len(), 1);
    assert_eq!(emails(&app, "").await, (vec!["c@example.test".into()], false));
    for body in [json!({}), json!({"emails": []}), json!({"emails": ["a@b.test"], "ids": [ids[0]]})] {
        assert_eq!(post(&app, "/suppressions/batch/remove", &body).await.status, 422, "{body}");
    }
}
