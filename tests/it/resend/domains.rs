//! Sender domains.

use serde_json::{Value, json};

use super::{delete, get, patch, post};
use crate::support::app::TestApp;
use crate::support::dns::DnsServer;
use crate::support::domains::{publish, with_secret};

async fn start() -> (TestApp, DnsServer) {
    let dns = DnsServer::start().await;
    (with_secret(&dns).start().await, dns)
}

#[tokio::test]
async fn domain_is_registered_and_verified() {
    let (app, dns) = start().await;
    let created =
        post(&app, "/domains", &json!({"name": "acme.test", "region": "eu-west-1", "tls": "opportunistic"})).await;
    assert_eq!((created.status, &created.body["status"]), (201, &json!("not_started")), "{}", created.body);
    let records = created.body["records"].as_array().unwrap().clone();
    assert!(
        records.iter().any(|record| record["record"] == "DKIM" && record["type"] == "TXT" && record["ttl"] == "Auto")
    );
    assert!(records.iter().all(|record| record["record"] != "DMARC"), "SDKs fail on records that Resend does not have");
    let id = created.id();
    let path = format!("/domains/{id}");
    assert_eq!(get(&app, &path).await.ok()["records"], json!(records));
    publish(&dns, &app.get("/v1/domains/acme.test").await.body);
    let verified = post(&app, &format!("{path}/verify"), &json!({})).await.ok();
    assert_eq!(verified, json!({"object": "domain", "id": id}));
    let shown = get(&app, &path).await.ok();
    assert_eq!(
        (&shown["status"], &shown["name"], &shown["object"]),
        (&json!("verified"), &json!("acme.test"), &json!("domain"))
    );
    assert_eq!(get(&app, "/domains/acme.test").await.ok(), shown, "a name is accepted too");
    assert_eq!(post(&app, "/domains", &json!({"name": "acme.test"})).await.error(), (422, "validation_error"));
    assert_eq!(delete(&app, &path).await.ok(), json!({"object": "domain", "id": id, "deleted": true}));
    assert_eq!(get(&app, &path).await.error(), (404, "not_found"));
}

#[tokio::test]
async fn domains_are_listed_newest_first() {
    let (app, _dns) = start().await;
    let mut ids = Vec::new();
    for name in ["b.test", "c.test", "a.test"] {
        ids.push(post(&app, "/domains", &json!({"name": name})).await.id());
        app.clock.advance(chrono::TimeDelta::seconds(1));
    }
    let names = |list: &Value| -> Vec<String> {
        list["data"].as_array().unwrap().iter().map(|domain| domain["name"].as_str().unwrap().to_owned()).collect()
    };
    let all = get(&app, "/domains").await.ok();
    assert_eq!(
        (names(&all), &all["has_more"]),
        (vec!["a.test".into(), "c.test".into(), "b.test".into()], &json!(false))
    );
    assert!(all["data"][0].get("records").is_none());
    let rest = get(&app, &format!("/domains?limit=1&after={}", ids[2])).await.ok();
    assert_eq!((names(&rest), &rest["has_more"]), (vec!["c.test".into()], &json!(true)));
}

#[tokio::test]
async fn settings_that_do_not_exist_are_refused() {
    let (app, _dns) = start().await;
    let id = post(&app, "/domains", &json!({"name": "acme.test"})).await.id();
    let path = format!("/domains/{id}");
    let kept = json!({"id": id, "open_tracking": false, "click_tracking": false, "tls": "opportunistic"});
    assert_eq!(patch(&app, &path, &kept).await.ok(), json!({"object": "domain", "id": id}));
    for asked in [
        json!({"open_tracking": true}),
        json!({"click_tracking": true}),
        json!({"tls": "enforced"}),
        json!({"capabilities": {"receiving": "enabled"}}),
    ] {
        assert_eq!(patch(&app, &path, &asked).await.error(), (422, "validation_error"), "{asked}");
    }
}
