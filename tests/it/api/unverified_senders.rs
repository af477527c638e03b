//! Warnings and refusals for messages from domains that are not registered, not verified or not aligned.

use postrider::config::{Config, Unverified};
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::{ApiResponse, message};
use crate::support::clock::hours;
use crate::support::dns::DnsServer;
use crate::support::domains::{checked, publish, records, registered, with_secret};

/// Sends a message and returns the codes of its warnings, which a dry run must return too.
async fn warnings(app: &TestApp, from: &str) -> Vec<String> {
    let codes = |body: &Value| -> Vec<String> {
        let all = body["warnings"].as_array().map(Vec::as_slice).unwrap_or_default();
        all.iter().map(|warning| warning["code"].as_str().unwrap().to_owned()).collect()
    };
    let returned = codes(&app.send(json!({"from": from})).await.body);
    let plan = app.post("/v1/messages?dry_run=true", &message(json!({"from": from}))).await;
    assert_eq!((plan.status, codes(&plan.body)), (200, returned.clone()));
    returned
}

#[tokio::test]
async fn warnings_start_with_the_first_domain_and_end_when_fixed() {
    let dns = DnsServer::start().await;
    let app = with_secret(&dns).config(|config| config.return_path.domain = Some("bounces.test".into())).start().await;
    let quiet = app.send(json!({})).await.body;
    assert!(quiet.get("warnings").is_none(), "no domain is registered: {quiet}");

    let created = registered(&app, "acme.test").await;
    dns.txt("_dmarc.acme.test", ["v=DMARC1; p=reject"]);
    checked(&app, "acme.test").await;
    let all = ["domain_not_verified", "dmarc_fails", "return_path_not_aligned"];
    assert_eq!(warnings(&app, "a@acme.test").await, all);
    assert_eq!(warnings(&app, "a@news.acme.test").await, all);
    assert_eq!(warnings(&app, "a@other.test").await, ["domain_not_registered"]);
    publish(&dns, &created);
    dns.txt("_dmarc.acme.test", ["v=DMARC1; p=reject"]);
    checked(&app, "acme.test").await;
    assert_eq!(warnings(&app, "a@acme.test").await, ["return_path_not_aligned"]);
    app.run_until_idle().await;
}

#[tokio::test]
async fn strict_alignment_warns_only_affected_senders() {
    let dns = DnsServer::start().await;
    let app = with_secret(&dns).config(|config| config.return_path.domain = Some("b.acme.test".into())).start().await;
    publish(&dns, &registered(&app, "acme.test").await);
    dns.txt("_dmarc.acme.test", ["v=DMARC1; p=reject; adkim=s"]);
    let found = checked(&app, "acme.test").await;
    let record = records(&found, "dmarc")[0];
    assert_eq!(record["status"], "ok");
    assert!(record["warning"].as_str().unwrap().contains("adkim=s"), "{record}");
    assert_eq!(warnings(&app, "a@acme.test").await, [""; 0]);
    assert_eq!(warnings(&app, "a@news.acme.test").await, ["dmarc_strict_alignment"]);
    dns.txt("_dmarc.acme.test", ["v=DMARC1; p=reject; aspf=s"]);
    checked(&app, "acme.test").await;
    assert_eq!(warnings(&app, "a@news.acme.test").await, ["return_path_not_aligned"]);
    dns.txt("_dmarc.acme.test", ["v=DMARC1; p=reject"]);
    checked(&app, "acme.test").await;
    assert_eq!(warnings(&app, "a@news.acme.test").await, [""; 0]);
    app.run_until_idle().await;
}

#[tokio::test]
async fn unsigned_messages_with_dmarc_quarantine_cause_warnings() {
    let dns = DnsServer::start().await;
    let unsigned = |config: &mut Config| config.dkim.algorithms = vec!["none".into()];
    let app = with_secret(&dns).config(unsigned).start().await;
    let created = registered(&app, "acme.test").await;
    publish(&dns, &created);
    dns.txt("_dmarc.acme.test", ["v=DMARC1; p=quarantine"]);
    checked(&app, "acme.test").await;
    assert_eq!(warnings(&app, "a@acme.test").await, ["not_signed", "dmarc_fails"]);
    app.run_until_idle().await;
}

#[tokio::test]
async fn unverified_domain_is_refused_if_configured() {
    let dns = DnsServer::start().await;
    let app = with_secret(&dns).config(|config| config.domains.unverified = Unverified::Refuse).start().await;
    let send = async |from: &str, path: &str| app.post(path, &message(json!({"from": from}))).await;
    let refused = |response: &ApiResponse| {
        assert_eq!((response.status, response.faults()), (422, vec![("/from", "unverified_domain")]));
    };
    refused(&send("a@acme.test", "/v1/messages").await);
    let created = registered(&app, "acme.test").await;
    refused(&send("a@acme.test", "/v1/messages").await);
    publish(&dns, &created);
    checked(&app, "acme.test").await;
    assert_eq!(send("a@acme.test", "/v1/messages").await.status, 202);
    assert_eq!(send("a@news.acme.test", "/v1/messages").await.status, 202);
    refused(&send("a@other.test", "/v1/messages").await);
    refused(&send("a@other.test", "/v1/messages?dry_run=true").await);

    created["records"]
        .as_array()
        .unwrap()
        .iter()
        .for_each(|record| dns.remove_records(record["name"].as_str().unwrap()));
    app.clock.advance(hours(24));
    assert_eq!(checked(&app, "acme.test").await["status"], "failing");
    assert_eq!(send("a@acme.test", "/v1/messages").await.status, 202);
    app.clock.advance(hours(49));
    assert_eq!(checked(&app, "acme.test").await["status"], "unverified");
    refused(&send("a@acme.test", "/v1/messages").await);
    app.run_until_idle().await;
}

#[tokio::test]
async fn repeated_request_succeeds_after_domain_removal() {
    let dns = DnsServer::start().await;
    let app = with_secret(&dns).config(|config| config.domains.unverified = Unverified::Refuse).start().await;
    publish(&dns, &registered(&app, "acme.test").await);
    checked(&app, "acme.test").await;
    let send = async || {
        let request = app.request(reqwest::Method::POST, "/v1/messages").header("Idempotency-Key", "k");
        ApiResponse::to(request.json(&message(json!({"from": "a@acme.test"})))).await
    };
    let first = send().await;
    assert_eq!(app.delete("/v1/domains/acme.test").await.status, 204);
    let again = send().await;
    assert_eq!((first.status, again.status, &first.body["id"]), (202, 202, &again.body["id"]));
    app.run_until_idle().await;
}
