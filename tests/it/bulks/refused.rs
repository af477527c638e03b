//! Faults of bulks, with their pointers.

use postrider::domain::key::Scope;
use serde_json::{Value, json};

use super::{PATH, accepted, bulk, counts, expanded, read, recipients};
use crate::support::app::TestApp;

#[tokio::test]
async fn valid_recipients_are_accepted_and_others_listed() {
    let app = TestApp::start().await;
    let list = json!([
        {"to": "ann@example.test"},
        {"to": "no address"},
        {"to": "bo@example.test", "variables": {"name": "Bo"}},
        {"to": "bo@example.test"},
        {"to": ["carol@example.test"]},
        {"email": "dan@example.test"},
        5,
    ]);
    let sent = app.post(PATH, &bulk(&list, json!({}))).await;
    let id = accepted(&sent);
    assert_eq!((&sent.body["accepted"], &sent.body["rejected"]), (&json!(2), &json!(5)));
    let faults: Vec<(&Value, &Value, &Value)> = sent.body["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (&one["index"], &one["errors"][0]["pointer"], &one["errors"][0]["code"]))
        .collect();
    assert_eq!(
        json!(faults),
        json!([
            [1, "/recipients/1/to", "invalid_address"],
            [2, "/recipients/2/variables", "invalid_value"],
            [4, "/recipients/4/to", "invalid_type"],
            [5, "/recipients/5/email", "unknown_field"],
            [6, "/recipients/6", "invalid_type"],
        ])
    );
    expanded(&app.database).await;
    app.run_until_idle().await;
    let stored = read(&app, &id).await;
    assert_eq!(
        (&stored["accepted"], &stored["rejected"], counts(&stored)),
        (&json!(2), &json!(5), json!({"relayed": 2}))
    );
}

#[tokio::test]
async fn invalid_bulks_are_refused_with_pointers() {
    let app = TestApp::start().await;
    for (body, pointer, code) in [
        (json!([]), "", "invalid_type"),
        (json!({}), "/recipients", "required"),
        (bulk(&json!([]), json!({})), "/recipients", "required"),
        (bulk(&json!({}), json!({})), "/recipients", "invalid_type"),
        (bulk(&recipients(10_001), json!({})), "/recipients", "too_many"),
        (bulk(&recipients(1), json!({"to": "ann@example.test"})), "/to", "unknown_field"),
        (bulk(&recipients(1), json!({"from": null})), "/from", "required"),
        (bulk(&recipients(1), json!({"subject": null})), "/subject", "required"),
        (bulk(&recipients(1), json!({"subject": "a\nb"})), "/subject", "control_character"),
        (bulk(&recipients(1), json!({"text": null})), "/text", "required"),
        (bulk(&recipients(1), json!({"template": {"id": "none"}, "text": null})), "/template/id", "unknown_template"),
        (bulk(&recipients(1), json!({"stream": "none"})), "/stream", "unknown_stream"),
        (bulk(&json!([{"to": "no"}]), json!({})), "/recipients/0/to", "invalid_address"),
        (
            bulk(&json!([{"to": "a@b.test", "idempotency_key": ""}]), json!({})),
            "/recipients/0/idempotency_key",
            "invalid_value",
        ),
    ] {
        let refused = app.post(PATH, &body).await;
        assert_eq!((refused.status, refused.faults()), (422, vec![(pointer, code)]), "{}", refused.body);
    }
    for (body, status) in [("{", 400), ("", 400), ("[1", 400), ("{\"recipients\":[{}],\"recipients\":[{}]}", 422)] {
        let request = app.request(reqwest::Method::POST, PATH).header("content-type", "application/json").body(body);
        let refused = crate::support::client::ApiResponse::to(request).await;
        assert_eq!(refused.status, status, "{body}: {}", refused.body);
    }
    let dry_run = app.post(&format!("{PATH}?dry_run=true"), &bulk(&recipients(1), json!({}))).await;
    assert_eq!((dry_run.status, dry_run.faults()), (422, vec![("dry_run", "not_available")]));
}

#[tokio::test]
async fn variables_are_checked_at_accept() {
    let app = TestApp::start().await;
    let fields = json!({
        "name": "News", "alias": "news", "subject": "News {{ n }}", "text": "{{ name }}", "from": "news@{{ domain }}",
        "variables": [{"key": "name", "type": "string", "max_length": 5}, {"key": "n", "type": "number"},
                      {"key": "domain", "type": "string", "default": "acme.test"}],
    });
    assert_eq!(app.post("/v1/templates", &fields).await.status, 201);
    app.post("/v1/templates/news/publish", &json!({})).await;
    let list = json!([
        {"to": "a@example.test", "variables": {"name": "Ann", "other": 1}},
        {"to": "b@example.test"},
        {"to": "c@example.test", "variables": {"name": "too long"}},
        {"to": "d@example.test", "variables": {"name": "Dan", "n": "1"}},
        {"to": "e@example.test", "variables": {"name": "Eve", "domain": "other.test"}},
        {"to": "f@example.test", "variables": {"name": "Fay", "domain": "not a domain"}},
    ]);
    let sent = app.post(PATH, &json!({"template": {"id": "news", "variables": {"n": 7}}, "recipients": list})).await;
    assert_eq!(sent.body["accepted"], 1, "{}", sent.body);
    let faults: Vec<_> = sent.body["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (&one["errors"][0]["pointer"], &one["errors"][0]["code"]))
        .collect();
    assert_eq!(
        json!(faults),
        json!([
            ["/recipients/1/variables/name", "required"],
            ["/recipients/2/variables/name", "too_long"],
            ["/recipients/3/variables/n", "invalid_type"],
            ["/recipients/4/variables", "invalid_value"],
            ["/recipients/5/template", "invalid_address"],
        ])
    );
    assert_eq!(sent.body["warnings"][0]["code"], "unknown_variable");
    expanded(&app.database).await;
    app.run_until_idle().await;
}

#[tokio::test]
async fn keys_see_and_send_only_bulks_of_their_domains() {
    let app = TestApp::start().await;
    let id = super::send(&app, &bulk(&recipients(1), json!({}))).await;
    app.run_until_idle().await;
    let (other, own) = (app.with_sender_domains(&["other.test"]).await, app.with_sender_domains(&["acme.test"]).await);
    assert_eq!(other.post(PATH, &bulk(&recipients(1), json!({}))).await.status, 403);
    assert_eq!(other.post(&format!("/v1/bulks/{id}/cancel"), &json!({})).await.status, 404);
    assert_eq!(own.post(&format!("/v1/bulks/{id}/cancel"), &json!({})).await.status, 200);
    let sender = app.with_scopes(&[Scope::Send]).await;
    let legal = bulk(&recipients(1), json!({"ignore_suppression": true}));
    assert_eq!((sender.post(PATH, &legal).await.status, sender.get("/v1/bulks").await.status), (403, 403));
    for path in ["/v1/bulks/blk_00000000000070008000000000000000", "/v1/bulks/none"] {
        assert_eq!(app.get(path).await.status, 404, "{path}");
    }
}
