//! Strict batches are accepted entirely or not at all; permissive ones list what they refuse.

use postrider::config::Unverified;
use reqwest::Method;
use serde_json::{Value, json};

use super::{PATH, count, ids, indexes, messages};
use crate::support::app::TestApp;
use crate::support::client::{ApiResponse, message};
use crate::support::clock::hours;

/// Returns this many messages, with those at the indexes of `bad` replaced by its values.
fn with_bad(count: usize, bad: &[(usize, Value)]) -> Vec<Value> {
    let mut messages = messages(count);
    for (index, value) in bad {
        messages[*index] = value.clone();
    }
    messages
}

/// Three messages that are not valid, with their indexes.
fn three_bad() -> [(usize, Value); 3] {
    [
        (3, message(json!({"to": ["ann@example.test", "not an address"]}))),
        (17, message(json!({"subject": null, "attachments": [{"filename": "a", "content": "*"}]}))),
        (99, json!([])),
    ]
}

async fn stored(app: &TestApp) -> i64 {
    count(&mut app.database.connect().await).await
}

#[tokio::test]
async fn strict_batch_with_faults_stores_nothing() {
    let app = TestApp::start().await;
    let body = with_bad(100, &three_bad());
    let expected = [
        ("/3/to/1", "invalid_address"),
        ("/17/subject", "required"),
        ("/17/attachments/0/content", "invalid_base64"),
        ("/99", "invalid_type"),
    ];
    let refused = app.post(PATH, &json!(body)).await;
    assert_eq!((refused.problem(), refused.faults()), ((422, "invalid_request"), expected.to_vec()));
    for validation in [json!(null), json!("strict")] {
        let refused = app.post(PATH, &json!({"messages": body, "validation": validation})).await;
        let pointers: Vec<String> = expected.iter().map(|(pointer, _)| format!("/messages{pointer}")).collect();
        assert_eq!(refused.faults().iter().map(|(pointer, _)| *pointer).collect::<Vec<_>>(), pointers);
    }
    assert_eq!(stored(&app).await, 0);
}

#[tokio::test]
async fn permissive_batch_accepts_the_valid_messages() {
    let app = TestApp::start().await;
    let body = json!({"messages": with_bad(100, &three_bad()), "validation": "permissive"});
    let response = app.post(PATH, &body).await;
    let accepted: Vec<u64> = (0..100).filter(|index| ![3, 17, 99].contains(index)).collect();
    assert_eq!((ids(&response).len(), indexes(&response.body["data"])), (97, accepted));
    assert_eq!(indexes(&response.body["errors"]), [3, 17, 99]);
    let faults = &response.body["errors"][1]["errors"];
    assert_eq!((&faults[0]["pointer"], &faults[0]["code"]), (&json!("/messages/17/subject"), &json!("required")));
    assert!(faults[1]["message"].is_string(), "{faults}");
    assert_eq!(stored(&app).await, 97);
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 97);
}

#[tokio::test]
async fn permissive_batch_without_valid_messages_gets_202() {
    let app = TestApp::start().await;
    let response = app.post(PATH, &json!({"messages": [{}, 7], "validation": "permissive"})).await;
    assert_eq!((response.status, &response.body["data"]), (202, &json!([])));
    assert_eq!(indexes(&response.body["errors"]), [0, 1]);
    let valid = app.post(PATH, &json!({"messages": messages(1), "validation": "permissive"})).await;
    assert_eq!((valid.status, &valid.body["errors"]), (202, &json!([])));
    assert_eq!(stored(&app).await, 1);
}

#[tokio::test]
async fn number_of_messages_is_limited() {
    let app = TestApp::start().await;
    let many = |count: usize| json!(vec![message(json!({})); count]);
    for (body, pointer, code) in [
        (many(1_001), "", "too_many"),
        (json!({"messages": many(1_001), "validation": "permissive"}), "/messages", "too_many"),
        (json!([]), "", "required"),
        (json!({"messages": []}), "/messages", "required"),
        (json!({}), "/messages", "required"),
    ] {
        let refused = app.post(PATH, &body).await;
        assert_eq!((refused.status, refused.faults()), (422, vec![(pointer, code)]));
    }
    assert_eq!(stored(&app).await, 0);
    assert_eq!(ids(&app.post(PATH, &many(1_000)).await).len(), 1_000);
}

