//! `/v1/domains`: registering, verifying and removing domains, with missing, wrong and correct DNS records.

use postrider::domain::key::Scope;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::ApiResponse;
use crate::support::clock::hours;
use crate::support::dns::DnsServer;
use crate::support::domains::{checked, keys, publish, records, registered, shown, with_secret};

/// Returns the purpose and status of every record.
fn statuses(domain: &Value) -> Vec<(&str, &str)> {
    let records = domain["records"].as_array().unwrap().iter();
    records.map(|record| (record["purpose"].as_str().unwrap(), record["status"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn domain_is_verified_once_its_listed_records_are_published() {
    let dns = DnsServer::start().await;
    let app =
        with_secret(&dns).config(|config| config.return_path.domain = Some("bounce.acme.test".into())).start().await;
    let created = registered(&app, "Acme.test").await;
    assert_eq!((&created["name"], &created["status"]), (&json!("acme.test"), &json!("pending")));
    let purposes = ["dkim", "dkim", "spf", "dmarc", "return_path", "return_path_spf"];
    assert_eq!(statuses(&created), purposes.map(|purpose| (purpose, "unchecked")));
    let values: Vec<&str> =
        created["records"].as_array().unwrap()[2..].iter().map(|r| r["value"].as_str().unwrap()).collect();
    let spf = "v=spf1 a:postrider.test ~all";
    assert_eq!(values, [spf, "v=DMARC1; p=none", "10 postrider.test.", spf]);
    for (key, record) in keys(&created).iter().zip(records(&created, "dkim")) {
        let (selector, algorithm, state) = key;
        assert_eq!(
            (record["name"].as_str().unwrap(), state.as_str()),
            (&*format!("{selector}._domainkey.acme.test"), "active")
        );
        assert!(record["value"].as_str().unwrap().starts_with(&format!("v=DKIM1; k={algorithm}; p=")));
    }

    let unpublished = checked(&app, "acme.test").await;
    assert_eq!(statuses(&unpublished), purposes.map(|purpose| (purpose, "missing")));
    assert_eq!((&unpublished["status"], &unpublished["verified_at"]), (&json!("pending"), &json!(null)));

    publish(&dns, &created);
    dns.txt(created["records"][0]["name"].as_str().unwrap(), ["v=DKIM1; k=ed25519; p=AAAA"]);
    dns.txt("acme.test", ["something=else", "v=spf1 include:other.test -all"]);
    dns.txt("other.test", ["v=spf1 ip4:198.51.100.1 -all"]);
    let wrong = checked(&app, "acme.test").await;
    assert_eq!(statuses(&wrong)[..3], [("dkim", "wrong"), ("dkim", "ok"), ("spf", "wrong")]);
    assert_eq!(wrong["records"][2]["found"], json!(["v=spf1 include:other.test -all"]));
    let fix = wrong["records"][2]["fix"].as_str().unwrap();
    assert!(fix.contains("v=spf1 a:postrider.test include:other.test -all"), "{fix}");
    assert_eq!(wrong["status"], "pending");

    publish(&dns, &created);
    let right = checked(&app, "acme.test").await;
    assert_eq!(statuses(&right), purposes.map(|purpose| (purpose, "ok")));
    assert_eq!((&right["status"], &right["dmarc"]), (&json!("verified"), &json!("none")));
    assert_eq!(shown(&app, "acme.test").await, right, "the findings are stored");
    assert_eq!(app.get("/v1/domains").await.body["data"], json!([right]));
}

#[tokio::test]
async fn workers_tolerate_dns_faults_of_a_domain_for_72_hours() {
    let dns = DnsServer::start().await;
    let app = with_secret(&dns).start().await;
    let created = registered(&app, "acme.test").await;
    app.worker.check_domains().await.unwrap();
    assert_eq!(shown(&app, "acme.test").await["status"], "pending");
    publish(&dns, &created);
    app.worker.check_domains().await.unwrap();
    assert_eq!(shown(&app, "acme.test").await["status"], "pending", "the next check is not due");
    app.clock.advance(hours(1));
    app.worker.check_domains().await.unwrap();
    assert_eq!(shown(&app, "acme.test").await["status"], "verified");

    let key = created["records"][0]["name"].as_str().unwrap();
    dns.servfail(key);
    app.clock.advance(hours(7));
    app.worker.check_domains().await.unwrap();
    let failed_lookup = shown(&app, "acme.test").await;
    assert_eq!((&failed_lookup["status"], statuses(&failed_lookup)[0]), (&json!("verified"), ("dkim", "unanswered")));
    dns.repair(key);
    dns.remove_records(key);
    app.clock.advance(hours(7));
    app.worker.check_domains().await.unwrap();
    assert_eq!(shown(&app, "acme.test").await["status"], "failing");
    app.clock.advance(hours(72));
    app.worker.check_domains().await.unwrap();
    assert_eq!(shown(&app, "acme.test").await["status"], "unverified");
}

#[tokio::test]
async fn dmarc_policy_of_parent_domain_applies_to_subdomain() {
    let dns = DnsServer::start().await;
    let app = with_secret(&dns).start().await;
    registered(&app, "news.acme.test").await;
    dns.txt("_dmarc.acme.test", ["v=DMARC1; p=none; sp=quarantine"]);
    let found = checked(&app, "news.acme.test").await;
    let dmarc = records(&found, "dmarc")[0];
    assert_eq!((&dmarc["status"], &found["dmarc"]), (&json!("ok"), &json!("quarantine")));
    assert_eq!(dmarc["found"], json!(["v=DMARC1; p=none; sp=quarantine (at _dmarc.acme.test)"]));
}

#[tokio::test]
async fn spf_is_evaluated_and_suggested_record_passes() {
    let dns = DnsServer::start().await;
    let app = with_secret(&dns).start().await;
    let created = registered(&app, "acme.test").await;
    publish(&dns, &created);
    let spf = async |record: &str| {
        dns.txt("acme.test", [record]);
        let found = checked(&app, "acme.test").await;
        let record = records(&found, "spf")[0].clone();
        (record["status"].as_str().unwrap().to_owned(), record["fix"].as_str().unwrap_or_default().to_owned())
    };
    dns.txt("spf.other.test", ["v=spf1 ip4:192.0.2.0/24 -all"]);
    let ok = ("ok".to_owned(), String::new());
    assert_eq!(spf("v=spf1 include:spf.other.test -all").await, ok, "an include that covers this machine");
    assert_eq!(spf("v=spf1 redirect=spf.other.test").await, ok);
    for (record, why) in [
        (
            "v=spf1 a:postrider.test inlude:spf.other.test -all",
            "permerror: `inlude:spf.other.test` is not an SPF mechanism",
        ),
        ("v=spf1 include:nothing.test a:postrider.test -all", "nothing.test has no SPF record"),
        ("v=spf1 -ip4:192.0.2.1 a:postrider.test +all", "evaluated as fail: `-ip4:192.0.2.1` of acme.test matches"),
    ] {
        let (status, fix) = spf(record).await;
        assert!(status == "wrong" && fix.contains(why), "{record}: {fix}");
        if let Some((_, advice)) = fix.split_once("Replace it with: ") {
            assert!(!advice.contains("+all"), "{advice}");
            assert_eq!(spf(advice).await, ok, "{advice}");
        }
    }
}

#[tokio::test]
async fn malformed_dns_records_are_reported_safely() {
    let dns = DnsServer::start().await;
    let app = with_secret(&dns).start().await;
    let created = registered(&app, "acme.test").await;
    dns.txt("acme.test", ["v=spf1 \0\u{1b}[31m ä -all", "", "\0"]);
    dns.txt("_dmarc.acme.test", ["v=DMARC1; p=\0", "v=DMARC1"]);
    let long = "x".repeat(1_100);
    dns.txt(created["records"][0]["name"].as_str().unwrap(), [long.as_str()]);
    let found = checked(&app, "acme.test").await;
    assert_eq!(statuses(&found), [("dkim", "wrong"), ("dkim", "missing"), ("spf", "wrong"), ("dmarc", "wrong")]);
    assert_eq!(records(&found, "spf")[0]["found"], json!(["v=spf1 \u{fffd}\u{fffd}[31m ä -all"]));
    assert_eq!(records(&found, "dkim")[0]["found"][0].as_str().unwrap().len(), 1_000);
}

#[tokio::test]
async fn invalid_domain_requests_are_refused() {
    let dns = DnsServer::start().await;
    let app = with_secret(&dns).start().await;
    for (body, faults) in [
        (json!({}), vec![("/name", "required")]),
        (json!({"name": "a@acme.test", "key": 1}), vec![("/key", "unknown_field"), ("/name", "invalid_value")]),
        (json!({"name": "acme.test\n"}), vec![("/name", "invalid_value")]),
        (json!({"name": ["acme.test"]}), vec![("/name", "invalid_type")]),
        (json!({"name": "\u{0}.test"}), vec![("/name", "invalid_value")]),
    ] {
        let response = app.post("/v1/domains", &body).await;
        assert_eq!((response.status, response.faults()), (422, faults), "{body}");
    }
    registered(&app, "acme.test").await;
    let again = app.post("/v1/domains", &json!({"name": "ACME.test"})).await;
    assert_eq!(again.problem(), (409, "domain_exists"));
    for name in ["other.test", "%00", "a%2Fb", "%FF", "test"] {
        for (method, rest) in
            [(Method::GET, ""), (Method::DELETE, ""), (Method::POST, "/verify"), (Method::POST, "/rotate")]
        {
            let response = ApiResponse::to(app.request(method.clone(), &format!("/v1/domains/{name}{rest}"))).await;
            assert_eq!(response.problem(), (404, "not_found"), "{method} {name}{rest}");
        }
    }
    assert_eq!(app.delete("/v1/domains/acme.test").await.status, 204);
    assert_eq!(app.delete("/v1/domains/acme.test").await.status, 404);
    registered(&app, "acme.test").await;
}

#[tokio::test]
async fn domains_are_paged_by_name() {
    let dns = DnsServer::start().await;
    let app = with_secret(&dns).start().await;
    for name in ["b.test", "a.b.test", "c.test"] {
        registered(&app, name).await;
    }
    let names = |page: &Value| -> Vec<String> {
        page["data"].as_array().unwrap().iter().map(|domain| domain["name"].as_str().unwrap().to_owned()).collect()
    };
    let first = app.get("/v1/domains?limit=2").await.body;
    assert_eq!((names(&first), &first["has_more"]), (vec!["a.b.test".into(), "b.test".into()], &json!(true)));
    assert!(first["data"].as_array().unwrap().iter().all(|domain| keys(domain).len() == 2));
    let next = first["next"].as_str().unwrap();
    let second = app.get(&format!("/v1/domains?limit=2&after={next}")).await.body;
    assert_eq!((names(&second), &second["has_more"]), (vec!["c.test".into()], &json!(false)));
    assert_eq!(app.get("/v1/domains?after=%00").await.status, 422);
}

#[tokio::test]
async fn registering_without_secret_key_names_the_setting() {
    let app = TestApp::start().await;
    let refused = app.post("/v1/domains", &json!({"name": "acme.test"})).await;
    assert_eq!(refused.problem(), (409, "no_secret_key"));
    assert!(refused.body["detail"].as_str().unwrap().contains("POSTRIDER_SECRET_KEY_FILE"), "{}", refused.body);
}

#[tokio::test]
async fn reading_domains_needs_read_and_changing_needs_admin() {
    let dns = DnsServer::start().await;
    let app = with_secret(&dns).start().await;
    registered(&app, "acme.test").await;
    let (reader, sender) = (app.with_scopes(&[Scope::Read]).await, app.with_scopes(&[Scope::Send]).await);
    assert_eq!(reader.get("/v1/domains/acme.test").await.status, 200);
    assert_eq!(reader.get("/v1/domains").await.status, 200);
    assert_eq!(sender.get("/v1/domains").await.status, 403);
    for path in ["", "/acme.test/verify", "/acme.test/rotate"] {
        let response = reader.post(&format!("/v1/domains{path}"), &json!({"name": "b.test"})).await;
        assert_eq!(response.status, 403, "{path}");
    }
    assert_eq!(reader.delete("/v1/domains/acme.test").await.status, 403);
    let text = reader.get("/v1/domains/acme.test").await.body.to_string();
    assert!(!text.contains("sealed") && !text.contains("private"), "{text}");
}
