//! The alert rules and the dashboard, checked with a real Prometheus. Without Debian's package `prometheus`, these tests
//! are skipped.

use std::path::Path;
use std::process::{Command as StdCommand, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use url::Url;

use super::metrics_pages::serve_with_metrics;
use crate::support::client::Api;
use crate::support::postgres::Database;
use crate::support::process::{Service, key};
use crate::support::smtp::SmtpServer;
use crate::support::until::until;

const DASHBOARD: &str = include_str!("../../../ops/grafana/postrider.json");
/// Time limit of a wait for a series: several scrapes.
const LIMIT: Duration = Duration::from_mins(2);

/// Returns whether a program is installed, and prints that the test is skipped if it is not.
fn is_installed(program: &str) -> bool {
    let found = StdCommand::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let is_installed = found.is_ok_and(|status| status.success());
    if !is_installed {
        eprintln!("skipped: this test needs {program} (Debian: apt-get install prometheus)");
    }
    is_installed
}

fn rules() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("ops/prometheus")
}

#[test]
fn alert_rules_pass_their_tests() {
    if !is_installed("promtool") {
        return;
    }
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]] {
        let run = StdCommand::new("promtool").args(arguments).current_dir(rules()).output().unwrap();
        let output = [run.stdout, run.stderr].concat();
        let output = String::from_utf8_lossy(&output);
        assert!(run.status.success(), "{arguments:?}: {output}");
    }
}

/// A Prometheus that scrapes a service every second.
struct Prometheus {
    base: String,
    http: reqwest::Client,
    _child: Child,
    _dir: tempfile::TempDir,
}

impl Prometheus {
    async fn start(target: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let target = target.trim_start_matches("http://");
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{}/alerts.yml]\n\
             scrape_configs: [{{job_name: postrider, static_configs: [{{targets: ['{target}']}}]}}]\n",
            rules().display()
        );
        std::fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        // Prometheus cannot choose a free port itself.
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}/prometheus.yml", dir.path().display()))
            .arg(format!("--storage.tsdb.path={}/data", dir.path().display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { base: format!("http://127.0.0.1:{port}"), http: reqwest::Client::new(), _child: child, _dir: dir }
    }

    /// Returns the response to a request of the API, or the reason why there is none yet.
    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, String> {
        let url = Url::parse_with_params(&format!("{}/api/v1/{path}", self.base), query).unwrap();
        let response = self.http.get(url).send().await;
        let body: Value =
            response.map_err(|error| error.to_string())?.json().await.map_err(|error| error.to_string())?;
        if body["status"] == "success" { Ok(body["data"].clone()) } else { Err(body.to_string()) }
    }

    /// Waits until an expression returns a series.
    async fn returns_a_series(&self, expression: &str) {
        until(expression, LIMIT, async || {
            let data = self.get("query", &[("query", expression)]).await?;
            let count = data["result"].as_array().map_or(0, Vec::len);
            if count > 0 { Ok(()) } else { Err("no series".to_owned()) }
        })
        .await;
    }
}

/// Returns the expressions of the dashboard, with a range for the variable that Grafana computes.
fn expressions() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
    targets.map(|target| target["expr"].as_str().unwrap().replace("$__rate_interval", "30s")).collect()
}

/// Sends messages that are delivered and that bounce.
async fn send(api: &Api, smtp: &SmtpServer) {
    smtp.rcpt("bo@example.test").replies(["550 5.1.1 no such user"]);
    api.send(json!({"to": ["bo@example.test"]})).await;
    for stream in ["transactional", "bulk"] {
        api.send(json!({"stream": stream})).await;
    }
}

#[tokio::test]
async fn dashboard_and_alerts_work_with_a_running_service() {
    if !is_installed("prometheus") {
        return;
    }
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let service = Service::start(serve_with_metrics(&database.url, smtp.address(), &[])).await;
    let base = service.address.clone().unwrap();
    let api = Api::new(&base, key(&database.url).await);
    send(&api, &smtp).await;
    let prometheus = Prometheus::start(&base).await;
    let expressions = expressions();
    assert!(expressions.len() > 30, "{expressions:?}");
    for expression in &expressions {
        prometheus.returns_a_series(expression).await;
    }
    prometheus.returns_a_series("scrape_duration_seconds").await;
    let scrape = prometheus.get("query", &[("query", "max_over_time(scrape_duration_seconds[1m])")]).await.unwrap();
    println!("the slowest scrape took {} s", scrape["result"][0]["value"][1]);

    let mut health = Vec::new();
    until("every rule was evaluated", LIMIT, async || {
        let data = prometheus.get("rules", &[]).await?;
        let groups = data["groups"].as_array().cloned().unwrap_or_default();
        let rules = groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default());
        health = rules.map(|rule| (rule["name"].to_string(), rule["health"].to_string())).collect();
        if health.len() >= 18 && health.iter().all(|(_, health)| health == "\"ok\"") {
            Ok(())
        } else {
            Err(format!("{health:?}"))
        }
    })
    .await;
    let firing = prometheus.get("alerts", &[]).await.unwrap();
    let firing = firing["alerts"].as_array().unwrap().iter().filter(|alert| alert["state"] == "firing");
    assert_eq!(firing.count(), 0, "a healthy service causes no alert");
    assert!(service.terminate().await.success());
}
