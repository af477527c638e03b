//! Statistics: figures over time, counted from the events.

mod counts;
mod kills;
mod plans;
mod queue;
mod ranges;
mod rebuild;

use serde_json::Value;

use crate::support::app::TestApp;

/// Counts all events, and returns `GET /v1/statistics` with this query.
async fn statistics(app: &TestApp, query: &str) -> Value {
    app.worker.count_events().await.unwrap();
    let response = app.get(&format!("/v1/statistics?{query}")).await;
    assert_eq!(response.status, 200, "{query}: {}", response.body);
    response.body
}

/// Returns these counts of the totals.
fn totals(statistics: &Value, names: &[&str]) -> Vec<i64> {
    names.iter().map(|name| statistics["totals"]["counts"][name].as_i64().unwrap()).collect()
}

/// Returns the names of the series with one of their total counts, without those that are 0.
fn by_name(statistics: &Value, count: &str) -> Vec<(String, i64)> {
    let series = statistics["series"].as_array().unwrap().iter();
    let named = series.map(|series| {
        (series["name"].as_str().unwrap().to_owned(), series["totals"]["counts"][count].as_i64().unwrap())
    });
    named.filter(|(_, count)| *count > 0).collect()
}
