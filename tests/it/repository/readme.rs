//! The README's quick start, pasted line by line as a newcomer would.

use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::support::dev::{Dev, directory};

const README: &str = include_str!("../../../README.md");

/// The shell blocks from "Quick start" up to "Production", in their order.
fn quick_start() -> String {
    let part = README.split("\n## Quick start\n").nth(1).and_then(|rest| rest.split("\n## Production\n").next());
    let blocks = part.expect("both headings").split("\n```sh\n").skip(1);
    let blocks: Vec<&str> = blocks.map(|block| block.split("\n```\n").next().unwrap()).collect();
    assert!(blocks.len() >= 5, "{blocks:#?}");
    blocks.join("\n")
}

fn is_installed(program: &str) -> bool {
    std::process::Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

#[tokio::test]
async fn the_quick_start_works_when_pasted() {
    if !["bash", "curl", "grep"].into_iter().all(is_installed) {
        eprintln!("skipped: this test needs bash, curl and grep");
        return;
    }
    let dir = directory();
    let dev = Dev::start(dir.path()).await;
    // Every call has to be answered 2xx, and every line has to succeed.
    let script = format!("set -euo pipefail\ncurl() {{ command curl --fail \"$@\"; echo; }}\n{}", quick_start());
    let output = Command::new("bash").args(["-c", &script]).current_dir(dir.path()).output().await.unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{errors}\n{said}\n{}", output.status, dev.log());
    assert_eq!(errors, "");

    let answers: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let has = |what: &str, test: &dyn Fn(&Value) -> bool| assert!(answers.iter().any(test), "no {what} in {said}");
    has("sent message", &|answer| answer["id"].as_str().is_some_and(|id| id.starts_with("msg_")));
    has("message in the inbox", &|answer| {
        answer["subject"] == "Your invoice" && answer["attachments"][0]["filename"] == "invoice.pdf"
    });
    has("webhook secret", &|answer| answer["secret"].as_str().is_some_and(|secret| secret.starts_with("whsec_")));
    has("posted bounce", &|answer| answer["data"][0]["body"]["data"]["recipient"] == "bounce@simulator.postrider.test");
    has("suppression", &|answer| answer["address"] == "bounce@simulator.postrider.test");
    has("DNS record", &|answer| answer["records"][0]["name"].is_string());
    assert!(dev.stop().await.success());
}

#[test]
fn the_first_commands_are_the_two_to_start_with() {
    let first = README.split("\n```sh\n").nth(1).and_then(|rest| rest.split("\n```\n").next());
    assert_eq!(first, Some("cargo run --release -- dev\ncargo test"));
    // In an interactive zsh, the shell of macOS, `#` begins no comment.
    let blocks = README.split("\n```sh\n").skip(1).map(|block| block.split("\n```\n").next().unwrap());
    for line in blocks.flat_map(str::lines) {
        assert!(!line.starts_with('#') && !line.contains(" #"), "{line}");
    }
}
