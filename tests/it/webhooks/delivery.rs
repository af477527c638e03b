//! All events arrive at webhook endpoints, signed and in order, with any number of workers.

use std::collections::BTreeSet;
use std::time::Duration;

use postrider::clock::Clock as _;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::app::TestApp;
use crate::support::clock::millis;
use crate::support::hooks::{self, Hook, SECRET};
use crate::support::receiver::{Receiver, Reply};
use crate::support::smtp::Gate;
use crate::support::until::until;

async fn send_messages(app: &TestApp, count: usize) {
    for n in 0..count {
        app.send(json!({"to": format!("r{n}@example.test")})).await;
    }
}

#[tokio::test]
async fn posts_are_signed_and_equal_the_event_feed() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let hook = Hook::add(&app, &receiver.url("/hook"), "").await;
    app.send(json!({"metadata": {"order": "42"}})).await;
    app.run_until_idle().await;
    app.notify().await;

    let posts = receiver.posts("/hook");
    let bodies: Vec<Value> = posts.iter().map(|post| post.body.clone()).collect();
    assert_eq!(json!(bodies), app.get("/v1/events").await.body["data"]);
    assert_eq!(bodies[0]["data"]["metadata"], json!({"order": "42"}));
    for (seq, post) in (1..).zip(&posts) {
        assert_eq!(post.id, format!("evt_{}_{seq}", hook.id.0.simple()));
        assert_eq!(post.headers["webhook-timestamp"], app.clock.now().timestamp().to_string());
        assert_eq!(post.headers["content-type"], "application/json");
        assert!(post.is_signed_with(&SECRET) && !post.is_signed_with(&[8; 32]));
    }
    let state = hook.state(&app).await;
    assert_eq!((state.cursor, state.failures, state.is_leased), (2, 0, false));
    assert_eq!(hook.log(&app).await, [(Some(200), None, 1), (Some(200), None, 1)]);
    app.notify().await;
    assert_eq!(receiver.posts("/hook").len(), 2, "no event is posted twice");
}

#[tokio::test]
async fn both_secrets_sign_until_the_old_one_expires() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let until = "old_secret = decode(repeat('01', 24), 'hex'), old_secret_until = '2026-11-23T13:00:00Z'";
    Hook::add(&app, &receiver.url("/hook"), until).await;
    app.send(json!({})).await;
    app.notify().await;
    app.run_until_idle().await;
    app.notify_after(3_600).await;
    let signed =
        |secret: &[u8]| receiver.posts("/hook").iter().map(|post| post.is_signed_with(secret)).collect::<Vec<_>>();
    assert_eq!((signed(&SECRET), signed(&[1; 24])), (vec![true, true], vec![true, false]));
}

#[tokio::test]
async fn endpoint_gets_its_event_types_and_its_test_events() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let hook = Hook::add(&app, &receiver.url("/relayed"), "events = '{message.relayed}'").await;
    let all = Hook::add(&app, &receiver.url("/all"), "").await;
    send_messages(&app, 2).await;
    app.run_until_idle().await;
    hook.insert_event(&app, "webhook.test").await;
    app.notify().await;
    let kinds = |path: &str| -> Vec<String> {
        receiver.posts(path).iter().map(|post| post.body["type"].as_str().unwrap().to_owned()).collect()
    };
    // The order is undefined: the events are about different objects and posted concurrently.
    let mut relayed = kinds("/relayed");
    relayed.sort();
    assert_eq!(relayed, ["message.relayed", "message.relayed", "webhook.test"]);
    let test = receiver.posts("/relayed").into_iter().find(|post| post.body["type"] == "webhook.test").unwrap();
    assert_eq!(test.body["data"]["endpoint_id"], hook.id.to_string());
    let mut all_seqs = receiver.seqs("/all");
    all_seqs.sort_unstable();
    assert_eq!(all_seqs, [1, 2, 3, 4]);
    assert_eq!(
        (hook.state(&app).await.cursor, all.state(&app).await.cursor),
        (5, 5),
        "both cursors are after events that the endpoints do not get"
    );
}

#[tokio::test]
async fn batches_contain_waiting_events_up_to_20_kb() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let hook = Hook::add(&app, &receiver.url("/hook"), "batch = 100, concurrency = 1").await;
    app.send(json!({})).await;
    for _ in 0..3 {
        app.send(json!({"metadata": {"long": "x".repeat(8_900)}})).await;
    }
    app.notify().await;
    let posts = receiver.posts("/hook");
    let batches: Vec<Vec<i64>> = posts
        .iter()
        .map(|post| {
            post.body["events"].as_array().unwrap().iter().map(|event| event["seq"].as_i64().unwrap()).collect()
        })
        .collect();
    assert_eq!(batches, [vec![1, 2, 3], vec![4]]);
    assert!(posts.iter().all(|post| post.body["type"] == "webhook.batch" && post.size() <= 20_000));
    let id = hook.id.0.simple();
    assert_eq!(
        posts.iter().map(|post| post.id.clone()).collect::<Vec<_>>(),
        [format!("evt_{id}_1_3"), format!("evt_{id}_4")]
    );
}

