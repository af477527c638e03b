//! Import and export of the list, as NDJSON and CSV.

use std::time::Duration;

use postrider::config::Config;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::ApiResponse;
use crate::support::clock::hours;
use crate::support::raw_http::{Raw, status};
use crate::support::until::until;

const PATH: &str = "/v1/suppressions";
const NDJSON: &str = "application/x-ndjson";
const CSV: &str = "text/csv; charset=utf-8";

async fn import(app: &TestApp, kind: &str, body: impl Into<reqwest::Body>) -> ApiResponse {
    let request = app.request(Method::POST, &format!("{PATH}/import")).header("content-type", kind);
    ApiResponse::to(request.body(body)).await
}

async fn export(app: &TestApp, kind: &str) -> String {
    let request = app.request(Method::GET, &format!("{PATH}/export")).header("accept", kind);
    let response = ApiResponse::to(request).await;
    assert_eq!(response.status, 200);
    assert!(response.headers["content-type"].to_str().unwrap().starts_with(kind), "{:?}", response.headers);
    String::from_utf8(response.bytes).unwrap()
}

fn summary(body: &Value) -> [u64; 5] {
    ["lines", "added", "updated", "unchanged", "refused"].map(|name| body[name].as_u64().unwrap())
}

/// Returns 10,000 lines, of which every hundredth is invalid.
fn lines() -> Vec<String> {
    let line = |n: u32| match n {
        n if n % 100 == 0 => format!("{{\"address\": \"no address {n}\"}}"),
        n if n % 7 == 0 => json!({"address": format!("A{n}@Example.test"), "stream": "bulk", "reason": "complaint",
                                  "note": "a \"note\", with\\ all, of it", "created_at": "2025-05-05T05:05:05Z"})
        .to_string(),
        n => format!("{{\"address\": \"a{n}@example.test\", \"reason\": \"hard_bounce\"}}"),
    };
    (1..=10_000).map(line).collect()
}

