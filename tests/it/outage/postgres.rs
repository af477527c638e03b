//! Postgres is killed, cut off, read-only or full. Requests are refused soon, with a cause and `Retry-After`; no
//! accepted message is lost; and the service continues without intervention.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use sqlx::PgConnection;

use crate::support::client::message;
use crate::support::load::{Load, have_all_arrived};
use crate::support::raw_http::{Raw, status};
use crate::support::site::{NAME, Site, TIMEOUT};

/// Starts to send messages, and waits until 50 were accepted.
async fn under_load(site: &Site) -> Load {
    let mut load = Load::start(&site.api);
    load.wait_for(50).await;
    load
}

/// Checks that the site works again, and that every message accepted with 202 arrives.
async fn assert_recovers(site: Site, acknowledged: &BTreeSet<String>) {
    site.wait_until_working().await;
    have_all_arrived(&site.smtp, acknowledged).await;
    site.end().await;
}

#[tokio::test]
async fn no_message_is_lost_when_postgres_is_killed() {
    let mut site = Site::start().await;
    let load = under_load(&site).await;
    site.postgres.kill().await;
    let acknowledged = load.end().await;
    let refusal = site.refused_request().await;
    assert!(refusal.took < TIMEOUT / 2, "{refusal:?}");
    assert!(refusal.detail.starts_with("The database cannot be reached."), "{refusal:?}");
    assert!(site.wait_for_fault().await.starts_with("The database cannot be reached."));
    assert_eq!(site.api.anonymous(Method::GET, "/healthz").send().await.unwrap().status(), 200);

    site.postgres.start_again().await;
    assert_recovers(site, &acknowledged).await;
}

#[tokio::test]
async fn large_uploads_are_refused_on_one_connection() {
    let mut site = Site::start().await;
    site.wait_until_working().await;
    site.postgres.kill().await;
    site.wait_for_fault().await;
    let (key, length) = (&site.api.key, 8 << 20);
    let upload = format!(
        "POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{}",
        message(json!({"text": "x".repeat(length / 2)})).to_string() + &" ".repeat(length)
    );
    let head = upload.find("\r\n\r\n").unwrap() + 4;
    let mut raw = Raw::connect(&site.api.base).await;
    for _ in 0..3 {
        raw.send(&upload[..head + length]).await;
        let response = raw.response().await;
        assert_eq!(status(&response), 503, "{response}");
    }
    site.postgres.start_again().await;
    assert_recovers(site, &BTreeSet::new()).await;
}

#[tokio::test]
async fn silent_postgres_is_detected() {
    let mut site = Site::start().await;
    let load = under_load(&site).await;
    site.postgres.proxy.go_silent();
    let acknowledged = load.end().await;
    for _ in 0..3 {
        let refusal = site.refused_request().await;
        assert!(refusal.took < TIMEOUT / 2, "{refusal:?}");
        assert!(refusal.detail.starts_with("The database cannot be reached."), "{refusal:?}");
    }
    site.postgres.proxy.open();
    assert_recovers(site, &acknowledged).await;
}

