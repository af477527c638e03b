//! Two tenants use the same names, and each gets its own object: templates, domains, idempotency keys, files and lanes.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Tenant, act, tenant};
use crate::support::app::TestApp;
use crate::support::client::{ApiResponse, message};
use crate::support::dns::DnsServer;
use crate::support::domains::{keys, registered, signatures, with_secret};
use crate::support::uploads;

async fn two(app: &TestApp) -> [Tenant; 2] {
    [tenant(app, "one", json!({})).await, tenant(app, "two", json!({})).await]
}

#[tokio::test]
async fn templates_with_one_alias_are_separate() {
    let app = TestApp::start().await;
    let tenants = two(&app).await;
    for (n, Tenant { api, .. }) in tenants.iter().enumerate() {
        let template =
            json!({"name": "Hi", "alias": "hi", "subject": format!("from {n}"), "html": format!("<p>{n}</p>")});
        assert_eq!(api.post("/v1/templates", &template).await.status, 201);
        assert!(api.post("/v1/templates/hi/publish", &json!({})).await.status < 300);
    }
    // Twice, so that the second message uses the cached template.
    for (n, Tenant { api, .. }) in tenants.iter().enumerate().chain(tenants.iter().enumerate()) {
        let body = json!({"from": "a@acme.test", "to": "ann@example.test", "template": {"id": "hi"}});
        let sent = api.post("/v1/messages", &body).await;
        assert_eq!(sent.status, 202, "{}", sent.body);
        let id = sent.body["id"].as_str().unwrap();
        assert_eq!(api.message(id).await["subject"], format!("from {n}"));
    }
}

#[tokio::test]
async fn each_tenant_signs_with_its_own_key_of_a_domain() {
    let dns = DnsServer::start().await;
    let app = with_secret(&dns).start().await;
    let [one, two] = two(&app).await;
    let domain = registered(&one.api, "acme.test").await;
    let selectors = |domain: &Value| keys(domain).into_iter().map(|key| key.0).collect::<Vec<_>>();
    let signed_with = async |tenant: &Tenant| {
        tenant.api.send(json!({})).await;
        app.run_until_idle().await;
        let raw = app.smtp.messages().pop().unwrap().raw;
        signatures(&dns, &raw).await.into_iter().map(|(_, selector, _)| selector).collect::<Vec<_>>()
    };
    assert_eq!(signed_with(&one).await, selectors(&domain));
    assert_eq!(signed_with(&two).await, [""; 0], "the domain is not registered by this tenant");
    let second = registered(&two.api, "acme.test").await;
    assert_ne!(selectors(&second), selectors(&domain));
    app.clock.advance(crate::support::clock::minutes(5));
    assert_eq!(signed_with(&two).await, selectors(&second));
    assert_eq!(signed_with(&one).await, selectors(&domain));
}

#[tokio::test]
async fn idempotency_keys_are_separate() {
    let app = TestApp::start().await;
    let tenants = two(&app).await;
    let mut ids = Vec::new();
    for Tenant { api, .. } in &tenants {
        let request = api.request(Method::POST, "/v1/messages").header("Idempotency-Key", "order-42");
        let sent = ApiResponse::to(request.json(&message(json!({})))).await;
        assert_eq!((sent.status, sent.headers.get("idempotent-replayed")), (202, None));
        ids.push(sent.body["id"].clone());
    }
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn files_with_one_digest_are_separate() {
    let app = TestApp::start().await;
    let [one, two] = two(&app).await;
    let (file, digest) = (b"terms", uploads::sha256(b"terms"));
    assert!(uploads::put(&one.api, file).await.status < 300);
    assert_eq!((uploads::head(&one.api, &digest).await, uploads::head(&two.api, &digest).await), (Some(5), None));
    assert!(uploads::put(&two.api, file).await.status < 300);
    assert_eq!(uploads::stored(&app).await.0, 2);
}

#[tokio::test]
async fn limits_of_a_lane_apply_to_one_tenant() {
    let app = TestApp::start().await;
    let [one, two] = two(&app).await;
    let lane = json!({"stream": "transactional", "route": "relay", "domain": "*"});
    let slow = json!({"stream": "transactional", "route": "relay", "domain": "*", "rate": 0.001});
    for (api, body) in [(&one.api, slow), (&two.api, lane)] {
        let put = ApiResponse::to(api.request(Method::PUT, "/v1/lanes").json(&body)).await;
        assert_eq!(put.status, 201, "{}", put.body);
    }
    for _ in 0..3 {
        one.api.send(json!({"from": "one@acme.test"})).await;
        two.api.send(json!({"from": "two@acme.test"})).await;
    }
    app.run_until_idle().await;
    let sent = |from: &str| app.smtp.messages().iter().filter(|message| message.from == from).count();
    assert!(sent("one@acme.test") < 3 && sent("two@acme.test") == 3, "{}", sent("one@acme.test"));
    // A pause of one tenant's stream does not stop the other's.
    assert_eq!(one.api.post("/v1/streams/transactional/pause", &json!({})).await.status, 200);
    two.api.send(json!({"from": "two@acme.test"})).await;
    app.run_until_idle().await;
    assert_eq!(sent("two@acme.test"), 4);
    act(&app, &one.id, "suspend").await;
}
