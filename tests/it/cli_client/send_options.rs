//! Options of `postrider send`, and what is refused before or by the API.

use serde_json::json;

use super::{failure, output, small};
use crate::support::app::TestApp;

/// Fails if a message is stored.
async fn assert_nothing_sent(app: &TestApp) {
    assert_eq!(app.get("/v1/messages").await.body["data"], json!([]));
}

#[tokio::test]
async fn dry_run_shows_the_plan_and_sends_nothing() {
    let (app, dir) = (TestApp::start().await, tempfile::tempdir().unwrap());
    let attached = dir.path().join("a.txt");
    std::fs::write(&attached, "content").unwrap();
    let plan = output(&app, &small(&["--dry-run", "--attach", attached.to_str().unwrap()])).await;
    assert!(plan.starts_with("dry run: nothing was sent  stream transactional  route relay\nsize "), "{plan}");
    assert!(plan.contains("RECIPIENT ") && plan.contains("ann@example.test  to    no"), "{plan}");
    let json = output(&app, &small(&["--dry-run", "--json"])).await;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["dry_run"], true);
    assert_nothing_sent(&app).await;
}

#[tokio::test]
async fn faults_are_listed_and_nothing_is_sent() {
    let app = TestApp::start().await;
    let (code, errors) =
        failure(&app, &["send", "--from", "x", "--to", "ann@example.test", "--to", "y", "--text", "Hi."]).await;
    let lines: Vec<&str> = errors.lines().collect();
    assert_eq!((code, lines[0]), (6, "error: The request has 3 faults; `errors` lists them."));
    for (line, pointer) in lines[1..].iter().zip(["/from", "/to/1", "/subject"]) {
        assert!(line.starts_with(&format!("error: {pointer}: ")), "{errors}");
    }
    assert_eq!(lines.len(), 4);

    let missing = failure(&app, &small(&["--attach", "/no/such.pdf"])).await;
    assert_eq!(missing, (1, "error: cannot read /no/such.pdf: No such file or directory (os error 2)\n".into()));
    assert_eq!(failure(&app, &small(&["--attach", "/"])).await.0, 1);
    assert_nothing_sent(&app).await;
}

#[tokio::test]
async fn wrong_options_are_usage_errors() {
    let app = TestApp::start().await;
    for (options, expected) in [
        (&["--metadata", "a=1", "--metadata", "a=2"][..], "given twice for a"),
        (&["--header", "no colon"], "NAME: VALUE"),
        (&["--tag", "=x"], "NAME=VALUE"),
        (&["--text-file", "x"], "cannot be used with"),
        (&["--var", "a=b"], "--template"),
        (&["--wait", "soon"], "30s or 5m"),
        (&["--key-file", "/etc/hostname"], "both an API key and a file"),
        (&["--idempotency-key", "a\nb"], "control characters"),
    ] {
        let (code, errors) = failure(&app, &small(options)).await;
        assert!(code == 2 && errors.contains(expected), "{options:?}: {code} {errors}");
    }
    assert_nothing_sent(&app).await;
}

#[tokio::test]
async fn templates_are_rendered_with_both_kinds_of_variables() {
    let app = TestApp::start().await;
    let variables = json!([{"key": "name", "type": "string"}, {"key": "count", "type": "number"}]);
    let template = json!({"name": "Greeting", "alias": "greeting", "subject": "For {{ name }}", "text": "You have {{ count + 1 }}.",
                          "from": "hello@acme.test", "variables": variables});
    let created = app.post("/v1/templates", &template).await;
    assert_eq!(created.status, 201, "{}", created.body);
    assert!(matches!(app.post("/v1/templates/greeting/publish", &json!({})).await.status, 200 | 201));
    let vars = ["--vars", r#"{"name": "Bo", "count": 41}"#, "--var", "name=Ann"];
    let sent =
        output(&app, &[&["send", "--to", "ann@example.test", "--template", "greeting"], &vars[..]].concat()).await;
    assert!(sent.ends_with(" queued\n"), "{sent}");
    app.run_until_idle().await;
    let raw = String::from_utf8(app.smtp.messages().remove(0).raw).unwrap();
    assert!(raw.contains("Subject: For Ann\r\n") && raw.contains("You have 42."), "{raw}");
}

#[tokio::test]
async fn at_schedules_and_the_key_sends_once() {
    let app = TestApp::start().await;
    let at = app.clock.text_in(chrono::TimeDelta::hours(2)).replace("+00:00", "Z");
    let first = output(&app, &small(&["--at", &at, "--idempotency-key", "order-42"])).await;
    assert!(first.ends_with(" scheduled\n"), "{first}");
    assert_eq!(output(&app, &small(&["--at", &at, "--idempotency-key", "order-42"])).await, first);
    assert_eq!(failure(&app, &small(&["--idempotency-key", "order-42"])).await.0, 6);
    assert_eq!(app.get("/v1/messages").await.body["data"].as_array().unwrap().len(), 1);
    assert_eq!(failure(&app, &small(&["--at", "tomorrow"])).await.0, 6);
}
