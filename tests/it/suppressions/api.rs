//! `/v1/suppressions`: entries are added by applications, removed by administrators, and expire.

use postrider::domain::key::Scope;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::ApiResponse;
use crate::support::clock::{hours, minutes};
use crate::support::postgres::until_waiting_for_lock;

const PATH: &str = "/v1/suppressions";

async fn add(app: &TestApp, entries: Value) -> Value {
    let response = app.post(PATH, &entries).await;
    assert_eq!(response.status, 200, "{}", response.body);
    response.body
}

fn counts(added: u64, updated: u64, unchanged: u64) -> Value {
    json!({"added": added, "updated": updated, "unchanged": unchanged})
}

fn addresses(page: &Value) -> Vec<&str> {
    page["data"].as_array().unwrap().iter().map(|entry| entry["address"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn address_spelling_does_not_matter() {
    let app = TestApp::start().await;
    assert_eq!(add(&app, json!("Ann@Example.TEST")).await, counts(1, 0, 0));
    assert_eq!(
        add(&app, json!([{"address": "bo@bücher.test", "reason": "complaint", "note": "he called"}])).await,
        counts(1, 0, 0)
    );
    let ann = app.get(&format!("{PATH}/ANN@example.test")).await;
    let expected = json!({
        "address": "ann@example.test", "stream": null, "reason": "manual", "note": null,
        "created_at": "2026-11-23T12:00:00Z", "expires_at": null, "message_id": null, "recipient_id": null,
    });
    assert_eq!((ann.status, &ann.body), (200, &json!({"address": "ann@example.test", "data": [expected]})));
    let bo = app.get(&format!("{PATH}/bo@xn--bcher-kva.test")).await.body;
    assert_eq!((&bo["data"][0]["reason"], &bo["data"][0]["note"]), (&json!("complaint"), &json!("he called")));

    assert_eq!(app.delete(&format!("{PATH}/%22Ann%22@EXAMPLE.test")).await.status, 204);
    for path in ["ann@example.test", "nobody@example.test", "no-address", "%00@example.test", "%FF"] {
        assert_eq!(app.get(&format!("{PATH}/{path}")).await.problem(), (404, "not_found"), "{path}");
        assert_eq!(app.delete(&format!("{PATH}/{path}")).await.problem(), (404, "not_found"), "{path}");
    }
}

#[tokio::test]
async fn address_has_entries_per_stream_and_one_for_all() {
    let app = TestApp::start().await;
    let entries = json!([
        {"address": "ann@example.test", "stream": "bulk", "reason": "unsubscribe"}, "ann@example.test",
        {"address": "ann@example.test", "stream": "transactional"},
    ]);
    assert_eq!(add(&app, entries.clone()).await, counts(3, 0, 0));
    assert_eq!(add(&app, entries).await, counts(0, 0, 3));
    let streams = async || {
        let body = app.get(&format!("{PATH}/ann@example.test")).await.body;
        let entries = body["data"].as_array().cloned().unwrap_or_default();
        entries.iter().map(|entry| entry["stream"].clone()).collect::<Vec<Value>>()
    };
    assert_eq!(streams().await, [json!(null), json!("bulk"), json!("transactional")]);
    assert_eq!(app.delete(&format!("{PATH}/ann@example.test?stream=bulk")).await.status, 204);
    assert_eq!(app.delete(&format!("{PATH}/ann@example.test?stream=bulk")).await.status, 404);
    assert_eq!(app.delete(&format!("{PATH}/ann@example.test?stream=*")).await.status, 204);
    assert_eq!(streams().await, [json!("transactional")]);
    assert_eq!(app.delete(&format!("{PATH}/ann@example.test?flow=1")).await.faults(), [("flow", "unknown_field")]);

    add(&app, json!(["ann@example.test", "bo@example.test", "cy@example.test"])).await;
    let body =
        json!(["bo@example.test", {"address": "ANN@example.test", "stream": "transactional"}, "dan@example.test"]);
    assert_eq!(app.post(&format!("{PATH}/remove"), &body).await.body, json!({"removed": 2}));
    assert_eq!(addresses(&app.get(PATH).await.body), ["cy@example.test", "ann@example.test"]);
}

#[tokio::test]
async fn list_has_pages_and_filters() {
    let app = TestApp::start().await;
    for n in 0..5 {
        let reason = if n % 2 == 0 { "manual" } else { "complaint" };
        add(
            &app,
            json!({"address": format!("a{n}@example.test"), "reason": reason, "stream": (n == 4).then_some("bulk")}),
        )
        .await;
        app.clock.advance(minutes(1));
    }
    let first = app.get(&format!("{PATH}?limit=2")).await.body;
    assert_eq!(addresses(&first), ["a4@example.test", "a3@example.test"]);
    let next = format!("{PATH}?limit=3&after={}", first["next"].as_str().unwrap());
    let second = app.get(&next).await.body;
    assert_eq!(addresses(&second), ["a2@example.test", "a1@example.test", "a0@example.test"]);
    assert_eq!((&second["has_more"], &second["next"]), (&json!(false), &json!(null)));
    for (query, expected) in [
        ("reason=complaint", vec!["a3@example.test", "a1@example.test"]),
        ("stream=bulk", vec!["a4@example.test"]),
        ("stream=*&reason=manual", vec!["a2@example.test", "a0@example.test"]),
        ("address=A3@Example.test", vec!["a3@example.test"]),
        ("created_after=2026-11-23T12:03:00Z", vec!["a4@example.test", "a3@example.test"]),
        ("created_before=2026-11-23T12:01:00Z", vec!["a0@example.test"]),
    ] {
        assert_eq!(addresses(&app.get(&format!("{PATH}?{query}")).await.body), expected, "{query}");
    }
    for (query, pointer) in [
        ("reason=rude", "reason"),
        ("address=x", "address"),
        ("after=x", "after"),
        ("after=MQphCmI", "after"),
        ("limit=0", "limit"),
        ("sort=up", "sort"),
    ] {
        let response = app.get(&format!("{PATH}?{query}")).await;
        if query == "after=MQphCmI" {
            assert_eq!(
                (response.status, addresses(&response.body).len()),
                (200, 0),
                "a valid cursor without entries after it"
            );
            continue;
        }
        assert_eq!((response.status, response.faults()[0].0), (422, pointer), "{query}");
    }
}

#[tokio::test]
async fn expired_entry_has_no_effect_and_is_deleted_later() {
    let app = TestApp::start().await;
    let until = app.clock.text_in(hours(1));
    add(&app, json!([{"address": "ann@example.test", "expires_at": until}, "bo@example.test"])).await;
    app.clock.advance(minutes(59));
    assert_eq!(
        (
            app.get(&format!("{PATH}/ann@example.test")).await.status,
            app.worker.remove_expired_suppressions().await.unwrap()
        ),
        (200, 0)
    );
    app.clock.advance(minutes(1));
    assert_eq!(app.get(&format!("{PATH}/ann@example.test")).await.status, 404);
    assert_eq!(addresses(&app.get(PATH).await.body), ["bo@example.test"]);
    assert_eq!(app.delete(&format!("{PATH}/ann@example.test")).await.status, 404);
    add(&app, json!({"address": "ann@example.test", "expires_at": app.clock.text_in(minutes(1))})).await;
    app.clock.advance(minutes(1));
    assert_eq!(add(&app, json!("ann@example.test")).await, counts(0, 1, 0), "an expired entry is replaced");
    add(&app, json!({"address": "cy@example.test", "expires_at": app.clock.text_in(minutes(1))})).await;
    app.clock.advance(minutes(1));
    assert_eq!(
        (
            app.worker.remove_expired_suppressions().await.unwrap(),
            app.worker.remove_expired_suppressions().await.unwrap()
        ),
        (1, 0)
    );
}

#[tokio::test]
async fn scopes_determine_the_allowed_calls() {
    let app = TestApp::start().await;
    add(&app, json!("ann@example.test")).await;
    let calls = [
        (Method::GET, PATH.to_owned(), Scope::Metadata),
        (Method::GET, format!("{PATH}/ann@example.test"), Scope::Metadata),
        (Method::GET, format!("{PATH}/export"), Scope::Metadata),
        (Method::POST, PATH.to_owned(), Scope::Send),
        (Method::POST, format!("{PATH}/remove"), Scope::Admin),
        (Method::POST, format!("{PATH}/import"), Scope::Admin),
        (Method::DELETE, format!("{PATH}/nobody@example.test"), Scope::Admin),
    ];
    for scope in Scope::ALL {
        let api = app.with_scopes(&[scope]).await;
        for (method, path, needed) in &calls {
            let response = ApiResponse::to(api.request(method.clone(), path).json(&json!([]))).await;
            let allowed = needed.granted_by().contains(&scope);
            assert_eq!(response.status != 403, allowed, "{scope:?}: {method} {path} is {}", response.status);
        }
    }
}

#[tokio::test]
async fn send_key_can_only_extend_suppressions() {
    let app = TestApp::start().await;
    let shop = app.with_scopes(&[Scope::Send]).await;
    let entry = |reason: &str, expires_at: Option<String>| json!({"address": "ann@example.test", "reason": reason, "expires_at": expires_at});
    let anns_entry = async || app.get(&format!("{PATH}/ann@example.test")).await.body["data"][0].clone();
    assert_eq!(shop.post(PATH, &entry("unsubscribe", Some(app.clock.text_in(hours(1))))).await.body, counts(1, 0, 0));
    assert_eq!(shop.post(PATH, &entry("manual", Some(app.clock.text_in(minutes(1))))).await.body, counts(0, 0, 1));
    assert_eq!(anns_entry().await["reason"], "unsubscribe");
    assert_eq!(shop.post(PATH, &entry("complaint", None)).await.body, counts(0, 1, 0), "the new entry lasts longer");
    assert_eq!(shop.post(PATH, &entry("manual", Some(app.clock.text_in(hours(9))))).await.body, counts(0, 0, 1));
    assert_eq!((&anns_entry().await["reason"], &anns_entry().await["expires_at"]), (&json!("complaint"), &json!(null)));
    let until = app.clock.text_in(hours(9));
    assert_eq!(add(&app, entry("manual", Some(until))).await, counts(0, 1, 0), "an administrator may shorten");
    assert_eq!(anns_entry().await["expires_at"], "2026-11-23T21:00:00Z");
}

#[tokio::test]
async fn key_with_sender_domains_cannot_suppress() {
    let app = TestApp::start().await;
    let shop = app.with_sender_domains(&["acme.test"]).await;
    let refused = shop.post(PATH, &json!("ann@example.test")).await;
    assert_eq!((refused.status, refused.problem().1), (403, "forbidden"));
    assert!(refused.body["detail"].as_str().unwrap().contains("sender_domains"), "{}", refused.body);
    let operator = app.with_scopes(&[Scope::Admin]).await;
    assert_eq!(operator.post(PATH, &json!("ann@example.test")).await.body, counts(1, 0, 0));
}

#[tokio::test]
async fn entry_changed_during_its_removal_is_removed() {
    let app = TestApp::start().await;
    add(&app, json!("ann@example.test")).await;
    let mut other = app.database.connect().await;
    sqlx::raw_sql("BEGIN; UPDATE suppressions SET note = 'he called'").execute(&mut other).await.unwrap();
    let api = app.api().clone();
    let removal = tokio::spawn(async move { api.delete(&format!("{PATH}/ann@example.test")).await.status });
    let mut watcher = app.database.connect().await;
    until_waiting_for_lock(&mut watcher, "").await;
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    assert_eq!(removal.await.unwrap(), 204);
    assert_eq!(addresses(&app.get(PATH).await.body).len(), 0);
}

#[tokio::test]
async fn every_fault_is_reported_with_its_pointer() {
    let app = TestApp::start().await;
    let body = json!([
        "x", {"address": "ann@example.test", "reason": "rude", "stream": "none", "expires_at": "yesterday", "x": 1},
        {"address": "Ann <ann@example.test>", "note": "a\nb"}, 5,
    ]);
    let response = app.post(PATH, &body).await;
    let mut faults = response.faults();
    faults.sort_unstable();
    let expected = [
        ("/0", "invalid_address"),
        ("/1/expires_at", "invalid_timestamp"),
        ("/1/reason", "invalid_value"),
        ("/1/stream", "unknown_stream"),
        ("/1/x", "unknown_field"),
        ("/2/address", "invalid_address"),
        ("/2/note", "control_character"),
        ("/3", "invalid_type"),
    ];
    assert_eq!((response.status, faults), (422, expected.to_vec()));
    assert_eq!(addresses(&app.get(PATH).await.body).len(), 0, "no entry is added if one is invalid");
    let many: Vec<String> = (0..1_001).map(|n| format!("a{n}@example.test")).collect();
    assert_eq!(app.post(PATH, &json!(many)).await.faults(), [("", "too_many")]);
    assert_eq!(add(&app, json!(many[..1_000])).await, counts(1_000, 0, 0));
    assert_eq!(
        app.post(&format!("{PATH}/remove"), &json!([{"address": 5}])).await.faults(),
        [("/0/address", "invalid_type")]
    );
    let text = app.request(Method::POST, PATH).header("content-type", "text/plain").body("ann@example.test");
    assert_eq!(ApiResponse::to(text).await.status, 415);
    assert_eq!(app.post(&format!("{PATH}/remove"), &json!(many[..1_000])).await.body, json!({"removed": 1_000}));
}

#[tokio::test]
async fn concurrent_adds_create_one_entry_per_address() {
    let app = TestApp::start().await;
    let (_other, other) = app.another_api().await;
    let forth: Vec<String> = (0..200).map(|n| format!("a{n:03}@example.test")).collect();
    let back: Vec<String> = forth.iter().rev().cloned().collect();
    let (mut tasks, rounds) = (tokio::task::JoinSet::new(), 4);
    for _ in 0..rounds {
        for (api, list) in [(app.api().clone(), forth.clone()), (other.clone(), back.clone())] {
            tasks.spawn(async move { api.post(PATH, &json!(list)).await });
        }
    }
    let (mut added, mut unchanged) = (0, 0);
    while let Some(response) = tasks.join_next().await {
        let response = response.unwrap();
        assert_eq!(response.status, 200, "{}", response.body);
        added += response.body["added"].as_u64().unwrap();
        unchanged += response.body["unchanged"].as_u64().unwrap();
    }
    assert_eq!((added, unchanged), (200, 200 * (2 * rounds - 1)));
}
