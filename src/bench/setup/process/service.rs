//! The service as an operator runs it: `serve` of this program, with a separate configuration.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use super::guard::Guard;
use super::program;
use crate::bench::BenchError;
use crate::bench::error::Doing as _;

/// Time limit for the service to start.
const START: Duration = Duration::from_secs(30);
/// Time limit for the service to stop.
const STOP: Duration = Duration::from_secs(20);
/// Maximum warnings printed per process.
const MAX_WARNINGS: usize = 10;
/// Prefixes of the environment variables that the service inherits: sizes, limits and times, but no destinations and no
/// storage.
const INHERITED: [&str; 5] = [
    "POSTRIDER_ACCEPT__",
    "POSTRIDER_DELIVERY__",
    "POSTRIDER_TIMEOUTS__",
    "POSTRIDER_DATABASE__MAX_CONNECTIONS",
    "POSTRIDER_DATABASE__TIMEOUT",
];

/// One process of the service.
#[derive(Debug)]
pub(in crate::bench) struct Service {
    child: Child,
    guard: Guard,
    /// The address of its API.
    pub api: SocketAddr,
    /// The address of its SMTP server for submission, if it has one.
    pub submission: Option<SocketAddr>,
    /// The process id.
    pub pid: u32,
}

/// Returns a command of this program with these settings and the inherited ones. It runs in `dir`, which has no
/// `postrider.toml`.
fn command(arguments: &[&str], dir: &Path, settings: &[(&str, String)]) -> Result<Command, BenchError> {
    let mut command = Command::new(program()?);
    command.args(arguments).current_dir(dir).stdin(Stdio::null()).kill_on_drop(true).process_group(0);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let is_setting = name.starts_with("POSTRIDER_") || name.starts_with("DATABASE_URL");
        if is_setting && !INHERITED.iter().any(|start| name.starts_with(start)) {
            command.env_remove(&*name);
        }
    }
    command.envs(settings.iter().map(|(name, value)| (*name, value)));
    Ok(command)
}

/// Runs another command of this program, and returns its standard output.
pub(in crate::bench) async fn run_to_end(
    arguments: &[&str],
    dir: &Path,
    settings: &[(&str, String)],
) -> Result<String, BenchError> {
    let doing = format!("run `postrider {}`", arguments.join(" "));
    let mut command = command(arguments, dir, settings)?;
    let Output { status, stdout, stderr } = command.output().await.doing(&doing)?;
    if !status.success() {
        let error = String::from_utf8_lossy(&stderr).trim().to_owned();
        return Err(error).doing(doing);
    }
    Ok(String::from_utf8_lossy(&stdout).trim().to_owned())
}

impl Service {
    /// Starts the service, and waits until it is running.
    pub(in crate::bench) async fn start(
        arguments: &[&str],
        dir: &Path,
        settings: &[(&str, String)],
    ) -> Result<Self, BenchError> {
        let doing = "start the service";
        let mut command = command(arguments, dir, settings)?;
        command.env("POSTRIDER_LOG__FORMAT", "json").env("POSTRIDER_LOG__FILTER", "warn,postrider::cli::serve=info");
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().doing(doing)?;
        let pid = child.id().unwrap_or_default();
        let guard = Guard::start(pid).doing(doing)?;
        let stderr = child.stderr.take().ok_or("it has no output").doing(doing)?;
        let mut lines = BufReader::new(stderr).lines();
        let ready = tokio::time::timeout(START, ready(&mut lines)).await;
        let (api, submission) = match ready.map_err(|_| format!("it was not ready within {} s", START.as_secs())) {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(why)) | Err(why) => {
                let _ = child.kill().await;
                guard.dismiss().await;
                return Err(why).doing(doing);
            }
        };
        tokio::spawn(show(lines));
        Ok(Self { child, guard, api, submission, pid })
    }

    /// Stops the service gracefully.
    pub(in crate::bench) async fn stop(mut self) {
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw) {
            // A process that has already ended is not a failure.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        if tokio::time::timeout(STOP, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
        self.guard.dismiss().await;
    }
}

/// Returns the addresses of the API and of the SMTP server for submission once the service is running, or its last log line if it ends
/// before that.
async fn ready(lines: &mut Lines<BufReader<ChildStderr>>) -> Result<(SocketAddr, Option<SocketAddr>), String> {
    let mut last_line = String::from("it ended without a message");
    while let Ok(Some(line)) = lines.next_line().await {
        let event: Value = serde_json::from_str(&line).unwrap_or_default();
        if event["message"] == "postrider is running" {
            let address = |field: &str| event[field].as_str().and_then(|address| address.parse().ok());
            let api = address("address").ok_or_else(|| "it does not log its address".to_owned())?;
            return Ok((api, address("submission")));
        }
        last_line = line;
    }
    Err(last_line)
}

/// Prints the warnings of the service, because they may explain the results.
async fn show(mut lines: Lines<BufReader<ChildStderr>>) {
    let mut shown = 0;
    while let Ok(Some(line)) = lines.next_line().await {
        let event: Value = serde_json::from_str(&line).unwrap_or_default();
        if event["level"] == "INFO" {
            continue;
        }
        shown += 1;
        if shown <= MAX_WARNINGS {
            eprintln!("  the service logged: {}", event["message"].as_str().map_or(&*line, |message| message));
        }
    }
}
