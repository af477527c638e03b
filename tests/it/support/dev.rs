//! A running `postrider dev`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::client::Api;
use super::process::{postrider, stop};

/// The process, and its output.
pub struct Dev {
    child: Child,
    /// The content of `dev.json`.
    pub facts: Value,
    /// What `dev` printed to standard output until it was ready.
    pub printed: String,
    log: Arc<Mutex<String>>,
}

/// Creates a directory that the account of an embedded Postgres can enter, even if the tests run as root.
pub fn directory() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

impl Dev {
    /// Starts `dev` in `dir`, with its state in `dir/.postrider`.
    pub async fn start(dir: &Path) -> Self {
        Self::start_with(dir, |_| {}).await
    }

    /// Starts `dev` after a change to the command.
    pub async fn start_with(dir: &Path, change: impl FnOnce(&mut Command)) -> Self {
        let mut command = postrider(&["dev", "--listen", "127.0.0.1:0"]);
        command.current_dir(dir).stdout(Stdio::piped()).stderr(Stdio::piped());
        change(&mut command);
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let mut errors = BufReader::new(child.stderr.take().unwrap()).lines();
        tokio::spawn({
            let log = log.clone();
            async move {
                while let Ok(Some(line)) = errors.next_line().await {
                    *log.lock().unwrap() += &(line + "\n");
                }
            }
        });
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut printed = String::new();
        while !printed.contains("Ctrl-C") {
            let line = lines.next_line().await.unwrap();
            printed += &line.unwrap_or_else(|| panic!("dev did not start: {}", log.lock().unwrap()));
            printed.push('\n');
        }
        let facts = std::fs::read(dir.join(".postrider/dev.json")).unwrap();
        Self { child, facts: serde_json::from_slice(&facts).unwrap(), printed, log }
    }

    /// Returns a value of `dev.json`.
    pub fn fact(&self, name: &str) -> &str {
        self.facts[name].as_str().unwrap()
    }

    /// Returns a client with one of the keys: `api_key` or `admin_key`.
    pub fn api(&self, key: &str) -> Api {
        Api::new(self.fact("api"), self.fact(key))
    }

    /// Returns the log so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Sends SIGTERM, and waits for the end.
    pub async fn stop(self) -> ExitStatus {
        stop(self.child).await
    }
}
