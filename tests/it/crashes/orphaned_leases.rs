//! A recipient is leased to a worker that does not know of the lease or to no live worker, or waits in a lane whose
//! watermark says that it is empty. The periodic check finds it.

use std::time::Duration;

use postrider::db::workers::RescuedLeases;
use serde_json::json;

use crate::support::app::TestApp;

#[tokio::test]
async fn lease_that_no_worker_knows_of_is_released() {
    let app = TestApp::builder().config(|config| config.database.timeout = Duration::from_secs(2)).start().await;
    let lost_claim = app.send(json!({"to": ["ann@example.test"]})).await;
    let unknown_worker = app.send(json!({"to": ["bo@example.test"]})).await;
    let waiting = app.send(json!({"to": ["cy@example.test"], "stream": "bulk"})).await;
    // The first recipient is as after a claim whose response was lost, the second as after a partly restored dump.
    app.sql(
        "UPDATE queue SET lease = (SELECT id FROM workers) WHERE message_id = (SELECT min(message_id::text)::uuid FROM queue);
         UPDATE queue SET lease = gen_random_uuid()
         WHERE lease IS NULL AND lane_id = (SELECT lane_id FROM queue WHERE lease IS NOT NULL);
         UPDATE lanes SET ready_at = 'infinity'",
    )
    .await;
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 0);

    // A check may be cut short on a busy machine; the next one finds the rest.
    for _ in 0..5 {
        app.worker.recover_leases().await.unwrap();
        app.run_until_idle().await;
        if app.smtp.messages().len() == 3 {
            break;
        }
    }
    for message in [lost_claim, unknown_worker, waiting] {
        assert_eq!(app.status(&message.id).await, "relayed");
    }
    assert_eq!(app.worker.recover_leases().await.unwrap(), 0);
}

#[tokio::test]
async fn worker_is_declared_dead_by_its_own_lease_length() {
    let app = TestApp::start().await;
    let mut config = app.config.clone();
    config.delivery.lease = Duration::from_secs(4);
    let short_lease = app.worker_with(&config).await;
    app.sql("UPDATE workers SET heartbeat_at = heartbeat_at - interval '1 minute' WHERE lease_seconds = 3600").await;
    assert_eq!(short_lease.rescue_leases().await.unwrap(), RescuedLeases::default());
    // A worker of an older version has no lease length on record.
    app.sql("UPDATE workers SET lease_seconds = NULL WHERE lease_seconds = 3600").await;
    assert_eq!(short_lease.rescue_leases().await.unwrap(), RescuedLeases { workers: 1, ..RescuedLeases::default() });
}

#[tokio::test]
async fn permits_of_a_lost_claim_are_returned() {
    let app = TestApp::builder().config(|config| config.database.timeout = Duration::from_secs(2)).start().await;
    app.send(json!({})).await;
    app.run_until_idle().await;
    // As after a claim of a limited lane and stream whose response was lost.
    app.sql(
        "INSERT INTO permits SELECT tenant_id, id, (SELECT id FROM workers), 1 FROM lanes LIMIT 1;
         INSERT INTO stream_permits SELECT tenant_id, stream, (SELECT id FROM workers), 1 FROM lanes LIMIT 1",
    )
    .await;
    app.worker.recover_leases().await.unwrap();
    app.run_until_idle().await;
    let left = "SELECT (SELECT count(*) FROM permits) + (SELECT count(*) FROM stream_permits)";
    let left: i64 = sqlx::query_scalar(left).fetch_one(&mut app.database.connect().await).await.unwrap();
    assert_eq!(left, 0);
}
