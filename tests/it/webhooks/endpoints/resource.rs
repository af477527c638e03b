//! Webhook endpoints as a resource: they are created, read, changed and removed, with their secrets, scopes and faults.

use std::sync::Arc;
use std::time::Duration;

use postrider::accept::request::Limits;
use postrider::accept::{self, Acceptor, WakeNotifier};
use postrider::app::Server;
use postrider::config::Config;
use postrider::domain::key::Scope;
use postrider::domain::routing::{RouteName, RouteTable};
use postrider::feedback::Feedback;
use postrider::feedback::receiving::Receiver;
use postrider::group_commit::GroupCommit;
use postrider::http::{self, Delivery, ServerLimits, Settings, TargetCheck};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Row as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{URL, made, number, path, shown, start};
use crate::support::app::TestApp;
use crate::support::client::{Api, ApiResponse};
use crate::support::clock::{hours, minutes};

const UNKNOWN: &str = "/v1/webhooks/wh_00000000000070008000000000000000";

/// Returns the current and the previous secret, in the form that libraries read.
async fn secrets(app: &TestApp) -> [Option<String>; 2] {
    let text = "'whsec_' || replace(encode(";
    let query = format!(
        "SELECT {text}secret, 'base64'), E'\\n', ''), {text}old_secret, 'base64'), E'\\n', '') FROM webhook_endpoints"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(query)).fetch_one(&mut app.database.connect().await).await.unwrap();
    [row.get(0), row.get(1)]
}

#[tokio::test]
async fn endpoint_is_created_changed_and_removed() {
    let app = start().await;
    app.send(json!({})).await;
    let body = json!({"url": "http://127.0.0.1:9/hooks?key=1", "events": ["message.bounced", "webhook.disabled"],
                      "description": "the shop's", "concurrency": 2, "rate": 0.5, "batch": 100});
    let response = app.post("/v1/webhooks", &body).await;
    assert_eq!((response.status, &response.headers["cache-control"]), (201, &"no-store".parse().unwrap()));
    let made = response.body;
    assert_eq!(response.headers["location"], path(&made));
    for (name, value) in body.as_object().unwrap() {
        assert_eq!(&made[name], value, "{name}");
    }
    assert_eq!(made["secret"].as_str().unwrap().len(), "whsec_".len() + 44);
    assert_eq!([Some(made["secret"].as_str().unwrap().to_owned()), None], secrets(&app).await);
    let initial = json!({"state": "active", "cursor": 1, "behind": 0, "pending_retries": 0, "last_success_at": null,
                       "last_error": null, "failing_since": null, "failures": 0, "open_at": null, "disabled_at": null,
                       "disabled_reason": null, "old_secret_until": null});
    for (name, value) in initial.as_object().unwrap() {
        assert_eq!(&made[name], value, "{name}");
    }

    let mut shown = shown(&app, &made).await;
    assert_eq!(shown.get("secret"), None, "the secret is shown once");
    assert_eq!(app.get("/v1/webhooks").await.body["data"], json!([shown]));
    shown["secret"] = made["secret"].clone();
    assert_eq!(shown, made);

    let change =
        json!({"url": "http://127.0.0.1:9/other", "events": null, "rate": null, "description": null, "batch": 5});
    let changed = app.patch(&path(&made), &change).await.body;
    let fields = ["url", "events", "rate", "description", "batch", "concurrency"].map(|name| changed[name].clone());
    assert_eq!(fields.to_vec(), json!(["http://127.0.0.1:9/other", null, null, "", 5, 2]).as_array().unwrap().clone());
    assert_eq!(app.patch(&path(&made), &json!({})).await.body, changed, "missing fields do not change");

    app.sql(
        "INSERT INTO webhook_retries (endpoint_id, tenant_id, seq, seqs, attempts, due_at)
         SELECT id, tenant_id, 1, '{1}', 1, now() FROM webhook_endpoints",
    )
    .await;
    assert_eq!(app.get(&path(&made)).await.body["pending_retries"], 1);
    assert_eq!(app.delete(&path(&made)).await.status, 204);
    assert_eq!(app.get(&path(&made)).await.problem(), (404, "not_found"));
    assert_eq!(app.delete(&path(&made)).await.problem(), (404, "not_found"));
    let left = number(&app, "SELECT count(*) FROM webhook_retries").await;
    assert_eq!(left, 0, "its retries are removed too");
}

