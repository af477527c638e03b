//! The counts equal those of the ledger and of the events.

use postrider::db::keys::{self, NewKey};
use postrider::domain::id::{KeyId, TenantId};
use postrider::domain::key::{KeyMode, Scope, Secret};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{by_name, statistics, totals};
use crate::support::app::TestApp;
use crate::support::clock::{hours, seconds};
use crate::support::dns::DnsServer;
use crate::support::reports::{complaint, dsn, failed};
use crate::support::smtp::Action;

const END_STATES: [&str; 7] = ["relayed", "delivered", "bounced", "expired", "suppressed", "canceled", "uncertain"];

fn to(script: &str) -> Value {
    json!({"to": format!("{script}@simulator.postrider.test")})
}

/// Sends messages that reach every end state.
async fn mixed_run(app: &TestApp) {
    app.post("/v1/suppressions", &json!({"address": "dan@example.test", "reason": "complaint"})).await;
    app.smtp.rcpt("bo@example.test").replies(["550 5.1.1 unknown"]);
    app.smtp.rcpt("cy@example.test").replies(["451 4.3.0 later", "451 4.3.0 later"]);
    app.send(json!({"to": ["ann@example.test", "bo@example.test", "cy@example.test", "dan@example.test"]})).await;
    app.send(to("delivered")).await;
    app.send(to("expired")).await;
    app.send(json!({"to": "drop-after-dot@simulator.postrider.test", "on_uncertain": "fail"})).await;
    let canceled = app.send(json!({"scheduled_at": app.clock.text_in(hours(1))})).await;
    assert_eq!(app.post(&format!("/v1/messages/{}/cancel", canceled.id), &json!({})).await.status, 200);
    app.run_until_idle().await;
    for _ in 0..80 {
        app.clock.advance(hours(1));
        app.run_until_idle().await;
    }
}

#[tokio::test]
async fn counts_equal_the_ledger_after_a_mixed_run() {
    let app = TestApp::start().await;
    mixed_run(&app).await;
    let ledger = app.get("/v1/ledger?since=2026-11-23T00:00:00Z").await.body;
    let found = statistics(&app, "step=day&since=2026-11-23T00:00:00Z").await;
    let names = [&["accepted"][..], &END_STATES].concat();
    let expected: Vec<i64> = names.iter().map(|name| ledger[name].as_i64().unwrap()).collect();
    assert_eq!(totals(&found, &names), expected, "{names:?}");
    assert_eq!(expected, [8, 2, 1, 1, 1, 1, 1, 1]);
    let deferred: i64 = sqlx::query_scalar("SELECT count(*) FROM events WHERE type = 'message.deferred'")
        .fetch_one(&mut app.database.connect().await)
        .await
        .unwrap();
    assert_eq!(totals(&found, &["deferred"]), [deferred]);
    assert_eq!(found["totals"]["bounces"], json!([{"category": "unknown_user", "count": 1}]));
    assert_eq!(found["as_of"].as_str().unwrap(), app.clock.text_in(hours(0)).replace("+00:00", "Z"));
}

#[tokio::test]
async fn reports_count_in_addition_to_the_delivery() {
    let app = TestApp::builder().with_inbound().start().await;
    for report in [dsn(None, None, &[failed("ann@example.test")]), String::new()] {
        app.send(json!({})).await;
        app.run_until_idle().await;
        let path = app.smtp.messages().last().unwrap().from.clone();
        let report = if report.is_empty() { complaint(&path) } else { report };
        for _ in 0..2 {
            app.deliver_bounce(&path, &report).await;
        }
        app.delete("/v1/suppressions/ann@example.test").await;
    }
    let found = statistics(&app, "").await;
    assert_eq!(totals(&found, &["accepted", "relayed", "bounced", "complained"]), [2, 2, 1, 1]);
}

#[tokio::test]
async fn forged_reports_are_not_counted() {
    let app = TestApp::builder().with_inbound().start().await;
    app.send(json!({"to": ["ann@example.test", "bo@example.test"]})).await;
    app.run_until_idle().await;
    let path = app.smtp.messages().last().unwrap().from.clone();
    app.deliver_bounce(&path, &dsn(None, None, &[failed("ann@example.test")])).await;
    assert_eq!(totals(&statistics(&app, "").await, &["relayed", "bounced"]), [2, 0]);
}

