//! PgBouncer in transaction mode: refused where it cannot work, and used without losing a message where it can.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::support::client::Api;
use crate::support::invariants;
use crate::support::own_postgres::OwnPostgres;
use crate::support::pgbouncer::{PgBouncer, find};
use crate::support::process::{Service, key, on, run, serve, stderr_of};
use crate::support::sink::Sink;
use crate::support::until::until;

const MESSAGES: usize = 2_000;
const CLIENTS: usize = 16;
/// Time limit for sending all messages.
const LIMIT: Duration = Duration::from_mins(2);

fn with_direct_url(mut command: Command, direct: &str) -> Command {
    command.env("POSTRIDER_DATABASE__DIRECT_URL", direct);
    command
}

#[tokio::test]
async fn pgbouncer_without_direct_url_is_refused() {
    let Some(program) = find() else { return };
    let postgres = OwnPostgres::start().await;
    let direct = postgres.database("pooled").await;
    for (settings, reason) in [
        ("", "refuses the settings of a session"),
        ("ignore_startup_parameters = extra_float_digits, options", "leads to a connection pooler in transaction mode"),
    ] {
        let pooler = PgBouncer::start(&program, &direct, settings).await;
        for command in [&["serve"][..], &["serve", "--migrate"], &["migrate"]] {
            let error = stderr_of(&run(on(&pooler.url, command)).await);
            assert!(error.contains(reason), "{command:?}: {error}");
            assert!(error.contains("\nhint: set database.direct_url (POSTRIDER_DATABASE__DIRECT_URL)"), "{error}");
        }
        let output = run(on(&pooler.url, &["doctor"])).await;
        let lines = String::from_utf8(output.stdout).unwrap();
        let line = lines.lines().find(|line| line.starts_with("BAD   sessions: ")).unwrap_or_else(|| panic!("{lines}"));
        assert!(line.contains(reason) && line.contains("set database.direct_url"), "{line}");
    }
}

#[tokio::test]
async fn pgbouncer_in_transaction_mode_loses_no_message() {
    let Some(program) = find() else { return };
    let (postgres, sink) = (OwnPostgres::start().await, Sink::start().await);
    let direct = postgres.database("pooled").await;
    let pooler = PgBouncer::start(&program, &direct, "").await;
    let error = stderr_of(&run(with_direct_url(on(&pooler.url, &["serve"]), &direct)).await);
    let (_, statements) = error.trim().split_once("reconnect the pooler: ").expect("the statements that fix it");
    postgres.sql("postgres", statements).await;
    drop(pooler);
    let pooler = PgBouncer::start(&program, &direct, "").await;

    let doctor = run(with_direct_url(on(&pooler.url, &["doctor"]), &direct)).await;
    let lines = String::from_utf8(doctor.stdout).unwrap();
    assert!(lines.contains("ok    sessions: have the settings that Postrider needs"), "{lines}");
    assert!(lines.contains("ok    connections: 1 replica(s) may open 12 direct connections beside"), "{lines}");

    let key = key(&direct).await;
    let start = || Service::start(with_direct_url(serve(&pooler.url, sink.address, &[]), &direct));
    let services = [start().await, start().await];
    let apis = services.each_ref().map(|service| Api::new(service.address.clone().expect("an API"), &key));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let api = apis[client % apis.len()].clone();
        clients.spawn(async move {
            for n in 0..MESSAGES / CLIENTS {
                api.send(json!({"subject": format!("{client}-{n}")})).await;
            }
        });
    }
    clients.join_all().await;
    let mut arrived = BTreeMap::new();
    until("all messages", LIMIT, async || {
        for (subject, copies) in sink.take() {
            *arrived.entry(subject).or_insert(0) += copies;
        }
        if arrived.len() == MESSAGES { Ok(()) } else { Err(format!("{} of {MESSAGES}", arrived.len())) }
    })
    .await;
    assert!(arrived.values().all(|copies| *copies == 1), "{arrived:?}");
    for service in services {
        assert!(service.terminate().await.success());
    }
    invariants::check(&mut postgres.connect("pooled").await).await;
}