#[tokio::test]
async fn endpoints_are_listed_in_pages() {
    let app = start().await;
    for n in 0..4 {
        app.clock.advance(minutes(1));
        made(&app, json!({ "description": format!("{n}") })).await;
    }
    let first = app.get("/v1/webhooks?limit=3").await.body;
    let second = app.get(&format!("/v1/webhooks?limit=3&after={}", first["next"].as_str().unwrap())).await.body;
    let names =
        |page: &Value| page["data"].as_array().unwrap().iter().map(|w| w["description"].clone()).collect::<Vec<_>>();
    assert_eq!([names(&first), names(&second)].concat(), ["3", "2", "1", "0"]);
    assert_eq!((&second["has_more"], &second["next"]), (&json!(false), &json!(null)));
    let response = app.get("/v1/webhooks?limit=0&after=x&state=failing").await;
    let mut faults = response.faults();
    faults.sort_unstable();
    assert_eq!(faults, [("after", "invalid_value"), ("limit", "invalid_value"), ("state", "unknown_field")]);
}

#[tokio::test]
async fn all_faults_are_reported_at_once() {
    let app = start().await;
    let body = json!({"url": "https://a:b@hooks.acme.test", "events": ["message.lost"], "description": "x".repeat(1_001),
                      "concurrency": 0, "rate": -1, "batch": 0, "disabled": true, "secret": "x"});
    let response = app.post("/v1/webhooks", &body).await;
    let mut faults = response.faults();
    faults.sort_unstable();
    let expected = [
        ("/batch", "invalid_value"),
        ("/concurrency", "invalid_value"),
        ("/description", "too_long"),
        ("/disabled", "unknown_field"),
        ("/events/0", "invalid_value"),
        ("/rate", "invalid_value"),
        ("/secret", "unknown_field"),
        ("/url", "invalid_url"),
    ];
    assert_eq!((response.status, faults), (422, expected.to_vec()));
    assert_eq!(app.post("/v1/webhooks", &json!({})).await.faults(), [("/url", "required")]);

    let webhook = made(&app, json!({})).await;
    let before = shown(&app, &webhook).await;
    let change = json!({"url": "ftp://x.test", "events": [], "disabled": 1, "id": "wh_1"});
    let response = app.patch(&path(&webhook), &change).await;
    let mut faults = response.faults();
    faults.sort_unstable();
    let expected =
        [("/disabled", "invalid_type"), ("/events", "required"), ("/id", "unknown_field"), ("/url", "invalid_url")];
    assert_eq!((response.status, faults), (422, expected.to_vec()));
    assert_eq!(shown(&app, &webhook).await, before);
    for (method, body) in [(Method::POST, "{"), (Method::PATCH, "")] {
        let at = if method == Method::POST { "/v1/webhooks".to_owned() } else { path(&webhook) };
        let request = app.request(method, &at).header("content-type", "application/json").body(body);
        assert_eq!(ApiResponse::to(request).await.problem(), (400, "malformed_request"));
    }
}

#[tokio::test]
async fn old_secret_signs_for_a_day_after_a_rotation() {
    let app = start().await;
    let webhook = made(&app, json!({})).await;
    let response = app.post(&format!("{}/rotate-secret", path(&webhook)), &json!({})).await;
    assert_eq!((response.status, &response.headers["cache-control"]), (200, &"no-store".parse().unwrap()));
    let fields = |webhook: &Value| Some(webhook["secret"].as_str().unwrap().to_owned());
    assert_ne!(fields(&response.body), fields(&webhook));
    assert_eq!(secrets(&app).await, [fields(&response.body), fields(&webhook)]);
    let until: chrono::DateTime<chrono::Utc> = response.body["old_secret_until"].as_str().unwrap().parse().unwrap();
    assert_eq!(until.to_rfc3339(), app.clock.text_in(hours(24)));
    assert_eq!(shown(&app, &webhook).await.get("secret"), None);
    app.clock.advance(hours(24));
    assert_eq!(shown(&app, &webhook).await["old_secret_until"], json!(null), "only the new secret signs now");
}

#[tokio::test]
async fn changes_need_admin_and_reads_need_read() {
    let app = start().await;
    let webhook = path(&made(&app, json!({})).await);
    let calls = [
        (Method::GET, "/v1/webhooks".to_owned(), Scope::Metadata),
        (Method::GET, webhook.clone(), Scope::Metadata),
        (Method::GET, format!("{webhook}/deliveries"), Scope::Metadata),
        (Method::POST, "/v1/webhooks".into(), Scope::Admin),
        (Method::PATCH, webhook.clone(), Scope::Admin),
        (Method::POST, format!("{webhook}/rotate-secret"), Scope::Admin),
        (Method::POST, format!("{webhook}/test"), Scope::Admin),
        (Method::POST, format!("{webhook}/replay"), Scope::Admin),
        (Method::DELETE, webhook, Scope::Admin),
    ];
    for scope in Scope::ALL {
        let api = app.with_scopes(&[scope]).await;
        for (method, path, needed) in &calls {
            let response = ApiResponse::to(api.request(method.clone(), path).json(&json!({}))).await;
            let allowed = needed.granted_by().contains(&scope);
            assert_eq!(response.status != 403, allowed, "{scope:?}: {method} {path} is {}", response.status);
        }
    }
}

