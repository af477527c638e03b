//! The clock of a machine is wrong. The database's clock decides when messages are due or expire, and the time of
//! events.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use postrider::app::{App, Roles};
use postrider::clock::{Clock, DatabaseClock, SystemClock};
use postrider::config::Config;
use postrider::db::Db;
use postrider::domain::key::Scope;
use serde_json::json;

use crate::support::app::make_key;
use crate::support::client::Api;
use crate::support::invariants;
use crate::support::postgres::Database;
use crate::support::smtp::SmtpServer;

/// A clock with an offset.
#[derive(Debug)]
struct OffsetClock(TimeDelta);

impl Clock for OffsetClock {
    fn now(&self) -> DateTime<Utc> {
        SystemClock.now() + self.0
    }
}

/// Starts a replica on a machine with a wrong clock.
async fn replica(database: &Database, smtp: &SmtpServer, roles: Roles, offset: TimeDelta) -> App {
    let mut config = Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        relay_url: Some(format!("smtp://{}?tls=none", smtp.address()).into()),
        ..Config::default()
    };
    config.database.url = Some(database.url.clone().into());
    App::start(&config, roles, Arc::new(DatabaseClock::new(Arc::new(OffsetClock(offset)))), None).await.unwrap()
}

#[tokio::test]
async fn wrong_clock_neither_expires_nor_delays_messages() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let db = Db::new(&database.url, 1, std::time::Duration::from_secs(10)).unwrap();
    let key = make_key(&db, &SystemClock, &Scope::ALL, None).await;
    db.close().await;
    let api = replica(&database, &smtp, Roles::Api, TimeDelta::hours(2)).await;
    let worker = replica(&database, &smtp, Roles::Worker, TimeDelta::days(30)).await;
    let client = Api::new(format!("http://{}", api.api_address().unwrap()), key);
    let started = SystemClock.now();
    let expires = (started + TimeDelta::minutes(10)).to_rfc3339();
    let sent = client.send(json!({"expires_at": expires})).await;
    smtp.received(1).await;
    worker.stop().await;

    let events = client.get(&format!("/v1/messages/{}/events", sent.id)).await.body;
    let times: Vec<DateTime<Utc>> = events["data"]
        .as_array()
        .expect("events")
        .iter()
        .map(|event| event["timestamp"].as_str().unwrap().parse().unwrap())
        .collect();
    assert_eq!(client.events(&sent.id).await, ["accepted", "relayed"]);
    assert!(times.is_sorted(), "{times:?}");
    let is_right = |time: &DateTime<Utc>| (*time - started).abs() < TimeDelta::minutes(1);
    assert!(times.iter().all(is_right), "{times:?} {started}");
    api.stop().await;
    invariants::check(&mut database.connect().await).await;
}
