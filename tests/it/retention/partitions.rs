//! Partitions are created weeks ahead, and the service works without them.

use postrider::db::schema::partitions::ensure;
use serde_json::json;

use super::{advance, delete_old_data, number};
use crate::support::app::TestApp;
use crate::support::clock::hours;

/// Number of rows in default partitions.
const DEFAULT_ROWS: &str = "SELECT (SELECT count(*) FROM messages_default) + (SELECT count(*) FROM recipients_default)
    + (SELECT count(*) FROM contents_default) + (SELECT count(*) FROM events_default)";

/// Number of partitions of events for the four weeks after the test's first one.
const COMING: &str = "SELECT count(*) FROM pg_class
    WHERE relname IN ('events_20261130', 'events_20261207', 'events_20261214', 'events_20261221')";
/// The same for the four weeks after the eighth one.
const LATER: &str = "SELECT count(*) FROM pg_class
    WHERE relname IN ('events_20270118', 'events_20270125', 'events_20270201', 'events_20270208')";

#[tokio::test]
async fn partitions_exist_for_four_weeks_ahead() {
    let app = TestApp::start().await;
    assert_eq!(number(&app, COMING).await, 4);
}

#[tokio::test]
async fn service_survives_being_off_for_weeks() {
    let app = TestApp::start().await;
    let before = app.send(json!({})).await.id;
    app.run_until_idle().await;
    app.clock.advance(hours(24 * 7 * 7));
    // The process that was running has not created partitions since; another one starts.
    let during = app.send(json!({})).await.id;
    assert!(number(&app, DEFAULT_ROWS).await > 0, "rows without a partition are kept");
    let (_other, api) = app.another_api().await;
    let after = api.send(json!({})).await.id;
    app.run_until_idle().await;
    for id in [before, during, after] {
        assert_eq!(app.status(&id).await, "relayed");
    }
    assert_eq!(number(&app, LATER).await, 4, "partitions of the coming weeks");
    app.worker.count_events().await.unwrap();
}

#[tokio::test]
async fn rows_without_a_partition_are_deleted_too() {
    let app = TestApp::start().await;
    app.clock.advance(hours(24 * 7 * 7));
    let id = app.send(json!({})).await.id;
    app.run_until_idle().await;
    let waiting = app.send(json!({})).await.id;
    app.worker.count_events().await.unwrap();
    assert!(number(&app, DEFAULT_ROWS).await > 0);
    advance(&app, 60).await;
    assert_eq!(delete_old_data(&app).await.contents, 1);
    assert_eq!(app.get(&format!("/v1/messages/{id}/raw")).await.problem(), (410, "content_deleted"));
    advance(&app, 330).await;
    delete_old_data(&app).await;
    assert_eq!(app.get(&format!("/v1/messages/{id}")).await.status, 404);
    assert_eq!(app.get(&format!("/v1/messages/{waiting}/raw")).await.status, 200, "it is queued");
    assert_eq!(number(&app, "SELECT count(*) FROM events_default").await, 0);
    assert_eq!(app.get("/v1/events?after=1").await.problem(), (410, "cursor_expired"));
    app.send(json!({})).await;
    assert_eq!(app.get("/v1/events").await.body["data"][0]["seq"], 4);
}

#[tokio::test]
async fn missing_partition_is_created_again() {
    let app = TestApp::start().await;
    app.sql("DROP TABLE events_20261214, messages_20261130").await;
    ensure(&app.db, postrider::clock::Clock::now(&*app.clock)).await.unwrap();
    assert_eq!(number(&app, COMING).await, 4);
}

/// Moves the rows of a table from the partition of the test's first week to the default partition.
async fn unpartition(app: &TestApp, table: &str) {
    let statements = format!(
        "ALTER TABLE {table} DETACH PARTITION {table}_20261123; INSERT INTO {table} SELECT * FROM {table}_20261123;
         DROP TABLE {table}_20261123"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(&mut app.database.connect().await).await.unwrap();
}

#[tokio::test]
async fn recipients_in_a_week_go_with_their_default_rows() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    app.run_until_idle().await;
    app.worker.count_events().await.unwrap();
    unpartition(&app, "messages").await;
    advance(&app, 400).await;
    delete_old_data(&app).await;
    assert_eq!(number(&app, "SELECT (SELECT count(*) FROM messages) + (SELECT count(*) FROM recipients)").await, 0);
}

#[tokio::test]
async fn default_rows_go_after_their_week() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    app.run_until_idle().await;
    app.worker.count_events().await.unwrap();
    unpartition(&app, "recipients").await;
    advance(&app, 400).await;
    delete_old_data(&app).await;
    assert_eq!(number(&app, "SELECT (SELECT count(*) FROM messages) + (SELECT count(*) FROM recipients)").await, 0);
}
