//! Client commands find a running `postrider dev` by themselves.

use std::path::Path;
use std::process::Output;

use super::stdout_of;
use crate::support::dev::{Dev, directory};
use crate::support::process::{postrider, run, stderr_of};

async fn run_in(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = postrider(arguments);
    command.current_dir(dir);
    run(command).await
}

#[tokio::test]
async fn url_and_keys_are_found_in_dev_json() {
    let (dir, elsewhere) = (directory(), directory());
    let dev = Dev::start(dir.path()).await;
    let send = [
        "send",
        "--from",
        "a@acme.test",
        "--to",
        "ann@example.test",
        "--subject",
        "Hi",
        "--text",
        "It works.",
        "--wait",
    ];
    let sent = run_in(dir.path(), &send).await;
    assert!(sent.status.success() && stdout_of(&sent).contains("relayed"), "{}{}", stdout_of(&sent), stderr_of(&sent));
    let lanes = run_in(dir.path(), &["lanes", "--json"]).await;
    let lanes: serde_json::Value = serde_json::from_str(&stdout_of(&lanes)).unwrap();
    // These calls need the admin key.
    let lane = lanes["data"][0]["id"].as_str().unwrap();
    let state = dir.path().join(".postrider");
    for arguments in [
        &["lanes", "pause", lane][..],
        &["lanes", "resume", lane],
        &["suppressions", "add", "bo@example.test"],
        &["suppressions", "remove", "bo@example.test"],
    ] {
        let output = run_in(elsewhere.path(), &[arguments, &["--dir", state.to_str().unwrap()]].concat()).await;
        assert!(output.status.success(), "{arguments:?}: {}", stderr_of(&output));
    }
    let without_url = run_in(dir.path(), &["lanes", "--key", "pr_secret"]).await;
    assert!(
        without_url.status.code() == Some(2)
            && stderr_of(&without_url).contains("\nhint: set POSTRIDER_URL or pass --url"),
        "{}",
        stderr_of(&without_url)
    );
    let missing = run_in(elsewhere.path(), &["lanes"]).await;
    assert!(
        missing.status.code() == Some(2) && stderr_of(&missing).contains("\nhint: set POSTRIDER_URL"),
        "{}",
        stderr_of(&missing)
    );
    assert!(dev.stop().await.success());
    let stopped = run_in(dir.path(), &["lanes"]).await;
    assert!(
        stopped.status.code() == Some(5) && stderr_of(&stopped).contains("hint: start `postrider dev`"),
        "{}",
        stderr_of(&stopped)
    );
}
