//! Tenants take turns if there are more of them than free connections, and each is served in proportion to its weight.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Tenant, tenant};
use crate::support::app::TestApp;
use crate::support::client::{Api, message};

/// Starts an app with four connections to the relay, so that eight messages are in flight.
async fn start() -> TestApp {
    TestApp::builder().config(|config| config.delivery.connections = 4).start().await
}

/// Sends messages of the stream `bulk` from this address, in batches.
async fn send(api: &Api, count: usize, from: &str) {
    let messages: Vec<Value> = (0..count).map(|_| message(json!({"stream": "bulk", "from": from}))).collect();
    for batch in messages.chunks(500) {
        assert_eq!(api.post("/v1/messages/batch", &json!(batch)).await.status, 202);
    }
}

/// Returns the senders of the messages in the order in which they were received.
async fn senders(app: &TestApp) -> Vec<String> {
    app.run_until_idle().await;
    app.smtp.messages().into_iter().map(|message| message.from).collect()
}

/// Returns the places of the messages from this address.
fn places(senders: &[String], from: &str) -> Vec<usize> {
    senders.iter().enumerate().filter(|(_, sender)| *sender == from).map(|(place, _)| place).collect()
}

#[tokio::test]
async fn forty_tenants_with_eight_slots_all_progress() {
    let app = start().await;
    let mut tenants = Vec::<Tenant>::new();
    for n in 0..40 {
        let tenant = tenant(&app, &format!("t{n}"), json!({})).await;
        send(&tenant.api, 10, &format!("t{n}@acme.test")).await;
        tenants.push(tenant);
    }
    let senders = senders(&app).await;
    assert_eq!(senders.len(), 400);
    let mut counts = BTreeMap::<&str, usize>::new();
    for sender in &senders[..200] {
        *counts.entry(sender).or_default() += 1;
    }
    // Each of them has a fortieth of what was sent.
    assert!(counts.len() == 40 && counts.values().all(|count| (3..=7).contains(count)), "{counts:?}");
}

#[tokio::test]
async fn weight_of_one_beside_one_hundred_is_not_starved() {
    let app = start().await;
    let heavy = tenant(&app, "heavy", json!({"weight": 100})).await;
    let light = tenant(&app, "light", json!({"weight": 1})).await;
    send(&heavy.api, 500, "heavy@acme.test").await;
    send(&light.api, 4, "light@acme.test").await;
    let senders = senders(&app).await;
    let places = places(&senders, "light@acme.test");
    assert_eq!((senders.len(), places.len()), (504, 4));
    // One message of each 101; the messages in flight may overtake each other.
    for (n, place) in places.iter().enumerate() {
        assert!((100 * n).saturating_sub(20) <= *place && *place <= 101 * (n + 1) + 20, "{places:?}");
    }
}

/// Returns the place of the last of 100 messages, sent after a backlog of another tenant in the same stream.
async fn last_of_hundred(backlog: usize) -> usize {
    let app = start().await;
    let (busy, small) = (tenant(&app, "busy", json!({})).await, tenant(&app, "small", json!({})).await);
    send(&busy.api, backlog, "busy@acme.test").await;
    send(&small.api, 100, "small@acme.test").await;
    let senders = senders(&app).await;
    assert_eq!(senders.len(), backlog + 100);
    *places(&senders, "small@acme.test").last().unwrap()
}

#[tokio::test]
async fn hundred_messages_pass_a_backlog_of_two_thousand() {
    let last = last_of_hundred(2_000).await;
    // The two tenants alternate, so the last of 100 messages is the 200th of all.
    assert!(last < 240, "{last}");
}

#[tokio::test]
#[ignore = "takes a minute: cargo test --release --test it backlog_of_twenty_thousand -- --ignored --nocapture"]
async fn hundred_messages_pass_a_backlog_of_twenty_thousand() {
    let last = last_of_hundred(20_000).await;
    eprintln!("the last of 100 messages was message {last} of 20,100");
    assert!(last < 240, "{last}");
}

#[tokio::test]
async fn min_priority_limits_how_urgent_streams_are() {
    let app = start().await;
    let (busy, small) =
        (tenant(&app, "busy", json!({"min_priority": 60})).await, tenant(&app, "small", json!({})).await);
    assert_eq!(busy.api.patch("/v1/streams/bulk", &json!({"priority": 0})).await.status, 200);
    send(&busy.api, 100, "busy@acme.test").await;
    send(&small.api, 10, "small@acme.test").await;
    let lanes = busy.api.get("/v1/lanes").await.body;
    assert_eq!(lanes["data"][0]["priority"], 60, "{lanes}");
    let senders = senders(&app).await;
    let last = *places(&senders, "small@acme.test").last().unwrap();
    assert!(senders.len() == 110 && last < 30, "{last}");
}
