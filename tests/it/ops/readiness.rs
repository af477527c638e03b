//! Readiness: processes and migrations start in any order, and a process that stops first leaves its load balancer.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::support::client::{Api, message};
use crate::support::own_postgres::OwnPostgres;
use crate::support::postgres::Database;
use crate::support::process::{Service, key, on, run, serve, stderr_of};
use crate::support::smtp::SmtpServer;
use crate::support::until::until;

/// Time limit of a wait.
const LIMIT: Duration = Duration::from_secs(30);

/// Returns the status of a path, with the code and the detail of a problem.
async fn probe(base: &str, path: &str) -> (u16, String, String) {
    let response = Api::new(base, "").anonymous(Method::GET, path).send().await.unwrap();
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
    (status, text("code"), text("detail"))
}

/// Asserts that a process is alive and not ready, with a reason that contains this text.
async fn assert_not_ready(base: &str, reason: &str) {
    assert_eq!(probe(base, "/healthz").await.0, 200);
    let (status, code, detail) = probe(base, "/readyz").await;
    assert_eq!((status, code.as_str()), (503, "not_ready"), "{detail}");
    assert!(detail.contains(reason), "{detail}");
}

async fn sql(database: &Database, statement: &str) {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut database.connect().await).await.unwrap();
}

#[tokio::test]
async fn api_and_worker_wait_for_the_migration() {
    let (database, smtp) = (Database::empty(), SmtpServer::start().await);
    let with_ops = |role: &str| {
        let mut command = serve(&database.url, smtp.address(), &["--only", role]);
        command.env("POSTRIDER_METRICS__LISTEN", "127.0.0.1:0");
        command
    };
    let mut with_public = with_ops("api");
    with_public.env("POSTRIDER_PUBLIC_LISTEN", "127.0.0.1:0");
    let (mut api, mut worker) = (Service::spawn(with_public), Service::spawn(with_ops("worker")));
    api.wait_until_waiting().await;
    worker.wait_until_waiting().await;
    let address = api.address.clone().unwrap();
    for base in [&address, api.ops.as_ref().unwrap(), worker.ops.as_ref().unwrap()] {
        assert_not_ready(base, "run `postrider migrate`").await;
    }
    let public = api.public.clone().unwrap();
    assert_eq!(probe(&public, "/healthz").await.0, 200);
    assert_eq!(probe(&public, "/u/x").await.0, 503, "links in messages wait as well");
    let early = Api::new(&address, "pr_x").request(Method::POST, "/v1/messages").json(&message(json!({}))).send().await;
    let early = early.unwrap();
    assert_eq!((early.status().as_u16(), early.headers().contains_key("retry-after")), (503, true));

    assert!(run(on(&database.url, &["migrate"])).await.status.success());
    api.wait_until_running().await;
    worker.wait_until_running().await;
    assert_eq!((&api.address, &api.public), (&Some(address.clone()), &Some(public.clone())), "the ports stay the same");
    let page = Api::new(&public, "").anonymous(Method::GET, "/u/x").send().await.unwrap();
    assert_ne!(page.status(), 503);
    for base in [&address, api.ops.as_ref().unwrap(), worker.ops.as_ref().unwrap()] {
        assert_eq!(probe(base, "/readyz").await.0, 200);
    }
    Api::new(&address, key(&database.url).await).send(json!({})).await;
    smtp.received(1).await;
    assert!(api.terminate().await.success() && worker.terminate().await.success());
}

