//! Reads with many messages: a million, or as many as `POSTRIDER_TEST_MESSAGES` says. `ops/volume` runs it with ten million.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use postrider::clock::Clock as _;
use postrider::db::schema::partitions;
use postrider::db::service_metrics;
use postrider::domain::id::MessageId;

use crate::support::app::TestApp;
use crate::support::many_messages::{ManyMessages, delete_all};
use crate::support::postgres::{SMALL_PARTITION, rows_read_by_seq_scans};

/// Time limit of the 99th percentile of a request, measured by its client.
const LIMIT: Duration = Duration::from_secs(1);
/// The same for a request that counts all messages of a day.
const COUNT_LIMIT: Duration = Duration::from_secs(5);
/// Requests of each kind, each with other parameters if it has any.
const REQUESTS: u64 = 50;
/// The time before now over which the messages are spread.
const SPAN: TimeDelta = TimeDelta::days(28);
/// One message in this many is queued.
const QUEUED: u64 = 100;

/// A kind of request.
struct Kind<'a> {
    name: &'static str,
    /// Returns the path of a request.
    path: Box<dyn Fn(u64) -> String + 'a>,
    /// Whether it reads only what it returns, by an index. The ledger counts what is in its time span.
    is_by_index: bool,
}

fn kind<'a>(name: &'static str, path: impl Fn(u64) -> String + 'a) -> Kind<'a> {
    Kind { name, path: Box::new(path), is_by_index: true }
}

fn count() -> u64 {
    let text = std::env::var("POSTRIDER_TEST_MESSAGES");
    text.map_or(1_000_000, |text| text.parse().expect("a number in POSTRIDER_TEST_MESSAGES"))
}

/// Returns the requests to measure.
fn kinds(all: &ManyMessages) -> Vec<Kind<'_>> {
    // Some message, another one for each request.
    let some = move |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % (all.count - all.queued);
    // The floor of the ids of its millisecond, as the messages have it.
    let id = move |number: u64| MessageId::first_at(all.at(number));
    let waiting = move |n: u64| all.count - all.queued + n % all.queued;
    vec![
        kind("list", |_| "/v1/messages?limit=100".into()),
        kind("list, a later page", move |n| format!("/v1/messages?limit=100&after={}", id(some(n)))),
        kind("list of a stream", |_| "/v1/messages?stream=bulk&limit=100".into()),
        kind("list before a time", move |n| {
            format!("/v1/messages?created_before={}", all.at(some(n)).format("%Y-%m-%dT%H:%M:%SZ"))
        }),
        kind("search by recipient", move |n| format!("/v1/messages?to={}", ManyMessages::address(some(n)))),
        kind("search by recipient, none", |n| format!("/v1/messages?to=nobody{n}@example.test")),
        kind("search by status, bounced", |_| "/v1/messages?status=bounced".into()),
        kind("search by status, queued", |_| "/v1/messages?status=queued".into()),
        kind("search by tag", |_| "/v1/messages?tag=campaign:spring".into()),
        kind("message", move |n| format!("/v1/messages/{}", id(some(n)))),
        kind("events of a message", move |n| format!("/v1/messages/{}/events", id(some(n)))),
        kind("explain, queued", move |n| format!("/v1/messages/{}/explain", id(waiting(n)))),
        kind("explain, ended", move |n| format!("/v1/messages/{}/explain", id(some(n)))),
        kind("events", move |n| format!("/v1/events?after={}&limit=100", 2 * some(n) + 1)),
        kind("lanes", |_| "/v1/lanes?limit=100".into()),
        Kind { is_by_index: false, ..kind("ledger, 24 hours", |_| "/v1/ledger".into()) },
    ]
}

/// Returns the median and the 99th percentile.
fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

#[tokio::test]
#[ignore = "a measurement: cargo test --release --test it volume::reads -- --ignored --nocapture"]
async fn reads_with_many_messages_are_fast() {
    let app = TestApp::start().await;
    let until = app.clock.now();
    let count = count();
    let all = ManyMessages {
        count,
        since: until - SPAN,
        until,
        have_content: true,
        queued: count / QUEUED,
        due_after: TimeDelta::zero(),
        tagged: 1_000,
    };
    let started = Instant::now();
    all.insert(&app.database.url).await;
    println!("{count} messages inserted in {} s; {}", started.elapsed().as_secs(), size(&app).await);

    let mut faults = Vec::new();
    println!("   p50 ms   p99 ms  rows scanned");
    for Kind { name, path, is_by_index } in kinds(&all) {
        let before = rows_read_by_seq_scans(&app, SMALL_PARTITION).await;
        // Opens the connections that the line above has closed.
        app.get(&path(REQUESTS)).await;
        let mut times = Vec::new();
        for n in 0..REQUESTS {
            let path = path(n);
            let started = Instant::now();
            let response = app.get(&path).await;
            times.push(started.elapsed());
            assert_eq!(response.status, 200, "{path}: {}", response.body);
        }
        let scanned = rows_read_by_seq_scans(&app, SMALL_PARTITION).await - before;
        let (median, slowest) = percentiles(times);
        println!("{:9.1} {:8.1} {scanned:13}  {name}", milliseconds(median), milliseconds(slowest));
        let is_slow = slowest > if is_by_index { LIMIT } else { COUNT_LIMIT };
        if is_slow || is_by_index && scanned > 0 {
            faults.push(format!("{name}: p99 {} ms, {scanned} rows read by sequential scans", slowest.as_millis()));
        }
    }
    let started = Instant::now();
    app.sql("DELETE FROM service_metrics").await;
    service_metrics::refresh(&app.db, Duration::from_secs(30), app.clock.now()).await.unwrap();
    println!("{:9.1}                         figures for /metrics, once", milliseconds(started.elapsed()));
    drop_old_weeks(&app).await;
    delete_all(&app).await;
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Lets all messages end and become old, and measures how long the deletion of their content takes.
async fn drop_old_weeks(app: &TestApp) {
    app.sql("TRUNCATE queue").await;
    app.sql("UPDATE recipients SET status = 'canceled', finished_at = now() WHERE status = 'queued'").await;
    app.clock.advance(TimeDelta::days(80));
    partitions::ensure(&app.db, app.clock.now()).await.unwrap();
    let started = Instant::now();
    let deleted = app.worker.delete_old_data().await.unwrap().expect("no other process deletes");
    println!("{:9.1}                         retention: {:?} weeks", milliseconds(started.elapsed()), deleted.weeks);
    assert!(deleted.weeks[0] > 0, "the content of old weeks is deleted: {deleted:?}");
}

async fn size(app: &TestApp) -> String {
    let query = "SELECT pg_size_pretty(pg_database_size(current_database()))";
    sqlx::query_scalar(query).fetch_one(&mut app.database.connect().await).await.unwrap()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
