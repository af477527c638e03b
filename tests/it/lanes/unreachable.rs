//! An unreachable destination is probed with few messages; the others wait without an attempt.

use postrider::clock::Clock as _;
use postrider::config::Route;
use postrider::db::lanes;
use postrider::db::lanes::health::Update;
use postrider::domain::lane::destination_health::{DestinationHealth, Observation};
use serde_json::{Value, json};
use sqlx::Row as _;

use crate::support::app::TestApp;
use crate::support::clock::{hours, seconds};
use crate::support::dns::DnsServer;
use crate::support::smtp::Action;

/// Makes the server close this many connections before the greeting.
fn close_connections<const N: usize>(app: &TestApp) {
    app.smtp.greeting().does(std::array::from_fn::<_, N, _>(|_| Action::Drop));
}

/// Returns the number of consecutive failures of the only lane.
async fn failures(app: &TestApp) -> i16 {
    let mut connection = app.database.connect().await;
    sqlx::query("SELECT block_failures FROM lanes").fetch_one(&mut connection).await.unwrap().get(0)
}

#[tokio::test]
async fn messages_in_an_unreachable_lane_wait_for_a_probe() {
    let app = TestApp::start().await;
    close_connections::<1>(&app);
    let first = app.send(json!({})).await;
    app.run_until_idle().await;
    assert_eq!((app.status(&first.id).await.as_str(), failures(&app).await), ("deferred", 1));

    let second = app.send(json!({})).await;
    app.run_until_idle().await;
    app.clock.advance(seconds(29));
    app.run_until_idle().await;
    assert_eq!((app.status(&second.id).await.as_str(), app.smtp.connections()), ("queued", 1));

    app.clock.advance(seconds(1));
    app.run_until_idle().await;
    assert_eq!((app.status(&second.id).await.as_str(), failures(&app).await), ("relayed", 0));
    assert_eq!(app.events(&second.id).await, ["accepted", "relayed"]);
}

#[tokio::test]
async fn retry_of_a_lane_probes_if_all_recipients_are_due() {
    let app = TestApp::start().await;
    close_connections::<1>(&app);
    let first = app.send(json!({})).await;
    app.run_until_idle().await;
    let second = app.send(json!({})).await;
    assert_eq!(app.post(&format!("/v1/messages/{}/cancel", first.id), &json!({})).await.status, 200);
    let lane = app.get("/v1/lanes").await.body["data"][0]["id"].as_str().unwrap().to_owned();
    let done = app.post(&format!("/v1/lanes/{lane}/retry"), &json!({})).await;
    assert_eq!((done.status, &done.body["retried"]), (200, &json!(0)));
    app.run_until_idle().await;
    assert_eq!(app.status(&second.id).await, "relayed");
}

#[tokio::test]
async fn probes_use_few_messages_and_become_less_frequent() {
    let app = TestApp::start().await;
    close_connections::<1>(&app);
    app.send(json!({})).await;
    app.run_until_idle().await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(app.send(json!({})).await.id);
    }
    for (failed, wait) in [(1, 30), (2, 60), (3, 120), (4, 240)] {
        assert_eq!(failures(&app).await, failed);
        app.clock.advance(seconds(wait - 1));
        app.run_until_idle().await;
        let before = app.smtp.connections();
        close_connections::<4>(&app);
        app.clock.advance(seconds(1));
        app.run_until_idle().await;
        assert_eq!(app.smtp.connections() - before, 4, "probe {failed}");
    }
    app.clock.advance(seconds(300));
    app.run_until_idle().await;
    assert_eq!(failures(&app).await, 0);
    app.clock.advance(seconds(3_600));
    app.run_until_idle().await;
    for id in ids {
        assert_eq!(app.status(&id).await, "relayed");
    }
}

#[tokio::test]
async fn unreachable_domain_delays_no_other() {
    let dns = DnsServer::start().await;
    dns.servfail("dead.test");
    dns.add_address("alive.test", "127.0.0.1");
    let app = TestApp::builder().direct(&dns).start().await;
    let mut dead = Vec::new();
    for n in 0..10 {
        dead.push(app.send(json!({"to": format!("{n}@dead.test")})).await.id);
        app.send(json!({"to": format!("{n}@alive.test")})).await;
    }
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 10);
    let mut tried = 0;
    for id in dead {
        let recipient: Value = app.recipient(&id).await;
        tried += recipient["attempts"].as_i64().unwrap();
    }
    assert_eq!(tried, 4, "the others wait while the domain is unreachable");
}

#[tokio::test]
async fn one_failing_connection_does_not_make_a_lane_unreachable() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    app.run_until_idle().await;
    // Two at once: one over the connection that is open, one over a new one, which fails.
    let gate = app.smtp.dot().stalls();
    app.send(json!({})).await;
    app.send(json!({})).await;
    close_connections::<1>(&app);
    let working = app.start_working();
    gate.reached().await;
    gate.open();
    working.await.unwrap().unwrap();
    assert_eq!(failures(&app).await, 0);
}

