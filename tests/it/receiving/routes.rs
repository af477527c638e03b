//! `/v1/inbound-routes`.

use serde_json::{Value, json};

use super::{deliver, mime, received, route, start};
use crate::support::app::TestApp;
use crate::support::inbound_client::Client;

#[tokio::test]
async fn route_is_created_changed_and_deleted() {
    let app = TestApp::start().await;
    let created = route(&app, "Reply+*@Bücher.example", "webhook").await;
    assert_eq!(
        (&created["match"], &created["action"]),
        (&json!("reply+*@xn--bcher-kva.example"), &json!({"type": "webhook"}))
    );
    let path = format!("/v1/inbound-routes/{}", created["id"].as_str().unwrap());
    assert_eq!(app.get(&path).await.body, created);
    let changed = app.patch(&path, &json!({"action": {"type": "store"}})).await;
    assert_eq!((changed.status, &changed.body["action"]["type"]), (200, &json!("store")));
    app.clock.advance(crate::support::clock::seconds(1));
    route(&app, "*@acme.test", "store").await;
    let first = app.get("/v1/inbound-routes?limit=1").await.body;
    assert_eq!((&first["data"][0]["match"], &first["has_more"]), (&json!("*@acme.test"), &json!(true)));
    let next = app.get(&format!("/v1/inbound-routes?after={}", first["next"].as_str().unwrap())).await.body;
    assert_eq!((&next["data"][0]["id"], &next["next"]), (&created["id"], &json!(null)));
    assert_eq!(app.delete(&path).await.status, 204);
    assert_eq!(app.delete(&path).await.status, 404);
    assert_eq!(app.get(&path).await.status, 404);
    let audit = app.get("/v1/audit").await.body;
    let actions: Vec<&str> =
        audit["data"].as_array().unwrap().iter().filter_map(|row| row["action"].as_str()).collect();
    for action in ["create_inbound_route", "update_inbound_route", "delete_inbound_route"] {
        assert!(actions.contains(&action), "{action}: {actions:?}");
    }
}

#[tokio::test]
async fn invalid_routes_are_refused_with_pointers() {
    let app = TestApp::start().await;
    let body = |matches: Value, action: Value| json!({"match": matches, "action": action});
    let store = json!({"type": "store"});
    for (body, pointer, code) in [
        (body(json!("acme.test"), store.clone()), "/match", "invalid_value"),
        (body(json!("*@*.acme.test"), store.clone()), "/match", "invalid_value"),
        (body(json!("re*@acme.test"), store.clone()), "/match", "invalid_value"),
        (body(json!("a@localhost"), store.clone()), "/match", "invalid_value"),
        (body(json!("a@[127.0.0.1]"), store.clone()), "/match", "invalid_value"),
        (body(json!("a%b.test@acme.test"), store.clone()), "/match", "invalid_value"),
        (body(json!("a@acme.test\r\nX: y"), store), "/match", "control_character"),
        (body(json!("a@acme.test"), json!({"type": "forward"})), "/action/type", "invalid_value"),
        (
            body(json!("a@acme.test"), json!({"type": "relay", "to": "smtp://127.0.0.1:25"})),
            "/action/to",
            "invalid_value",
        ),
        (body(json!("a@acme.test"), json!({"type": "relay"})), "/action/to", "required"),
        (
            body(json!("a@acme.test"), json!({"type": "relay", "to": "smtp://m.test?ca_file=/etc/passwd"})),
            "/action/to",
            "invalid_value",
        ),
        (body(json!("a@acme.test"), json!({"type": "store", "to": "smtp://m.test"})), "/action/to", "invalid_value"),
        (body(json!("a@acme.test"), json!("store")), "/action", "invalid_type"),
        (json!({"match": "a@acme.test"}), "/action", "required"),
    ] {
        let refused = app.post("/v1/inbound-routes", &body).await;
        assert_eq!((refused.status, refused.faults()), (422, vec![(pointer, code)]), "{body}");
    }
    route(&app, "a@acme.test", "store").await;
    let again = app.post("/v1/inbound-routes", &json!({"match": "A@ACME.test", "action": {"type": "webhook"}})).await;
    assert_eq!(again.problem(), (409, "inbound_route_exists"));
}

#[tokio::test]
async fn most_specific_route_gets_the_message() {
    let app = start().await;
    let mut ids = std::collections::BTreeMap::new();
    for matches in
        ["*@reply.acme.test", "reply+*@reply.acme.test", "reply+x+*@reply.acme.test", "reply+7@reply.acme.test"]
    {
        ids.insert(route(&app, matches, "store").await["id"].as_str().unwrap().to_owned(), matches);
    }
    for (to, expected) in [
        ("reply+7@reply.acme.test", "reply+7@reply.acme.test"),
        ("REPLY+7@reply.acme.test", "reply+7@reply.acme.test"),
        ("reply+8@reply.acme.test", "reply+*@reply.acme.test"),
        ("reply+x+8@reply.acme.test", "reply+x+*@reply.acme.test"),
        ("reply+@reply.acme.test", "*@reply.acme.test"),
        ("reply@reply.acme.test", "*@reply.acme.test"),
        ("anybody+8@reply.acme.test", "*@reply.acme.test"),
    ] {
        let replies = deliver(&app, "ann@example.test", &[to], &mime("")).await;
        assert_eq!(replies[1], "250 2.0.0 Accepted\r\n", "{to}");
        let newest = &received(&app).await[0];
        assert_eq!(ids[newest["route_id"].as_str().unwrap()], expected, "{to}");
    }
}

#[tokio::test]
async fn change_of_routes_takes_effect_at_once() {
    let app = start().await;
    let code = async || deliver(&app, "ann@example.test", &["x@reply.acme.test"], &mime("")).await[0][..3].to_owned();
    assert_eq!(code().await, "550");
    let created = route(&app, "x@reply.acme.test", "store").await;
    assert_eq!(code().await, "250");
    app.delete(&format!("/v1/inbound-routes/{}", created["id"].as_str().unwrap())).await;
    assert_eq!(code().await, "550");
    assert_eq!(received(&app).await.len(), 1, "messages of a deleted route are kept");
}

#[tokio::test]
async fn deleted_route_defers_the_whole_message() {
    let app = start().await;
    route(&app, "a@reply.acme.test", "store").await;
    let deleted = route(&app, "b@reply.acme.test", "store").await;
    let mut client = Client::connect(app.inbound()).await;
    client.send("EHLO mx.example.test\r\nMAIL FROM:<ann@example.test>\r\n").await;
    client.send("RCPT TO:<a@reply.acme.test>\r\nRCPT TO:<b@reply.acme.test>\r\n").await;
    assert_eq!(client.codes(4).await, [250; 4]);
    app.delete(&format!("/v1/inbound-routes/{}", deleted["id"].as_str().unwrap())).await;
    assert_eq!(client.code("DATA\r\n").await, 354);
    let reply = client.say(&format!("{}.\r\n", mime(""))).await;
    assert_eq!(reply, "451 4.2.1 The recipients have changed, try again later\r\n");
    assert_eq!(received(&app).await.len(), 0, "the sending server has to learn that a recipient is gone");
    let to = ["a@reply.acme.test", "b@reply.acme.test"];
    let replies = deliver(&app, "ann@example.test", &to, &mime("")).await;
    assert_eq!(replies.iter().map(|reply| &reply[..3]).collect::<Vec<_>>(), ["250", "550", "250"]);
    assert_eq!(received(&app).await.len(), 1);
}
