//! `postrider lanes`.

use postrider::domain::key::Scope;
use serde_json::{Value, json};

use super::{failure, output};
use crate::support::app::TestApp;

#[tokio::test]
async fn lanes_are_listed_with_counts_and_state() {
    let app = TestApp::start().await;
    app.send(json!({"to": ["ann@example.test", "bo@example.test"]})).await;
    let listed = app.get("/v1/lanes?waiting=true").await.body;
    let lane = listed["data"][0]["id"].as_str().unwrap();
    let printed = output(&app, &["lanes", "--waiting"]).await;
    let lines: Vec<&str> = printed.lines().collect();
    assert!(
        lines.len() == 2 && lines[0].starts_with("STREAM         ROUTE  DESTINATION  STATE  WAITING  DUE"),
        "{printed}"
    );
    let cells: Vec<&str> = lines[1].split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    assert_eq!(cells[..8], ["transactional", "relay", "*", "open", "2", "2", "0", "0"], "{printed}");
    assert!(
        cells[8].starts_with("2026-11-23T12:00:00") && cells[9].ends_with(" conn") && cells[10] == lane,
        "{printed}"
    );
    let json: Value = serde_json::from_str(&output(&app, &["lanes", "--waiting", "--json"]).await).unwrap();
    assert_eq!(json, listed);
    assert_eq!(output(&app, &["lanes", "--state", "paused"]).await.lines().count(), 1);
    assert_eq!(failure(&app, &["lanes", "--state", "asleep"]).await.0, 6);
}

#[tokio::test]
async fn list_continues_over_pages_up_to_the_limit() {
    let app = TestApp::start().await;
    for n in 0..120 {
        let lane = json!({"stream": "bulk", "route": "relay", "domain": format!("d{n}.example.test"), "rate": 5});
        assert!(app.request(reqwest::Method::PUT, "/v1/lanes").json(&lane).send().await.unwrap().status().is_success());
    }
    let all = output(&app, &["lanes", "--stream", "bulk"]).await;
    assert_eq!(
        all.lines().filter(|line| line.contains(".example.test ") && line.contains("5/s, ")).count(),
        120,
        "{all}"
    );
    assert_eq!(output(&app, &["lanes", "--limit", "110"]).await.lines().count(), 111);
    let pages = super::json_lines(&output(&app, &["lanes", "--stream", "bulk", "--json"]).await);
    let sizes: Vec<usize> = pages.iter().map(|page| page["data"].as_array().unwrap().len()).collect();
    assert!(sizes.len() == 2 && sizes.iter().sum::<usize>() >= 120, "{sizes:?}");
}

#[tokio::test]
async fn lane_is_paused_resumed_and_retried() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.2.0 Later"]);
    app.send(json!({})).await;
    app.run_until_idle().await;
    let lane = app.get("/v1/lanes").await.body["data"][0]["id"].as_str().unwrap().to_owned();
    let state = async || app.get(&format!("/v1/lanes/{lane}")).await.body["state"].as_str().unwrap().to_owned();
    let paused = output(&app, &["lanes", "pause", &lane, "--reason", "Relay is moved"]).await;
    assert!(paused.starts_with(&format!("{lane} is paused: ")) && paused.contains("Relay is moved"), "{paused}");
    assert_eq!(state().await, "paused");
    let resumed: Value = serde_json::from_str(&output(&app, &["lanes", "resume", &lane, "--json"]).await).unwrap();
    assert_eq!((resumed["id"].as_str(), state().await.as_str()), (Some(lane.as_str()), "open"));
    assert_eq!(output(&app, &["lanes", "retry", &lane]).await, "recipients due now: 1\n");
    assert!(output(&app, &["lanes", "reset", &lane]).await.starts_with(&lane));

    let reader = app.with_scopes(&[Scope::Read]).await;
    let (code, errors) = failure(&reader, &["lanes", "pause", &lane]).await;
    assert!(code == 4 && errors.contains("lacks the scope `admin`") && errors.contains("\nhint: "), "{errors}");
    assert_eq!(failure(&app, &["lanes", "pause", "lan_x"]).await.0, 3);
}
