//! An error says by itself where it is and what would fix it: `detail` names the place, unknown names come with known ones.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::{ApiResponse, message};

#[tokio::test]
async fn detail_of_one_fault_names_its_place() {
    let app = TestApp::start().await;
    for (fields, detail) in [
        (json!({"to": ["ann"]}), "`/to/0`: "),
        (json!({"subject": null}), "`/subject`: `subject` is required."),
        (json!({"attachments": [{"filename": "a", "content": "aGk"}]}), "`/attachments/0/content`: "),
        (json!({"send_at": "2026-12-01T09:00:00Z"}), "`/send_at`: unknown field; did you mean `scheduled_at`?"),
        (
            json!({"attachments": [{"filename": "a", "content": "", "cid": "x"}]}),
            "`/attachments/0/cid`: unknown field; ",
        ),
    ] {
        let response = app.post("/v1/messages", &message(fields)).await;
        assert!(response.body["detail"].as_str().unwrap().starts_with(detail), "{detail}: {}", response.body);
        assert_eq!(response.body["errors"].as_array().unwrap().len(), 1);
    }
    let query = app.get("/v1/messages?limit=0").await;
    assert_eq!(query.body["detail"], "`limit`: Pass a number from 1 to 100.");
    let body = message(json!({"ignore_suppression": true}));
    let forbidden = app.with_scopes(&[postrider::domain::key::Scope::Send]).await.post("/v1/messages", &body).await;
    assert_eq!(forbidden.problem(), (403, "forbidden"));
    assert!(forbidden.body["detail"].as_str().unwrap().starts_with("`/ignore_suppression`: "), "{}", forbidden.body);
}

/// The query parameters of an operation in the document.
fn documented(operation: &Value) -> Vec<&str> {
    let all = operation["parameters"].as_array().into_iter().flatten();
    let mut names: Vec<&str> =
        all.filter(|one| one["in"] == "query").map(|one| one["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    names
}

/// The names in backquotes after "use one of".
fn known(message: &str) -> Vec<&str> {
    let (_, list) = message.to_lowercase().find("use one of").map(|at| message.split_at(at)).expect(message);
    let mut names: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn an_unknown_parameter_is_told_the_known_ones() {
    let app = TestApp::builder().config(|config| config.webhooks.allow_private = true).start().await;
    let id = app.send(json!({})).await.id;
    let hook = app.post("/v1/webhooks", &json!({"url": "http://127.0.0.1:9/"})).await.body["id"].clone();
    let key = app.post("/v1/keys", &json!({"name": "other"})).await.body["id"].clone();
    let document = serde_json::to_value(postrider::http::document()).unwrap();
    let mut checked = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let names = documented(operation);
            if names.is_empty() || path.starts_with("/v1/dev/") {
                continue;
            }
            let method: Method = method.to_uppercase().parse().unwrap();
            let id = match path.split('/').nth(2) {
                Some("webhooks") => hook.as_str().unwrap(),
                Some("keys") => key.as_str().unwrap(),
                _ => &id,
            };
            let path = path.replace("/lanes/{id}", "/lanes/lane_1").replace("{id}", id);
            let path = path.replace("{address}", "ann@example.test") + "?zzzzzzzz=1";
            let response = ApiResponse::to(app.request(method.clone(), &path).json(&message(json!({})))).await;
            assert_eq!(response.faults(), [("zzzzzzzz", "unknown_field")], "{method} {path}: {}", response.body);
            assert_eq!(known(response.body["errors"][0]["message"].as_str().unwrap()), names, "{method} {path}");
            checked += 1;
        }
    }
    assert!(checked >= 12, "{checked}");
    let close = app.get("/v1/messages?createdAfter=2026-12-01T09:00:00Z").await;
    assert!(close.body["detail"].as_str().unwrap().contains("did you mean `created_after`?"), "{}", close.body);
    let none = app.get("/v1/streams?limit=5").await;
    assert!(none.body["detail"].as_str().unwrap().ends_with("this endpoint has none."), "{}", none.body);
}
