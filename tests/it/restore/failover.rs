//! Restarts, crashes and failovers under a running service.

use super::server::{NAME, Server, Tools};
use super::service::Mail;
use crate::support::process::Service;
use crate::support::proxy::Proxy;

/// Makes the database look as if its processes had been killed an hour ago.
const HOUR_AGO: &str = "UPDATE workers SET heartbeat_at = heartbeat_at - interval '1 hour';
    UPDATE installation SET marked_at = marked_at - interval '1 hour'";

#[tokio::test]
async fn restart_and_crash_go_on_after_any_time() {
    let Some(tools) = Tools::find() else { return };
    let mut server = tools.create("primary", "");
    server.migrate().await;
    let mail = Mail::new(&server.url(NAME)).await;
    let service = mail.start(&server.url(NAME)).await;
    mail.delivers(&service).await;
    server.marked().await;
    server.stop("immediate");
    server.start();
    let other = mail.start(&server.url(NAME)).await;
    mail.delivers(&service).await;
    mail.delivers(&other).await;
    mail.remembers(&server).await;
    service.kill().await;
    other.kill().await;
    server.sql(HOUR_AGO).await;
    let again = mail.start(&server.url(NAME)).await;
    mail.delivers(&again).await;
    again.kill().await;
    server.sql(HOUR_AGO).await;
    let mut elsewhere = Service::start(mail.forgetful(&server.url(NAME))).await;
    let (reason, waiting) = mail.holds(&mut elsewhere).await;
    assert_eq!(reason, "stale", "nothing is remembered on this machine");
    // The other machine remembers the last mark.
    let _again = mail.start(&server.url(NAME)).await;
    elsewhere.logged_event("restore_guard_released").await;
    mail.reaches(&elsewhere, &waiting, "relayed").await;
}

/// Creates a standby of a server.
pub(super) fn standby<'a>(tools: &'a Tools, primary: &Server<'_>) -> Server<'a> {
    let (url, data) = (primary.url("postgres"), tools.path("standby"));
    let data = data.to_str().unwrap();
    tools.run("pg_basebackup", &["--dbname", &url, "--pgdata", data, "--write-recovery-conf", "--checkpoint", "fast"]);
    tools.start("standby")
}

#[tokio::test]
async fn synchronous_failover_goes_on() {
    let Some(tools) = Tools::find() else { return };
    let mut primary = tools.create("primary", "");
    primary.migrate().await;
    let standby = standby(&tools, &primary);
    primary.until("SELECT state = 'streaming' FROM pg_stat_replication").await;
    primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*'").await;
    primary.sql("SELECT pg_reload_conf()").await;
    primary.until("SELECT sync_state = 'sync' FROM pg_stat_replication").await;
    let proxy = Proxy::to(primary.address()).await;
    let url = format!("postgres://postgres@{}/{NAME}?sslmode=disable", proxy.address);
    let mail = Mail::new(&url).await;
    let service = mail.start(&url).await;
    for _ in 0..20 {
        mail.delivers(&service).await;
    }
    primary.stop("immediate");
    standby.promote();
    proxy.set_target(standby.address());
    standby.marked().await;
    mail.delivers(&service).await;
    let restarted = mail.start(&url).await;
    mail.delivers(&restarted).await;
}

#[tokio::test]
async fn failover_that_loses_the_tail_holds() {
    let Some(tools) = Tools::find() else { return };
    let mut primary = tools.create("primary", "");
    primary.migrate().await;
    let mut standby = standby(&tools, &primary);
    let proxy = Proxy::to(primary.address()).await;
    let url = format!("postgres://postgres@{}/{NAME}?sslmode=disable", proxy.address);
    let mail = Mail::new(&url).await;
    let mut service = mail.start(&url).await;
    mail.delivers(&service).await;
    primary.marked().await;
    primary.until("SELECT replay_lsn >= pg_current_wal_flush_lsn() FROM pg_stat_replication").await;
    // The standby gets nothing from here on.
    standby.stop("fast");
    // There need not be a mark after it.
    mail.delivers(&service).await;
    let last = mail.feed(&service, 0).await.last().unwrap()["seq"].as_i64().unwrap();
    primary.stop("immediate");
    standby.start();
    standby.promote();
    proxy.set_target(standby.address());
    let (reason, waiting) = mail.holds(&mut service).await;
    assert_eq!(reason, "lost_tail");
    // A reader that had read everything continues with the event that says so.
    let events = mail.feed(&service, last).await;
    assert_eq!(events[0]["type"], "feed.restored", "{events:?}");
    // The message may have been accepted a moment before the numbers were skipped.
    assert!(events[0]["seq"].as_i64().unwrap() > 10_000_000_000, "{events:?}");
    let count = mail.smtp.messages().len();
    let output = mail.release(&url, &["--resume", "--yes"]).await;
    assert!(output.contains("released"), "{output}");
    service.logged_event("restore_guard_released").await;
    mail.smtp.received(count + 1).await;
    mail.reaches(&service, &waiting, "relayed").await;
}