#[tokio::test]
async fn order_is_kept_per_recipient_only() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    Hook::add(&app, &receiver.url("/hook"), "concurrency = 8").await;
    app.send(json!({})).await;
    app.run_until_idle().await;
    app.send(json!({})).await;
    let gate = Gate::default();
    receiver.script("/hook", [Reply::Held(gate.clone())]);
    let working = tokio::spawn({
        let worker = app.worker.clone();
        async move { worker.notify().await.unwrap() }
    });
    gate.reached().await;
    let mut seqs: Vec<i64> =
        receiver.received("/hook", 2).await.iter().map(|post| post.body["seq"].as_i64().unwrap()).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, [1, 3], "event 2 is about the same message as event 1, so it waits");
    gate.open();
    working.await.unwrap();
    assert_eq!(receiver.seqs("/hook").last(), Some(&2));
}

#[tokio::test]
async fn posts_of_a_dead_worker_are_repeated_with_the_same_id() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let hook = Hook::add(&app, &receiver.url("/hook"), "").await;
    send_messages(&app, 3).await;
    let gate = Gate::default();
    receiver.script("/hook", [Reply::Held(gate.clone())]);
    let first = tokio::spawn({
        let worker = app.worker.clone();
        async move { worker.notify().await }
    });
    gate.reached().await;
    let second = app.another_worker().await;
    second.notify().await.unwrap();
    app.sql(
        "UPDATE workers SET heartbeat_at = now() - interval '1 day' WHERE id IN (SELECT lease FROM webhook_endpoints)",
    )
    .await;
    assert_eq!(second.rescue_leases().await.unwrap().workers, 1);
    // The first worker may be recording its other posts: the endpoint's row is locked then, and skipped.
    until("the second worker has posted", Duration::from_secs(20), async || {
        second.notify().await.unwrap();
        let cursor = hook.state(&app).await.cursor;
        if cursor == 3 { Ok(()) } else { Err(cursor) }
    })
    .await;
    gate.open();
    first.await.unwrap().unwrap();

    let ids: BTreeSet<String> = receiver.posts("/hook").into_iter().map(|post| post.id).collect();
    assert_eq!(ids.len(), 3, "repeated posts have the same id");
    let state = hook.state(&app).await;
    assert_eq!((state.cursor, state.is_leased), (3, false), "the outcome of the dead worker is ignored");
}

#[tokio::test]
async fn stopping_worker_finishes_its_posts_and_releases_leases() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let hook = Hook::add(&app, &receiver.url("/hook"), "concurrency = 1").await;
    send_messages(&app, 3).await;
    let (gate, stop) = (Gate::default(), CancellationToken::new());
    receiver.script("/hook", [Reply::Held(gate.clone())]);
    let running = tokio::spawn({
        let (worker, stop) = (app.another_worker().await, stop.clone());
        async move { worker.run(stop).await }
    });
    gate.reached().await;
    stop.cancel();
    gate.open();
    running.await.unwrap();
    let state = hook.state(&app).await;
    assert_eq!((state.cursor, state.is_leased, receiver.posts("/hook").len()), (1, false, 1));
    app.run_until_idle().await;
    app.notify().await;
    let mut seqs = receiver.seqs("/hook");
    seqs.sort_unstable();
    assert_eq!(seqs, [1, 2, 3, 4, 5, 6], "each event is posted once");
}

#[tokio::test]
async fn running_worker_is_notified_of_new_events() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    Hook::add(&app, &receiver.url("/hook"), "").await;
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (worker, stop) = (app.another_worker().await, stop.clone());
        async move { worker.run(stop).await }
    });
    app.send(json!({})).await;
    tokio::time::timeout(Duration::from_secs(30), receiver.received("/hook", 2)).await.expect("both events");
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn posts_do_not_exceed_the_rate() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    Hook::add(&app, &receiver.url("/hook"), "rate = 2").await;
    send_messages(&app, 12).await;
    app.notify().await;
    app.notify().await;
    assert_eq!(receiver.posts("/hook").len(), 1);
    for _ in 0..40 {
        app.clock.advance(millis(100));
        app.notify().await;
    }
    assert_eq!(receiver.posts("/hook").len(), 9, "two per second for four seconds");
}
