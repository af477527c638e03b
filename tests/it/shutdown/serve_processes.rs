//! The program as a process: its commands, and `serve` killed, stopped and divided into API and worker.

use serde_json::json;

use crate::support::client::Api;
use crate::support::invariants;
use crate::support::load::{Load, copies, have_all_arrived};
use crate::support::postgres::Database;
use crate::support::process::{Service, key, on, postrider, run, serve, stderr_of};
use crate::support::smtp::SmtpServer;

#[tokio::test]
async fn commands_need_the_current_schema() {
    let (database, smtp) = (Database::empty(), SmtpServer::start().await);
    let refused = run(on(&database.url, &["keys", "create", "--name", "x"])).await;
    let output = stderr_of(&refused);
    assert!(!refused.status.success() && output.contains("\nhint: run `postrider migrate`"), "{output}");
    assert_eq!((output.lines().count(), refused.stdout.len()), (2, 0), "{output}");
    assert!(run(on(&database.url, &["migrate"])).await.status.success());
    assert!(run(on(&database.url, &["migrate"])).await.status.success(), "a second time changes nothing");
    key(&database.url).await;
    assert!(Service::start(serve(&database.url, smtp.address(), &[])).await.terminate().await.success());
}

#[tokio::test]
async fn serve_can_migrate_by_itself() {
    let (database, smtp) = (Database::empty(), SmtpServer::start().await);
    assert!(Service::start(serve(&database.url, smtp.address(), &["--migrate"])).await.terminate().await.success());
}

#[tokio::test]
async fn all_configuration_errors_are_reported_at_once() {
    let mut command = postrider(&["serve"]);
    command
        .env("POSTRIDER_LISTEN", "nonsense")
        .env("POSTRIDER_DELIVERY__CONCURRENCY", "0")
        .env("POSTRIDER_COLOUR", "red");
    let refused = run(command).await;
    let output = stderr_of(&refused);
    assert!(!refused.status.success() && output.lines().all(|line| line.starts_with("error: ")), "{output}");
    for name in ["POSTRIDER_LISTEN", "POSTRIDER_DELIVERY__CONCURRENCY", "POSTRIDER_COLOUR"] {
        assert_eq!(output.lines().filter(|line| line.contains(name)).count(), 1, "{name} in {output}");
    }
}

#[tokio::test]
async fn errors_are_one_line_with_a_hint_on_the_next() {
    let database = Database::new();
    let used_port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut port = on(&database.url, &["serve"]);
    port.env("POSTRIDER_LISTEN", used_port.local_addr().unwrap().to_string());
    // `serve` would wait for it.
    let mut unreachable_database = postrider(&["keys", "create", "--name", "x"]);
    unreachable_database.env("DATABASE_URL", "postgres://u:secret@127.0.0.1:1/x");
    for (command, text, lines) in [
        (port, "\nhint: stop the program that uses it, or choose another address with POSTRIDER_LISTEN", 2),
        (postrider(&["serve"]), "\nhint: set DATABASE_URL", 2),
        (unreachable_database, "the database is not available", 1),
    ] {
        let refused = run(command).await;
        let output = stderr_of(&refused);
        assert!(!refused.status.success() && output.contains(text) && !output.contains("secret"), "{output}");
        assert!(output.starts_with("error: ") && output.lines().count() == lines, "{output}");
    }
}

#[tokio::test]
async fn committed_openapi_document_is_current() {
    let printed = run(postrider(&["openapi"])).await;
    let committed = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/openapi/postrider.json")).unwrap();
    assert!(printed.stdout == committed, "run `cargo run -- openapi > openapi/postrider.json`");
}

#[tokio::test]
async fn api_and_worker_can_be_two_processes() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let worker = Service::start(serve(&database.url, smtp.address(), &["--only", "worker"])).await;
    let api = Service::start(serve(&database.url, smtp.address(), &["--only", "api"])).await;
    assert_eq!(worker.address, None);
    Api::new(api.address.clone().unwrap(), key(&database.url).await).send(json!({})).await;
    smtp.received(1).await;
    assert!(api.terminate().await.success());
    assert!(worker.terminate().await.success());
    invariants::check(&mut database.connect().await).await;
}

#[tokio::test]
async fn kill_under_load_loses_no_accepted_message() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let service = Service::start(serve(&database.url, smtp.address(), &[])).await;
    let mut load = Load::start(&Api::new(service.address.clone().unwrap(), key(&database.url).await));
    load.wait_for(150).await;
    service.kill().await;
    let acknowledged = load.end().await;

    let mut again = Service::start(serve(&database.url, smtp.address(), &[])).await;
    again.logged_event("leases_rescued").await;
    have_all_arrived(&smtp, &acknowledged).await;
    let mut connection = database.connect().await;
    invariants::queue_is_empty(&mut connection).await;
    assert!(again.terminate().await.success());
    invariants::check(&mut connection).await;
}

#[tokio::test]
async fn stop_under_load_sends_no_message_twice() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let service = Service::start(serve(&database.url, smtp.address(), &[])).await;
    let mut load = Load::start(&Api::new(service.address.clone().unwrap(), key(&database.url).await));
    load.wait_for(150).await;
    assert!(service.terminate().await.success());
    let acknowledged = load.end().await;
    invariants::check(&mut database.connect().await).await;

    let again = Service::start(serve(&database.url, smtp.address(), &[])).await;
    have_all_arrived(&smtp, &acknowledged).await;
    assert!(again.terminate().await.success());
    invariants::check(&mut database.connect().await).await;
    let twice: Vec<_> = copies(&smtp).into_iter().filter(|(_, copies)| *copies != 1).collect();
    assert_eq!(twice, []);
}

#[tokio::test]
async fn idle_service_with_the_dashboard_stops_at_once() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let mut command = serve(&database.url, smtp.address(), &[]);
    command.env("POSTRIDER_DASHBOARD__ENABLED", "true");
    let service = Service::start(command).await;
    // Far below the time that requests in progress may take.
    let ended = tokio::time::timeout(std::time::Duration::from_secs(15), service.terminate()).await;
    assert!(ended.expect("an end without a delay").success());
}