#[tokio::test]
async fn process_starts_before_the_database_server() {
    let (mut postgres, smtp) = (OwnPostgres::start().await, SmtpServer::start().await);
    let url = postgres.database("late").await;
    let refused = run(serve(&url.replace("/late?", "/unknown?"), smtp.address(), &[])).await;
    let output = stderr_of(&refused);
    assert!(!refused.status.success() && output.contains("the database denies access"), "{output}");

    postgres.kill().await;
    let mut command = serve(&url, smtp.address(), &[]);
    command.env("POSTRIDER_METRICS__LISTEN", "127.0.0.1:0");
    let mut service = Service::spawn(command);
    service.wait_until_database_is_away().await;
    let address = service.address.clone().unwrap();
    for base in [&address, service.ops.as_ref().unwrap()] {
        assert_not_ready(base, "The database cannot be reached").await;
    }

    postgres.start_again().await;
    service.wait_until_running().await;
    assert_eq!(service.address.as_ref(), Some(&address), "the port stays the same");
    let waits = service.lines().iter().filter(|line| line["event"] == "waiting_for_database").count();
    assert_eq!((probe(&address, "/readyz").await.0, waits), (200, 1));
    assert!(service.terminate().await.success());
}

#[tokio::test]
async fn process_that_waits_for_the_schema_stops_on_sigterm() {
    let (database, smtp) = (Database::empty(), SmtpServer::start().await);
    let mut service = Service::spawn(serve(&database.url, smtp.address(), &[]));
    service.wait_until_waiting().await;
    service.send_sigterm().await;
    service.logged_event("stopped").await;
    assert_eq!(service.ended().await.code(), Some(0));
}

#[tokio::test]
async fn old_version_waits_while_the_schema_is_newer() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (9999, 'of the future', true, '\\x00', 0)";
    sql(&database, newer).await;
    let mut service = Service::spawn(serve(&database.url, smtp.address(), &[]));
    service.wait_until_waiting().await;
    assert_not_ready(service.address.as_ref().unwrap(), "newer than this version").await;

    sql(&database, "DELETE FROM _sqlx_migrations WHERE version = 9999").await;
    service.wait_until_running().await;
    assert_eq!(probe(service.address.as_ref().unwrap(), "/readyz").await.0, 200);
    assert!(service.terminate().await.success());
}

#[tokio::test]
async fn running_process_is_ready_with_a_newer_schema_only() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let service = Service::start(serve(&database.url, smtp.address(), &[])).await;
    let base = service.address.as_ref().unwrap();
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (9999, 'of the next version', true, '\\x00', 0)";
    sql(&database, newer).await;
    assert_eq!(probe(base, "/readyz").await.0, 200, "an upgrade migrates while this version runs");

    sql(&database, "DELETE FROM _sqlx_migrations WHERE version = 9999").await;
    sql(&database, "UPDATE _sqlx_migrations SET success = false WHERE version = 33").await;
    assert_not_ready(base, "older than this version").await;
    sql(&database, "UPDATE _sqlx_migrations SET success = true WHERE version = 33").await;
    assert_eq!(probe(base, "/readyz").await.0, 200);
    assert!(service.terminate().await.success());
}

#[tokio::test]
async fn requests_succeed_between_sigterm_and_the_end_of_the_drain() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let mut command = serve(&database.url, smtp.address(), &[]);
    command.env("POSTRIDER_HTTP__DRAIN_DELAY", "3s");
    let mut service = Service::start(command).await;
    let base = service.address.clone().unwrap();
    let key = key(&database.url).await;
    assert_eq!(probe(&base, "/readyz").await.0, 200);
    service.send_sigterm().await;
    service.logged_event("draining").await;
    assert_not_ready(&base, "shutting down").await;
    // Each client opens a new connection.
    for _ in 0..3 {
        Api::new(&base, &key).send(json!({})).await;
    }
    service.logged_event("stopped").await;
    until("the listener is closed", LIMIT, async || {
        match std::net::TcpStream::connect(base.trim_start_matches("http://")) {
            Ok(_) => Err("open"),
            Err(_) => Ok(()),
        }
    })
    .await;
    let sent = smtp.messages().len();
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM queue").fetch_one(&mut database.connect().await).await.unwrap();
    assert_eq!(sent + usize::try_from(left).unwrap(), 3, "every message was sent, or waits for another process");
}
