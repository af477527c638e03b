//! Resend's SDK for Python works when only the URL is changed. The tests are skipped without Python 3, `venv` and a
//! package index.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::support::app::TestApp;
use crate::support::clock::TestClock;
use crate::support::dns::DnsServer;
use crate::support::domains::with_secret;
use crate::support::hooks;
use crate::support::python;
use crate::support::receiver::Receiver;

/// The package to install, with its version.
const PACKAGE: &str = "resend==2.52.0";

/// Returns the Python program with the SDK; `None` if it cannot be installed.
async fn python() -> Option<PathBuf> {
    python::with_packages(&[PACKAGE], "resend, requests").await
}

/// Runs steps of `sdk.py` with this standard input, and returns its standard output. Fails if a step fails.
async fn run(python: &Path, app: &TestApp, hook: &str, steps: &[&str], input: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/resend/sdk.py");
    let mut child = Command::new(python)
        .arg(script)
        .args(steps)
        .envs([("RESEND_API_URL", app.base.as_str()), ("RESEND_API_KEY", app.key.as_str()), ("HOOK_URL", hook)])
        .env("NO_PROXY", "*")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn python_sdk_works_with_another_url() {
    let Some(python) = python().await else { return };
    let dns = DnsServer::start().await;
    let app = with_secret(&dns).start().await;
    run(&python, &app, "", &["emails", "batches", "errors", "templates", "admin"], "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_sdk_verifies_webhooks() {
    let Some(python) = python().await else { return };
    let app = hooks::start().await;
    let receiver = Receiver::start().await;
    set_to_real_time(&app.clock);
    let secret = run(&python, &app, &receiver.url("/hook"), &["create_webhook"], "").await;
    app.notify().await;
    let delivery = receiver.posts("/hook").remove(0);
    let header = |name: &str| delivery.headers[name].to_str().unwrap().to_owned();
    let input = json!({
        "secret": secret, "body": delivery.text(),
        "headers": {"id": header("svix-id"), "timestamp": header("svix-timestamp"), "signature": header("svix-signature")},
    });
    run(&python, &app, "", &["verify_webhook"], &input.to_string()).await;
}

/// Sets the clock to the real time, because the SDK accepts only signatures of the last five minutes.
fn set_to_real_time(clock: &TestClock) {
    use postrider::clock::{Clock as _, SystemClock};
    let wait = SystemClock.now() - clock.now();
    clock.advance(wait);
}
