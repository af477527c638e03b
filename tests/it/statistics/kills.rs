//! No event is counted twice or never, whatever happens to the processes that count.

use std::time::Duration;

use postrider::clock::{Clock as _, SystemClock};
use serde_json::json;
use sqlx::PgConnection;

use crate::support::app::TestApp;
use crate::support::client::Api;
use crate::support::invariants::{self, queue_is_empty};
use crate::support::load::Load;
use crate::support::postgres::Database;
use crate::support::process::{Service, key, serve};
use crate::support::smtp::SmtpServer;
use crate::support::until::until;

const LIMIT: Duration = Duration::from_mins(1);

/// Makes transactions that move the cursor wait for the advisory lock 1, before they send COMMIT or while they commit.
async fn block_counting(connection: &mut PgConnection, trigger: &'static str) {
    let function = "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS
                    'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NULL; END'";
    for statement in [function, trigger, "SELECT pg_advisory_lock(1)"] {
        sqlx::raw_sql(statement).execute(&mut *connection).await.unwrap();
    }
}

/// Waits until a transaction waits for the advisory lock.
async fn counting_is_blocked(connection: &mut PgConnection) {
    until("a blocked transaction", LIMIT, async || {
        let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        let count: i64 = sqlx::query_scalar(waiting).fetch_one(&mut *connection).await.unwrap();
        if count > 0 { Ok(()) } else { Err("none") }
    })
    .await;
}

/// Waits until all events are counted.
async fn everything_is_counted(connection: &mut PgConnection) {
    until("all events are counted", LIMIT, async || {
        let missing = "SELECT ((SELECT sum(last_seq) FROM event_counters)
                              - (SELECT coalesce(sum(seq), 0) FROM statistics_cursors))::bigint";
        let missing: i64 = sqlx::query_scalar(missing).fetch_one(&mut *connection).await.unwrap();
        if missing == 0 { Ok(()) } else { Err(format!("{missing} events are missing")) }
    })
    .await;
}

async fn counts_are_exact_after_a_kill(trigger: &'static str) {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let mut connection = database.connect().await;
    block_counting(&mut connection, trigger).await;
    let service = Service::start(serve(&database.url, smtp.address(), &[])).await;
    let mut load = Load::start(&Api::new(service.address.clone().unwrap(), key(&database.url).await));
    load.wait_for(50).await;
    counting_is_blocked(&mut connection).await;
    service.kill().await;
    load.end().await;
    sqlx::raw_sql("SELECT pg_advisory_unlock(1)").execute(&mut connection).await.unwrap();

    let again = Service::start(serve(&database.url, smtp.address(), &[])).await;
    queue_is_empty(&mut connection).await;
    everything_is_counted(&mut connection).await;
    assert!(again.terminate().await.success());
    // They compare the counts with the events.
    invariants::check(&mut connection).await;
}

#[tokio::test]
async fn counts_are_exact_after_a_kill_before_the_commit() {
    counts_are_exact_after_a_kill(
        "CREATE TRIGGER stop AFTER UPDATE ON statistics_cursors FOR EACH ROW EXECUTE FUNCTION stop()",
    )
    .await;
}

#[tokio::test]
async fn counts_are_exact_after_a_kill_during_the_commit() {
    counts_are_exact_after_a_kill(
        "CREATE CONSTRAINT TRIGGER stop AFTER UPDATE ON statistics_cursors DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW EXECUTE FUNCTION stop()",
    )
    .await;
}

/// Adds events to the newest recipient, which stays deferred.
const MANY_EVENTS: &str = "
    WITH base AS (SELECT take_event_numbers(tenant_id, 17000) AS seq, tenant_id, message_id, id FROM recipients LIMIT 1)
    INSERT INTO events (tenant_id, seq, recorded_at, type, message_id, recipient_id, attempt, next_attempt_at)
    SELECT tenant_id, seq + n, '2026-11-23T12:00:00Z', 'message.deferred', message_id, id, 2, '2026-11-23T13:00:00Z'
    FROM base, generate_series(1, 17000) AS n";

