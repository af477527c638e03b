//! `POST /emails/batch`.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Response, email, get, native, post, start};
use crate::support::app::TestApp;

const PATH: &str = "/emails/batch";

async fn send(app: &TestApp, validation: &str, body: &Value) -> Response {
    Response::to(app.request(Method::POST, PATH).header("x-batch-validation", validation).json(body)).await
}

fn ids(body: &Value) -> Vec<String> {
    body["data"].as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn batch_may_have_attachments_and_times() {
    let app = start().await;
    let file = json!([{"filename": "a.txt", "content": "aGk="}]);
    let body = json!([
        email(json!({"subject": "one", "attachments": file})),
        email(json!({"subject": "two", "scheduled_at": "in 1 hour"})),
        email(json!({"subject": "three", "attachments": file})),
    ]);
    let response = post(&app, PATH, &body).await;
    assert_eq!((response.status, response.body.as_object().unwrap().len()), (200, 1), "{}", response.body);
    let ids = ids(&response.body);
    for (id, (subject, files, state)) in
        ids.iter().zip([("one", 1, "queued"), ("two", 0, "scheduled"), ("three", 1, "queued")])
    {
        let shown = get(&app, &format!("/emails/{id}")).await.ok();
        assert_eq!((&shown["subject"], &shown["last_event"]), (&json!(subject), &json!(state)));
        assert_eq!(app.message(&native(id)).await["attachments"].as_array().unwrap().len(), files);
    }
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 2);
}

#[tokio::test]
async fn strict_batch_is_accepted_as_a_whole_or_not_at_all() {
    let app = start().await;
    let body = json!([email(json!({})), email(json!({"to": "nobody"}))]);
    for validation in ["strict", ""] {
        let refused =
            if validation.is_empty() { post(&app, PATH, &body).await } else { send(&app, validation, &body).await };
        assert_eq!(refused.error(), (422, "validation_error"));
        assert!(refused.message().starts_with("Invalid `[1].to` field"), "{}", refused.message());
    }
    assert_eq!(get(&app, "/emails").await.ok()["data"], json!([]));
    assert_eq!(send(&app, "lenient", &body).await.error(), (422, "validation_error"));
}

#[tokio::test]
async fn permissive_batch_lists_the_refused_messages() {
    let app = start().await;
    let body = json!([email(json!({})), email(json!({"to": "nobody"})), email(json!({"subject": ""}))]);
    let response = send(&app, "permissive", &body).await.ok();
    assert_eq!(ids(&response).len(), 1);
    let errors = response["errors"].as_array().unwrap();
    assert_eq!((&errors[0]["index"], &errors[1]["index"]), (&json!(1), &json!(2)));
    assert!(errors[0]["message"].as_str().unwrap().starts_with("Invalid `to` field"), "{errors:?}");
    assert_eq!(errors[1]["message"], "Missing `subject` field.");
    let valid = send(&app, "permissive", &json!([email(json!({}))])).await.ok();
    assert_eq!(valid["errors"], json!([]));
}

#[tokio::test]
async fn permissive_batch_lists_what_cannot_be_translated() {
    let app = start().await;
    let wrong = email(json!({"scheduled_at": "someday"}));
    let by_url = email(json!({"attachments": [{"filename": "a", "path": "ftp://example.test/a"}]}));
    let body = json!([wrong, email(json!({"subject": "one"})), 5, email(json!({"to": "nobody"})), by_url]);
    let keyed = |body: &Value| {
        let request = app.request(Method::POST, PATH).header("x-batch-validation", "permissive");
        Response::to(request.header("idempotency-key", "batch-2").json(body))
    };
    let response = keyed(&body).await.ok();
    assert_eq!(ids(&response).len(), 1);
    let errors = response["errors"].as_array().unwrap();
    let fields = ["`scheduled_at`", "Expected an object", "`to`", "`attachments[0].path`"];
    for (error, (index, field)) in errors.iter().zip([0, 2, 3, 4].into_iter().zip(fields)) {
        assert_eq!(error["index"], index, "{errors:?}");
        assert!(error["message"].as_str().unwrap().contains(field), "{errors:?}");
    }
    assert_eq!(keyed(&body).await.ok(), response, "the same response again");
    let none = json!([wrong, 5]);
    assert_eq!(keyed(&none).await.error(), (409, "invalid_idempotent_request"));
    let refused = send(&app, "permissive", &none).await.ok();
    assert_eq!((&refused["data"], refused["errors"].as_array().unwrap().len()), (&json!([]), 2));
    assert_eq!(send(&app, "strict", &none).await.error(), (422, "validation_error"));
}

#[tokio::test]
async fn batch_has_at_most_100_messages() {
    let app = start().await;
    assert_eq!(ids(&post(&app, PATH, &json!(vec![email(json!({})); 100])).await.ok()).len(), 100);
    for body in [json!(vec![email(json!({})); 101]), json!({}), json!("x")] {
        assert_eq!(post(&app, PATH, &body).await.error(), (422, "validation_error"));
    }
    assert_eq!(post(&app, PATH, &json!([])).await.error().0, 422);
}

#[tokio::test]
async fn repeated_batch_returns_the_first_ids() {
    let app = start().await;
    let body = json!([email(json!({"scheduled_at": "in 1 hour"})), email(json!({"subject": "two"}))]);
    let keyed =
        |body: &Value| Response::to(app.request(Method::POST, PATH).header("idempotency-key", "batch-1").json(body));
    let first = keyed(&body).await.ok();
    app.clock.advance(chrono::TimeDelta::minutes(1));
    assert_eq!(keyed(&body).await.ok(), first);
    assert_eq!(keyed(&json!([email(json!({}))])).await.error(), (409, "invalid_idempotent_request"));
}
