//! A suspended tenant accepts nothing, sends nothing, keeps everything, and can read.

use std::time::{Duration, Instant};

use postrider::domain::key::Scope;
use reqwest::Method;
use serde_json::{Value, json};

use super::{PATH, act, tenant};
use crate::support::app::TestApp;
use crate::support::client::{Api, ApiResponse, message};
use crate::support::clock::hours;
use crate::support::until::until;

async fn explained(api: &Api, id: &str) -> Value {
    api.get(&format!("/v1/messages/{id}/explain")).await.body["recipients"][0].clone()
}

#[tokio::test]
async fn suspended_tenant_can_only_read() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({})).await;
    let sent = acme.api.send(json!({})).await;
    let suspended = app.post(&format!("{PATH}/{}/suspend", acme.id), &json!({"reason": "unpaid"})).await.body;
    let suspension = json!({"at": "2026-11-23T12:00:00Z", "reason": "unpaid"});
    assert_eq!((&suspended["status"], &suspended["suspension"]), (&json!("suspended"), &suspension));

    let refused = acme.api.post("/v1/messages", &message(json!({}))).await;
    assert_eq!(refused.problem(), (403, "tenant_suspended"));
    assert!(refused.body["detail"].as_str().unwrap().contains("(unpaid)"), "{}", refused.body);
    let cancel = format!("/v1/messages/{}/cancel", sent.id);
    for path in ["/v1/messages/batch", "/v1/messages/bulk", "/v1/templates", "/v1/domains", "/v1/keys", &cancel] {
        assert_eq!(acme.api.post(path, &json!({})).await.problem(), (403, "tenant_suspended"), "{path}");
    }
    assert_eq!(acme.api.delete("/v1/suppressions/ann@example.test").await.problem().1, "tenant_suspended");
    assert_eq!(acme.api.status(&sent.id).await, "queued");
    for path in ["/v1/messages", "/v1/events", "/v1/ledger", "/v1/lanes", "/v1/keys"] {
        assert_eq!(acme.api.get(path).await.status, 200, "{path}");
    }
    app.send(json!({})).await;
    act(&app, &acme.id, "resume").await;
    acme.api.send(json!({})).await;
}

#[tokio::test]
async fn messages_of_a_suspended_tenant_wait() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({})).await;
    let (waiting, other) = (acme.api.send(json!({})).await, app.send(json!({})).await);
    let expiring = acme.api.send(json!({"expires_at": app.clock.text_in(hours(1))})).await;
    act(&app, &acme.id, "suspend").await;
    app.run_until_idle().await;
    assert_eq!((app.smtp.messages().len(), app.status(&other.id).await.as_str()), (1, "relayed"));
    let explanation = explained(&acme.api, &waiting.id).await;
    assert_eq!(explanation["blocker"]["kind"], "tenant_suspended", "{explanation}");
    let lane = acme.api.get("/v1/lanes").await.body["data"][0].clone();
    assert_eq!((&lane["state"], &lane["paused"]["what"]), (&json!("paused"), &json!("tenant")), "{lane}");

    // Longer than the retry window.
    app.clock.advance(hours(24 * 14));
    app.run_until_idle().await;
    assert_eq!(acme.api.status(&expiring.id).await, "expired", "`expires_at` applies as during a pause");
    assert_eq!(acme.api.status(&waiting.id).await, "queued");
    assert_eq!(act(&app, &acme.id, "resume").await["suspension"], json!(null));
    app.smtp.rcpt("ann@example.test").replies(["451 4.3.2 disk full\r\n"]);
    app.run_until_idle().await;
    assert_eq!(acme.api.status(&waiting.id).await, "deferred", "its retry window did not run");
    app.clock.advance(hours(1));
    app.run_until_idle().await;
    assert_eq!(acme.api.status(&waiting.id).await, "relayed");
}

