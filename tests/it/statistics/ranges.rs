//! The time range and the step, and how long figures are kept.

use serde_json::{Value, json};

use super::{statistics, totals};
use crate::support::app::TestApp;
use crate::support::clock::{hours, minutes};

async fn fault(app: &TestApp, query: &str) -> (String, String) {
    let response = app.get(&format!("/v1/statistics?{query}")).await;
    assert_eq!(response.status, 422, "{query}: {}", response.body);
    let faults = response.faults();
    assert_eq!(faults.len(), 1, "{query}");
    (faults[0].0.to_owned(), faults[0].1.to_owned())
}

#[tokio::test]
async fn series_is_aligned_and_filled_with_zeros() {
    let app = TestApp::start().await;
    app.clock.advance(minutes(10));
    app.send(json!({})).await;
    app.clock.advance(minutes(2));
    app.run_until_idle().await;
    let found = statistics(&app, "step=minute&since=2026-11-23T12:09:30Z&until=2026-11-23T12:13:30Z").await;
    assert_eq!((&found["since"], &found["until"]), (&json!("2026-11-23T12:09:00Z"), &json!("2026-11-23T12:14:00Z")));
    let points = found["series"][0]["points"].as_array().unwrap();
    let counts =
        |name: &str| -> Vec<i64> { points.iter().map(|point| point["counts"][name].as_i64().unwrap()).collect() };
    assert_eq!((counts("accepted"), counts("relayed")), (vec![0, 1, 0, 0, 0], vec![0, 0, 0, 1, 0]));
    let starts: Vec<&str> = points.iter().map(|point| point["at"].as_str().unwrap()).collect();
    assert_eq!(starts, (9..14).map(|minute| format!("2026-11-23T12:{minute:02}:00Z")).collect::<Vec<_>>());
    assert_eq!(found["series"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn invalid_parameters_are_refused() {
    let app = TestApp::start().await;
    for (query, pointer, code) in [
        ("step=week", "step", "invalid_value"),
        ("group_by=domain", "group_by", "invalid_value"),
        ("provider=gmail", "provider", "invalid_value"),
        ("since=yesterday", "since", "invalid_value"),
        ("from=2026-11-23T12:00:00Z", "from", "unknown_field"),
        ("since=2026-11-24T12:00:00Z", "until", "invalid_timestamp"),
        ("step=minute&since=2026-11-21T11:59:00Z", "since", "too_broad"),
        ("step=hour&since=2026-07-01T00:00:00Z", "since", "too_broad"),
        ("step=day&since=2010-01-01T00:00:00Z", "since", "too_broad"),
        ("step=minute&since=2026-11-20T00:00:00Z&until=2026-11-20T01:00:00Z", "since", "invalid_timestamp"),
        ("step=hour&since=2025-01-01T00:00:00Z&until=2025-01-02T00:00:00Z", "since", "invalid_timestamp"),
    ] {
        assert_eq!(fault(&app, query).await, (pointer.to_owned(), code.to_owned()), "{query}");
    }
    assert_eq!(statistics(&app, "step=minute&since=2026-11-21T12:00:00Z").await["step"], "minute");
}

/// Adds 30 streams with figures in each of 2,000 minutes.
const MANY_STREAMS: &str = "
    INSERT INTO statistics
    SELECT '00000000-0000-0000-0000-000000000000', 'minute', timestamptz '2026-11-22T00:00:00Z' + n * interval '1 minute',
           'stream' || s, 'other', 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
    FROM generate_series(1, 2000) n, generate_series(1, 30) s";
/// Adds 30 streams with a queue in one minute, and without events.
const MANY_QUEUES: &str = "
    INSERT INTO queue_samples
    SELECT '00000000-0000-0000-0000-000000000000', 'minute', '2026-11-22T12:00:00Z', 'stream' || s, 1, 1, 0
    FROM generate_series(1, 30) s";

#[tokio::test]
async fn too_many_points_are_refused() {
    for rows in [MANY_STREAMS, MANY_QUEUES] {
        let app = TestApp::start().await;
        app.sql(rows).await;
        let range = "step=minute&since=2026-11-22T00:00:00Z";
        let too_many = ("group_by".to_owned(), "too_broad".to_owned());
        assert_eq!(fault(&app, &format!("{range}&group_by=stream")).await, too_many);
        statistics(&app, range).await;
        statistics(&app, &format!("{range}&group_by=stream&stream=stream7")).await;
        app.sql("DELETE FROM statistics").await;
    }
}

async fn steps(app: &TestApp) -> Vec<String> {
    let steps = "SELECT DISTINCT step FROM statistics UNION SELECT DISTINCT step FROM statistics_details ORDER BY step";
    sqlx::query_scalar(steps).fetch_all(&mut app.database.connect().await).await.unwrap()
}

#[tokio::test]
async fn minutes_are_kept_two_days_and_hours_a_year() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    app.run_until_idle().await;
    assert_eq!(totals(&statistics(&app, "step=minute").await, &["relayed"]), [1]);
    app.clock.advance(hours(47));
    assert_eq!(app.worker.remove_old_statistics().await.unwrap(), 0);

    app.clock.advance(hours(2));
    // The counters of two streams and providers at most, and the latency.
    assert!((1..=4).contains(&app.worker.remove_old_statistics().await.unwrap()));
    assert_eq!(steps(&app).await, ["day", "hour"]);
    let hour = statistics(&app, "step=hour&since=2026-11-23T00:00:00Z").await;
    assert_eq!((totals(&hour, &["relayed"]), &hour["totals"]["latency"]["count"]), (vec![1], &json!(1)));

    app.clock.advance(hours(24 * 400));
    app.worker.remove_old_statistics().await.unwrap();
    assert_eq!(steps(&app).await, ["day"]);
    let day = statistics(&app, "step=day&since=2026-11-23T00:00:00Z").await;
    assert_eq!((totals(&day, &["relayed"]), &day["totals"]["latency"]["count"]), (vec![1], &json!(1)));
}

#[tokio::test]
async fn as_of_says_how_far_the_events_are_counted() {
    let app = TestApp::start().await;
    let as_of = async || app.get("/v1/statistics").await.body["as_of"].clone();
    assert_eq!(as_of().await, "2026-11-23T12:00:00Z", "there are no events");
    app.send(json!({})).await;
    assert_eq!(as_of().await, Value::Null);
    app.worker.count_events().await.unwrap();
    app.clock.advance(minutes(1));
    assert_eq!(as_of().await, "2026-11-23T12:01:00Z", "all events are counted");
    app.run_until_idle().await;
    assert_eq!(as_of().await, "2026-11-23T12:00:00Z", "the last counted event");
}