#[tokio::test]
async fn garbage_gets_a_4xx_problem() {
    let app = TestApp::start().await;
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
    let nested = format!("[{}]", deep("[", "]"));
    let many_names = format!("{{{}\"messages\":[]}}", "\"a\":1,".repeat(200_000));
    let many_values = format!("[{{\"metadata\":[{}1]}}]", "1,".repeat(30_000));
    let many_messages = format!("[{}1]", "1,".repeat(500_000));
    for (body, status) in [
        ("", 400),
        ("[", 400),
        ("[{},]", 400),
        ("{\"messages\":[{}]", 400),
        ("[\u{0}]", 400),
        (nested.as_str(), 400),
        (&many_values, 400),
        (&many_names, 422),
        (&many_messages, 422),
        ("\"messages\"", 422),
        ("null", 422),
        ("{\"messages\":{\"0\":{}}}", 422),
        ("{\"messages\":[[[{}]]],\"validation\":[]}", 422),
        ("{\"messages\":[null],\"messages\":[]}", 422),
        ("[null, true, 1e5, \"\\u0000\", {\"to\": {\"to\": {}}}]", 422),
    ] {
        let request = app.request(Method::POST, PATH).header("content-type", "application/json").body(body.to_owned());
        let response = ApiResponse::to(request).await;
        assert_eq!(response.status, status, "{body:.60}: {}", response.body);
        assert!(response.body["errors"].as_array().is_none_or(|errors| errors.len() <= 1_001), "{body:.60}");
        assert!(response.bytes.len() < 300_000, "{body:.60}: {} bytes", response.bytes.len());
    }
    let text = app.request(Method::POST, PATH).header("content-type", "text/plain").body("[]");
    assert_eq!(ApiResponse::to(text).await.problem(), (415, "unsupported_media_type"));
    let get = ApiResponse::to(app.request(Method::GET, PATH)).await;
    assert_eq!(get.problem(), (405, "method_not_allowed"));
}

#[tokio::test]
async fn list_of_faults_is_bounded() {
    let app = TestApp::start().await;
    let body = vec![json!({"from": "a@acme.test", "to": vec!["x"; 50], "subject": "s", "text": "t"}); 1_000];
    let refused = app.post(PATH, &json!(body)).await;
    let faults = refused.faults();
    assert_eq!((refused.status, faults.len(), faults[1_000].1), (422, 1_001, "too_many_faults"));
    let response = app.post(PATH, &json!({"messages": body, "validation": "permissive"})).await;
    assert_eq!((response.status, indexes(&response.body["errors"]).len()), (202, 1_000));
    assert!(response.bytes.len() < 1_000_000, "{} bytes", response.bytes.len());
}

#[tokio::test]
async fn sender_domains_of_the_key_apply_to_each_message() {
    let app = TestApp::start().await;
    let shop = app.with_sender_domains(&["acme.test"]).await;
    let foreign = message(json!({"from": "a@other.test"}));
    let refused = shop.post(PATH, &json!([message(json!({})), foreign])).await;
    assert_eq!((refused.problem(), refused.faults()), ((403, "forbidden"), vec![("/1/from", "forbidden")]));
    let mixed = shop.post(PATH, &json!([foreign, {"from": "a@acme.test"}])).await;
    let codes: Vec<&str> = mixed.faults().into_iter().map(|(_, code)| code).collect();
    assert_eq!((mixed.status, codes), (422, vec!["forbidden", "required", "required", "required"]));
    assert_eq!(stored(&app).await, 0);
    let body = json!({"messages": [message(json!({})), foreign], "validation": "permissive"});
    let response = shop.post(PATH, &body).await;
    assert_eq!((indexes(&response.body["data"]), indexes(&response.body["errors"])), (vec![0], vec![1]));
    assert_eq!(response.body["errors"][0]["errors"][0]["code"], "forbidden");
    assert_eq!(stored(&app).await, 1);
}

#[tokio::test]
async fn unverified_sender_domain_is_refused_per_message() {
    let app = TestApp::builder().config(|config| config.domains.unverified = Unverified::Refuse).start().await;
    let refused = app.post(PATH, &json!(messages(2))).await;
    let expected = vec![("/0/from", "unverified_domain"), ("/1/from", "unverified_domain")];
    assert_eq!((refused.status, refused.faults()), (422, expected));
}

#[tokio::test]
async fn dry_run_of_a_batch_is_refused_clearly() {
    let app = TestApp::start().await;
    let refused = app.post(&format!("{PATH}?dry_run=true"), &json!(messages(1))).await;
    assert_eq!((refused.status, refused.faults()), (422, vec![("dry_run", "not_available")]));
    assert_eq!(
        app.post(&format!("{PATH}?dryrun=true"), &json!(messages(1))).await.faults(),
        [("dryrun", "unknown_field")]
    );
    assert_eq!(stored(&app).await, 0);
    assert_eq!(app.post(&format!("{PATH}?dry_run=false"), &json!(messages(1))).await.status, 202);
}

#[tokio::test]
async fn body_limit_applies_to_the_whole_batch() {
    let app = TestApp::builder().config(|config| config.accept.max_body_mib = 1).start().await;
    let text = "x".repeat(40_000);
    let large = |count: usize| json!(vec![message(json!({"text": text})); count]);
    assert_eq!(app.post(PATH, &large(30)).await.problem(), (413, "too_large"));
    assert_eq!(ids(&app.post(PATH, &large(20)).await).len(), 20);
}

#[tokio::test]
async fn times_of_each_message_are_checked() {
    let app = TestApp::start().await;
    let past = app.clock.text_in(hours(-1));
    let body = json!([message(json!({"expires_at": past})), message(json!({"scheduled_at": "tomorrow"}))]);
    let refused = app.post(PATH, &body).await;
    let expected = vec![("/0/expires_at", "invalid_timestamp"), ("/1/scheduled_at", "invalid_timestamp")];
    assert_eq!((refused.status, refused.faults()), (422, expected));
}
