//! The program itself: its commands, and `serve` killed, stopped and split under load.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use reqwest::Method;
use serde_json::json;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::client::{Api, message};
use crate::support::invariants;
use crate::support::postgres::Database;
use crate::support::process::{Service, complaint, postrider, run};
use crate::support::smtp::SmtpServer;

/// A command on this database, quiet but for errors.
fn on(database: &Database, arguments: &[&str]) -> Command {
    let mut command = postrider(arguments);
    command.env("DATABASE_URL", &database.url).env("POSTRIDER_LOG__FILTER", "error");
    command
}

fn serve(database: &Database, smtp: &SmtpServer, arguments: &[&str]) -> Command {
    let mut command = on(database, &[&["serve"], arguments].concat());
    command
        .env("POSTRIDER_LISTEN", "127.0.0.1:0")
        .env("POSTRIDER_RELAY_URL", format!("smtp://{}?tls=none", smtp.address()))
        .env("POSTRIDER_DELIVERY__LEASE", "5s")
        .env("POSTRIDER_LOG__FILTER", "info");
    command
}

/// A new key, made by the command.
async fn key(database: &Database) -> String {
    let made = run(on(database, &["keys", "create", "--name", "test"])).await;
    assert!(made.status.success(), "{}", complaint(&made));
    let key = String::from_utf8(made.stdout).unwrap();
    let key = key.strip_suffix('\n').expect("one line");
    assert!(key.starts_with("pr_") && key.len() == 67 && !key.contains(char::is_whitespace), "{key}");
    key.to_owned()
}

#[tokio::test]
async fn serve_wants_the_schema_it_knows() {
    let (database, smtp) = (Database::empty(), SmtpServer::start().await);
    for arguments in [&["serve"][..], &["keys", "create", "--name", "x"]] {
        let refused = run(on(&database, arguments)).await;
        let said = complaint(&refused);
        assert!(!refused.status.success() && said.contains("run `postrider migrate`"), "{said}");
        assert_eq!((said.lines().count(), refused.stdout.len()), (1, 0), "{said}");
    }
    assert!(run(on(&database, &["migrate"])).await.status.success());
    assert!(run(on(&database, &["migrate"])).await.status.success(), "a second time changes nothing");
    key(&database).await;
    assert!(Service::start(serve(&database, &smtp, &[])).await.terminate().await.success());
}

#[tokio::test]
async fn serve_can_migrate_by_itself() {
    let (database, smtp) = (Database::empty(), SmtpServer::start().await);
    assert!(Service::start(serve(&database, &smtp, &["--migrate"])).await.terminate().await.success());
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
    assert!(!refused.status.success());
    for name in ["POSTRIDER_LISTEN", "POSTRIDER_DELIVERY__CONCURRENCY", "POSTRIDER_COLOUR"] {
        assert_eq!(said.lines().filter(|line| line.contains(name)).count(), 1, "{name} in {said}");
    }
}

#[tokio::test]
async fn what_is_missing_is_one_line_with_the_mend() {
    let database = Database::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut port = on(&database, &["serve"]);
    port.env("POSTRIDER_LISTEN", taken.local_addr().unwrap().to_string());
    let mut nobody = postrider(&["serve"]);
    nobody.env("DATABASE_URL", "postgres://u:secret@127.0.0.1:1/x");
    for (command, words) in
        [(port, "POSTRIDER_LISTEN"), (postrider(&["serve"]), "DATABASE_URL"), (nobody, "the database is not available")]
    {
        let refused = run(command).await;
        let said = complaint(&refused);
        assert!(!refused.status.success() && said.contains(words) && !said.contains("secret"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
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
    let worker = Service::start(serve(&database, &smtp, &["--only", "worker"])).await;
    let api = Service::start(serve(&database, &smtp, &["--only", "api"])).await;
    assert_eq!(worker.address, None);
    Api::new(api.address.clone().unwrap(), key(&database).await).send(json!({})).await;
    smtp.received(1).await;
    assert!(api.terminate().await.success());
    assert!(worker.terminate().await.success());
    invariants::check(&mut database.connect().await).await;
}

/// Eight applications that send as fast as they can until there is no answer.
struct Load {
    acknowledged: Arc<Mutex<Vec<String>>>,
    count: watch::Receiver<usize>,
    senders: JoinSet<()>,
}

impl Load {
    fn start(api: &Api) -> Self {
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let (tell, count) = watch::channel(0);
        let mut senders = JoinSet::new();
        for sender in 0..8 {
            let (api, acknowledged, tell) = (api.clone(), acknowledged.clone(), tell.clone());
            senders.spawn(async move {
                for n in 0.. {
                    let subject = format!("{sender}-{n}");
                    let request = api.request(Method::POST, "/v1/messages").json(&message(json!({"subject": subject})));
                    match request.send().await {
                        Ok(answer) if answer.status() == 202 => acknowledged.lock().unwrap().push(subject),
                        _ => return,
                    }
                    tell.send_modify(|count| *count += 1);
                }
            });
        }
        Self { acknowledged, count, senders }
    }

    async fn reaches(&mut self, count: usize) {
        self.count.wait_for(|acknowledged| *acknowledged >= count).await.unwrap();
    }

    /// Waits for the end, and answers what was answered 202.
    async fn end(mut self) -> BTreeSet<String> {
        while self.senders.join_next().await.is_some() {}
        std::mem::take(&mut *self.acknowledged.lock().unwrap()).into_iter().collect()
    }
}

/// How often each subject has arrived.
fn copies(smtp: &SmtpServer) -> BTreeMap<String, usize> {
    let mut copies = BTreeMap::new();
    for mail in smtp.mails() {
        let text = String::from_utf8(mail.raw).unwrap();
        let subject = text.lines().find_map(|line| line.strip_prefix("Subject: ")).expect("a subject");
        *copies.entry(subject.to_owned()).or_default() += 1;
    }
    copies
}

async fn have_all_arrived(smtp: &SmtpServer, subjects: &BTreeSet<String>) {
    loop {
        let (arrived, mails) = (copies(smtp), smtp.mails().len());
        if subjects.iter().all(|subject| arrived.contains_key(subject)) {
            return;
        }
        smtp.received(mails + 1).await;
    }
}

#[tokio::test]
async fn killed_under_load_it_loses_nothing_that_was_answered_202() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let service = Service::start(serve(&database, &smtp, &[])).await;
    let mut load = Load::start(&Api::new(service.address.clone().unwrap(), key(&database).await));
    load.reaches(150).await;
    service.kill().await;
    let acknowledged = load.end().await;

    let mut again = Service::start(serve(&database, &smtp, &[])).await;
    again.logged("took over from workers that have not been heard of").await;
    have_all_arrived(&smtp, &acknowledged).await;
    assert!(again.terminate().await.success());
    invariants::check(&mut database.connect().await).await;
}

#[tokio::test]
async fn stopped_under_load_it_sends_nothing_twice() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let service = Service::start(serve(&database, &smtp, &[])).await;
    let mut load = Load::start(&Api::new(service.address.clone().unwrap(), key(&database).await));
    load.reaches(150).await;
    assert!(service.terminate().await.success());
    let acknowledged = load.end().await;
    invariants::check(&mut database.connect().await).await;

    let again = Service::start(serve(&database, &smtp, &[])).await;
    have_all_arrived(&smtp, &acknowledged).await;
    assert!(again.terminate().await.success());
    invariants::check(&mut database.connect().await).await;
    let twice: Vec<_> = copies(&smtp).into_iter().filter(|(_, copies)| *copies != 1).collect();
    assert_eq!(twice, []);
}