#[tokio::test]
async fn figures_are_divided_by_stream_and_provider() {
    let dns = DnsServer::start().await;
    for (domain, mx) in
        [("gmail.com", "mx.google.com"), ("acme.test", "aspmx.l.google.com"), ("else.test", "mx.else.test")]
    {
        dns.mx(domain, 10, mx);
        dns.add_address(mx, "127.0.0.1");
    }
    let app = TestApp::builder().direct(&dns).start().await;
    app.smtp.rcpt("bo@acme.test").replies(["550 5.1.1 unknown"]);
    app.send(json!({"to": ["ann@gmail.com", "ann@acme.test", "bo@acme.test"]})).await;
    app.send(json!({"to": "ann@else.test", "stream": "bulk"})).await;
    app.run_until_idle().await;

    let named = |list: &[(&str, i64)]| -> Vec<(String, i64)> {
        list.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    };
    let streams = statistics(&app, "group_by=stream").await;
    assert_eq!(by_name(&streams, "delivered"), named(&[("bulk", 1), ("transactional", 2)]));
    let providers = statistics(&app, "group_by=provider").await;
    assert_eq!(by_name(&providers, "delivered"), named(&[("google", 2), ("other", 1)]));
    // Before an attempt, only the domain is known.
    assert_eq!(by_name(&providers, "accepted"), named(&[("google", 1), ("other", 3)]));
    let categories = statistics(&app, "group_by=category").await;
    assert_eq!(by_name(&categories, "bounced"), named(&[("unknown_user", 1)]));
    assert_eq!(categories["series"][0]["totals"]["counts"], json!({"bounced": 1}));

    let google = statistics(&app, "provider=google&stream=transactional").await;
    assert_eq!(totals(&google, &["accepted", "delivered", "bounced"]), [1, 2, 1]);
    assert_eq!(totals(&statistics(&app, "provider=google&stream=bulk").await, &["accepted", "delivered"]), [0, 0]);
}

#[tokio::test]
async fn latency_runs_from_acceptance_to_the_last_attempt() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.3.0 later"]);
    app.send(json!({})).await;
    app.run_until_idle().await;
    app.clock.advance(seconds(420));
    app.run_until_idle().await;
    // The time until `scheduled_at` is not latency.
    app.send(json!({"scheduled_at": app.clock.text_in(hours(1))})).await;
    app.clock.advance(hours(1));
    app.run_until_idle().await;
    let found = statistics(&app, "").await;
    assert_eq!(totals(&found, &["relayed", "deferred"]), [2, 1]);
    let latency = &found["totals"]["latency"];
    assert_eq!(latency["count"], 1);
    // 420 s are between the bounds 300 s and 600 s.
    assert_eq!((&latency["p50_ms"], &latency["p99_ms"]), (&json!(450_000), &json!(450_000)));
}

#[tokio::test]
async fn repeated_attempts_count_as_deferred() {
    let app = TestApp::start().await;
    app.smtp.dot().does([Action::Drop]);
    app.send(json!({})).await;
    app.run_until_idle().await;
    app.clock.advance(hours(1));
    app.run_until_idle().await;
    assert_eq!(totals(&statistics(&app, "").await, &["deferred", "relayed", "uncertain"]), [1, 1, 0]);
}

#[tokio::test]
async fn another_tenant_sees_nothing() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    app.run_until_idle().await;
    assert_eq!(totals(&statistics(&app, "").await, &["accepted"]), [1]);
    let secret = Secret::new(KeyMode::Live, None, [7; 32]);
    app.sql("INSERT INTO tenants (id, name, created_at) VALUES ('00000000-0000-0000-0000-000000000007', 'b', now())")
        .await;
    let key = NewKey {
        id: KeyId(Uuid::from_u128(7)),
        tenant: TenantId(Uuid::from_u128(7)),
        name: "b",
        hash: Secret::hash(secret.expose()),
        mode: KeyMode::Live,
        scopes: &[Scope::Read.as_str().to_owned()],
        sender_domains: None,
        allowed_ips: None,
        rate: None,
        quota: None,
        created_at: "2026-11-23T12:00:00Z".parse().unwrap(),
        expires_at: None,
    };
    keys::insert(&app.db, &key).await.unwrap();
    let other = app.with_key(secret.expose()).get("/v1/statistics?group_by=stream").await;
    assert_eq!((other.status, &other.body["series"]), (200, &json!([])));
    assert_eq!(totals(&other.body, &["accepted", "relayed"]), [0, 0]);
}