#[tokio::test]
async fn claimed_messages_of_a_suspended_tenant_are_released() {
    let app = TestApp::builder().config(|config| config.delivery.connections = 1).start().await;
    let acme = tenant(&app, "Acme", json!({})).await;
    let sent = [acme.api.send(json!({})).await, acme.api.send(json!({})).await];
    let gate = app.smtp.dot().stalls();
    let working = app.start_working();
    gate.reached().await;
    until("both are leased", Duration::from_secs(20), async || {
        let leased = "SELECT count(*) FROM queue WHERE lease IS NOT NULL";
        let leased: i64 = sqlx::query_scalar(leased).fetch_one(&mut app.database.connect().await).await.unwrap();
        if leased == 2 { Ok(()) } else { Err(leased) }
    })
    .await;
    act(&app, &acme.id, "suspend").await;
    app.worker.load_suspended_tenants().await.unwrap();
    gate.open();
    working.await.unwrap().unwrap();
    let mut states = [acme.api.status(&sent[0].id).await, acme.api.status(&sent[1].id).await];
    states.sort();
    assert_eq!((app.smtp.messages().len(), states), (1, ["queued".to_owned(), "relayed".to_owned()]));

    act(&app, &acme.id, "resume").await;
    app.worker.load_suspended_tenants().await.unwrap();
    app.run_until_idle().await;
    assert_eq!([acme.api.status(&sent[0].id).await, acme.api.status(&sent[1].id).await], ["relayed", "relayed"]);
}

#[tokio::test]
async fn reports_about_a_suspended_tenants_messages_are_accepted() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({})).await;
    act(&app, &acme.id, "suspend").await;
    let request = acme.api.request(Method::POST, "/v1/inbound").header("content-type", "message/rfc822");
    let accepted = ApiResponse::to(request.body("Subject: x\r\n\r\nx")).await;
    assert_eq!((accepted.status, &accepted.body["kind"]), (200, &json!("unknown")), "{}", accepted.body);
}

#[tokio::test]
async fn retries_of_a_suspended_tenant_wait() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({})).await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.3.2 disk full\r\n"]);
    let sent = acme.api.send(json!({})).await;
    app.run_until_idle().await;
    act(&app, &acme.id, "suspend").await;
    app.clock.advance(hours(1));
    app.run_until_idle().await;
    assert_eq!((acme.api.status(&sent.id).await.as_str(), app.smtp.messages().len()), ("deferred", 0));
    act(&app, &acme.id, "resume").await;
    app.run_until_idle().await;
    assert_eq!(acme.api.status(&sent.id).await, "relayed");
}

#[tokio::test]
async fn suspension_takes_effect_on_three_replicas_within_1_s() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({})).await;
    let (mut others, mut apis) = (Vec::new(), vec![acme.api.clone()]);
    for _ in 0..2 {
        let (other, api) = app.another_api().await;
        others.push(other);
        apis.push(api.with_key(&acme.api.key));
    }
    let post = async |api: &Api| api.post("/v1/messages?dry_run=true", &message(json!({}))).await.status;
    let since = Instant::now();
    // Long enough that the keys are cached and confirmed, and not only loaded.
    while since.elapsed() < Duration::from_millis(1_500) {
        for api in &apis {
            assert_eq!(post(api).await, 200);
        }
    }
    for (action, status) in [("suspend", 403), ("resume", 200)] {
        act(&app, &acme.id, action).await;
        let since = Instant::now();
        for api in &apis {
            while post(api).await != status {
                assert!(since.elapsed() < Duration::from_secs(20), "{action} did not take effect");
            }
        }
        assert!(since.elapsed() < Duration::from_secs(1), "{action}: {:?}", since.elapsed());
    }
    for other in others {
        other.stop().await;
    }
}

#[tokio::test]
async fn operator_of_a_suspended_tenant_can_resume_it() {
    let app = TestApp::start().await;
    let operator = app.with_scopes(&[Scope::Operator]).await;
    let default = "ten_00000000000000000000000000000000";
    act(&app, default, "suspend").await;
    assert_eq!(app.post("/v1/messages", &message(json!({}))).await.problem(), (403, "tenant_suspended"));
    assert_eq!(operator.post(&format!("{PATH}/{default}/resume"), &json!({})).await.status, 200);
    app.send(json!({})).await;
}
