//! The figures of the whole service, against situations that a test creates.

use std::time::Duration;

use postrider::clock::Clock as _;
use postrider::db::service_metrics::{self, Figures, StreamQueue};
use serde_json::json;

use crate::support::app::TestApp;
use crate::support::clock::{hours, minutes, seconds};
use crate::support::until::until;
use crate::tenants::{act, tenant};

const LIMIT: Duration = Duration::from_secs(30);
const LEASE: Duration = Duration::from_secs(30);

/// Computes the figures again.
async fn figures(app: &TestApp) -> Figures {
    // The service computes them when it starts.
    until("the first figures", LIMIT, async || match service_metrics::load(&app.db).await.unwrap() {
        Some(_) => Ok(()),
        None => Err("none"),
    })
    .await;
    app.sql("DELETE FROM service_metrics").await;
    assert!(service_metrics::refresh(&app.db, LEASE, app.clock.now()).await.unwrap());
    assert!(!service_metrics::refresh(&app.db, LEASE, app.clock.now()).await.unwrap(), "they are recent");
    let (figures, age) = service_metrics::load(&app.db).await.unwrap().unwrap();
    assert!(age < LIMIT, "{age:?}");
    figures
}

/// Computes the queue, in the order of the streams' names.
async fn sorted_queue(app: &TestApp) -> Vec<StreamQueue> {
    let mut queue = figures(app).await.queue;
    queue.sort_by(|one, other| one.stream.cmp(&other.stream));
    queue
}

#[tokio::test]
async fn queue_and_lanes_are_counted_by_state() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    app.send(json!({"scheduled_at": (app.clock.now() + hours(2)).to_rfc3339()})).await;
    app.send(json!({"stream": "bulk"})).await;
    assert_eq!(app.post("/v1/streams/bulk/pause", &json!({})).await.status, 200);
    app.clock.advance(seconds(90));
    let queue = sorted_queue(&app).await;
    let figures = figures(&app).await;
    let bulk = StreamQueue { stream: "bulk".into(), paused: 1, ..StreamQueue::default() };
    let transactional = StreamQueue {
        stream: "transactional".into(),
        due: 1,
        scheduled: 1,
        oldest_due_age: 90.0,
        ..StreamQueue::default()
    };
    assert_eq!(queue, [bulk, transactional], "nothing of a paused stream is late");
    assert_eq!(figures.lanes, [1, 0, 0, 1], "open and paused");
    assert_eq!((figures.uncertain, figures.partition_weeks_ahead, figures.workers), (0, 4, [1, 0]));
    assert!(figures.is_ledger_balanced && figures.db_size > 0 && figures.event_seq >= 3, "{figures:?}");
}

#[tokio::test]
async fn lost_queue_row_unbalances_the_ledger() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    app.clock.advance(seconds(70));
    assert!(figures(&app).await.is_ledger_balanced);
    app.sql("CREATE TABLE saved AS SELECT * FROM queue; DELETE FROM queue").await;
    assert!(!figures(&app).await.is_ledger_balanced);
    let is_due = "UPDATE service_metrics SET next_at = 'epoch'";
    app.sql("INSERT INTO queue SELECT * FROM saved; DROP TABLE saved").await;
    for (later, is_balanced) in [(minutes(30), false), (minutes(31), true)] {
        app.clock.advance(later);
        app.sql(is_due).await;
        assert!(service_metrics::refresh(&app.db, LEASE, app.clock.now()).await.unwrap());
        let (figures, _) = service_metrics::load(&app.db).await.unwrap().unwrap();
        assert_eq!(figures.is_ledger_balanced, is_balanced, "it is reported for an hour");
    }
}

#[tokio::test]
async fn limited_and_suspended_lanes_have_no_oldest_message() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({})).await;
    acme.api.send(json!({})).await;
    app.send(json!({"stream": "bulk"})).await;
    app.clock.advance(seconds(90));
    let queue = |stream: &str, due, paused, oldest_due_age| StreamQueue {
        stream: stream.into(),
        due,
        paused,
        oldest_due_age,
        ..StreamQueue::default()
    };
    assert_eq!(sorted_queue(&app).await, [queue("bulk", 1, 0, 90.0), queue("transactional", 1, 0, 90.0)]);

    act(&app, &acme.id, "suspend").await;
    app.sql("UPDATE streams SET rate = 1 WHERE name = 'bulk'").await;
    assert_eq!(sorted_queue(&app).await, [queue("bulk", 1, 0, 0.0), queue("transactional", 0, 1, 0.0)]);
}

#[tokio::test]
async fn data_of_test_keys_is_in_no_figure() {
    let app = TestApp::start().await;
    let test = app.with_test_key().await;
    test.send(json!({})).await;
    app.sql("UPDATE recipients SET status = 'uncertain', finished_at = now()").await;
    let figures = figures(&app).await;
    assert_eq!((figures.queue.len(), figures.lanes, figures.uncertain), (0, [0; 4], 0), "{figures:?}");
    app.sql("UPDATE recipients SET status = 'queued', finished_at = NULL").await;
}

#[tokio::test]
async fn failed_computation_is_not_repeated_at_once() {
    let app = TestApp::start().await;
    figures(&app).await;
    app.sql("ALTER TABLE domains RENAME TO moved; UPDATE service_metrics SET next_at = 'epoch'").await;
    let refresh = async || service_metrics::refresh(&app.db, LEASE, app.clock.now()).await;
    assert!(refresh().await.is_err());
    assert!(!refresh().await.unwrap(), "it waits as after one that succeeds");
    app.sql("ALTER TABLE moved RENAME TO domains; UPDATE service_metrics SET next_at = 'epoch'").await;
    assert!(refresh().await.unwrap());
}

#[tokio::test]
async fn tenant_that_is_deleted_does_not_unbalance_the_ledger() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({})).await;
    acme.api.send(json!({})).await;
    app.clock.advance(seconds(70));
    app.sql("CREATE TABLE saved AS SELECT * FROM queue; DELETE FROM queue").await;
    assert!(!figures(&app).await.is_ledger_balanced);
    app.sql("UPDATE tenants SET suspended_at = now(), deleting_at = now() WHERE name = 'Acme'").await;
    assert!(figures(&app).await.is_ledger_balanced);
    app.sql("UPDATE tenants SET suspended_at = NULL, deleting_at = NULL; INSERT INTO queue SELECT * FROM saved; DROP TABLE saved")
        .await;
}
