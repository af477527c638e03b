//! `serve --only read-only-api`: reads from a hot standby.

use reqwest::Method;
use serde_json::{Value, json};

use super::failover::standby;
use super::server::{LIMIT, NAME, Tools};
use super::service::Mail;
use crate::support::client::message;
use crate::support::process::{Service, run, serve, stderr_of};
use crate::support::until::until;

const ROLE: [&str; 2] = ["--only", "read-only-api"];

#[tokio::test]
async fn standby_serves_reads_and_refuses_writes() {
    let Some(tools) = Tools::find() else { return };
    let primary = tools.create("primary", "");
    primary.migrate().await;
    let standby = standby(&tools, &primary);
    let mail = Mail::new(&primary.url(NAME)).await;
    let writer = mail.start(&primary.url(NAME)).await;
    let id = mail.accepted(&writer).await;
    mail.reaches(&writer, &id, "relayed").await;

    let reader = Service::start(serve(&standby.url(NAME), mail.smtp.address(), &ROLE)).await;
    let api = mail.api(&reader);
    until("the message is on the standby", LIMIT, async || {
        let found = api.get(&format!("/v1/messages/{id}")).await;
        if found.body["status"] == "relayed" { Ok(()) } else { Err(found.body) }
    })
    .await;
    for path in [format!("/v1/messages/{id}/events"), format!("/v1/messages/{id}/explain"), "/v1/messages".into()] {
        let response = api.get(&path).await;
        assert_eq!(response.status, 200, "{path}: {}", response.body);
    }
    assert_eq!(api.anonymous(Method::GET, "/readyz").send().await.unwrap().status(), 200);
    let cancel = format!("/v1/messages/{id}/cancel");
    for (method, path) in [
        (Method::POST, "/v1/messages"),
        (Method::POST, cancel.as_str()),
        (Method::DELETE, "/v1/suppressions/ann@example.test"),
        (Method::PATCH, "/v1/streams/bulk"),
    ] {
        let refused = api.request(method, path).json(&message(json!({}))).send().await.unwrap();
        assert_eq!(refused.status(), 503, "{path}");
        let problem: Value = refused.json().await.unwrap();
        assert_eq!(problem["code"], "read_only", "{path}");
        assert!(problem["detail"].as_str().unwrap().contains("on the primary"), "{problem}");
    }
    // What the standby does not have yet arrives while the process runs.
    let next = mail.accepted(&writer).await;
    until("the next message is on the standby", LIMIT, async || {
        let found = api.get(&format!("/v1/messages/{next}")).await;
        if found.status == 200 { Ok(()) } else { Err(found.body) }
    })
    .await;
    let errors: Vec<_> = reader.lines().into_iter().filter(|line| line["level"] == "ERROR").collect();
    assert!(errors.is_empty(), "{errors:?}");
    assert!(reader.terminate().await.success());
    assert!(writer.terminate().await.success());
}

#[tokio::test]
async fn reading_process_writes_nothing_to_a_primary() {
    let Some(tools) = Tools::find() else { return };
    let primary = tools.create("primary", "autovacuum = off");
    primary.migrate().await;
    let mail = Mail::new(&primary.url(NAME)).await;
    // Each transaction that writes takes the next number.
    let written = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text";
    let before = primary.number(written).await;
    let reader = Service::start(serve(&primary.url(NAME), mail.smtp.address(), &ROLE)).await;
    let api = mail.api(&reader);
    assert_eq!(api.get("/v1/messages").await.status, 200);
    assert!(reader.terminate().await.success());
    assert_eq!(primary.number(written).await, before);
}

#[tokio::test]
async fn reading_process_cannot_migrate() {
    let Some(tools) = Tools::find() else { return };
    let primary = tools.create("primary", "");
    let mut command = crate::support::process::on(&primary.url(NAME), &["serve", "--migrate", ROLE[0], ROLE[1]]);
    command.env("POSTRIDER_LISTEN", "127.0.0.1:0");
    let refused = run(command).await;
    assert!(!refused.status.success() && stderr_of(&refused).contains("cannot migrate"), "{}", stderr_of(&refused));
}
