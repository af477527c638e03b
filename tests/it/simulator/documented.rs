//! Every script and every name in the tables of `docs/try-outcomes.md` has the documented outcome.

use postrider::domain::simulator::Script;
use serde_json::{Value, json};

use super::{address, run_to_the_end};
use crate::support::app::TestApp;
use crate::support::clock::minutes;

const PAGE: &str = include_str!("../../../docs/try-outcomes.md");

/// Returns the first two cells of each row of the tables with this title in the first cell.
fn rows(title: &str) -> Vec<(&'static str, &'static str)> {
    let (mut rows, mut is_in_table) = (Vec::new(), false);
    for line in PAGE.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        is_in_table = line.starts_with('|') && (is_in_table || cells[1] == title);
        if let (true, Some(first)) = (is_in_table, cells.get(1).and_then(|cell| cell.strip_prefix('`'))) {
            rows.push((first.trim_end_matches('`'), cells[2]));
        }
    }
    rows
}

/// Returns the events in a cell, such as "`deferred`, …, `expired`".
fn listed(cell: &str) -> Vec<&str> {
    cell.split(", ").map(|event| event.trim_matches('`')).collect()
}

/// Returns a message's events without `accepted`. If `expected` contains `…`, merges equal events that follow each
/// other, and inserts `…` after the first event.
async fn seen(app: &TestApp, id: &str, expected: &[&str]) -> Vec<String> {
    let mut events = app.events(id).await.split_off(1);
    if expected.contains(&"…") {
        events.dedup();
        events.insert(1, "…".into());
    }
    events
}

#[tokio::test]
async fn every_documented_script_has_the_documented_events() {
    let app = TestApp::builder().with_inbound().start().await;
    let table = rows("script");
    assert!(table.len() >= 25, "{table:?}");
    let mut sent = Vec::new();
    for (label, (script, events)) in table.into_iter().enumerate() {
        sent.push((script, listed(events), app.send(json!({"to": address(script, label)})).await.id));
    }
    run_to_the_end(&app).await;
    for (script, events, id) in sent {
        assert_eq!(seen(&app, &id, &events).await, events, "{script}");
        let last = events.iter().rfind(|event| **event != "complained").unwrap();
        assert_eq!(app.status(&id).await, *last, "{script}");
    }
    assert_eq!(app.smtp.connections(), 0, "nothing leaves the process");
}

#[tokio::test]
async fn every_documented_name_means_its_script() {
    let names = rows("name");
    assert!(names.len() > 10);
    for (name, script) in names {
        let script = Script::parse(script.trim_matches('`')).unwrap();
        assert_eq!(Script::parse(name), Ok(script.clone()), "{name}");
        assert_eq!(Script::parse(&format!("{}+x", name.to_uppercase())), Ok(script), "{name}");
    }
}

#[tokio::test]
async fn replies_and_classifications_are_those_of_a_server() {
    let app = TestApp::start().await;
    let mut sent = Vec::new();
    for (script, code, enhanced, kind, category) in [
        ("bounce", 550, "5.1.1", "hard", "unknown_user"),
        ("bounce-550-5.7.1", 550, "5.7.1", "block", "policy"),
        ("bounce-552-5.2.2", 552, "5.2.2", "soft", "mailbox_full"),
        ("bounce-data-554", 554, "5.0.0", "undetermined", "other"),
    ] {
        let bounce = json!({"type": kind, "category": category, "source": "smtp"});
        sent.push((super::send(&app, script).await, json!({"code": code, "enhanced": enhanced}), bounce));
    }
    app.run_until_idle().await;
    for (id, reply, bounce) in sent {
        let event = app.event_list(&id).await.pop().unwrap()["data"].clone();
        let response = &event["response"];
        assert_eq!(json!({"code": response["code"], "enhanced": response["enhanced"]}), reply);
        assert_eq!((&event["bounce"], &event["attempt"]), (&bounce, &json!(1)));
        assert_eq!((&event["mx"], &event["ip"]), (&json!("mx.simulator.postrider.test"), &Value::Null));
    }
}

#[tokio::test]
async fn greylisted_recipient_is_tried_again_after_a_minute() {
    let app = TestApp::start().await;
    let id = super::send(&app, "greylist").await;
    app.run_until_idle().await;
    assert_eq!(app.events(&id).await, ["accepted", "deferred"]);
    app.clock.advance(minutes(2));
    app.run_until_idle().await;
    assert_eq!(app.events(&id).await, ["accepted", "deferred", "delivered"]);
}