#[tokio::test]
async fn replicas_together_count_each_event_once() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.3.0 later"]);
    app.send(json!({})).await;
    app.run_until_idle().await;
    app.sql(MANY_EVENTS).await;
    let (second, third) = (app.another_worker().await, app.another_worker().await);
    let mut counted = 0;
    while counted < 17_002 {
        let counts = tokio::join!(app.worker.count_events(), second.count_events(), third.count_events());
        counted += counts.0.unwrap() + counts.1.unwrap() + counts.2.unwrap();
    }
    assert_eq!(counted, 17_002);
    let found = super::statistics(&app, "").await;
    assert_eq!(super::totals(&found, &["accepted", "deferred", "relayed"]), [1, 17_001, 0]);
}

/// Adds an event to the newest recipient.
const ONE_EVENT: &str = "
    WITH base AS (SELECT take_event_numbers(tenant_id, 1) AS seq, tenant_id, message_id, id FROM recipients LIMIT 1)
    INSERT INTO events (tenant_id, seq, recorded_at, type, message_id, recipient_id, attempt, next_attempt_at)
    SELECT tenant_id, seq + 1, '2026-11-23T12:00:00Z', 'message.deferred', message_id, id, 2, '2026-11-23T13:00:00Z'
    FROM base";

#[tokio::test]
async fn counting_ends_while_events_are_added() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.3.0 later"]);
    app.send(json!({})).await;
    app.run_until_idle().await;
    let adding = async {
        for _ in 0..100_000 {
            app.sql(ONE_EVENT).await;
        }
    };
    tokio::select! {
        () = adding => panic!("counting does not end"),
        counted = tokio::time::timeout(LIMIT, app.worker.count_events()) => {
            assert!(counted.expect("counting ends").unwrap() >= 2);
        }
    }
}

/// Adds messages with a deferred recipient and an event each.
const MANY_MESSAGES: &str = "
    WITH base AS (SELECT take_event_numbers(tenant_id, 17000) AS seq, tenant_id FROM event_counters LIMIT 1),
    new AS (SELECT base.*, n, (lpad(to_hex(1795435200000 + seq + n), 12, '0') || '7' || lpad(to_hex(n), 3, '0') || '8'
                               || lpad(to_hex(seq), 15, '0'))::uuid AS id
            FROM base, generate_series(1, 17000) AS n),
    message AS (
        INSERT INTO messages (id, tenant_id, created_at, content_id, stream, from_address, reply_to, subject, tags, metadata,
                              on_uncertain, size)
        SELECT id, tenant_id, '2026-11-23T12:00:00Z', id, 'bulk', 'a@acme.test', '[]', '', '[]', '{}', 'retry', 1 FROM new),
    recipient AS (
        INSERT INTO recipients (message_id, id, tenant_id, position, kind, address, status)
        SELECT id, id, tenant_id, 0, 'to', 'ann@example.test', 'deferred' FROM new)
    INSERT INTO events (tenant_id, seq, recorded_at, type, message_id, recipient_id, attempt, next_attempt_at)
    SELECT tenant_id, seq + n, '2026-11-23T12:00:00Z', 'message.deferred', id, id, 1, '2026-11-23T13:00:00Z' FROM new";

/// Prints how many events are counted per second, if one recipient has all of them and if each has one.
#[tokio::test]
#[ignore = "a measurement: cargo test --release --test it rate_of_counting -- --ignored --nocapture"]
async fn rate_of_counting() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.3.0 later"]);
    app.send(json!({})).await;
    app.run_until_idle().await;
    for (what, statement) in [("one message", MANY_EVENTS), ("one message per event", MANY_MESSAGES)] {
        for _ in 0..20 {
            app.sql(statement).await;
        }
        let started = SystemClock.now();
        let counted = app.worker.count_events().await.unwrap();
        println!("{what}: {counted} events in {} ms", (SystemClock.now() - started).num_milliseconds());
    }
    app.sql("DELETE FROM recipients WHERE id = message_id; DELETE FROM messages WHERE size = 1").await;
}
