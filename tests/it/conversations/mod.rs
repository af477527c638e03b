//! SMTP conversations: kept for failed attempts and for lanes that are traced.

mod failed;
mod traced;

use serde_json::Value;

use crate::support::app::TestApp;

/// Returns the attempts at a message, oldest first.
async fn attempts(app: &TestApp, id: &str) -> Vec<Value> {
    let page = app.get(&format!("/v1/messages/{id}/attempts?limit=100")).await;
    assert_eq!((page.status, &page.body["has_more"]), (200, &Value::Bool(false)), "{}", page.body);
    page.body["data"].as_array().unwrap().clone()
}

/// Returns the lines of an attempt's conversation, with their directions.
fn lines(attempt: &Value) -> Vec<String> {
    let lines = attempt["conversation"]["lines"].as_array().unwrap_or_else(|| panic!("no conversation: {attempt}"));
    let text = |line: &Value, name: &str| line[name].as_str().unwrap().to_owned();
    lines.iter().map(|line| format!("{} {}", text(line, "direction"), text(line, "text"))).collect()
}

/// Asserts that these lines occur in this order; each is the start of a line.
fn assert_order(lines: &[String], expected: &[&str]) {
    let mut rest = lines.iter();
    for start in expected {
        assert!(rest.any(|line| line.starts_with(start)), "no {start:?} in {lines:#?}");
    }
}