#[tokio::test]
async fn invalid_lines_of_an_import_are_reported() {
    let app = TestApp::start().await;
    // The body has no length, and its pieces end anywhere, as from a pipe.
    let body = lines().join("\n").into_bytes();
    let pieces: Vec<Result<Vec<u8>, std::io::Error>> = body.chunks(777).map(|piece| Ok(piece.to_vec())).collect();
    let stream = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
    let first = import(&app, NDJSON, stream).await;
    assert_eq!((first.status, summary(&first.body)), (200, [10_000, 9_900, 0, 0, 100]), "{}", first.body);
    let errors = first.body["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 100);
    let reported = (&errors[1]["line"], &errors[1]["pointer"], &errors[1]["code"]);
    assert_eq!(reported, (&json!(200), &json!("/address"), &json!("invalid_address")));
    assert!(errors[1]["message"].is_string());

    let again = import(&app, NDJSON, body).await;
    assert_eq!(summary(&again.body), [10_000, 0, 0, 9_900, 100], "a second import changes nothing");
    let one = app.get(&format!("{PATH}/a7@example.test")).await.body["data"][0].clone();
    assert_eq!((&one["created_at"], &one["reason"]), (&json!("2025-05-05T05:05:05Z"), &json!("complaint")));
}

#[tokio::test]
async fn export_can_be_imported_unchanged() {
    let app = TestApp::start().await;
    import(&app, NDJSON, lines().join("\n")).await;
    let more = json!([
        {"address": "\"a, b\"@example.test", "note": "=1+1", "expires_at": app.clock.text_in(hours(1))},
        {"address": "å@bücher.test", "stream": "bulk", "reason": "unsubscribe", "note": "say \"hi\", twice"},
    ]);
    app.post(PATH, &more).await;
    app.smtp.rcpt("gone@example.test").replies(["550 5.1.1 no such user"]);
    app.send(json!({"to": "gone@example.test"})).await;
    app.run_until_idle().await;
    let bounced = app.get(&format!("{PATH}/gone@example.test")).await.body["data"][0].clone();
    assert!(bounced["message_id"].is_string());

    let (as_json, as_csv) = (export(&app, NDJSON).await, export(&app, "text/csv").await);
    assert_eq!((as_json.lines().count(), as_csv.lines().count()), (9_903, 9_904));
    assert!(as_csv.starts_with("address,stream,reason,note,created_at,expires_at,message_id,recipient_id\r\n"));
    let listed: Vec<Value> = as_json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(
        listed.contains(&bounced) && listed.is_sorted_by_key(|entry| entry["address"].as_str().unwrap().to_owned())
    );
    for (kind, text) in [(NDJSON, &as_json), (CSV, &as_csv)] {
        let unchanged = import(&app, kind, text.clone()).await;
        assert_eq!(summary(&unchanged.body), [9_903, 0, 0, 9_903, 0], "{:?}", unchanged.body["errors"][0]);
        let other = TestApp::start().await;
        let added = import(&other, kind, text.clone()).await;
        assert_eq!(summary(&added.body), [9_903, 9_903, 0, 0, 0], "{:?}", added.body["errors"][0]);
        assert_eq!((export(&other, NDJSON).await == as_json, export(&other, "text/csv").await == as_csv), (true, true));
    }
}

#[tokio::test]
async fn csv_header_line_is_optional() {
    let app = TestApp::start().await;
    let named = "\u{feff}Reason,Address,Note\r\ncomplaint,ann@example.test,\"two\r\nlines\"\r\n\r\n,bo@example.test,\r\n\
                 rude,cy@example.test,\r\nmanual,dan@example.test,\"said \"\"no\"\", twice\"\r\nmanual,ann@example.test,,x\r\n";
    let response = import(&app, CSV, named).await;
    assert_eq!(summary(&response.body), [5, 2, 0, 0, 3], "{}", response.body);
    let errors: Vec<(u64, &str)> = response.body["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| (error["line"].as_u64().unwrap(), error["code"].as_str().unwrap()))
        .collect();
    // A note must be one line. The fault of a record with two lines has the number of its first line.
    assert_eq!(errors, [(2, "control_character"), (6, "invalid_value"), (8, "too_many")]);
    let dan = app.get(&format!("{PATH}/dan@example.test")).await.body["data"][0]["note"].clone();
    assert_eq!(dan, "said \"no\", twice");
    let bare = import(&app, CSV, "eve@example.test\nbo@example.test,bulk\nBO@example.test,bulk\n").await;
    assert_eq!(summary(&bare.body), [3, 2, 0, 1, 0]);
    for (text, code) in [("email,reason\na@b.test,manual", "unknown_field"), ("reason\nmanual", "required")] {
        let refused = import(&app, CSV, text).await;
        assert_eq!((refused.status, refused.faults()), (422, vec![("", code)]), "{text}");
    }
}

#[tokio::test]
async fn invalid_imports_are_reported() {
    let app = TestApp::builder().config(|config: &mut Config| config.accept.max_body_mib = 1).start().await;
    for kind in ["application/json", "text/plain", ""] {
        assert_eq!(import(&app, kind, "{}").await.problem(), (415, "unsupported_media_type"), "{kind}");
    }
    let empty = import(&app, NDJSON, "").await;
    assert_eq!((empty.status, summary(&empty.body)), (200, [0; 5]));
    let odd = format!(
        "null\n\"ann@example.test\"\n{{\"address\": \"\\u0000@b.test\"}}\n\u{1}\n{{\"address\":\n{}\n",
        "x".repeat(20_000)
    );
    let response = import(&app, NDJSON, odd).await;
    assert_eq!(summary(&response.body), [6, 0, 0, 0, 6], "{}", response.body);
    assert_eq!(response.body["errors"][5]["code"], "too_long");
    let not_utf8 = import(&app, CSV, b"address\n\xff\xfe@example.test\n".to_vec()).await;
    assert_eq!(summary(&not_utf8.body), [1, 0, 0, 0, 1], "{}", not_utf8.body);
    let large = vec![b'\n'; (1 << 20) + 1];
    assert_eq!(import(&app, NDJSON, large.clone()).await.problem(), (413, "too_large"));
    let unmeasured = reqwest::Body::wrap_stream(futures_util::stream::iter([Ok::<_, std::io::Error>(large)]));
    assert_eq!(import(&app, NDJSON, unmeasured).await.problem(), (413, "too_large"));
    let ancient = r#"{"address": "ann@example.test", "created_at": "0001-01-01T00:00:00Z"}"#;
    let error = import(&app, NDJSON, ancient).await.body["errors"][0].clone();
    assert_eq!((&error["pointer"], &error["code"]), (&json!("/created_at"), &json!("invalid_timestamp")));
    let past = r#"{"address": "ann@example.test", "expires_at": "2020-01-01T00:00:00Z"}"#;
    assert_eq!(import(&app, NDJSON, past).await.body["errors"][0]["pointer"], "/expires_at");
}

#[tokio::test]
async fn key_revoked_during_an_import_ends_it() {
    let app = TestApp::start().await;
    let created = app.post("/v1/keys", &json!({"name": "leaked", "scopes": ["admin"]})).await;
    let (id, key) = (created.body["id"].as_str().unwrap(), created.body["secret"].as_str().unwrap());
    let lines = |from: u32| {
        let lines: Vec<_> =
            (from..from + 1_000).map(|n| json!({"address": format!("a{n}@example.test")}).to_string()).collect();
        lines.join("\n") + "\n"
    };
    let (first, rest) = (lines(1_000), lines(2_000));
    let mut raw = Raw::connect(&app.base).await;
    raw.send(format!(
        "POST {PATH}/import HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: {NDJSON}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{first}",
        first.len() + rest.len()
    ))
    .await;
    let imported = async || export(&app, NDJSON).await.lines().count();
    until("the first part is imported", Duration::from_secs(20), async || match imported().await {
        1_000 => Ok(()),
        other => Err(other),
    })
    .await;
    assert_eq!(app.delete(&format!("/v1/keys/{id}")).await.status, 204);
    raw.send(rest).await;
    assert_eq!(status(&raw.rest().await), 401);
    assert_eq!(imported().await, 1_000, "what was imported before remains");
}

#[tokio::test]
async fn csv_lines_may_end_with_cr_and_formulas_survive() {
    let app = TestApp::start().await;
    let response = import(&app, CSV, "c20@x.test\rc21@x.test\r").await;
    assert_eq!(summary(&response.body), [2, 2, 0, 0, 0], "{}", response.body);
    app.post(PATH, &json!([{"address": "+tag@x.test", "note": "=HYPERLINK(1)"}])).await;
    let exported = export(&app, CSV).await;
    assert!(exported.contains("'+tag@x.test,") && exported.contains("'=HYPERLINK(1)"), "{exported}");
    let again = import(&app, CSV, exported).await;
    assert_eq!(summary(&again.body), [3, 0, 0, 3, 0], "{}", again.body);
}

#[tokio::test]
async fn unread_csv_lines_are_reported() {
    let app = TestApp::start().await;
    let quote = import(&app, CSV, "a1@x.test,,,5\" pipe\na2@x.test\na3@x.test,,,6\" pipe\na4@x.test\n").await;
    assert_eq!((quote.status, quote.faults()), (422, vec![("", "invalid_value")]));
    let later = import(&app, CSV, "address,note\na1@x.test,5\" pipe\na2@x.test,\n").await;
    assert_eq!(summary(&later.body), [1, 0, 0, 0, 1], "{}", later.body);
    let error = &later.body["errors"][0];
    assert_eq!(error["line"], 2);
    assert!(error["message"].as_str().unwrap().contains("lines 2 to 3 were not read"), "{error}");
    let header = import(&app, CSV, b"address,stream\xff\nann@example.test,news\n".to_vec()).await;
    assert_eq!(header.problem(), (422, "invalid_request"));
    assert_eq!(export(&app, NDJSON).await, "");
}

#[tokio::test]
async fn unclosed_quote_reports_all_lines_it_contains() {
    let app = TestApp::start().await;
    let text = "address,note\na1@x.test,ok\na2@x.test,\"open\na3@x.test,\na4@x.test,\n";
    let response = import(&app, CSV, text).await;
    assert_eq!(summary(&response.body), [2, 1, 0, 0, 1], "{}", response.body);
    let error = &response.body["errors"][0];
    assert_eq!(error["line"], 3);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("never closed") && message.contains("lines 3 to 5 were not read"), "{message}");
    let long = format!("address,note\na1@x.test,\"open\n{}", "a@x.test,\n".repeat(3_000));
    let response = import(&app, CSV, long).await;
    let message = response.body["errors"][0]["message"].as_str().unwrap();
    assert!(message.contains("lines 2 to 1"), "{message}");
    assert_eq!(response.body["added"], 1, "the lines after it are read: {}", response.body);
}

#[tokio::test]
async fn short_csv_record_is_refused_with_its_missing_column() {
    let app = TestApp::start().await;
    let response = import(&app, CSV, "address,stream\na1@x.test,bulk\na2@x.test\na3@x.test,\n").await;
    assert_eq!(summary(&response.body), [3, 2, 0, 0, 1], "{}", response.body);
    let error = &response.body["errors"][0];
    assert_eq!((&error["line"], &error["pointer"], &error["code"]), (&json!(3), &json!("/stream"), &json!("required")));
    assert_eq!(app.get(&format!("{PATH}/a2@x.test")).await.status, 404);
    let header = import(&app, CSV, "address,x@y\na@x.test,b\n").await;
    assert_eq!((header.status, header.faults()), (422, vec![("", "unknown_field")]));
    assert!(header.body["detail"].as_str().unwrap().contains("`x@y`"), "{}", header.body);
}

#[tokio::test]
async fn ndjson_lines_may_end_with_cr() {
    let app = TestApp::start().await;
    let body = "{\"address\": \"a1@x.test\"}\r{\"address\": \"a2@x.test\", \"note\": \"a\\rb\"}\r\n{\"address\": \"a3@x.test\"}\r";
    let response = import(&app, NDJSON, body).await;
    assert_eq!(summary(&response.body), [3, 2, 0, 0, 1], "{}", response.body);
    assert_eq!(response.body["errors"][0]["line"], 2, "a note must not have line ends");
}

#[tokio::test]
async fn addresses_with_apostrophes_survive_an_export() {
    let app = TestApp::start().await;
    let addresses = ["'+tag@x.test", "+tag@x.test", "''=a@x.test", "'a@x.test"];
    app.post(PATH, &json!(addresses)).await;
    for kind in [CSV, NDJSON] {
        let again = import(&app, kind, export(&app, kind).await).await;
        assert_eq!(summary(&again.body), [4, 0, 0, 4, 0], "{kind}: {}", again.body);
    }
}

#[tokio::test]
async fn expired_entries_are_not_exported() {
    let app = TestApp::start().await;
    app.post(
        PATH,
        &json!([{"address": "ann@example.test", "expires_at": app.clock.text_in(hours(1))}, "bo@example.test"]),
    )
    .await;
    app.clock.advance(hours(1));
    assert_eq!(export(&app, NDJSON).await.lines().count(), 1);
    assert_eq!(export(&TestApp::start().await, NDJSON).await, "");
}
