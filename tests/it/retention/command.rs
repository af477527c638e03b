//! `postrider retention`: a report of what is deleted, and deleting it now.

use serde_json::{Value, json};

use super::number;
use crate::support::app::TestApp;
use crate::support::process::{on, run, stderr_of};

const OLD_WEEKS: &str = "SELECT count(*) FROM pg_class WHERE relispartition AND relkind = 'r'
    AND relname = ANY (ARRAY(SELECT p || to_char(date_trunc('week', now() - interval '20 weeks', 'UTC') AT TIME ZONE 'UTC', '_YYYYMMDD')
                             FROM unnest(ARRAY['contents', 'messages', 'events']) p))";

async fn retention(app: &TestApp, arguments: &[&str]) -> String {
    let output = run(on(&app.database.url, &[&["retention"], arguments].concat())).await;
    assert!(output.status.success(), "{}", stderr_of(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn report_changes_nothing_and_now_deletes() {
    let app = TestApp::start().await;
    app.sql(
        "SELECT ensure_partition(t, now() - interval '20 weeks')
         FROM unnest(ARRAY['contents', 'blob_references', 'messages', 'recipients', 'custom_message_ids', 'events']) t",
    )
    .await;
    let json: Value = serde_json::from_str(&retention(&app, &["--json"]).await).unwrap();
    let first = |class: &str| {
        let mut weeks = json["weeks"].as_array().unwrap().iter();
        weeks.find(|week| week["class"] == class).unwrap_or_else(|| panic!("{class}: {json}")).clone()
    };
    assert_eq!((&first("content")["action"], &first("content")["period"]), (&json!("drop"), &json!("45d")));
    assert_eq!((&first("events")["action"], &first("messages")["action"]), (&json!("drop"), &json!("keep")));
    assert!(first("content")["bytes"].as_i64().unwrap() > 0);
    let table = retention(&app, &[]).await;
    assert!(table.starts_with("CLASS"), "{table}");
    assert!(table.lines().any(|line| line.starts_with("messages") && line.contains("keep     until 20")), "{table}");
    assert_eq!(number(&app, OLD_WEEKS).await, 3);

    let deleted: Value = serde_json::from_str(&retention(&app, &["--now", "--json"]).await).unwrap();
    assert_eq!(deleted["weeks"], json!({"content": 1, "messages": 0, "events": 1, "webhook_log": 0}));
    assert_eq!(number(&app, OLD_WEEKS).await, 1, "the messages are kept");
    let audit = app.get("/v1/audit?action=delete_old_data").await.body;
    assert_eq!(audit["data"][0]["after"]["weeks"]["events"], 1, "{audit}");
}

#[tokio::test]
async fn report_says_what_is_protected() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    // As if it had been sent 20 weeks ago, a week of its own.
    app.sql(
        "SELECT ensure_partition(t, now() - interval '20 weeks') FROM unnest(ARRAY['contents', 'messages', 'recipients']) t;
         INSERT INTO queue (message_id, recipient_id, tenant_id, lane_id, due_at, first_due_at)
         SELECT uuid_floor(now() - interval '20 weeks'), recipient_id, tenant_id, lane_id, due_at, first_due_at FROM queue",
    )
    .await;
    let table = retention(&app, &[]).await;
    let line = table.lines().find(|line| line.starts_with("content")).unwrap();
    assert!(line.contains("rows") && line.contains("1 recipient is to be sent to."), "{table}");
    app.sql("DELETE FROM queue WHERE message_id < uuid_floor(now() - interval '10 weeks')").await;
}
