//! Changes of domains and their keys take effect at once in the process that makes them, and in the others within a second.

use std::time::Duration;

use postrider::app::App;
use postrider::config::Unverified;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::{Api, message};
use crate::support::dns::DnsServer;
use crate::support::domains::{SECRET, checked, keys, publish, registered, with_secret};
use crate::support::postgres::Database;
use crate::support::process::{Service, admin_key, key, serve};
use crate::support::smtp::SmtpServer;
use crate::support::until::until;

/// A second, and another one for a busy machine.
const LIMIT: Duration = Duration::from_secs(2);

/// Starts two replicas that refuse messages from unverified domains. Both have cached that there is no domain.
async fn two_replicas(dns: &DnsServer) -> (TestApp, App, Api) {
    let app = with_secret(dns).config(|config| config.domains.unverified = Unverified::Refuse).start().await;
    let (other, api) = app.another_api().await;
    for api in [app.api(), &api] {
        assert_eq!(signers(api).await, None);
    }
    (app, other, api)
}

/// Registers and verifies a domain on the first replica, and returns the selectors of its keys.
async fn verified(app: &TestApp, dns: &DnsServer) -> Vec<String> {
    publish(dns, &registered(app, "acme.test").await);
    let domain = checked(app, "acme.test").await;
    assert_eq!(domain["status"], "verified");
    in_state(&domain, "active")
}

/// Returns the selectors of the keys in a state, the Ed25519 key first.
fn in_state(domain: &Value, state: &str) -> Vec<String> {
    keys(domain).into_iter().filter(|key| key.2 == state).map(|key| key.0).collect()
}

/// Returns the selectors with which a message would be signed; `None` if it would be refused, because its domain is not verified.
async fn signers(api: &Api) -> Option<Vec<String>> {
    let plan = api.post("/v1/messages?dry_run=true", &message(json!({}))).await;
    if plan.status == 422 {
        assert_eq!(plan.faults(), [("/from", "unverified_domain")]);
        return None;
    }
    assert_eq!(plan.status, 200, "{}", plan.body);
    let selector = |signature: &Value| signature["selector"].as_str().unwrap().to_owned();
    Some(plan.body["dkim"].as_array().unwrap().iter().map(selector).collect())
}

