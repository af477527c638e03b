//! The faults. Each function injects one fault once.

use std::time::Duration;

use sqlx::Connection as _;

use crate::support::fleet::{Fleet, LEASE, SIZE};
use crate::support::sink::Behavior;

fn random_replica() -> usize {
    rand::random_range(0..SIZE)
}

async fn pause(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

pub async fn nothing(_: &mut Fleet) {
    pause(500).await;
}

pub async fn kill_one(fleet: &mut Fleet) {
    fleet.kill(random_replica()).await;
    fleet.start_missing().await;
}

pub async fn kill_api(fleet: &mut Fleet) {
    fleet.kill(rand::random_range(0..2)).await;
    fleet.start_missing().await;
}

pub async fn kill_worker(fleet: &mut Fleet) {
    fleet.kill(2).await;
    fleet.start_missing().await;
    // Time in which the new worker gets messages in flight again.
    pause(2_500).await;
}

pub async fn kill_all(fleet: &mut Fleet) {
    for number in 0..SIZE {
        fleet.kill(number).await;
    }
    fleet.start_missing().await;
    pause(1_000).await;
}

pub async fn terminate_one(fleet: &mut Fleet) {
    assert!(fleet.take(random_replica()).terminate().await.success());
    fleet.start_missing().await;
}

pub async fn terminate_and_kill(fleet: &mut Fleet) {
    let service = fleet.take(random_replica());
    service.send_sigterm().await;
    pause(100).await;
    service.kill().await;
    fleet.kills += 1;
    fleet.start_missing().await;
}

pub async fn freeze_shortly(fleet: &mut Fleet) {
    freeze(fleet, LEASE / 2).await;
}

pub async fn freeze_long(fleet: &mut Fleet) {
    freeze(fleet, LEASE * 2).await;
}

async fn freeze(fleet: &mut Fleet, time: Duration) {
    let number = random_replica();
    fleet.replica(number).freeze().await;
    tokio::time::sleep(time).await;
    fleet.replica(number).thaw().await;
}

pub async fn terminate_backends(fleet: &mut Fleet) {
    for pid in fleet.backends(3).await {
        fleet.sql(&format!("SELECT pg_terminate_backend({pid})")).await;
        fleet.kills += 1;
    }
}

pub async fn cancel_backends(fleet: &mut Fleet) {
    fleet.sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = 'app'").await;
}

pub async fn kill_backend(fleet: &mut Fleet) {
    for pid in fleet.backends(1).await {
        fleet.signal(pid).await;
    }
}

pub async fn kill_postgres(fleet: &mut Fleet) {
    fleet.postgres.kill().await;
    fleet.kills += 1;
    fleet.postgres.start_again().await;
}

pub async fn restart_postgres(fleet: &mut Fleet) {
    fleet.postgres.stop().await;
    fleet.postgres.start_again().await;
}

pub async fn kill_postgres_and_replica(fleet: &mut Fleet) {
    fleet.postgres.kill().await;
    fleet.kill(random_replica()).await;
    fleet.kills += 1;
    fleet.postgres.start_again().await;
    fleet.start_missing().await;
}

pub async fn silent_link(fleet: &mut Fleet) {
    fleet.postgres.proxy.go_silent();
    tokio::time::sleep(LEASE * 2).await;
    fleet.postgres.proxy.open();
}

pub async fn silent_link_only(fleet: &mut Fleet) {
    fleet.postgres.proxy.go_silent();
    fleet.postgres.proxy.open();
    pause(500).await;
}

pub async fn refused_link(fleet: &mut Fleet) {
    fleet.postgres.proxy.refuse().await;
    pause(3_000).await;
    fleet.postgres.proxy.open();
}

pub async fn hang_up(fleet: &mut Fleet) {
    fleet.postgres.proxy.hang_up();
    pause(100).await;
}

pub async fn read_only(fleet: &mut Fleet) {
    fleet.sql("ALTER SYSTEM SET default_transaction_read_only = on; SELECT pg_reload_conf()").await;
    pause(2_000).await;
    fleet
        .sql("SET default_transaction_read_only = off; ALTER SYSTEM RESET default_transaction_read_only; SELECT pg_reload_conf()")
        .await;
}

pub async fn out_of_connections(fleet: &mut Fleet) {
    with_connection_limit(fleet, "ALTER ROLE app CONNECTION LIMIT 0").await;
}

pub async fn few_connections(fleet: &mut Fleet) {
    with_connection_limit(fleet, "ALTER ROLE app CONNECTION LIMIT 4").await;
}

async fn with_connection_limit(fleet: &mut Fleet, limit: &str) {
    fleet.sql(limit).await;
    fleet.postgres.proxy.hang_up();
    pause(3_000).await;
    fleet.sql("ALTER ROLE app CONNECTION LIMIT -1").await;
}

async fn hold_lock(fleet: &mut Fleet, statement: &'static str) {
    let mut lock = fleet.connect().await;
    // If the rows cannot be locked, the next round tries again.
    let _ = sqlx::raw_sql(statement).execute(&mut lock).await;
    pause(3_000).await;
    lock.close().await.expect("closed");
}

pub async fn locked_counters(fleet: &mut Fleet) {
    hold_lock(fleet, "BEGIN; SELECT FROM event_counters FOR UPDATE").await;
}

pub async fn locked_lanes(fleet: &mut Fleet) {
    hold_lock(fleet, "BEGIN; SELECT FROM lanes FOR UPDATE").await;
}

pub async fn old_snapshot(fleet: &mut Fleet) {
    hold_lock(fleet, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM queue").await;
}

pub async fn vacuum_full(fleet: &mut Fleet) {
    fleet.sql("VACUUM FULL queue").await;
}

pub async fn kill_sink(fleet: &mut Fleet) {
    fleet.sink.kill().await;
    fleet.kills += 1;
    pause(50).await;
    fleet.sink.start_again().await;
    pause(300).await;
}

async fn with_behavior(fleet: &mut Fleet, behavior: Behavior) {
    fleet.sink.set_behavior(behavior);
    pause(1_500).await;
    fleet.sink.set_behavior(Behavior::Friendly);
}

pub async fn busy_sink(fleet: &mut Fleet) {
    with_behavior(fleet, Behavior::Busy).await;
}

pub async fn later_sink(fleet: &mut Fleet) {
    with_behavior(fleet, Behavior::Later).await;
}

pub async fn closing_sink(fleet: &mut Fleet) {
    with_behavior(fleet, Behavior::Disconnects).await;
}

pub async fn accepting_and_closing_sink(fleet: &mut Fleet) {
    with_behavior(fleet, Behavior::AcceptsAndDisconnects).await;
}

pub async fn slow_sink(fleet: &mut Fleet) {
    with_behavior(fleet, Behavior::Slow).await;
}
