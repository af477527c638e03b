//! How long it takes to cancel 100,000 queued messages of a campaign, and how much that slows down the others.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use postrider::clock::{Clock as _, SystemClock};
use reqwest::Method;
use serde_json::json;
use tokio::task::JoinSet;

use super::{read, start};
use crate::support::client::{Api, message};
use crate::support::many_messages::ManyMessages;
use crate::support::own_postgres::OwnPostgres;
use crate::support::process::{Service, admin_key, key, serve};
use crate::support::sink::Sink;
use crate::support::until::until;

/// Queued messages of the campaign.
const CAMPAIGN: u64 = 100_000;
/// Time limit of the action.
const LIMIT: Duration = Duration::from_secs(30);
/// Campaigns that are canceled one after the other; the median counts.
const ROUNDS: i32 = 3;
/// Applications that send as fast as they can.
const SENDERS: usize = 48;
/// How long the rate without an action is measured, before and after each one.
const SLICE: Duration = Duration::from_secs(10);

/// Returns the number of messages that arrive per second until `work` has ended, and how long it took.
async fn rate_during(sink: &Sink, work: impl Future<Output = ()>) -> (f64, Duration) {
    sink.take();
    let started = Instant::now();
    work.await;
    let (arrived, time) = (sink.take().values().sum::<usize>(), started.elapsed());
    (f64::from(u32::try_from(arrived).unwrap()) / time.as_secs_f64(), time)
}

/// Returns queued messages with a tag, due in a day, that were accepted in another hour in each round.
fn campaign(round: i32) -> ManyMessages {
    let until = SystemClock.now() - TimeDelta::hours(i64::from(round) + 1);
    ManyMessages {
        count: CAMPAIGN,
        since: until - TimeDelta::hours(1),
        until,
        have_content: true,
        queued: CAMPAIGN,
        due_after: TimeDelta::days(1),
        tagged: 1,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: cargo test --release --test it cancel_of_100_000 -- --ignored --nocapture"]
async fn cancel_of_100_000_queued_messages_is_quick() {
    let (mut postgres, sink) = (OwnPostgres::start().await, Sink::start().await);
    let url = postgres.database("mail").await;
    let service = Service::start(serve(&url, sink.address, &[])).await;
    let api = Api::new(service.address.clone().unwrap(), key(&url).await);
    let admin = api.with_key(&admin_key(&url).await);
    let mut senders = JoinSet::new();
    for _ in 0..SENDERS {
        let api = api.clone();
        senders.spawn(async move {
            loop {
                let request = api.request(Method::POST, "/v1/messages").json(&message(json!({"subject": "again"})));
                assert_eq!(request.send().await.unwrap().status(), 202);
            }
        });
    }
    let (mut times, mut ratios) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        campaign(round).insert(&url).await;
        let (before, _) = rate_during(&sink, tokio::time::sleep(SLICE)).await;
        let cancel = async {
            let id = start(&admin, "cancel", json!({"stream": "bulk", "tag": "campaign:spring"})).await;
            until("the action has ended", 4 * LIMIT, async || {
                let action = read(&admin, &id).await;
                if action["status"] == "running" { Err(action) } else { Ok(()) }
            })
            .await;
            let action = read(&admin, &id).await;
            assert_eq!((&action["status"], &action["changed"]), (&json!("done"), &json!(CAMPAIGN)), "{action}");
        };
        let (during, time) = rate_during(&sink, cancel).await;
        let (after, _) = rate_during(&sink, tokio::time::sleep(SLICE)).await;
        let ratio = during / f64::midpoint(before, after);
        println!(
            "canceled {CAMPAIGN} in {:.1} s; {before:.0} messages/s before, {during:.0} meanwhile, {after:.0} afterwards: {ratio:.2}",
            time.as_secs_f64()
        );
        times.push(time);
        ratios.push(ratio);
    }
    senders.shutdown().await;
    assert!(service.terminate().await.success());
    postgres.stop().await;
    ratios.sort_by(f64::total_cmp);
    let slowest = times.iter().max().unwrap();
    let ratio = ratios[ratios.len() / 2];
    assert!(*slowest < LIMIT && ratio >= 0.9, "{times:?}, and the others were sent at {ratio:.2} of their rate");
}
