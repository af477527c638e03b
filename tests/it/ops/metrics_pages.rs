//! The metrics of running services, and the page that documents them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use tokio::process::Command;

use crate::support::client::Api;
use crate::support::postgres::Database;
use crate::support::process::{Service, key, serve};
use crate::support::smtp::SmtpServer;
use crate::support::until::until;

const PAGE: &str = include_str!("../../../docs/metrics.md");
/// Time limit of a wait for metrics that are computed periodically.
const LIMIT: Duration = Duration::from_mins(1);

/// Returns the command `serve` with metrics at the API's listener for this machine.
pub(super) fn serve_with_metrics(database: &str, smtp: SocketAddr, arguments: &[&str]) -> Command {
    let mut command = serve(database, smtp, arguments);
    command.env("POSTRIDER_METRICS__ALLOW", "127.0.0.0/8");
    command
}

/// Returns the metrics of a service.
pub(super) async fn metrics(base: &str) -> String {
    let response = Api::new(base, "").anonymous(Method::GET, "/metrics").send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    response.text().await.unwrap()
}

/// Waits until the metrics have a line that starts with this text, and returns them.
pub(super) async fn metrics_with(base: &str, line: &str) -> String {
    let mut found = String::new();
    until(line, LIMIT, async || {
        found = metrics(base).await;
        let lines = found.lines().any(|other| other.starts_with(line));
        if lines { Ok(()) } else { Err(found.lines().filter(|other| !other.starts_with('#')).count()) }
    })
    .await;
    found
}

/// Returns the names of the metrics.
fn names(page: &str) -> BTreeSet<&str> {
    page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect()
}

#[tokio::test]
async fn metrics_and_their_documentation_name_the_same() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let service = Service::start(serve_with_metrics(&database.url, smtp.address(), &[])).await;
    let base = service.address.clone().unwrap();
    Api::new(&base, key(&database.url).await).send(json!({})).await;
    smtp.received(1).await;
    let page = metrics_with(&base, "postrider_queue_recipients").await;
    let exported = names(&page);
    let documented: BTreeSet<&str> =
        PAGE.lines().filter_map(|line| line.strip_prefix("| `postrider_")?.split('`').next()).collect();
    let documented: BTreeSet<String> = documented.into_iter().map(|name| format!("postrider_{name}")).collect();
    let exported: BTreeSet<String> = exported.into_iter().map(str::to_owned).collect();
    assert_eq!(documented, exported);
    let described = page.lines().filter(|line| line.starts_with("# HELP ")).count();
    assert_eq!(described, exported.len(), "every metric has a description");
    assert!(service.terminate().await.success());
}

#[tokio::test]
async fn outcomes_are_counted_by_stream_and_route() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    smtp.rcpt("bo@example.test").replies(["550 5.1.1 no such user"]);
    let service = Service::start(serve_with_metrics(&database.url, smtp.address(), &[])).await;
    let base = service.address.clone().unwrap();
    let api = Api::new(&base, key(&database.url).await);
    api.send(json!({"to": ["ann@example.test"]})).await;
    api.send(json!({"to": ["bo@example.test"], "stream": "bulk"})).await;
    for line in [
        r#"postrider_attempts_total{stream="transactional",route="relay",provider="other",outcome="relayed"} 1"#,
        r#"postrider_attempts_total{stream="bulk",route="relay",provider="other",outcome="bounced"} 1"#,
        r#"postrider_bounces_total{stream="bulk",provider="other",category="unknown_user"} 1"#,
        r#"postrider_accepted_recipients_total{stream="bulk"} 1"#,
        r#"postrider_queue_wait_seconds_count{stream="bulk"} 1"#,
        r#"postrider_smtp_connects_total{provider="other",result="ok"}"#,
        r#"postrider_http_requests_total{method="POST",route="/v1/messages",status="202"} 2"#,
        r#"postrider_db_pool_connections{role="worker",pool="hot",state="used"}"#,
        r#"postrider_db_pool_connections{role="dashboard",pool="main",state="idle"}"#,
        "postrider_db_available 1",
        r#"postrider_attempts_total{stream="bulk",route="mx",provider="google",outcome="uncertain"} 0"#,
        r#"postrider_webhook_posts_total{status_class="5xx"} 0"#,
        "postrider_build_info{",
        "postrider_ledger_balanced 1",
    ] {
        metrics_with(&base, line).await;
    }
    assert!(service.terminate().await.success());
}

#[tokio::test]
async fn simulated_messages_are_only_counted_as_such() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let service = Service::start(serve_with_metrics(&database.url, smtp.address(), &[])).await;
    let base = service.address.clone().unwrap();
    let api = Api::new(&base, key(&database.url).await);
    api.send(json!({"to": ["bounce@simulator.postrider.test"]})).await;
    let page = metrics_with(&base, r#"postrider_attempts_total{stream="transactional",route="simulator""#).await;
    assert!(page.contains("postrider_accepted_recipients_total{stream=\"transactional\"} 0\n"), "{page}");
    assert!(!page.contains(r#"category="unknown_user""#), "{page}");
    assert!(service.terminate().await.success());
}

#[tokio::test]
async fn no_metric_names_an_address_domain_or_stream_of_a_client() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let service = Service::start(serve_with_metrics(&database.url, smtp.address(), &[])).await;
    let base = service.address.clone().unwrap();
    let admin = Api::new(&base, key_with_all_scopes(&database.url).await);
    let made = admin.post("/v1/streams", &json!({"name": "canary-stream", "priority": 20})).await;
    assert!(made.status < 300, "{made:?}");
    admin.send(json!({"to": ["canary-user@canary-domain.test"], "stream": "canary-stream"})).await;
    smtp.received(1).await;
    assert_eq!(admin.get("/v1/suppressions/canary-user@canary-domain.test").await.status, 404);
    let counted = r#"postrider_attempts_total{stream="other",route="relay",provider="other",outcome="relayed"} 1"#;
    let page = metrics_with(&base, counted).await;
    assert!(!page.contains("canary"), "{page}");
    assert!(service.terminate().await.success());
}

#[tokio::test]
async fn every_process_exports_the_metrics_of_the_whole_service() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let mut command = serve(&database.url, smtp.address(), &["--only", "worker"]);
    command.env("POSTRIDER_METRICS__LISTEN", "127.0.0.1:0");
    let worker = Service::start(command).await;
    let api = Service::start(serve_with_metrics(&database.url, smtp.address(), &["--only", "api"])).await;
    let started = Instant::now();
    for base in [worker.ops.as_deref().unwrap(), api.address.as_deref().unwrap()] {
        let page = metrics_with(base, r#"postrider_workers{state="alive"} 1"#).await;
        assert!(page.contains(r#"postrider_queue_recipients{stream="transactional",state="due"} 0"#), "{page}");
    }
    let scraped = Instant::now();
    let page = metrics(api.address.as_deref().unwrap()).await;
    println!("{} bytes in {:?}; both were complete after {:?}", page.len(), scraped.elapsed(), started.elapsed());
    assert!(api.terminate().await.success() && worker.terminate().await.success());
}

async fn key_with_all_scopes(database: &str) -> String {
    use crate::support::process::{on, run};
    let arguments = ["keys", "create", "--name", "all", "--scope", "admin", "--scope", "send", "--scope", "read"];
    String::from_utf8(run(on(database, &arguments)).await.stdout).unwrap().trim().to_owned()
}