/// Waits until a replica signs with these keys, or refuses messages.
async fn signs_with(api: &Api, expected: Option<Vec<String>>) {
    until("the change takes effect", LIMIT, async || {
        let found = signers(api).await;
        if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

#[tokio::test]
async fn domain_is_known_to_the_other_replica_within_1_s() {
    let dns = DnsServer::start().await;
    let (app, other, api) = two_replicas(&dns).await;
    let both = Some(verified(&app, &dns).await);
    assert_eq!(signers(app.api()).await, both, "at once");
    signs_with(&api, both).await;
    assert_eq!(app.delete("/v1/domains/acme.test").await.status, 204);
    assert_eq!(signers(app.api()).await, None, "at once");
    signs_with(&api, None).await;
    other.stop().await;
}

#[tokio::test]
async fn new_keys_sign_on_the_other_replica_within_1_s() {
    let dns = DnsServer::start().await;
    let (app, other, api) = two_replicas(&dns).await;
    let old = Some(verified(&app, &dns).await);
    signs_with(&api, old.clone()).await;
    let rotated = app.post("/v1/domains/acme.test/rotate", &json!(null)).await;
    assert_eq!((rotated.status, signers(app.api()).await), (200, old), "{}", rotated.body);
    publish(&dns, &rotated.body);
    // In the background, in the process of the first replica.
    app.worker.check_domains().await.unwrap();
    let new = Some(in_state(&rotated.body, "pending"));
    assert_eq!(signers(app.api()).await, new, "at once");
    signs_with(&api, new).await;
    other.stop().await;
}

#[tokio::test]
async fn domain_changed_by_hand_takes_effect_within_1_s() {
    let dns = DnsServer::start().await;
    let (app, other, api) = two_replicas(&dns).await;
    let both = verified(&app, &dns).await;
    for (statement, expected) in [
        ("UPDATE domains SET checked_at = verified_at + interval '72 hours'", None),
        ("UPDATE domains SET checked_at = verified_at", Some(both.clone())),
        (
            "UPDATE dkim_keys SET state = 'retiring', retire_at = now() WHERE algorithm = 'rsa'",
            Some(both[..1].to_vec()),
        ),
        ("DELETE FROM dkim_keys WHERE algorithm = 'ed25519'", Some(Vec::new())),
        ("UPDATE domains SET verified_at = NULL", None),
        ("UPDATE domains SET verified_at = checked_at", Some(Vec::new())),
        ("DELETE FROM domains", None),
    ] {
        app.sql(statement).await;
        for api in [app.api(), &api] {
            signs_with(api, expected.clone()).await;
        }
    }
    other.stop().await;
}

#[tokio::test]
async fn only_changes_of_cached_domains_and_keys_are_noted() {
    let dns = DnsServer::start().await;
    let app = with_secret(&dns).start().await;
    verified(&app, &dns).await;
    let noted = async || -> i64 {
        let version = sqlx::query_scalar("SELECT version FROM tenant_change_counter");
        version.fetch_one(&mut app.database.connect().await).await.unwrap()
    };
    let mut expected = noted().await;
    for (statement, changes) in [
        // A check with the same result.
        ("UPDATE domains SET checked_at = now(), verified_at = now(), dmarc = dmarc, findings = '[]', check_at = now()", 0),
        ("UPDATE domains SET checked_at = verified_at + interval '1 hour'", 1),
        ("UPDATE domains SET checked_at = verified_at + interval '71 hours'", 0),
        ("UPDATE domains SET checked_at = verified_at + interval '72 hours'", 1),
        ("UPDATE domains SET dmarc_strict_spf = NOT dmarc_strict_spf", 1),
        ("BEGIN; UPDATE domains SET verified_at = NULL; ROLLBACK", 0),
        (
            "INSERT INTO dkim_keys (tenant_id, domain, selector, algorithm, state, public_key, sealed, created_at)
             SELECT tenant_id, domain, selector || '2', algorithm, 'pending', public_key, sealed, created_at FROM dkim_keys",
            0,
        ),
        ("UPDATE dkim_keys SET state = 'retiring', retire_at = now() WHERE state = 'active' AND algorithm = 'rsa'", 1),
        ("DELETE FROM dkim_keys WHERE state <> 'active'", 0),
        ("DELETE FROM dkim_keys", 1),
    ] {
        app.sql(statement).await;
        expected += changes;
        assert_eq!(noted().await, expected, "{statement}");
    }
}

#[tokio::test]
async fn worker_process_signs_for_a_new_domain_within_1_s() {
    let (database, smtp, dns) = (Database::new(), SmtpServer::start().await, DnsServer::start().await);
    let start = async |role: &str| {
        let mut command = serve(&database.url, smtp.address(), &["--only", role]);
        command.env("POSTRIDER_SECRET_KEY", SECRET).env("POSTRIDER_DNS", dns.address().to_string());
        Service::start(command).await
    };
    let (front, worker) = (start("api").await, start("worker").await);
    let api = Api::new(front.address.clone().unwrap(), key(&database.url).await);
    let is_signed = async || {
        let before = smtp.messages().len();
        api.send(json!({})).await;
        let messages = smtp.received(before + 1).await;
        messages[before].raw.starts_with(b"DKIM-Signature: ")
    };
    assert!(!is_signed().await, "the domain is not registered");
    registered(&api.with_key(&admin_key(&database.url).await), "acme.test").await;
    until("messages are signed", LIMIT, async || if is_signed().await { Ok(()) } else { Err("unsigned") }).await;
    assert!(front.terminate().await.success() && worker.terminate().await.success());
}
