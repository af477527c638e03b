//! The queue is sampled once a minute, by one worker.

use serde_json::{Value, json};

use super::statistics;
use crate::support::app::TestApp;
use crate::support::clock::{hours, minutes, seconds};

/// Returns the queue in the last time span in which it was not empty, or in the last one.
fn last_queue(statistics: &Value, series: usize) -> Value {
    let points = statistics["series"][series]["points"].as_array().unwrap();
    let busy = points.iter().rev().find(|point| point["queue"]["waiting"].as_i64() > Some(0));
    busy.or(points.last()).unwrap()["queue"].clone()
}

#[tokio::test]
async fn waiting_and_due_recipients_are_sampled_by_stream() {
    let app = TestApp::start().await;
    app.send(json!({"to": ["ann@example.test", "bo@example.test"]})).await;
    app.send(json!({"stream": "bulk", "scheduled_at": app.clock.text_in(hours(1))})).await;
    app.clock.advance(seconds(90));
    let other = app.another_worker().await;
    let sampled = tokio::join!(app.worker.sample_queue(), other.sample_queue());
    assert_eq!([sampled.0.unwrap(), sampled.1.unwrap()].iter().filter(|sampled| **sampled).count(), 1);

    let streams = statistics(&app, "step=minute&group_by=stream").await;
    let names: Vec<&Value> = streams["series"].as_array().unwrap().iter().map(|series| &series["name"]).collect();
    assert_eq!(names, ["bulk", "transactional"]);
    assert_eq!(last_queue(&streams, 0), json!({"waiting": 1, "due": 0, "oldest_due_seconds": 0}));
    assert_eq!(last_queue(&streams, 1), json!({"waiting": 2, "due": 2, "oldest_due_seconds": 90}));
    let all = statistics(&app, "step=minute").await;
    assert_eq!(last_queue(&all, 0), json!({"waiting": 3, "due": 2, "oldest_due_seconds": 90}));
    assert_eq!(last_queue(&statistics(&app, "provider=google").await, 0), Value::Null);
    app.clock.advance(hours(2));
    app.run_until_idle().await;
}

#[tokio::test]
async fn span_without_a_sample_has_no_queue() {
    let app = TestApp::start().await;
    app.clock.advance(minutes(5));
    assert!(app.worker.sample_queue().await.unwrap());
    app.clock.advance(minutes(2));
    let empty = json!({"waiting": 0, "due": 0, "oldest_due_seconds": 0});
    let found = statistics(&app, "step=minute&since=2026-11-23T12:04:00Z").await;
    let points = found["series"][0]["points"].as_array().unwrap();
    let queues: Vec<&Value> = points.iter().map(|point| &point["queue"]).collect();
    assert_eq!(queues, [&Value::Null, &empty, &Value::Null, &Value::Null]);
    assert_eq!(
        statistics(&app, "step=hour&since=2026-11-23T12:00:00Z").await["series"][0]["points"][0]["queue"],
        empty
    );

    app.clock.advance(hours(49));
    app.worker.remove_old_statistics().await.unwrap();
    let steps = "SELECT step FROM queue_sampled ORDER BY step";
    let steps: Vec<String> = sqlx::query_scalar(steps).fetch_all(&mut app.database.connect().await).await.unwrap();
    assert_eq!(steps, ["day", "hour"]);
}

#[tokio::test]
async fn hour_has_the_highest_values_of_its_minutes() {
    let app = TestApp::start().await;
    app.send(json!({"to": ["ann@example.test", "bo@example.test"]})).await;
    app.clock.advance(minutes(5));
    assert!(app.worker.sample_queue().await.unwrap());
    app.run_until_idle().await;
    app.clock.advance(minutes(5));
    assert!(app.worker.sample_queue().await.unwrap());
    assert_eq!(
        last_queue(&statistics(&app, "step=hour").await, 0),
        json!({"waiting": 2, "due": 2, "oldest_due_seconds": 300})
    );
}

#[tokio::test]
async fn paused_lanes_have_no_oldest_due_age() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    assert_eq!(app.post("/v1/streams/transactional/pause", &json!({})).await.status, 200);
    app.clock.advance(minutes(5));
    app.worker.sample_queue().await.unwrap();
    assert_eq!(last_queue(&statistics(&app, "").await, 0), json!({"waiting": 1, "due": 1, "oldest_due_seconds": 0}));
    assert_eq!(app.post("/v1/streams/transactional/resume", &json!({})).await.status, 200);
    app.run_until_idle().await;
}
