//! Runs the examples of the README and of `docs/` as a new user pastes them, and checks the links between all pages.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::support::dev::{Dev, directory};

const README: &str = include_str!("../../../README.md");
/// Pages with examples in Python and in Node, each of which prints a message's id first. The examples of `templates`
/// and `bulk` are not listed here: they run after the shell blocks of their page, which create the template.
const LANGUAGE_PAGES: [&str; 6] = [
    README,
    include_str!("../../../docs/attachments.md"),
    include_str!("../../../docs/batch.md"),
    include_str!("../../../docs/mime.md"),
    include_str!("../../../docs/threads.md"),
    include_str!("../../../docs/invitations.md"),
];

/// Pages of `docs/` whose shell blocks call the API of `postrider dev`.
const PAGES: [&str; 28] = [
    "getting-started",
    "sending",
    "attachments",
    "batch",
    "templates",
    "bulk",
    "mime",
    "send-by-smtp",
    "threads",
    "invitations",
    "resend",
    "clients",
    "webhooks",
    "api-keys",
    "tenants",
    "domains",
    "bounces",
    "receive-replies",
    "relay-received-mail",
    "suppressions",
    "try-outcomes",
    "lanes-and-limits",
    "statistics",
    "actions",
    "export",
    "audit",
    "troubleshooting",
    "privacy",
];

/// Returns the code blocks of one language, in order.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("\n```{language}\n");
    page.split(fence.as_str()).skip(1).map(|block| block.split("\n```").next().unwrap()).collect()
}

/// Returns the shell blocks from "Quick start" to "With Docker".
fn quick_start() -> String {
    let part = README.split("\n## Quick start\n").nth(1).and_then(|rest| rest.split("\n### With Docker\n").next());
    let blocks = blocks(part.expect("both headings"), "sh");
    assert!(blocks.len() >= 5, "{blocks:#?}");
    blocks.join("\n")
}

/// Runs a shell script, in which `postrider` is this build; fails if a line or a call of `curl` fails. Returns its
/// output.
async fn paste(script: &str, dir: &Path) -> String {
    let script = format!("set -euo pipefail\ncurl() {{ command curl --fail-with-body \"$@\"; echo; }}\n{script}");
    let programs = Path::new(env!("CARGO_BIN_EXE_postrider")).parent().unwrap().display();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap_or_default());
    let output = Command::new("bash").args(["-c", &script]).current_dir(dir).env("PATH", path).output().await.unwrap();
    let (stdout, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{errors}\n{stdout}\n{script}", output.status);
    assert_eq!(errors, "");
    stdout.into_owned()
}

