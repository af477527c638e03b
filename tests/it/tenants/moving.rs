//! `postrider tenant export` and `import`: a tenant moves to another cell.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Output;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Tenant, key, tenant};
use crate::support::app::TestApp;
use crate::support::dns::DnsServer;
use crate::support::domains::{SECRET, checked, publish, registered, shown, signatures, with_secret};
use crate::support::process::{on, run, stderr_of};
use crate::support::receiver::Receiver;

/// The secret of the cell that the tenant moves to.
const OTHER_SECRET: &str = "another secret that is long enough for this test";
const PASSPHRASE: &str = "correct horse battery";

/// A cell that a tenant leaves, one that it moves to, and a directory for its file.
pub(super) struct Cells {
    pub old: TestApp,
    pub new: TestApp,
    dir: tempfile::TempDir,
}

impl Cells {
    pub async fn start(dns: &DnsServer) -> Self {
        let cell = || with_secret(dns).config(|config| config.webhooks.allow_private = true);
        let old = cell().start().await;
        let new = cell().config(|config| config.secret_key = Some(OTHER_SECRET.to_owned().into())).start().await;
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("passphrase"), format!("{PASSPHRASE}\n")).unwrap();
        std::fs::write(dir.path().join("other"), "another passphrase\n").unwrap();
        Self { old, new, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs `postrider tenant` in a cell with the passphrase in this file.
    async fn command(&self, app: &TestApp, secret: &str, passphrase: &str, arguments: &[&str]) -> Output {
        let passphrase = self.path(passphrase);
        let mut command = on(&app.database.url, &[&["tenant"], arguments].concat());
        command.args(["--passphrase-file", passphrase.to_str().unwrap()]).env("POSTRIDER_SECRET_KEY", secret);
        run(command).await
    }

    async fn export(&self, tenant: &str, file: &str) -> Output {
        let file = self.path(file);
        self.command(&self.old, SECRET, "passphrase", &["export", tenant, file.to_str().unwrap()]).await
    }

    async fn import(&self, file: &str, options: &[&str]) -> Output {
        let file = self.path(file);
        let arguments = [&["import", file.to_str().unwrap()], options].concat();
        self.command(&self.new, OTHER_SECRET, "passphrase", &arguments).await
    }

    /// Exports the tenant, and imports it.
    pub async fn move_tenant(&self, tenant: &str) {
        succeeded(&self.export(tenant, "file").await);
        succeeded(&self.import("file", &[]).await);
    }
}

fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr_of(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Checks that the command failed with these words, in one line and without a panic.
fn refused(output: &Output, words: &[&str]) {
    let error = stderr_of(output);
    let first = error.lines().next().unwrap_or_default();
    assert!(output.status.code() == Some(1) && first.starts_with("error: "), "{error}");
    assert!(words.iter().all(|word| error.contains(word)), "{error}");
}

async fn suppress(api: &crate::support::client::Api, address: &str) {
    let added = api.post("/v1/suppressions", &json!({"address": address})).await;
    assert!(matches!(added.status, 200 | 201), "{}", added.body);
}

/// Returns the number of entries of a list.
async fn count(api: &crate::support::client::Api, path: &str) -> usize {
    let page = api.get(path).await;
    assert_eq!(page.status, 200, "{path}: {}", page.body);
    page.body["data"].as_array().unwrap().len()
}

/// Creates a tenant with a setting of each kind, and returns it with the secret of its webhook endpoint.
async fn full_tenant(app: &TestApp, dns: &DnsServer, hook: &str) -> (Tenant, String) {
    let acme = tenant(app, "Acme", json!({"weight": 7, "min_priority": 11})).await;
    let domain = registered(&acme.api, "acme.test").await;
    publish(dns, &domain);
    assert_eq!(checked(&acme.api, "acme.test").await["status"], "verified");
    suppress(&acme.api, "blocked@example.test").await;
    let template = json!({"name": "Hi", "alias": "hi", "subject": "Hi {{ name }}", "text": "Dear {{ name }}.",
                          "variables": [{"key": "name", "type": "string"}]});
    assert_eq!(acme.api.post("/v1/templates", &template).await.status, 201);
    let published = acme.api.post("/v1/templates/hi/publish", &json!({})).await;
    assert!(matches!(published.status, 200 | 201), "{}", published.body);
    let route = json!({"match": "*@reply.acme.test", "action": {"type": "store"}});
    assert_eq!(acme.api.post("/v1/inbound-routes", &route).await.status, 201);
    let stream = acme.api.patch("/v1/streams/bulk", &json!({"rate": 5, "weight": 3})).await;
    assert_eq!(stream.status, 200, "{}", stream.body);
    let webhook = acme.api.post("/v1/webhooks", &json!({"url": hook})).await;
    assert_eq!(webhook.status, 201, "{}", webhook.body);
    let secret = webhook.body["secret"].as_str().unwrap().to_owned();
    (acme, secret)
}

#[tokio::test]
async fn moved_tenant_goes_on_in_the_other_cell() {
    let (dns, receiver) = (DnsServer::start().await, Receiver::start().await);
    let cells = Cells::start(&dns).await;
    let (acme, webhook_secret) = full_tenant(&cells.old, &dns, &receiver.url("/hook")).await;
    let plain = acme.api.with_key(&key(&cells.old, &acme.id, json!({"allowed_ips": ["203.0.113.1"]})).await);
    acme.api.send(json!({})).await;
    cells.old.run_until_idle().await;
    let last =
        acme.api.get("/v1/events?limit=100").await.body["data"].as_array().unwrap().last().unwrap()["seq"].clone();
    cells.move_tenant("Acme").await;

    let file = std::fs::metadata(cells.path("file")).unwrap();
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(cells.path("file")).unwrap();
    assert!(!text.contains("blocked@example.test") && !text.contains("Acme"), "encrypted");
    assert_eq!(cells.new.get(&format!("/v1/tenants/{}", acme.id)).await.body["weight"], 7);
    assert_eq!(cells.new.get(&format!("/v1/tenants/{}", acme.id)).await.body["min_priority"], 11);

    // The same key, in the other cell.
    let api = cells.new.with_key(&acme.api.key);
    assert_eq!(cells.new.with_key(&plain.key).get("/v1/messages").await.status, 403, "not from this address");
    assert_eq!(api.get("/v1/streams/bulk").await.body["rate"], acme.api.get("/v1/streams/bulk").await.body["rate"]);
    assert_eq!(shown(&api, "acme.test").await["keys"], shown(&acme.api, "acme.test").await["keys"]);
    for path in ["/v1/suppressions", "/v1/templates", "/v1/webhooks", "/v1/inbound-routes"] {
        assert_eq!(count(&api, path).await, 1, "{path}");
    }
    assert_eq!(count(&api, "/v1/messages").await, 0, "messages stay");
    let blocked = api.send(json!({"to": "blocked@example.test"})).await;
    assert_eq!(api.status(&blocked.id).await, "suppressed");

    // Its DKIM keys, its templates and its webhooks work.
    let template = json!({"id": "hi", "variables": {"name": "Ann"}});
    let rendered = json!({"from": "billing@acme.test", "to": "ann@example.test", "template": template});
    let sent = api.post("/v1/messages", &rendered).await;
    assert_eq!(sent.status, 202, "{}", sent.body);
    cells.new.run_until_idle().await;
    let raw = cells.new.smtp.messages().pop().expect("a message").raw;
    assert!(String::from_utf8_lossy(&raw).contains("Subject: Hi Ann"));
    let signatures = signatures(&dns, &raw).await;
    assert!(signatures.len() == 2 && signatures.iter().all(|(_, _, verifies)| *verifies), "{signatures:?}");
    cells.new.notify().await;
    let secret = STANDARD.decode(webhook_secret.strip_prefix("whsec_").unwrap()).unwrap();
    let posts = receiver.received("/hook", 1).await;
    assert!(posts.iter().all(|post| post.is_signed_with(&secret)));
    let seqs = receiver.seqs("/hook");
    assert!(seqs.iter().all(|seq| *seq > 20_000_000_000), "no number of the old cell: {seqs:?}");
    let expired = api.get(&format!("/v1/events?after={last}")).await;
    assert_eq!(expired.problem(), (410, "cursor_expired"), "{}", expired.body);
}

#[tokio::test]
async fn test_data_of_a_tenant_moves_with_it() {
    let dns = DnsServer::start().await;
    let cells = Cells::start(&dns).await;
    let acme = tenant(&cells.old, "Acme", json!({})).await;
    let test = cells
        .old
        .with_key(&key(&cells.old, &acme.id, json!({"mode": "test", "scopes": ["send", "read", "admin"]})).await);
    suppress(&test, "tested@example.test").await;
    cells.move_tenant(&acme.id).await;
    let moved = cells.new.with_key(&test.key);
    assert_eq!(count(&moved, "/v1/suppressions").await, 1);
    assert_eq!(count(&cells.new.with_key(&acme.api.key), "/v1/suppressions").await, 0);
    let sent = moved.send(json!({"to": "tested@example.test"})).await;
    assert_eq!(moved.status(&sent.id).await, "suppressed");
}

#[tokio::test]
async fn second_import_changes_nothing() {
    let dns = DnsServer::start().await;
    let cells = Cells::start(&dns).await;
    let acme = tenant(&cells.old, "Acme", json!({})).await;
    cells.move_tenant("Acme").await;
    suppress(&acme.api, "late@example.test").await;
    suppress(&acme.api, "removed@example.test").await;
    succeeded(&cells.export("Acme", "later").await);
    refused(
        &cells.import("later", &[]).await,
        &[&acme.id, "exists", "nothing was imported", "hint: ", "--suppressions-only"],
    );
    let api = cells.new.with_key(&acme.api.key);
    assert_eq!(count(&api, "/v1/suppressions").await, 0);
    assert_eq!(api.patch("/v1/streams/bulk", &json!({"weight": 5})).await.status, 200);

    let counts = succeeded(&cells.import("later", &["--suppressions-only"]).await);
    assert!(counts.contains("suppressions\t2\n") && !counts.contains("streams"), "{counts}");
    assert_eq!(count(&api, "/v1/suppressions").await, 2);
    let again = succeeded(&cells.import("later", &["--suppressions-only"]).await);
    assert!(again.contains("suppressions\t0\n"), "{again}");
    assert_eq!(api.get("/v1/streams/bulk").await.body["weight"], 5, "its settings are kept");
}

#[tokio::test]
async fn import_is_all_or_nothing() {
    let dns = DnsServer::start().await;
    let cells = Cells::start(&dns).await;
    let acme = tenant(&cells.old, "Acme", json!({})).await;
    suppress(&acme.api, "blocked@example.test").await;
    succeeded(&cells.export("Acme", "file").await);
    let text = std::fs::read_to_string(cells.path("file")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let without_end = lines[..lines.len() - 1].join("\n") + "\n";
    let newer = text.replacen("\"version\":1", "\"version\":2", 1);
    let other_schema = text.replacen("\"schema\":", "\"schema\":9", 1);
    let cases = [
        (without_end.as_str(), "before its last record"),
        (newer.as_str(), "`version` 2"),
        (other_schema.as_str(), "`schema`"),
        ("", "no file of `postrider tenant export`"),
        ("{\"format\": 1}\n", "no file of `postrider tenant export`"),
    ];
    for (content, expected) in cases {
        std::fs::write(cells.path("damaged"), content).unwrap();
        refused(&cells.import("damaged", &[]).await, &[expected]);
    }
    let file = cells.path("file");
    let arguments = ["import", file.to_str().unwrap()];
    refused(
        &cells.command(&cells.new, OTHER_SECRET, "other", &arguments).await,
        &["the passphrase is not that of the file"],
    );
    assert_eq!(cells.new.get(&format!("/v1/tenants/{}", acme.id)).await.status, 404);
    succeeded(&cells.import("file", &[]).await);
}

#[tokio::test]
async fn name_of_another_tenant_is_refused() {
    let dns = DnsServer::start().await;
    let cells = Cells::start(&dns).await;
    let acme = tenant(&cells.old, "Acme", json!({})).await;
    tenant(&cells.new, "Acme", json!({})).await;
    succeeded(&cells.export("Acme", "file").await);
    refused(&cells.import("file", &[]).await, &["`name` Acme", "hint: ", "--name"]);
    succeeded(&cells.import("file", &["--name", "Acme of eu1"]).await);
    assert_eq!(cells.new.get(&format!("/v1/tenants/{}", acme.id)).await.body["name"], "Acme of eu1");
}

#[tokio::test]
async fn inbound_route_for_domain_of_another_tenant_is_refused() {
    let dns = DnsServer::start().await;
    let cells = Cells::start(&dns).await;
    let acme = tenant(&cells.old, "Acme", json!({})).await;
    let other = tenant(&cells.new, "Other", json!({})).await;
    let route = json!({"match": "*@reply.acme.test", "action": {"type": "store"}});
    for api in [&acme.api, &other.api] {
        assert_eq!(api.post("/v1/inbound-routes", &route).await.status, 201);
    }
    succeeded(&cells.export("Acme", "file").await);
    refused(&cells.import("file", &[]).await, &["nothing was imported", "reply.acme.test", "another tenant", "hint: "]);
    assert_eq!(cells.new.get(&format!("/v1/tenants/{}", acme.id)).await.status, 404);
}

#[tokio::test]
async fn operator_scope_does_not_move() {
    let dns = DnsServer::start().await;
    let cells = Cells::start(&dns).await;
    let acme = tenant(&cells.old, "Acme", json!({})).await;
    let mut secrets = Vec::new();
    for scopes in [json!(["read", "operator"]), json!(["operator"])] {
        let secret = key(&cells.old, &acme.id, json!({"scopes": scopes})).await;
        assert_eq!(cells.old.with_key(&secret).get("/v1/tenants").await.status, 200);
        secrets.push(secret);
    }
    cells.move_tenant("Acme").await;
    let both = cells.new.with_key(&secrets[0]);
    assert_eq!((both.get("/v1/messages").await.status, both.get("/v1/tenants").await.status), (200, 403));
    assert_eq!(cells.new.with_key(&secrets[1]).get("/v1/tenants").await.status, 401);
}

#[tokio::test]
async fn export_is_refused_without_what_it_needs() {
    let dns = DnsServer::start().await;
    let cells = Cells::start(&dns).await;
    let acme = tenant(&cells.old, "Acme", json!({})).await;
    registered(&acme.api, "acme.test").await;
    refused(&cells.export("Nobody", "file").await, &["there is no tenant Nobody"]);
    refused(&cells.export("ten_00000000000070008000000000000000", "file").await, &["no tenant"]);
    std::fs::write(cells.path("short"), "short\n").unwrap();
    let file = cells.path("file");
    let arguments = ["export", "Acme", file.to_str().unwrap()];
    refused(&cells.command(&cells.old, SECRET, "short", &arguments).await, &["at least 12 characters"]);
    refused(&cells.command(&cells.old, OTHER_SECRET, "passphrase", &arguments).await, &["DKIM key", "acme.test"]);
    assert!(!file.exists(), "a file without its last record is removed");
    succeeded(&cells.export("Acme", "file").await);
    refused(&cells.export("Acme", "file").await, &["cannot create"]);
    let missing = cells.path("missing");
    let none = ["import", missing.to_str().unwrap()];
    refused(&cells.command(&cells.new, OTHER_SECRET, "passphrase", &none).await, &["cannot read"]);
}

#[tokio::test]
async fn default_tenant_is_not_exported() {
    let dns = DnsServer::start().await;
    let cells = Cells::start(&dns).await;
    let default: Value = cells.old.get("/v1/tenants").await.body["data"][0]["id"].clone();
    refused(&cells.export(default.as_str().unwrap(), "file").await, &["the default tenant cannot be moved"]);
}

#[tokio::test]
async fn moves_are_in_the_audit_log() {
    let dns = DnsServer::start().await;
    let cells = Cells::start(&dns).await;
    let acme = tenant(&cells.old, "Acme", json!({})).await;
    cells.move_tenant("Acme").await;
    for (app, action) in [(&cells.old, "export_tenant"), (&cells.new, "import_tenant")] {
        let entries = app.get(&format!("/v1/audit?action={action}")).await.body;
        let entry = &entries["data"][0];
        assert_eq!((&entry["result"], &entry["object"]), (&json!("done"), &json!(acme.id)), "{entries}");
        assert_eq!(entry["after"]["rows"]["tenants"], 1, "{entry}");
    }
}
