//! The client commands, run as an operator runs them, against a running service.

mod dev;
mod errors;
mod events;
mod explain;
mod hostile;
mod lanes;
mod send;
mod send_options;
mod suppressions;
mod tenants;

use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::support::client::Api;
use crate::support::process::{postrider, run, stderr_of};

/// Returns a client command that calls this API with its key, from the environment.
fn command(api: &Api, arguments: &[&str]) -> Command {
    let mut command = postrider(arguments);
    command.env("POSTRIDER_URL", &api.base).env("POSTRIDER_API_KEY", &api.key);
    command
}

/// Runs a client command that succeeds, and returns its output.
async fn output(api: &Api, arguments: &[&str]) -> String {
    let output = run(command(api, arguments)).await;
    assert!(output.status.success(), "{arguments:?}: {}{}", stdout_of(&output), stderr_of(&output));
    stdout_of(&output)
}

/// Runs a client command that fails, and returns its exit code and standard error.
async fn failure(api: &Api, arguments: &[&str]) -> (i32, String) {
    let output = run(command(api, arguments)).await;
    let errors = stderr_of(&output);
    assert!(errors.starts_with("error: ") && !errors.contains(&api.key), "{arguments:?}: {errors}");
    (output.status.code().unwrap(), errors)
}

/// Runs a command with this text as its standard input.
async fn run_with_input(mut command: Command, input: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).await.unwrap();
    drop(stdin);
    child.wait_with_output().await.unwrap()
}

fn stdout_of(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Parses each line as JSON.
fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

/// Returns the options of a small message.
fn small<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let options =
        ["send", "--from", "billing@acme.test", "--to", "ann@example.test", "--subject", "Hello", "--text", "Hi."];
    [&options[..], more].concat()
}
