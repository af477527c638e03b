//! The text of API keys, old and new.

use postrider::db::keys::{self, NewKey};
use postrider::domain::id::{KeyId, TenantId};
use postrider::domain::key::{KeyMode, Secret};
use serde_json::json;

use crate::support::app::TestApp;
use crate::support::postgres::Database;
use crate::support::process;

/// The regular expression in `docs/api-keys.md`, written out.
fn is_key(text: &str) -> bool {
    let parts: Vec<&str> = text.split('_').collect();
    let is_cell = |cell: &str| {
        (1..=16).contains(&cell.len()) && cell.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    let is_body = |body: &str| body.len() == 49 && body.bytes().all(|b| b.is_ascii_alphanumeric());
    match parts.as_slice() {
        ["pr", "live" | "test", body] => is_body(body),
        ["pr", "live" | "test", cell, body] => is_cell(cell) && is_body(body),
        _ => false,
    }
}

#[tokio::test]
async fn new_key_names_its_mode_and_the_configured_cell() {
    let app = TestApp::builder().config(|config| config.cell = Some("eu1".into())).start().await;
    let created = app.post("/v1/keys", &json!({"name": "shop"})).await.body;
    let secret = created["secret"].as_str().unwrap();
    assert!(secret.starts_with("pr_live_eu1_") && is_key(secret) && Secret::is_possible(secret), "{secret}");
    assert_eq!(created["mode"], "live");
    assert_eq!(app.with_key(secret).get("/v1/messages").await.status, 200);
    // The key of the harness has no cell.
    assert!(app.key.starts_with("pr_live_") && is_key(&app.key), "{}", app.key);

    let mut mistyped = secret.to_owned();
    let last = if mistyped.pop() == Some('0') { '1' } else { '0' };
    mistyped.push(last);
    assert_eq!(app.with_key(&mistyped).get("/v1/messages").await.problem(), (401, "unauthorized"));
}

#[tokio::test]
async fn keys_of_earlier_versions_still_work() {
    let app = TestApp::start().await;
    let secret = format!("pr_{}", "3f9c1a7e".repeat(8));
    let key = NewKey {
        id: KeyId::new("2026-11-23T12:00:00Z".parse().unwrap()),
        tenant: TenantId::DEFAULT,
        name: "old",
        hash: Secret::hash(&secret),
        mode: KeyMode::Live,
        scopes: &["send".into(), "read".into()],
        sender_domains: None,
        allowed_ips: None,
        rate: None,
        quota: None,
        created_at: "2026-11-23T12:00:00Z".parse().unwrap(),
        expires_at: None,
    };
    keys::insert(&app.db, &key).await.unwrap();
    let old = app.with_key(&secret);
    let sent = old.send(json!({})).await;
    assert_eq!(old.message(&sent.id).await["key_id"], key.id.to_string());
}

#[tokio::test]
async fn unknown_mode_is_refused() {
    let app = TestApp::start().await;
    let unknown = app.post("/v1/keys", &json!({"name": "ci", "mode": "prod"})).await;
    assert_eq!((unknown.status, unknown.faults()), (422, vec![("/mode", "invalid_value")]));
}

#[tokio::test]
async fn command_line_keys_have_the_configured_cell() {
    let database = Database::new();
    process::run(process::on(&database.url, &["migrate"])).await;
    let mut command = process::on(&database.url, &["keys", "create", "--name", "ops"]);
    command.env("POSTRIDER_CELL", "us2");
    let created = process::run(command).await;
    let secret = String::from_utf8(created.stdout).unwrap().trim().to_owned();
    assert!(secret.starts_with("pr_live_us2_") && is_key(&secret), "{secret}");

    let mut command = process::on(&database.url, &["keys", "create", "--name", "ops"]);
    command.env("POSTRIDER_CELL", "EU-1");
    let refused = process::run(command).await;
    let text = process::stderr_of(&refused);
    assert!(!refused.status.success() && text.contains("1 to 16 lower-case letters and digits"), "{text}");
}
