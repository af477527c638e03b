//! Changes of inbound routes, and of what decides about them, take effect in other processes within a second.

use std::time::Duration;

use serde_json::json;

use super::failures::{command, service};
use super::relay::{relay_route, url};
use super::{deliver, mime, route, start};
use crate::support::app::TestApp;
use crate::support::client::Api;
use crate::support::inbound_client::Client;
use crate::support::postgres::Database;
use crate::support::process::{Service, admin_key};
use crate::support::smtp::SmtpServer;
use crate::support::until::until;
use crate::tenants::tenant;

/// A second, and another one for a busy machine.
const LIMIT: Duration = Duration::from_secs(2);

/// Waits until the server replies to a recipient with this code.
async fn replies(app: &TestApp, code: &str, to: &str) {
    until("the change takes effect", LIMIT, async || {
        let reply = deliver(app, "ann@example.test", &[to], &mime("")).await.swap_remove(0);
        if reply.starts_with(code) { Ok(()) } else { Err(reply) }
    })
    .await;
}

#[tokio::test]
async fn other_process_notices_new_and_deleted_routes_within_1_s() {
    let app = start().await;
    let (other, api) = app.another_api().await;
    replies(&app, "550", "x@reply.acme.test").await;
    let created = route(&api, "x@reply.acme.test", "store").await;
    replies(&app, "250", "x@reply.acme.test").await;
    let path = format!("/v1/inbound-routes/{}", created["id"].as_str().unwrap());
    assert_eq!(api.delete(&path).await.status, 204);
    replies(&app, "550", "x@reply.acme.test").await;
    other.stop().await;
}

#[tokio::test]
async fn changes_by_hand_decide_about_routes_within_1_s() {
    let app = start().await;
    let (one, two) = (tenant(&app, "one", json!({})).await, tenant(&app, "two", json!({})).await);
    route(&one.api, "*@reply.acme.test", "store").await;
    assert_eq!(two.api.post("/v1/domains", &json!({"name": "acme.test"})).await.status, 201);
    replies(&app, "250", "x@reply.acme.test").await;
    for (statement, code) in [
        // The domain now belongs to a tenant without a route for the address.
        (
            "UPDATE domains SET verified_at = now(), checked_at = now();
             INSERT INTO inbound_routes (tenant_id, id, created_at, domain, kind, local, action)
             SELECT id, gen_random_uuid(), now(), 'reply.acme.test', 'exact', 'y', 'store' FROM tenants WHERE name = 'two'",
            "550",
        ),
        ("UPDATE domains SET verified_at = NULL", "250"),
        ("UPDATE tenants SET suspended_at = now() WHERE name = 'one'", "450"),
        ("UPDATE tenants SET suspended_at = NULL WHERE name = 'one'", "250"),
        ("UPDATE inbound_routes SET kind = 'exact', local = 'z' WHERE kind = 'wildcard'", "550"),
    ] {
        app.sql(statement).await;
        replies(&app, code, "x@reply.acme.test").await;
    }
}

#[tokio::test]
async fn worker_process_uses_another_server_within_1_s() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let (front, inbound) = service(command(&database, &smtp, &["--only", "api"])).await;
    let worker = Service::start(command(&database, &smtp, &["--only", "worker"])).await;
    let api = Api::new(front.address.clone().unwrap(), admin_key(&database.url).await);
    let (old, new) = (SmtpServer::start().await, SmtpServer::start().await);
    let created = relay_route(&api, "x@reply.acme.test", &url(&old)).await;
    let pass_on = async || {
        let passed_on = || old.messages().len() + new.messages().len();
        let before = passed_on();
        let mut client = Client::connect(inbound).await;
        assert_eq!(client.deliver("x@reply.acme.test", &mime("")).await, "250 2.0.0 Accepted\r\n");
        until("the message is passed on", Duration::from_secs(20), async || {
            let now = passed_on();
            if now > before { Ok(()) } else { Err(now) }
        })
        .await;
    };
    pass_on().await;
    assert_eq!((old.messages().len(), new.messages().len()), (1, 0));
    let path = format!("/v1/inbound-routes/{}", created["id"].as_str().unwrap());
    let changed = api.patch(&path, &json!({"action": {"type": "relay", "to": url(&new)}})).await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    until("messages are passed on to the new server", LIMIT, async || {
        pass_on().await;
        if new.messages().is_empty() { Err("passed on to the old one") } else { Ok(()) }
    })
    .await;
    assert!(front.terminate().await.success() && worker.terminate().await.success());
}
