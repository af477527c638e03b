//! Who may read the metrics.

use reqwest::Method;
use serde_json::Value;

use crate::support::app::TestApp;
use crate::support::client::{Api, ApiResponse};
use crate::support::postgres::Database;
use crate::support::process::{Service, serve};
use crate::support::smtp::SmtpServer;

const TOKEN: &str = "a token that only Prometheus has, really";

#[tokio::test]
async fn api_shows_metrics_to_allowed_addresses_and_with_the_token() {
    let closed = TestApp::builder().config(|config| {
        config.metrics.allow = vec!["192.0.2.0/24".into()];
        config.metrics.token = Some(TOKEN.to_owned().into());
    });
    let closed = closed.start().await;
    let refused = ApiResponse::to(closed.anonymous(Method::GET, "/metrics")).await;
    assert_eq!(refused.problem(), (401, "unauthorized"));
    assert_eq!(closed.get("/metrics").await.status, 401, "an API key is no token");
    let admitted = closed.anonymous(Method::GET, "/metrics").bearer_auth(TOKEN).send().await.unwrap();
    assert_eq!(admitted.status(), 200);
    assert!(admitted.text().await.unwrap().contains("postrider_build_info"));

    let default = TestApp::start().await;
    assert_eq!(default.anonymous(Method::GET, "/metrics").send().await.unwrap().status(), 401, "from this machine");
    let open = TestApp::builder().config(|config| config.metrics.allow = vec!["127.0.0.0/8".into()]).start().await;
    assert_eq!(open.anonymous(Method::GET, "/metrics").send().await.unwrap().status(), 200, "from this machine");
    let forwarded = open.anonymous(Method::GET, "/metrics").header("X-Forwarded-For", "198.51.100.1");
    assert_eq!(forwarded.send().await.unwrap().status(), 401, "through a proxy on this machine");
}

#[tokio::test]
async fn worker_serves_only_metrics_and_probes() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let mut command = serve(&database.url, smtp.address(), &["--only", "worker"]);
    command.env("POSTRIDER_METRICS__LISTEN", "127.0.0.1:0");
    let worker = Service::start(command).await;
    let api = Api::new(worker.ops.clone().unwrap(), "");
    for (path, status) in
        [("/healthz", 200), ("/readyz", 200), ("/metrics", 200), ("/v1/messages", 404), ("/docs", 404)]
    {
        assert_eq!(api.anonymous(Method::GET, path).send().await.unwrap().status(), status, "{path}");
    }
    let health: Value = api.anonymous(Method::GET, "/healthz").send().await.unwrap().json().await.unwrap();
    assert_eq!(health["status"], "ok");
    assert!(worker.terminate().await.success());
}
