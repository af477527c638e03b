//! Requests of many tenants, and received messages, cost no statements for settings that have not changed.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;

use super::metrics_pages::{metrics, serve_with_metrics};
use crate::receiving::route;
use crate::support::client::Api;
use crate::support::inbound_client::Client;
use crate::support::postgres::Database;
use crate::support::process::{Service, on, run, serve};
use crate::support::smtp::SmtpServer;
use crate::support::until::until;

/// The statements that load what the API has cached of API keys and tenants.
const LOADS_OF_API: &[&str] =
    &["keys.find", "streams.of_tenants", "template_versions.latest", "domains.senders", "domains.any"];
/// The statements that load what workers have cached of tenants.
const LOADS_OF_WORKER: &[&str] = &["domains.senders", "domains.any"];
/// The statement that loads the inbound routes of a domain.
const LOADS_OF_ROUTES: &[&str] = &["receiving.routes.of_domain"];
const TENANTS: usize = 100;
/// Long enough for several polls.
const PERIOD: Duration = Duration::from_secs(6);

/// Creates a key that may do everything.
async fn operator_key(database: &str) -> String {
    let scopes = ["--scope", "operator", "--scope", "admin", "--scope", "send", "--scope", "read"];
    let arguments = [&["keys", "create", "--name", "operator"][..], &scopes].concat();
    String::from_utf8(run(on(database, &arguments)).await.stdout).unwrap().trim().to_owned()
}

/// Creates a tenant, and returns a client with its key.
async fn tenant(operator: &Api, number: usize) -> Api {
    let tenant = operator.post("/v1/tenants", &json!({"name": format!("tenant {number}")})).await;
    assert_eq!(tenant.status, 201, "{}", tenant.body);
    let key = operator.post("/v1/keys", &json!({"name": "shop", "tenant": tenant.body["id"]})).await;
    assert_eq!(key.status, 201, "{}", key.body);
    operator.with_key(key.body["secret"].as_str().unwrap())
}

/// Returns how often a process has run each of these statements.
async fn loads(base: &str, names: &[&str]) -> Vec<u64> {
    let page = metrics(base).await;
    let count = |name: &&str| {
        let series = format!("postrider_db_statement_seconds_count{{name=\"{name}\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&series)).map_or(0, |count| count.parse::<u64>().unwrap())
    };
    names.iter().map(count).collect()
}

/// Waits until there is a period of traffic in which the process runs none of these statements, all of which it has run before. On a
/// busy machine, a poll may be late; then values are loaded again.
async fn until_nothing_is_loaded(base: &str, names: &[&str], mut traffic: impl AsyncFnMut()) {
    until("a period without loads", Duration::from_mins(1), async || {
        let (before, started) = (loads(base, names).await, Instant::now());
        while started.elapsed() < PERIOD {
            traffic().await;
        }
        let after = loads(base, names).await;
        if after == before { Ok(()) } else { Err(format!("{after:?} instead of {before:?}")) }
    })
    .await;
    let all = loads(base, names).await;
    assert!(all.iter().all(|count| *count > 0), "each statement has a series of this name: {all:?}");
}

#[tokio::test]
async fn steady_traffic_of_100_tenants_loads_nothing_again() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let service = Service::start(serve_with_metrics(&database.url, smtp.address(), &["--only", "api"])).await;
    let base = service.address.clone().unwrap();
    let operator = Api::new(&base, operator_key(&database.url).await);
    let tenants = join_all((0..TENANTS).map(|number| tenant(&operator, number))).await;
    join_all(tenants.iter().map(|api| api.send(json!({})))).await;
    let template = json!({"name": "Hi", "alias": "hi", "subject": "Hi", "html": "<p>Hi</p>"});
    assert_eq!(operator.post("/v1/templates", &template).await.status, 201);
    assert_eq!(operator.post("/v1/templates/hi/publish", &json!({})).await.status, 201);
    until_nothing_is_loaded(&base, LOADS_OF_API, async || {
        for api in &tenants {
            api.send(json!({})).await;
        }
        let body = json!({"from": "a@acme.test", "to": "ann@example.test", "template": {"id": "hi"}});
        assert_eq!(operator.post("/v1/messages", &body).await.status, 202);
    })
    .await;
    assert!(service.terminate().await.success());
}

#[tokio::test]
async fn worker_process_loads_nothing_again_while_it_sends() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let mut command = serve(&database.url, smtp.address(), &["--only", "worker"]);
    command.env("POSTRIDER_METRICS__LISTEN", "127.0.0.1:0");
    let worker = Service::start(command).await;
    let ops = worker.ops.clone().unwrap();
    let service = Service::start(serve(&database.url, smtp.address(), &["--only", "api"])).await;
    let operator = Api::new(service.address.clone().unwrap(), operator_key(&database.url).await);
    let tenants = join_all((0..10).map(|number| tenant(&operator, number))).await;
    until_nothing_is_loaded(&ops, LOADS_OF_WORKER, async || {
        let before = smtp.messages().len();
        join_all(tenants.iter().map(|api| api.send(json!({})))).await;
        smtp.received(before + tenants.len()).await;
    })
    .await;
    assert!(service.terminate().await.success() && worker.terminate().await.success());
}

#[tokio::test]
async fn steady_incoming_messages_load_no_routes_again() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let mut command = serve_with_metrics(&database.url, smtp.address(), &["--only", "api"]);
    command
        .env("POSTRIDER_SECRET_KEY", "a secret of the tests, and of nobody else")
        .env("POSTRIDER_RETURN_PATH__DOMAIN", "return.acme.test")
        .env("POSTRIDER_INBOUND__LISTEN", "127.0.0.1:0")
        .env("POSTRIDER_INBOUND__MESSAGES_PER_MINUTE", "1000000");
    let mut service = Service::start(command).await;
    let started = service.logged_event("started").await;
    let inbound: SocketAddr = started["inbound"].as_str().unwrap().parse().unwrap();
    let base = service.address.clone().unwrap();
    route(&Api::new(&base, operator_key(&database.url).await), "x@reply.acme.test", "store").await;
    until_nothing_is_loaded(&base, LOADS_OF_ROUTES, async || {
        let mut client = Client::connect(inbound).await;
        client.send("EHLO mx.example.test\r\nMAIL FROM:<ann@example.test>\r\n").await;
        // The second domain has no routes.
        client.send("RCPT TO:<x@reply.acme.test>\r\nRCPT TO:<x@other.acme.test>\r\n").await;
        assert_eq!(client.codes(4).await, [250, 250, 250, 550]);
        assert_eq!(client.code("QUIT\r\n").await, 221);
    })
    .await;
    assert!(service.terminate().await.success());
}
