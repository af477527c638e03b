//! The program itself: its commands, and `serve` killed, stopped and split under load.

use serde_json::json;

use crate::support::client::Api;
use crate::support::invariants;
use crate::support::load::{Load, copies, have_all_arrived};
use crate::support::postgres::Database;
use crate::support::process::{Service, complaint, key, on, postrider, run, serve};
use crate::support::smtp::SmtpServer;

#[tokio::test]
async fn serve_wants_the_schema_it_knows() {
    let (database, smtp) = (Database::empty(), SmtpServer::start().await);
    for arguments in [&["serve"][..], &["keys", "create", "--name", "x"]] {
        let refused = run(on(&database.url, arguments)).await;
        let said = complaint(&refused);
        assert!(!refused.status.success() && said.contains("\nhint: run `postrider migrate`"), "{said}");
        assert_eq!((said.lines().count(), refused.stdout.len()), (2, 0), "{said}");
    }
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
async fn every_mistake_in_the_configuration_is_told_at_once() {
    let mut command = postrider(&["serve"]);
    command
        .env("POSTRIDER_LISTEN", "nonsense")
        .env("POSTRIDER_DELIVERY__CONCURRENCY", "0")
        .env("POSTRIDER_COLOUR", "red");
    let refused = run(command).await;
    let said = complaint(&refused);
    assert!(!refused.status.success() && said.lines().all(|line| line.starts_with("error: ")), "{said}");
    for name in ["POSTRIDER_LISTEN", "POSTRIDER_DELIVERY__CONCURRENCY", "POSTRIDER_COLOUR"] {
        assert_eq!(said.lines().filter(|line| line.contains(name)).count(), 1, "{name} in {said}");
    }
}

#[tokio::test]
async fn what_is_missing_is_one_line_and_its_fix_another() {
    let database = Database::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut port = on(&database.url, &["serve"]);
    port.env("POSTRIDER_LISTEN", taken.local_addr().unwrap().to_string());
    let mut nobody = postrider(&["serve"]);
    nobody.env("DATABASE_URL", "postgres://u:secret@127.0.0.1:1/x");
    for (command, words, lines) in [
        (port, "\nhint: stop the program that uses it, or choose another address with POSTRIDER_LISTEN", 2),
        (postrider(&["serve"]), "\nhint: set DATABASE_URL", 2),
        (nobody, "the database is not available", 1),
    ] {
        let refused = run(command).await;
        let said = complaint(&refused);
        assert!(!refused.status.success() && said.contains(words) && !said.contains("secret"), "{said}");
        assert!(said.starts_with("error: ") && said.lines().count() == lines, "{said}");
    }
}

#[tokio::test]
async fn the_committed_document_is_the_one_that_is_served() {
    let printed = run(postrider(&["openapi"])).await;
    let committed = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/openapi/postrider.json")).unwrap();
    assert!(printed.stdout == committed, "run `cargo run -- openapi > openapi/postrider.json`");
}

#[tokio::test]
async fn api_and_worker_may_be_two_processes() {
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
async fn killed_under_load_it_loses_nothing_that_was_answered_202() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let service = Service::start(serve(&database.url, smtp.address(), &[])).await;
    let mut load = Load::start(&Api::new(service.address.clone().unwrap(), key(&database.url).await));
    load.reaches(150).await;
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
async fn stopped_under_load_it_sends_nothing_twice() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let service = Service::start(serve(&database.url, smtp.address(), &[])).await;
    let mut load = Load::start(&Api::new(service.address.clone().unwrap(), key(&database.url).await));
    load.reaches(150).await;
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
