//! Requests of many tenants cost no statements for settings that have not changed.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;

use super::metrics_pages::{metrics, serve_with_metrics};
use crate::support::client::Api;
use crate::support::postgres::Database;
use crate::support::process::{Service, on, run};
use crate::support::smtp::SmtpServer;
use crate::support::until::until;

/// The statements that load what is cached of API keys and tenants.
const LOADS: &[&str] = &["keys.find", "streams.of_tenants", "template_versions.latest"];
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

/// Returns how often the service has run each of [`LOADS`].
async fn loads_by_name(base: &str) -> Vec<u64> {
    let page = metrics(base).await;
    let count = |name: &&str| {
        let series = format!("postrider_db_statement_seconds_count{{name=\"{name}\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&series)).map_or(0, |count| count.parse::<u64>().unwrap())
    };
    LOADS.iter().map(count).collect()
}

/// Returns how many of [`LOADS`] the service has run.
async fn loads(base: &str) -> u64 {
    loads_by_name(base).await.into_iter().sum()
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
    assert!(loads(&base).await > 1, "the first requests load");
    // On a busy machine, a poll may be late; then values are loaded again.
    until("a period without loads", Duration::from_mins(1), async || {
        let (before, started) = (loads(&base).await, Instant::now());
        while started.elapsed() < PERIOD {
            for api in &tenants {
                api.send(json!({})).await;
            }
            let body = json!({"from": "a@acme.test", "to": "ann@example.test", "template": {"id": "hi"}});
            assert_eq!(operator.post("/v1/messages", &body).await.status, 202);
        }
        let again = loads(&base).await - before;
        if again == 0 { Ok(()) } else { Err(again) }
    })
    .await;
    let counts = loads_by_name(&base).await;
    assert!(counts.iter().all(|count| *count > 0), "each statement has a series of this name: {counts:?}");
    assert!(service.terminate().await.success());
}
