//! Every call for a message that was sent from SQL, and is not accepted yet or was rejected, says so.

use postrider::domain::key::Scope;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::{TestApp, make_key};
use crate::support::client::ApiResponse;

/// A row that another process has claimed for a long time.
const WAITING: &str = "
    INSERT INTO sql_inbox (tenant_id, id, payload, size, role, created_at, claimed_until)
    VALUES ('00000000-0000-0000-0000-000000000000', uuid_floor(now()), '{\"from\": \"a@acme.test\"}', 30, 'x', now(),
            '2100-01-01T00:00:00Z')
    RETURNING 'msg_' || replace(id::text, '-', '')";
const REJECTED: &str = "
    INSERT INTO sql_inbox (tenant_id, id, payload, size, role, created_at, refused_at, errors)
    VALUES ('00000000-0000-0000-0000-000000000000', uuid_floor(now() - interval '1 hour'), '{\"from\": \"a@acme.test\"}', 30,
            'x', now(), now(), '[{\"pointer\": \"/to\", \"code\": \"required\", \"message\": \"is required\"}]')
    RETURNING 'msg_' || replace(id::text, '-', '')";

/// Inserts a row, and returns the id of its message.
async fn insert(app: &TestApp, row: &'static str) -> String {
    sqlx::query_scalar(row).fetch_one(&mut app.database.connect().await).await.unwrap()
}

/// Returns the operations on one message in the OpenAPI document, with `{id}` in their paths.
fn operations() -> Vec<(Method, String)> {
    let document = serde_json::to_value(postrider::http::document()).unwrap();
    let of_path = |(path, methods): (&String, &Value)| -> Vec<(Method, String)> {
        let named = |name: &String| match name.as_str() {
            "get" => Some(Method::GET),
            "post" => Some(Method::POST),
            "patch" => Some(Method::PATCH),
            _ => None,
        };
        let methods = methods.as_object().unwrap().keys().filter_map(named);
        methods.map(|method| (method, path.replace("{n}", "0"))).collect()
    };
    let paths = document["paths"].as_object().unwrap().iter().filter(|(path, _)| path.starts_with("/v1/messages/{id}"));
    paths.flat_map(of_path).collect()
}

/// Calls every operation on a message, and returns the responses with the paths.
async fn call_all(app: &TestApp, id: &str) -> Vec<(String, ApiResponse)> {
    let mut responses = Vec::new();
    for (method, path) in operations() {
        let mut request = app.request(method.clone(), &path.replace("{id}", id));
        if method != Method::GET {
            request = request.json(&json!({"scheduled_at": "2100-01-01T00:00:00Z"}));
        }
        responses.push((format!("{method} {path}"), ApiResponse::to(request).await));
    }
    responses
}

#[tokio::test]
async fn every_call_says_why_a_message_is_not_accepted() {
    let app = TestApp::start().await;
    for (row, code, reason) in [
        (WAITING, "not_accepted", "a process with the API accepts it"),
        (REJECTED, "message_rejected", "/to is required"),
    ] {
        let id = insert(&app, row).await;
        let responses = call_all(&app, &id).await;
        assert!(responses.len() >= 10, "{} operations", responses.len());
        for (operation, response) in responses {
            assert_eq!(response.problem(), (409, code), "{operation}");
            assert!(response.body["detail"].as_str().unwrap().contains(reason), "{operation}: {}", response.body);
        }
    }
}

#[tokio::test]
async fn message_of_another_sender_or_tenant_is_not_found() {
    let app = TestApp::start().await;
    let id = insert(&app, WAITING).await;
    let of_sender = app.with_key(&make_key(&app.db, &*app.clock, &[Scope::Read], Some(&["other.test"])).await);
    let of_test = app.with_test_key().await;
    for (_, path) in operations().into_iter().filter(|(method, _)| method == Method::GET) {
        for api in [&of_sender, &of_test] {
            assert_eq!(api.get(&path.replace("{id}", &id)).await.status, 404, "{path}");
        }
    }
}
