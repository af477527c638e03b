//! The unit for systemd and the manifests for Kubernetes fit the service.

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postrider::config::Config;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::client::Api;
use crate::support::postgres::Database;
use crate::support::process::{Service, serve};
use crate::support::python::with_packages;
use crate::support::smtp::SmtpServer;

const UNIT: &str = include_str!("../../../ops/systemd/postrider.service");
/// Maximum exposure of the unit in tenths, as `systemd-analyze security` judges it.
const MAX_EXPOSURE: &str = "20";
const MANIFESTS: &str = "import glob, json, sys, yaml
print(json.dumps([document for path in sorted(glob.glob(sys.argv[1])) for document in yaml.safe_load_all(open(path))]))";

/// Returns the values of a setting in the unit.
fn settings(name: &str) -> Vec<&'static str> {
    UNIT.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect()
}

/// Receives what the service tells systemd.
struct Systemd {
    socket: UnixDatagram,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Systemd {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        Self { socket, path, _dir: dir }
    }

    /// Returns the next state that is not `skipped`.
    async fn next_but(&self, skipped: &str) -> String {
        loop {
            let socket = self.socket.try_clone().unwrap();
            let received = tokio::task::spawn_blocking(move || {
                let mut buffer = [0; 64];
                let length = socket.recv(&mut buffer).expect("a state");
                String::from_utf8_lossy(&buffer[..length]).into_owned()
            });
            let state = received.await.unwrap();
            if state != skipped {
                return state;
            }
        }
    }
}

#[tokio::test]
async fn systemd_is_told_when_the_service_starts_and_stops() {
    let (database, smtp, systemd) = (Database::new(), SmtpServer::start().await, Systemd::start());
    let mut command = serve(&database.url, smtp.address(), &[]);
    command.env("NOTIFY_SOCKET", &systemd.path).env("WATCHDOG_USEC", "4000000");
    let service = Service::start(command).await;
    assert_eq!(systemd.next_but("WATCHDOG=1").await, "READY=1");
    assert_eq!(systemd.next_but("READY=1").await, "WATCHDOG=1");
    service.send_sigterm().await;
    assert_eq!(systemd.next_but("WATCHDOG=1").await, "STOPPING=1");
    assert!(service.ended().await.success());
}

#[tokio::test]
async fn systemd_accepts_the_unit() {
    let dir = tempfile::tempdir().unwrap();
    let unit = dir.path().join("postrider.service");
    let program = env!("CARGO_BIN_EXE_postrider");
    std::fs::write(&unit, UNIT.replace("/usr/local/bin/postrider", program)).unwrap();
    for arguments in [&["verify", "--man=no"][..], &["security", "--offline=true", "--threshold", MAX_EXPOSURE]] {
        let checked = Command::new("systemd-analyze").args(arguments).arg(&unit).output().await;
        let Ok(output) = checked else {
            eprintln!("skipped: this test needs systemd-analyze");
            return;
        };
        let text = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&text));
    }
}

#[test]
fn unit_stops_later_than_the_service() {
    let config = Config::default();
    let stop: u64 = settings("TimeoutStopSec")[0].trim_end_matches('s').parse().unwrap();
    assert!(stop > config.delivery.shutdown_grace.as_secs());
    assert_eq!(settings("Type"), ["notify"]);
    assert_eq!(settings("StartLimitIntervalSec"), ["0"], "systemd never stops starting it");
    assert_eq!(settings("StateDirectory"), ["postrider"], "the default of restore_guard.state");
    assert_eq!(config.restore_guard.state, Path::new("/var/lib/postrider"));
}

/// Returns the manifests by kind and name; `None` without Python and its parser of YAML.
async fn manifests() -> Option<BTreeMap<(String, String), Value>> {
    let python = with_packages(&["PyYAML==6.0.3"], "yaml").await?;
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("ops/kubernetes/*.yaml");
    let output = Command::new(python).args(["-c", MANIFESTS]).arg(files).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let all: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let key = |manifest: &Value| (text(&manifest["kind"]), text(&manifest["metadata"]["name"]));
    Some(all.into_iter().map(|manifest| (key(&manifest), manifest)).collect())
}

#[tokio::test]
async fn manifests_fit_the_ports_and_probes_of_the_service() {
    let Some(manifests) = manifests().await else { return };
    let get = |kind: &str, name: &str| &manifests[&(kind.to_owned(), name.to_owned())];
    let settings = &get("ConfigMap", "postrider")["data"];
    let variables = settings.as_object().unwrap().iter();
    let variables = variables.filter(|(name, _)| name.starts_with("POSTRIDER_") && !name.ends_with("_FILE"));
    let variables = variables.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()));
    let config = Config::load(None, variables).expect("valid settings");
    let (http, metrics) = (config.listen.port(), config.metrics.listen.expect("a listener").port());

    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    for (role, grace, ports) in [
        ("api", config.http.drain_delay.as_secs() + 30, json!([http, metrics])),
        ("worker", config.delivery.shutdown_grace.as_secs(), json!([metrics])),
    ] {
        let name = format!("postrider-{role}");
        let spec = &get("Deployment", &name)["spec"]["template"]["spec"];
        let container = &spec["containers"][0];
        assert_eq!(container["args"], json!(["serve", "--only", role]));
        assert!(spec["terminationGracePeriodSeconds"].as_u64().unwrap() > grace, "{role}");
        let named: Vec<&Value> =
            container["ports"].as_array().unwrap().iter().map(|port| &port["containerPort"]).collect();
        assert_eq!(json!(named), ports);
        let mounts = container["volumeMounts"].as_array().unwrap();
        assert!(
            mounts.iter().any(|mount| config.restore_guard.state == Path::new(mount["mountPath"].as_str().unwrap()))
        );
        assert!(
            get("PodDisruptionBudget", &name)["spec"]["minAvailable"].as_u64()
                < get("Deployment", &name)["spec"]["replicas"].as_u64()
        );

        let mut command = serve(&database.url, smtp.address(), &["--only", role]);
        command.env("POSTRIDER_METRICS__LISTEN", "127.0.0.1:0");
        let service = Service::start(command).await;
        let ops = Api::new(service.ops.clone().expect("a listener"), "");
        for probe in ["livenessProbe", "readinessProbe"] {
            assert_eq!(container[probe]["httpGet"]["port"], "metrics");
            let path = container[probe]["httpGet"]["path"].as_str().unwrap();
            assert_eq!(ops.anonymous(Method::GET, path).send().await.unwrap().status(), 200, "{path}");
        }
        assert!(service.terminate().await.success());
    }
    let job = &get("Job", "postrider-migrate")["spec"]["template"]["spec"];
    assert_eq!(job["containers"][0]["args"], json!(["migrate"]));
    assert_eq!(get("Service", "postrider")["spec"]["ports"][0]["targetPort"], "http");
}

#[test]
fn manifests_have_the_version_of_the_service() {
    let image = format!("image: postrider:{}", env!("CARGO_PKG_VERSION"));
    for manifest in [
        include_str!("../../../ops/kubernetes/api.yaml"),
        include_str!("../../../ops/kubernetes/worker.yaml"),
        include_str!("../../../ops/kubernetes/migrate.yaml"),
    ] {
        assert!(manifest.contains(&image), "{manifest}");
    }
}
