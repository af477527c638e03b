//! `postrider dev` needs no other process, leaves none running, and keeps its data between starts.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::client::Api;
use crate::support::dev::{Dev, directory};
use crate::support::inbound_client::Client;
use crate::support::reports::{dsn, failed};

async fn inbox_message(api: &Api, n: u64) -> Value {
    let response = api.get(&format!("/v1/dev/inbox/{n}?wait=30")).await;
    assert_eq!(response.status, 200, "{}", response.body);
    response.body
}

/// Collects the names of the files below `dir` that other users can read.
fn readable_by_others(dir: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let (path, metadata) = entry.map(|entry| (entry.path(), entry.metadata().unwrap())).unwrap();
        if metadata.is_dir() {
            readable_by_others(&path, found);
        } else if metadata.is_file() && metadata.permissions().mode() & 0o077 != 0 {
            found.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
}

#[tokio::test]
async fn second_start_keeps_messages_keys_and_secret() {
    let dir = directory();
    let first = Dev::start(dir.path()).await;
    let sender = first.api("api_key");
    let sent = sender.send(json!({"subject": "Grüße"})).await;
    let message = inbox_message(&sender, 1).await;
    assert_eq!((&message["subject"], &message["envelope"]["to"]), (&json!("Grüße"), &json!(["ann@example.test"])));
    assert!(first.printed.contains("/v1/dev/inbox/1?wait=10"), "{}", first.printed);
    let admin = first.api("admin_key");
    assert_eq!(admin.get("/v1/keys").await.status, 200);
    // The first start created a secret key, so messages can be signed without configuration.
    assert_eq!(admin.post("/v1/domains", &json!({"name": "signed.test"})).await.status, 201);
    let path = message["envelope"]["from"].as_str().unwrap().to_owned();
    assert!(path.starts_with("b+") && path.ends_with("@return.postrider.test"), "{path}");
    let facts = first.facts.clone();
    assert!(first.stop().await.success());

    let second = Dev::start(dir.path()).await;
    for key in ["api_key", "admin_key", "test_key"] {
        assert_eq!(second.facts[key], facts[key]);
    }
    assert!(second.printed.contains("/v1/dev/inbox/2?wait=10"), "{}", second.printed);
    let sender = second.api("api_key");
    assert_eq!(sender.status(&sent.id).await, "relayed");
    let signed = sender.send(json!({"from": "a@signed.test"})).await;
    let raw = sender.get(&format!("/v1/messages/{}/raw", signed.id)).await.bytes;
    assert_eq!(
        String::from_utf8_lossy(&raw).matches("DKIM-Signature: ").count(),
        2,
        "signed with the keys of the first start"
    );
    assert_eq!(inbox_message(&sender, 2).await["from"], "a@signed.test");
    // Return paths stay valid after a restart, because the secret is stored.
    let mut server = Client::connect(second.fact("bounces_smtp").parse().unwrap()).await;
    assert!(server.deliver(&path, &dsn(None, None, &[failed("ann@example.test")])).await.starts_with("250"));
    assert_eq!(sender.status(&sent.id).await, "bounced");
    assert!(second.stop().await.success());
}

#[tokio::test]
async fn dev_prints_its_addresses_and_protects_its_files() {
    let dir = directory();
    let dev = Dev::start(dir.path()).await;
    for fact in ["api", "api_key", "admin_key", "test_key", "inbox_smtp", "bounces_smtp", "submission_smtp"] {
        assert!(dev.printed.contains(dev.fact(fact)), "{fact}: {}", dev.printed);
    }
    let shell = std::fs::read_to_string(dir.path().join(".postrider/dev.env")).unwrap();
    let [api, key, admin] = ["api", "api_key", "admin_key"].map(|fact| dev.fact(fact));
    assert!(shell.starts_with(&format!("API={api}\nKEY={key}\nADMIN_KEY={admin}\n")), "{shell}");
    // Git ignores the directory, and other users cannot read its files.
    assert_eq!(std::fs::read_to_string(dir.path().join(".postrider/.gitignore")).unwrap(), "*\n");
    let sender = dev.api("api_key");
    sender.send(json!({"subject": "Reset your password"})).await;
    inbox_message(&sender, 1).await;
    let mut readable = Vec::new();
    readable_by_others(&dir.path().join(".postrider"), &mut readable);
    readable.retain(|name| ![".gitignore", "lock", "postrider.lock"].contains(&name.as_str()));
    assert_eq!(readable, [""; 0], "files that other users can read");
    // The log has one line for each message.
    let line = dev.log().lines().find(|line| line.contains("inbox_message_received")).expect("a line").to_owned();
    assert!(line.contains("ann@example.test") && line.contains("Reset your password"), "{line}");
    assert!(dev.stop().await.success());
}
