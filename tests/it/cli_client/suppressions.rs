//! `postrider suppressions`.

use postrider::domain::key::Scope;
use serde_json::Value;

use super::{failure, output};
use crate::support::app::TestApp;

#[tokio::test]
async fn addresses_are_added_checked_listed_and_removed() {
    let app = TestApp::start().await;
    let add = ["suppressions", "add", "Ann@example.test", "bo@example.test", "--note", "by phone", "--stream", "bulk"];
    assert_eq!(output(&app, &add).await, "2 added, 0 updated, 0 unchanged\n");
    let checked = output(&app, &["suppressions", "check", "ann@example.test"]).await;
    let lines: Vec<&str> = checked.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("ADDRESS           STREAM  REASON  CREATED"), "{checked}");
    assert!(
        lines[1].starts_with("ann@example.test  bulk    manual  2026-11-23T12:00:00") && lines[1].ends_with("by phone"),
        "{checked}"
    );

    for list in [&["suppressions"][..], &["suppressions", "list", "--reason", "manual"]] {
        assert_eq!(output(&app, list).await.lines().count(), 3, "{list:?}");
    }
    let json: Value = serde_json::from_str(&output(&app, &["suppressions", "list", "--json"]).await).unwrap();
    assert_eq!(json, app.get("/v1/suppressions?limit=100").await.body);

    let sender = app.with_scopes(&[Scope::Send, Scope::Read]).await;
    assert_eq!(failure(&sender, &["suppressions", "remove", "ann@example.test"]).await.0, 4);
    assert_eq!(output(&app, &["suppressions", "remove", "ann@example.test", "--stream", "bulk"]).await, "1 removed\n");
    assert_eq!(failure(&app, &["suppressions", "check", "ann@example.test"]).await.0, 3);
    assert_eq!(failure(&app, &["suppressions", "remove", "ann@example.test"]).await.0, 3);
    assert_eq!(failure(&app, &["suppressions", "add", "not an address"]).await.0, 6);
    assert_eq!(output(&app, &["suppressions"]).await.lines().count(), 2);
}
