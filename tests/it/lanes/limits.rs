//! Limits apply to all workers together, and messages that wait because of a limit have no attempt.

use futures_util::future::join_all;
use postrider::worker::Worker;
use serde_json::json;

use crate::support::app::TestApp;
use crate::support::clock::millis;
use crate::support::smtp::{Action, Gate};

/// Sends this many messages.
async fn send(app: &TestApp, count: usize) {
    join_all((0..count).map(|n| app.send(json!({"subject": format!("{n}")})))).await;
}

/// Makes the server hold its reply to the final dot of this many messages.
fn stall_at_final_dot<const N: usize>(app: &TestApp) -> Gate {
    let gate = Gate::default();
    app.smtp.dot().does(std::array::from_fn::<_, N, _>(|_| Action::Stall(gate.clone())));
    gate
}

async fn run_both(app: &TestApp, second: &Worker) {
    let (first, second) = tokio::join!(app.worker.drain(), second.drain());
    first.and(second).unwrap();
}

#[tokio::test]
async fn two_workers_share_three_connections() {
    let app = TestApp::start().await;
    let second = app.another_worker().await;
    send(&app, 1).await;
    app.sql("UPDATE lanes SET connections = 3").await;
    send(&app, 11).await;
    let gate = stall_at_final_dot::<3>(&app);
    let working = async { run_both(&app, &second).await };
    let watching = async {
        for _ in 0..3 {
            gate.reached().await;
        }
        assert_eq!(app.smtp.open_connections(), 3);
        for _ in 0..3 {
            gate.open();
        }
    };
    tokio::join!(working, watching);
    run_both(&app, &second).await;
    assert_eq!((app.smtp.max_open(), app.smtp.messages().len()), (3, 12));
}

#[tokio::test]
async fn stopped_worker_returns_its_connections() {
    let app = TestApp::start().await;
    let second = app.another_worker().await;
    send(&app, 1).await;
    app.sql("UPDATE lanes SET connections = 1").await;
    second.drain().await.unwrap();
    second.stop().await;
    send(&app, 1).await;
    app.run_until_idle().await;
    assert_eq!((app.smtp.max_open(), app.smtp.messages().len()), (1, 2));
}

#[tokio::test]
async fn connection_is_closed_after_its_maximum_of_messages() {
    let app = TestApp::start().await;
    send(&app, 1).await;
    app.sql("UPDATE lanes SET connections = 1, mails_per_connection = 3").await;
    send(&app, 6).await;
    app.run_until_idle().await;
    assert_eq!((app.smtp.connections(), app.smtp.messages().len()), (3, 7));
}

#[tokio::test]
async fn rate_applies_to_all_workers_together() {
    let app = TestApp::start().await;
    let second = app.another_worker().await;
    send(&app, 1).await;
    app.sql("UPDATE lanes SET rate = 2").await;
    send(&app, 4).await;
    for sent in 1..=5 {
        run_both(&app, &second).await;
        run_both(&app, &second).await;
        assert_eq!(app.smtp.messages().len(), sent);
        app.clock.advance(millis(500));
    }
}

#[tokio::test]
async fn rate_counts_messages_and_not_recipients() {
    let app = TestApp::start().await;
    send(&app, 1).await;
    app.run_until_idle().await;
    app.sql("UPDATE lanes SET rate = 1").await;
    let to: Vec<String> = (0..20).map(|n| format!("r{n}@example.test")).collect();
    app.send(json!({"to": to})).await;
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().last().unwrap().to.len(), 20);
}

#[tokio::test]
async fn waiting_for_the_rate_is_no_attempt() {
    let app = TestApp::start().await;
    let first = app.send(json!({})).await;
    app.sql("UPDATE lanes SET rate = 1").await;
    app.clock.advance(millis(1));
    let second = app.send(json!({})).await;
    app.run_until_idle().await;
    app.clock.advance(millis(900));
    app.run_until_idle().await;
    assert_eq!(app.status(&first.id).await, "relayed");
    assert_eq!(app.recipient(&second.id).await["attempts"], 0);
    assert_eq!(app.events(&second.id).await, ["accepted"]);
    app.clock.advance(millis(100));
    app.run_until_idle().await;
    assert_eq!(app.events(&second.id).await, ["accepted", "relayed"]);
}

#[tokio::test]
async fn rate_of_a_stream_applies_to_all_its_lanes_together() {
    let dns = crate::support::dns::DnsServer::start().await;
    for domain in ["a.test", "b.test", "c.test"] {
        dns.add_address(domain, "127.0.0.1");
    }
    let app = TestApp::builder().direct(&dns).start().await;
    app.sql("UPDATE streams SET rate = 20").await;
    for domain in ["a.test", "b.test", "c.test"] {
        app.send(json!({"to": format!("ann@{domain}")})).await;
        app.send(json!({"to": format!("bo@{domain}"), "stream": "bulk"})).await;
    }
    // Each of the two streams may send the messages of a tenth of a second at once.
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 4);
    app.clock.advance(millis(50));
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 6);
}

#[tokio::test]
async fn stream_concurrency_applies_to_all_workers_together() {
    let app = TestApp::start().await;
    let second = app.another_worker().await;
    app.sql("UPDATE streams SET concurrency = 2 WHERE name = 'transactional'").await;
    send(&app, 6).await;
    app.send(json!({"stream": "bulk"})).await;
    let gate = stall_at_final_dot::<3>(&app);
    let watching = async {
        for _ in 0..3 {
            gate.reached().await;
        }
        assert_eq!(app.smtp.count("MAIL"), 3, "two of one stream, and one of the other");
        for _ in 0..3 {
            gate.open();
        }
    };
    tokio::join!(run_both(&app, &second), watching);
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 7);
}
