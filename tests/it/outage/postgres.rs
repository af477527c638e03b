//! Postgres is killed, cut off, read-only or full. Requests are refused soon, with a cause and `Retry-After`; no
//! accepted message is lost; and everything continues by itself.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use sqlx::PgConnection;

use crate::support::client::message;
use crate::support::load::{Load, have_all_arrived};
use crate::support::raw_http::{Raw, status};
use crate::support::site::{NAME, Site, TIMEOUT};

/// A site that has been sending for a while, and its accepted messages.
async fn under_load(site: &Site) -> Load {
    let mut load = Load::start(&site.api);
    load.reaches(50).await;
    load
}

/// Every message that was answered 202 arrives, and the site continues.
async fn goes_on(site: Site, acknowledged: &BTreeSet<String>) {
    site.works().await;
    have_all_arrived(&site.smtp, acknowledged).await;
    site.end().await;
}

#[tokio::test]
async fn killed_under_load_and_started_again() {
    let mut site = Site::start().await;
    let load = under_load(&site).await;
    site.postgres.kill().await;
    let acknowledged = load.end().await;
    let refusal = site.refuses().await;
    assert!(refusal.took < TIMEOUT / 2, "{refusal:?}");
    assert!(refusal.detail.starts_with("The database cannot be reached."), "{refusal:?}");
    assert!(site.notices().await.starts_with("The database cannot be reached."));
    assert_eq!(site.api.anonymous(Method::GET, "/healthz").send().await.unwrap().status(), 200);

    site.postgres.start_again().await;
    goes_on(site, &acknowledged).await;
}

#[tokio::test]
async fn large_uploads_are_answered_on_one_connection() {
    let mut site = Site::start().await;
    site.works().await;
    site.postgres.kill().await;
    site.notices().await;
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
        let answer = raw.response().await;
        assert_eq!(status(&answer), 503, "{answer}");
    }
    site.postgres.start_again().await;
    goes_on(site, &BTreeSet::new()).await;
}

#[tokio::test]
async fn cut_off_without_a_word() {
    let mut site = Site::start().await;
    let load = under_load(&site).await;
    site.postgres.proxy.go_silent();
    let acknowledged = load.end().await;
    for _ in 0..3 {
        let refusal = site.refuses().await;
        assert!(refusal.took < TIMEOUT / 2, "{refusal:?}");
        assert!(refusal.detail.starts_with("The database cannot be reached."), "{refusal:?}");
    }
    site.postgres.proxy.open();
    goes_on(site, &acknowledged).await;
}

/// Repeats the query until it returns one.
async fn become_one(connection: &mut PgConnection, query: &'static str) {
    let asking = async {
        while sqlx::query_scalar::<_, i64>(query).fetch_one(&mut *connection).await.unwrap() != 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), asking).await.unwrap_or_else(|_| panic!("waited in vain: {query}"));
}

/// A new message is leased to the worker by the commit whose response never comes, so that no other worker sends it.
#[tokio::test]
async fn new_mail_whose_commit_is_not_answered_is_found_and_sent() {
    let mut site = Site::start().await;
    site.works().await;
    site.waits_at_commit().await;
    let mut lock = site.postgres.connect(NAME).await;
    sqlx::raw_sql("SELECT pg_advisory_lock(1)").execute(&mut lock).await.unwrap();
    let cut_off = async {
        let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
        become_one(&mut lock, waiting).await;
        site.postgres.proxy.go_silent();
        sqlx::raw_sql("SELECT pg_advisory_unlock(1)").execute(&mut lock).await.unwrap();
        let leased = "SELECT count(*) FROM queue q JOIN messages m ON m.id = q.message_id
                      WHERE m.subject = 'refused' AND q.lease IS NOT NULL";
        become_one(&mut lock, leased).await;
    };
    tokio::join!(site.refuses(), cut_off);
    assert_eq!(site.smtp.mails().len(), 1, "the other one is unknown");
    site.postgres.proxy.open();
    site.smtp.received(2).await;
    site.works().await;
    assert_eq!(site.smtp.mails().len(), 3, "each once");
    site.end().await;
}

/// A worker that stops may have reserved new messages that are not committed yet.
#[tokio::test]
async fn message_committed_during_a_stop_is_left_unleased() {
    let site = Site::start().await;
    site.works().await;
    site.waits_at_commit().await;
    let mut lock = site.postgres.connect(NAME).await;
    sqlx::raw_sql("SELECT pg_advisory_lock(1)").execute(&mut lock).await.unwrap();
    let api = site.api.clone();
    let sending = tokio::spawn(async move { api.send(json!({"subject": "late"})).await });
    become_one(&mut lock, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted").await;
    let unlock = async {
        sqlx::raw_sql("SELECT pg_advisory_unlock(1)").execute(&mut lock).await.unwrap();
    };
    site.end_with(unlock).await;
    sending.await.expect("a 202");
}

#[tokio::test]
async fn a_link_that_dies_while_new_connections_work_is_left_behind() {
    let mut site = Site::start().await;
    site.works().await;
    site.postgres.proxy.go_silent();
    site.postgres.proxy.open();
    site.works().await;
    site.end().await;
}

#[tokio::test]
async fn refused_for_a_while() {
    let mut site = Site::start().await;
    let load = under_load(&site).await;
    site.postgres.proxy.refuse().await;
    let acknowledged = load.end().await;
    assert!(site.refuses().await.took < TIMEOUT / 2);
    site.postgres.proxy.open();
    goes_on(site, &acknowledged).await;
}

#[tokio::test]
async fn hung_up_on_it_connects_again() {
    let site = Site::start().await;
    site.works().await;
    site.postgres.proxy.hang_up();
    site.works().await;
    site.end().await;
}

#[tokio::test]
async fn read_only_after_a_failover() {
    let site = Site::start().await;
    let load = under_load(&site).await;
    site.sql("ALTER SYSTEM SET default_transaction_read_only = on; SELECT pg_reload_conf()").await;
    let acknowledged = load.end().await;
    let refusal = site.refuses().await;
    assert!(refusal.detail.starts_with("The database is read-only"), "{refusal:?}");
    assert!(site.notices().await.starts_with("The database is read-only"));

    site.sql("SET default_transaction_read_only = off; ALTER SYSTEM RESET default_transaction_read_only; SELECT pg_reload_conf()")
        .await;
    goes_on(site, &acknowledged).await;
}

#[tokio::test]
async fn a_failover_to_another_server_is_followed() {
    let site = Site::start().await;
    site.works().await;
    // The old connections lead to the old server, which is still running, read-only.
    site.sql("ALTER SYSTEM SET default_transaction_read_only = on; SELECT pg_reload_conf()").await;
    site.notices().await;
    site.refuses().await;
    site.sql("SET default_transaction_read_only = off; ALTER ROLE app SET default_transaction_read_only = off").await;
    site.works().await;
    site.end().await;
}

#[tokio::test]
async fn out_of_connections() {
    let site = Site::start().await;
    let load = under_load(&site).await;
    site.sql("ALTER ROLE app CONNECTION LIMIT 0").await;
    site.postgres.proxy.hang_up();
    let acknowledged = load.end().await;
    let refusal = site.refuses().await;
    assert!(refusal.took < TIMEOUT, "{refusal:?}");
    let refusal = site.refuses().await;
    assert!(refusal.detail.starts_with("The database accepts no more connections."), "{refusal:?}");
    assert!(site.notices().await.starts_with("The database accepts no more connections."));

    site.sql("ALTER ROLE app CONNECTION LIMIT -1").await;
    goes_on(site, &acknowledged).await;
}