#[tokio::test]
async fn unknown_endpoint_is_not_found() {
    let app = start().await;
    for (method, rest, body) in [
        (Method::GET, "", json!({})),
        (Method::PATCH, "", json!({"description": "x"})),
        (Method::DELETE, "", json!({})),
        (Method::POST, "/rotate-secret", json!({})),
        (Method::POST, "/test", json!({})),
        (Method::POST, "/replay", json!({"after_seq": 0})),
        (Method::GET, "/deliveries", json!({})),
    ] {
        for id in [UNKNOWN, "/v1/webhooks/key_00000000000070008000000000000000", "/v1/webhooks/x"] {
            let response = ApiResponse::to(app.request(method.clone(), &format!("{id}{rest}")).json(&body)).await;
            assert_eq!(response.problem(), (404, "not_found"), "{method} {id}{rest}");
        }
    }
}

/// Starts an API on the same database that uses `check` for the URLs of webhook endpoints.
async fn with_check(app: &TestApp, check: TargetCheck) -> (Server, Api) {
    let tasks = TaskTracker::new();
    let clock: postrider::clock::SharedClock = app.clock.clone();
    let notifier = WakeNotifier::start(app.db.clone(), Arc::default(), &tasks);
    let dependencies = accept::Dependencies {
        routes: RouteTable::new(Vec::new(), RouteName::Mx),
        group_commit: GroupCommit::start(&app.db, &clock, notifier.signals(), None),
        wake: notifier,
        caches: Arc::default(),
    };
    let acceptor = Acceptor::new(app.db.clone(), clock.clone(), dependencies, &tasks);
    let delivery = Delivery {
        table: RouteTable::new(Vec::new(), RouteName::Mx),
        routes: Vec::new(),
        mx_tls: std::collections::BTreeMap::default(),
        connections: 1,
        messages_per_connection: 1,
        policy: Config::default().delivery.retry_policy(),
        lease: std::time::Duration::from_mins(1),
    };
    let settings = Settings {
        max_body: 1 << 20,
        max_inbound: 1 << 20,
        max_upload: 1 << 20,
        body_memory: 1 << 20,
        limits: Limits::default(),
        delivery,
        periods: app.config.retention.periods(Duration::ZERO),
        check_target: check,
        domains: postrider::app::domain_settings(&app.config, &app.db, acceptor.caches()).unwrap(),
        links: None,
        renderer: Arc::default(),
        trusted_proxies: Vec::new(),
        auth_failures_per_minute: 60,
        cell: None,
        resend: true,
        readiness: Arc::default(),
        restore_gate: Arc::default(),
        metrics_access: http::MetricsAccess::default(),
        relayed_as_delivered: false,
        fetcher: None,
    };
    let received = http::Received {
        feedback: Arc::new(Feedback::new(app.db.clone(), app.clock.clone(), None, None)),
        receiver: Arc::new(Receiver::new(app.db.clone(), app.clock.clone(), Arc::default(), None)),
    };
    let api = http::Api::new(
        app.db.clone(),
        app.clock.clone(),
        Arc::new(acceptor),
        received,
        settings,
        CancellationToken::new(),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::start(listener, http::router(api, None), ServerLimits::default()).unwrap();
    let client = Api::new(format!("http://{}", server.address), app.key.clone());
    (server, client)
}

#[tokio::test]
async fn denied_url_is_refused_when_it_is_set() {
    let app = start().await;
    let check = TargetCheck::new(|url| {
        Box::pin(async move {
            if url.host_str() == Some("10.0.0.1") {
                Err("10.0.0.1 is a private address: only `webhooks.allow_private` can permit that".into())
            } else {
                Ok(())
            }
        })
    });
    let (_server, api) = with_check(&app, check).await;
    let denied = |response: &ApiResponse| {
        assert_eq!((response.status, response.faults()), (422, vec![("/url", "denied_address")]));
        let message = response.body["errors"][0]["message"].as_str().unwrap();
        let why = "10.0.0.1 is a private address: only `webhooks.allow_private` can permit that";
        assert_eq!(message, format!("A webhook endpoint may not have this URL: {why}."));
    };
    denied(&api.post("/v1/webhooks", &json!({"url": "http://10.0.0.1/hooks"})).await);
    let webhook = made(&api, json!({})).await;
    denied(&api.patch(&path(&webhook), &json!({"url": "http://10.0.0.1/hooks"})).await);
    assert_eq!(shown(&api, &webhook).await["url"], URL);
    assert_eq!(api.get("/v1/webhooks").await.body["data"].as_array().unwrap().len(), 1);
}
