//! Every page with a million messages.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use postrider::clock::Clock as _;

use crate::browser::pages::{Filled, filled};
use crate::support::app::TestApp;
use crate::support::many_messages::ManyMessages;
use crate::support::postgres::{SMALL_PARTITION, rows_read_by_seq_scans};
use crate::ui::browser::Browser;

/// Time limit of a page, measured by its client.
const LIMIT: Duration = Duration::from_millis(150);
/// Requests of each page after the first one, of which the median counts.
const REQUESTS: usize = 5;
/// Searches that find nothing, few messages and many.
const SEARCHES: [&str; 12] = [
    "to%3Aann%40example.test",
    "to%3Auser77%40d77.test",
    "to-domain%3Anowhere.test",
    "from%3Aa%40acme.test",
    "subject%3Anumber",
    "subject%3Anothing",
    "status%3Abounced",
    "status%3Adeferred",
    "held%3Atrue",
    "stream%3Abulk+after%3A1h",
    "tag%3Aorder%3A42",
    "before%3A2026-11-23",
];

/// Adds a million messages of the current day.
async fn add_million(app: &TestApp) {
    let until = app.clock.now();
    let all = ManyMessages {
        count: 1_000_000,
        since: until - TimeDelta::hours(12),
        until,
        have_content: false,
        queued: 0,
        due_after: TimeDelta::zero(),
        tagged: 1_000,
    };
    all.insert(&app.database.url).await;
}

/// Returns the median time of a page.
async fn time(browser: &Browser, path: &str) -> Duration {
    browser.page(path).await;
    let mut times = Vec::new();
    for _ in 0..REQUESTS {
        let started = Instant::now();
        browser.page(path).await;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    times[REQUESTS / 2]
}

/// Every page of the dashboard, the parts of the overview that are refreshed, and searches. The inbox of `postrider dev` is not
/// among them: its messages are not in the database.
#[tokio::test]
#[ignore = "a measurement: cargo test --release --test it pages_with_a_million_messages -- --ignored --nocapture"]
async fn pages_with_a_million_messages_are_fast() {
    let Filled { app, mut paths, .. } = Box::pin(filled()).await;
    add_million(&app).await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    paths.extend(["problems", "hour", "traffic", "newest"].map(|part| format!("/ui?part={part}")));
    paths.extend(SEARCHES.map(|search| format!("/ui/messages?q={search}")));
    paths.extend(["/ui/audit?since=24h", "/ui/suppressions/import"].map(str::to_owned));
    let mut faults = Vec::new();
    for path in &paths {
        let before = rows_read_by_seq_scans(&app, SMALL_PARTITION).await;
        let time = time(&browser, path).await;
        let scanned = rows_read_by_seq_scans(&app, SMALL_PARTITION).await - before;
        println!("{:4} ms  {path}", time.as_millis());
        if time > LIMIT || scanned > 0 {
            faults.push(format!("{path}: {} ms, {scanned} rows read by sequential scans", time.as_millis()));
        }
    }
    app.sql("DELETE FROM events WHERE message_id IN (SELECT id FROM messages WHERE size = 1)").await;
    app.sql("DELETE FROM recipients WHERE id = message_id; DELETE FROM messages WHERE size = 1").await;
    app.sql("UPDATE event_counters c SET last_seq = (SELECT coalesce(max(seq), 0) FROM events WHERE tenant_id = c.tenant_id)").await;
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