/// Repeats the query until it returns 1.
pub(super) async fn wait_until_one(connection: &mut PgConnection, query: &'static str) {
    let waiting = async {
        while sqlx::query_scalar::<_, i64>(query).fetch_one(&mut *connection).await.unwrap() != 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap_or_else(|_| panic!("timed out: {query}"));
}

/// The commit without a response leases the new message to the worker, so only this worker can release or send it.
#[tokio::test]
async fn new_message_is_sent_after_a_commit_without_response() {
    let mut site = Site::start().await;
    site.wait_until_working().await;
    site.block_commits().await;
    let mut lock = site.postgres.connect(NAME).await;
    sqlx::raw_sql("SELECT pg_advisory_lock(1)").execute(&mut lock).await.unwrap();
    let cut_off = async {
        let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
        wait_until_one(&mut lock, waiting).await;
        site.postgres.proxy.go_silent();
        sqlx::raw_sql("SELECT pg_advisory_unlock(1)").execute(&mut lock).await.unwrap();
        let leased = "SELECT count(*) FROM queue q JOIN messages m ON m.id = q.message_id
                      WHERE m.subject = 'refused' AND q.lease IS NOT NULL";
        wait_until_one(&mut lock, leased).await;
    };
    tokio::join!(site.refused_request(), cut_off);
    assert_eq!(site.smtp.messages().len(), 1, "whether the other one was committed is unknown");
    site.postgres.proxy.open();
    site.smtp.received(2).await;
    site.wait_until_working().await;
    assert_eq!(site.smtp.messages().len(), 3, "each once");
    site.end().await;
}

/// A worker that stops may have reserved new messages that are not committed yet.
#[tokio::test]
async fn message_committed_during_a_stop_is_left_unleased() {
    let site = Site::start().await;
    site.wait_until_working().await;
    site.block_commits().await;
    let mut lock = site.postgres.connect(NAME).await;
    sqlx::raw_sql("SELECT pg_advisory_lock(1)").execute(&mut lock).await.unwrap();
    let api = site.api.clone();
    let sending = tokio::spawn(async move { api.send(json!({"subject": "late"})).await });
    wait_until_one(&mut lock, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted").await;
    let unlock = async {
        sqlx::raw_sql("SELECT pg_advisory_unlock(1)").execute(&mut lock).await.unwrap();
    };
    site.end_with(unlock).await;
    sending.await.expect("a 202");
}

#[tokio::test]
async fn silent_connection_is_replaced_by_a_new_one() {
    let mut site = Site::start().await;
    site.wait_until_working().await;
    site.postgres.proxy.go_silent();
    site.postgres.proxy.open();
    site.wait_until_working().await;
    site.end().await;
}

#[tokio::test]
async fn no_message_is_lost_when_connections_are_refused() {
    let mut site = Site::start().await;
    let load = under_load(&site).await;
    site.postgres.proxy.refuse().await;
    let acknowledged = load.end().await;
    assert!(site.refused_request().await.took < TIMEOUT / 2);
    site.postgres.proxy.open();
    assert_recovers(site, &acknowledged).await;
}

#[tokio::test]
async fn closed_connections_are_replaced() {
    let site = Site::start().await;
    site.wait_until_working().await;
    site.postgres.proxy.hang_up();
    site.wait_until_working().await;
    site.end().await;
}

#[tokio::test]
async fn no_message_is_lost_when_postgres_is_read_only() {
    let site = Site::start().await;
    let load = under_load(&site).await;
    site.sql("ALTER SYSTEM SET default_transaction_read_only = on; SELECT pg_reload_conf()").await;
    let acknowledged = load.end().await;
    let refusal = site.refused_request().await;
    assert!(refusal.detail.starts_with("The database is read-only"), "{refusal:?}");
    assert!(site.wait_for_fault().await.starts_with("The database is read-only"));

    site.sql("SET default_transaction_read_only = off; ALTER SYSTEM RESET default_transaction_read_only; SELECT pg_reload_conf()")
        .await;
    assert_recovers(site, &acknowledged).await;
}

#[tokio::test]
async fn failover_to_another_server_is_followed() {
    let site = Site::start().await;
    site.wait_until_working().await;
    // The old connections lead to the old server, which is still running, read-only.
    site.sql("ALTER SYSTEM SET default_transaction_read_only = on; SELECT pg_reload_conf()").await;
    site.wait_for_fault().await;
    site.refused_request().await;
    site.sql("SET default_transaction_read_only = off; ALTER ROLE app SET default_transaction_read_only = off").await;
    site.wait_until_working().await;
    site.end().await;
}

#[tokio::test]
async fn no_message_is_lost_without_free_connections() {
    let site = Site::start().await;
    let load = under_load(&site).await;
    site.sql("ALTER ROLE app CONNECTION LIMIT 0").await;
    site.postgres.proxy.hang_up();
    let acknowledged = load.end().await;
    let refusal = site.refused_request().await;
    assert!(refusal.took < TIMEOUT, "{refusal:?}");
    let refusal = site.refused_request().await;
    assert!(refusal.detail.starts_with("The database accepts no more connections."), "{refusal:?}");
    assert!(site.wait_for_fault().await.starts_with("The database accepts no more connections."));

    site.sql("ALTER ROLE app CONNECTION LIMIT -1").await;
    assert_recovers(site, &acknowledged).await;
}