#[tokio::test]
async fn lane_with_a_rate_is_probed_at_the_same_intervals() {
    let app = TestApp::start().await;
    close_connections::<1>(&app);
    app.send(json!({})).await;
    app.run_until_idle().await;
    app.sql("UPDATE lanes SET rate = 0.5").await;
    for _ in 0..3 {
        app.send(json!({})).await;
    }
    app.clock.advance(seconds(30));
    close_connections::<1>(&app);
    app.run_until_idle().await;
    assert_eq!((failures(&app).await, app.smtp.connections()), (2, 2));
    app.clock.advance(seconds(59));
    app.run_until_idle().await;
    assert_eq!(app.smtp.connections(), 2);
    app.clock.advance(seconds(1));
    app.run_until_idle().await;
    assert_eq!(failures(&app).await, 0);
    app.clock.advance(seconds(60));
    app.run_until_idle().await;
}

#[tokio::test]
async fn worker_without_network_stops_no_other_worker() {
    let mut app = TestApp::start().await;
    app.config.relay_url = Some("smtp://127.0.0.9:1?tls=none".to_owned().into());
    let cut_off = app.another_worker().await;
    app.send(json!({})).await;
    cut_off.drain().await.unwrap();
    assert_eq!(failures(&app).await, 1);
    app.clock.advance(seconds(30));
    let second = app.send(json!({})).await;
    app.run_until_idle().await;
    assert_eq!((app.status(&second.id).await.as_str(), failures(&app).await), ("relayed", 0));

    // The destination does not become unreachable for other workers, which have reached it since.
    let third = app.send(json!({})).await;
    cut_off.drain().await.unwrap();
    assert_eq!((app.status(&third.id).await.as_str(), failures(&app).await), ("deferred", 0));
    let fourth = app.send(json!({})).await;
    cut_off.drain().await.unwrap();
    assert_eq!(app.status(&fourth.id).await, "queued");
    app.run_until_idle().await;
    assert_eq!(app.status(&fourth.id).await, "relayed");
}

#[tokio::test]
async fn message_on_a_new_route_does_not_affect_its_old_lane() {
    let dns = DnsServer::start().await;
    dns.servfail("dead.test");
    let mut app = TestApp::start().await;
    let (relay, mut ids) = (app.config.relay_url.clone(), Vec::new());
    let dead = Route { relays: vec!["smtp://127.0.0.9:1?tls=none".to_owned().into()], ..Route::default() };
    let by_stream = Route { streams: vec!["transactional".into()], ..dead };
    // Direct, and through another relay.
    for (relay, routes) in [(None, None), (relay, Some(("other".to_owned(), by_stream)))] {
        ids.push(app.send(json!({"to": "ann@dead.test"})).await.id);
        app.config.dns = Some(dns.address());
        (app.config.relay_url, app.config.routes) = (relay, routes.into_iter().collect());
        app.another_worker().await.drain().await.unwrap();
    }
    for id in ids {
        assert_eq!((app.status(&id).await.as_str(), failures(&app).await), ("deferred", 0));
    }
}

#[tokio::test]
async fn unreachable_lane_opens_when_another_route_succeeds() {
    let mut app = TestApp::start().await;
    let relay = app.config.relay_url.replace("smtp://127.0.0.9:1?tls=none".to_owned().into());
    let message = app.send(json!({})).await;
    app.another_worker().await.drain().await.unwrap();
    assert_eq!((app.status(&message.id).await.as_str(), failures(&app).await), ("deferred", 1));
    let other =
        Route { relays: relay.into_iter().collect(), streams: vec!["transactional".into()], ..Route::default() };
    app.config.routes = [("other".to_owned(), other)].into();
    app.clock.advance(hours(1));
    app.another_worker().await.drain().await.unwrap();
    assert_eq!((app.status(&message.id).await.as_str(), failures(&app).await), ("relayed", 0));
}

#[tokio::test]
async fn observation_without_a_change_returns_the_lanes_health() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    let mut connection = app.database.connect().await;
    let lane = sqlx::query("SELECT id FROM lanes").fetch_one(&mut connection).await.unwrap().get(0);
    let now = app.clock.now();
    let observation = Observation {
        at: now,
        attempted: 1.0,
        accepted: 1.0,
        throttled: false,
        success: true,
        unreachable: false,
        reached_at: Some(now),
        own_session_at: Some(now),
    };
    let changes =
        lanes::health::apply(&app.db, &[Update { lane, observation, reply: None, failure: None }]).await.unwrap();
    assert_eq!(changes.iter().map(|change| change.after).collect::<Vec<_>>(), [DestinationHealth::default()]);
    app.run_until_idle().await;
}