fn is_installed(program: &str) -> bool {
    std::process::Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Returns whether Python has the package `requests`.
fn has_requests() -> bool {
    let mut command = std::process::Command::new("python3");
    command.args(["-c", "import requests"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

#[tokio::test]
async fn quick_start_works_when_pasted() {
    if !["bash", "curl", "grep"].into_iter().all(is_installed) {
        eprintln!("skipped: this test needs bash, curl and grep");
        return;
    }
    let dir = directory();
    let dev = Dev::start(dir.path()).await;
    let output = paste(&quick_start(), dir.path()).await;

    let responses: Vec<Value> = output.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let has = |what: &str, test: &dyn Fn(&Value) -> bool| assert!(responses.iter().any(test), "no {what} in {output}");
    has("sent message", &|response| response["id"].as_str().is_some_and(|id| id.starts_with("msg_")));
    has("message in the inbox", &|response| {
        response["subject"] == "Your invoice" && response["attachments"][0]["filename"] == "invoice.pdf"
    });
    has("webhook secret", &|response| response["secret"].as_str().is_some_and(|secret| secret.starts_with("whsec_")));
    has("posted bounce", &|response| {
        response["data"][0]["body"]["data"]["recipient"] == "bounce@simulator.postrider.test"
    });
    has("suppression", &|response| response["address"] == "bounce@simulator.postrider.test");
    has("DNS record", &|response| response["records"][0]["name"].is_string());
    assert!(dev.stop().await.success());
}

#[tokio::test]
async fn documentation_examples_work_when_pasted() {
    if !["bash", "curl", "grep"].into_iter().all(is_installed) {
        eprintln!("skipped: this test needs bash, curl and grep");
        return;
    }
    let dir = directory();
    // With port 0, the address is not known early enough for links in messages.
    let public_url = |command: &mut Command| {
        command.env("POSTRIDER_PUBLIC_URL", "http://127.0.0.1:9");
    };
    let dev = Dev::start_with(dir.path(), public_url).await;
    for page in PAGES {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/{page}.md"));
        let text = std::fs::read_to_string(path).unwrap();
        let blocks = blocks(&text, "sh");
        let calls: Vec<&str> = blocks.into_iter().filter(|block| !block.starts_with("cargo run")).collect();
        assert!(!calls.is_empty(), "{page} has no example");
        paste(&format!(". .postrider/dev.env\n{}", calls.join("\n")), dir.path()).await;
        if page == "templates" || page == "bulk" {
            run_programs(&text, &dev, dir.path()).await;
        }
    }
    assert!(dev.stop().await.success());
}

#[tokio::test]
async fn python_and_node_examples_send_a_message() {
    let dir = directory();
    let dev = Dev::start(dir.path()).await;
    // A file that examples send.
    std::fs::write(dir.path().join("invoice.pdf"), "%PDF-1.4 an invoice").unwrap();
    for page in LANGUAGE_PAGES {
        run_programs(page, &dev, dir.path()).await;
    }
    assert!(dev.stop().await.success());
}

/// Runs the examples of a page in Python and in Node, each of which must print the id of a message that it sends.
async fn run_programs(page: &str, dev: &Dev, dir: &Path) {
    for (program, language, option) in [("python3", "python", "-c"), ("node", "js", "-e")] {
        let examples = blocks(page, language);
        assert!(!examples.is_empty(), "no example in {language}: {page}");
        if !is_installed(program) {
            eprintln!("skipped: the examples in {language} need {program}");
            continue;
        }
        for example in examples {
            if example.contains("import json, os, requests") && !has_requests() {
                eprintln!("skipped: an example needs the Python package requests");
                continue;
            }
            let mut command = Command::new(program);
            // Node allows a top-level `await` only in modules.
            if program == "node" {
                command.arg("--input-type=module");
            }
            let command = command.args([option, example]).current_dir(dir);
            let output = command.env("API", dev.fact("api")).env("KEY", dev.fact("api_key")).output().await.unwrap();
            let stdout = String::from_utf8_lossy(&output.stdout);
            assert!(stdout.starts_with("msg_"), "{example}: {stdout}{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// Returns the paths of all Markdown pages.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = Vec::new();
    for folder in ["", "docs", "docs/internals", "docker/secrets"] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    assert!(pages.len() >= 20, "{pages:#?}");
    pages
}

/// Returns the targets of the links in a page: the text in parentheses after `]`, except in code blocks.
fn links(text: &str) -> Vec<&str> {
    let mut is_code = false;
    let mut links = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        }
        if !is_code {
            links.extend(line.split("](").skip(1).filter_map(|rest| rest.split(')').next()));
        }
    }
    links
}

/// Returns the anchors that GitHub creates for a page's headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let slug = |heading: &str| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(slug).collect()
}

#[test]
fn documentation_links_have_targets() {
    let mut broken = Vec::new();
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in links(&text).into_iter().filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            let has_anchor = || {
                let target = std::fs::read_to_string(&target).unwrap_or_default();
                anchor.is_empty() || anchors(&target).contains(anchor)
            };
            if !target.exists() || !has_anchor() {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_page_is_in_the_summary() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let summary = std::fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    for page in pages().into_iter().filter(|page| page.starts_with(&docs) && !page.ends_with("SUMMARY.md")) {
        let name = page.strip_prefix(&docs).unwrap().display().to_string();
        assert!(links(&summary).contains(&name.as_str()), "docs/SUMMARY.md does not list {name}");
    }
}

#[test]
fn readme_starts_with_dev_and_test_commands() {
    let first = README.split("\n```sh\n").nth(1).and_then(|rest| rest.split("\n```\n").next());
    assert_eq!(first, Some("cargo run --release -- dev\ncargo test"));
    // In an interactive zsh, the default shell of macOS, `#` does not start a comment.
    let blocks = README.split("\n```sh\n").skip(1).map(|block| block.split("\n```\n").next().unwrap());
    for line in blocks.flat_map(str::lines) {
        assert!(!line.starts_with('#') && !line.contains(" #"), "{line}");
    }
}

#[test]
fn paths_in_architecture_md_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let code = text.split('`').skip(1).step_by(2);
    let is_path = |part: &&str| {
        (Path::new(part).extension().is_some_and(|extension| extension == "rs") || part.ends_with('/'))
            && part.chars().all(|c| c.is_ascii_lowercase() || "_./".contains(c))
    };
    let paths: BTreeSet<&str> = code.filter(is_path).collect();
    assert!(paths.len() > 50, "{paths:#?}");
    let exists = |path: &&str| ["", "src", "tests/it"].iter().any(|folder| root.join(folder).join(path).exists());
    let missing: Vec<_> = paths.into_iter().filter(|path| !exists(path)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}
