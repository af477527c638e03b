//! `postrider dev`: one command, nothing running before, nothing left running after, and its data found again.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;

use crate::smtp_in::client::Client;
use crate::support::client::Api;
use crate::support::process::{postrider, stop};
use crate::support::reports::{dsn, failed};

/// Starts it and answers what it wrote into `dev.json`.
async fn start(dir: &Path) -> (Child, Value) {
    let mut command = postrider(&["dev", "--dir", dir.to_str().unwrap()]);
    let mut child = command.env("POSTRIDER_LISTEN", "127.0.0.1:0").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while !lines.next_line().await.unwrap().expect("a start").contains("Ctrl-C") {}
    let facts = std::fs::read(dir.join("dev.json")).unwrap();
    (child, serde_json::from_slice(&facts).unwrap())
}

fn api(facts: &Value, key: &str) -> Api {
    Api::new(facts["api"].as_str().unwrap(), facts[key].as_str().unwrap())
}

async fn inbox(api: &Api) -> Vec<Value> {
    api.get("/v1/dev/inbox").await.body["data"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_second_start_finds_the_mail_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    // As root the cluster belongs to another user, who must get there.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let (first, facts) = start(dir.path()).await;
    let sender = api(&facts, "api_key");
    let mail = sender.send(json!({"subject": "Grüße"})).await;
    while inbox(&sender).await.is_empty() {}
    let caught = sender.get("/v1/dev/inbox/1").await.body;
    assert_eq!((&caught["subject"], &caught["envelope"]["to"]), (&json!("Grüße"), &json!(["ann@example.test"])));
    let admin = api(&facts, "admin_key");
    assert_eq!(admin.get("/v1/keys").await.status, 200);
    // A secret was made, so mail can be signed without set-up.
    assert_eq!(admin.post("/v1/domains", &json!({"name": "signed.test"})).await.status, 201);
    let secret = std::fs::metadata(dir.path().join("secret_key")).unwrap();
    assert_eq!(secret.permissions().mode() & 0o777, 0o600);
    assert_eq!(api(&facts, "admin_key").get("/v1/keys").await.status, 200);
    let path = caught["envelope"]["from"].as_str().unwrap().to_owned();
    assert!(path.starts_with("b+") && path.ends_with("@return.postrider.test"), "{path}");
    assert!(stop(first).await.success());

    let (second, again) = start(dir.path()).await;
    assert_eq!((&again["api_key"], &again["admin_key"]), (&facts["api_key"], &facts["admin_key"]));
    let sender = api(&again, "api_key");
    assert_eq!((sender.status(&mail.id).await.as_str(), inbox(&sender).await.len()), ("relayed", 1));
    let signed = sender.send(json!({"from": "a@signed.test"})).await;
    let raw = sender.get(&format!("/v1/messages/{}/raw", signed.id)).await.octets;
    assert_eq!(String::from_utf8_lossy(&raw).matches("DKIM-Signature: ").count(), 2, "by the keys of the first start");
    // Return paths are good beyond a restart: the secret was kept.
    let mut server = Client::connect(again["bounces_smtp"].as_str().unwrap().parse().unwrap()).await;
    assert!(server.bring(&path, &dsn(None, None, &[failed("ann@example.test")])).await.starts_with("250"));
    assert_eq!(sender.status(&mail.id).await, "bounced");
    assert!(stop(second).await.success());
}
