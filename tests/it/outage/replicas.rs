//! Several replicas on one database: their settings, their connections, and concurrent work.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use futures_util::future::try_join_all;
use postrider::app::database::fingerprints;
use postrider::app::{App, Roles};
use postrider::clock::{Clock as _, DatabaseClock, SystemClock};
use postrider::config::Config;
use postrider::db::Db;
use postrider::db::pool::server;
use postrider::db::schema::partitions;
use postrider::domain::key::Scope;
use serde_json::json;

use crate::support::app::{TestApp, make_key};
use crate::support::client::Api;
use crate::support::own_postgres::OwnPostgres;
use crate::support::postgres::Database;
use crate::support::process::{Service, serve};
use crate::support::smtp::SmtpServer;

#[tokio::test]
async fn replica_with_different_settings_is_named() {
    let app = TestApp::builder()
        .config(|config| config.secret_key = Some("the secret of the first replica, and its own".to_owned().into()))
        .start()
        .await;
    let differing = fingerprints::differing(&app.config, &app.db).await.unwrap();
    assert_eq!(differing.len(), 0, "{differing:?}");
    let mut config = app.config.clone();
    config.secret_key = Some("the secret of the second replica, another one".to_owned().into());
    config.public_url = Some("https://mail.example.test".parse().unwrap());
    let differing = fingerprints::differing(&config, &app.db).await.unwrap();
    let named: Vec<&str> = differing.iter().flat_map(|worker| &worker.settings).map(String::as_str).collect();
    assert_eq!(named, ["public_url", "secret_key"]);
}

#[tokio::test]
async fn replicas_with_different_settings_are_logged() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let with_secret = |secret: &str| {
        let mut command = serve(&database.url, smtp.address(), &[]);
        command.env("POSTRIDER_SECRET_KEY", secret);
        command
    };
    let _first = Service::start(with_secret("the secret of the first replica, and its own")).await;
    let mut second = Service::start(with_secret("the secret of the second replica, another one")).await;
    let warned = second.logged_event("settings_differ").await;
    assert_eq!((&warned["level"], &warned["settings"]), (&json!("WARN"), &json!("secret_key")), "{warned}");
}

#[tokio::test]
async fn concurrent_partition_creation_succeeds() {
    let app = TestApp::start().await;
    let moment = app.clock.now() + TimeDelta::weeks(20);
    let dbs: Vec<Db> = (0..4).map(|_| Db::new(&app.database.url, 2, Duration::from_secs(10)).unwrap()).collect();
    try_join_all(dbs.iter().map(|db| partitions::ensure(db, moment))).await.expect("all of them");
    for db in dbs {
        db.close().await;
    }
}

#[tokio::test]
async fn api_leaves_connections_to_the_worker() {
    let (postgres, smtp) = (OwnPostgres::start().await, SmtpServer::start().await);
    let url = postgres.database("short").await;
    postgres.sql("postgres", "ALTER ROLE app CONNECTION LIMIT 11").await;
    let db = Db::new(&url, 2, Duration::from_secs(4)).unwrap();
    let key = make_key(&db, &SystemClock, &Scope::ALL, None).await;
    assert_eq!(server::state(&db).await.unwrap().connections.available, 11);
    db.close().await;
    let mut config = Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        relay_url: Some(format!("smtp://{}?tls=none", smtp.address()).into()),
        ..Config::default()
    };
    config.database.url = Some(url.into());
    let app = App::start(&config, Roles::All, Arc::new(DatabaseClock::default()), None).await.unwrap();
    let client = Api::new(format!("http://{}", app.api_address().unwrap()), key);
    let many = (0..100).map(|n| client.send(json!({"to": [format!("ann{n}@example.test")]})));
    futures_util::future::join_all(many).await;
    smtp.received(100).await;
    let used = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'");
    let used = used.fetch_one(&mut postgres.connect("short").await).await.unwrap();
    assert!(used <= 8, "{used} connections, but 3 must stay free");
    app.stop().await;
}
