//! The program, run as an operator runs it: with a command line and an environment.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::process::{ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// Time limit of every wait.
const LIMIT: Duration = Duration::from_mins(1);

/// Returns a command of the program with these arguments and an empty environment.
pub fn postrider(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    command.args(arguments).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

/// Returns a command on this database that logs only errors.
pub fn on(database: &str, arguments: &[&str]) -> Command {
    let mut command = postrider(arguments);
    command.env("DATABASE_URL", database).env("POSTRIDER_LOG__FILTER", "error");
    // The default may be in use, and nothing is remembered on this machine.
    command.env("POSTRIDER_LISTEN", "127.0.0.1:0");
    command.env("POSTRIDER_RESTORE_GUARD__STATE", "/nonexistent");
    command
}

/// Returns the command `serve` on this database, with this server as its relay.
pub fn serve(database: &str, smtp: SocketAddr, arguments: &[&str]) -> Command {
    let mut command = on(database, &[&["serve"], arguments].concat());
    command
        .env("POSTRIDER_LISTEN", "127.0.0.1:0")
        .env("POSTRIDER_RELAY_URL", format!("smtp://{smtp}?tls=none"))
        .env("POSTRIDER_DELIVERY__LEASE", "5s")
        .env("POSTRIDER_LOG__FILTER", "info");
    command
}

/// Returns the same command with a limit of open files.
pub fn with_open_files(command: &Command, files: u32) -> Command {
    let inner = command.as_std();
    let mut limited = Command::new("sh");
    limited.arg("-c").arg(format!("ulimit -n {files} && exec \"$0\" \"$@\"")).arg(inner.get_program());
    limited.args(inner.get_args()).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    limited.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    limited
}

/// Creates an API key with the command `keys create`.
pub async fn key(database: &str) -> String {
    key_with(database, &[]).await
}

/// Creates a key that may change settings and read.
pub async fn admin_key(database: &str) -> String {
    key_with(database, &["--scope", "admin", "--scope", "read"]).await
}

async fn key_with(database: &str, arguments: &[&str]) -> String {
    let made = run(on(database, &[&["keys", "create", "--name", "test"], arguments].concat())).await;
    assert!(made.status.success(), "{}", stderr_of(&made));
    let key = String::from_utf8(made.stdout).unwrap();
    let key = key.strip_suffix('\n').expect("one line");
    assert!(key.starts_with("pr_live_") && key.len() == 57 && !key.contains(char::is_whitespace), "{key}");
    key.to_owned()
}

/// Runs a command to its end.
pub async fn run(mut command: Command) -> Output {
    tokio::time::timeout(LIMIT, command.output()).await.expect("an end").expect("a process")
}

/// Returns the standard error of a command.
pub fn stderr_of(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Sends SIGTERM, and waits for the end.
pub async fn stop(mut child: Child) -> ExitStatus {
    signal(&child, "TERM").await;
    tokio::time::timeout(LIMIT, child.wait()).await.expect("an end").expect("a status")
}

/// Sends a signal.
pub async fn signal(child: &Child, name: &str) {
    let pid = child.id().expect("a running process").to_string();
    assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().await.expect("kill").success());
}

/// The program as a service; killed when it is dropped.
pub struct Service {
    child: Child,
    log: Arc<Mutex<VecDeque<Value>>>,
    changed: watch::Receiver<()>,
    /// The base URL of the API, if it runs one.
    pub address: Option<String>,
    /// The address of submission, if it has one.
    pub submission: Option<String>,
    /// The base URL of the pages for recipients, if they have a listener of their own.
    pub public: Option<String>,
    /// The base URL of the listener for metrics and probes, if it has one.
    pub ops: Option<String>,
}

impl Service {
    /// Starts the service, and waits until it is running.
    pub async fn start(command: Command) -> Self {
        let mut service = Self::spawn(command);
        service.wait_until_running().await;
        service
    }

    /// Waits until the service is running.
    pub async fn wait_until_running(&mut self) {
        let running = self.logged_event("started").await;
        self.set_addresses(&running);
    }

    /// Waits until the service waits for the schema of its version.
    pub async fn wait_until_waiting(&mut self) {
        let waiting = self.logged_event("waiting_for_schema").await;
        self.set_addresses(&waiting);
    }

    /// Waits until the service waits for the database server.
    pub async fn wait_until_database_is_away(&mut self) {
        let waiting = self.logged_event("waiting_for_database").await;
        self.set_addresses(&waiting);
    }

    fn set_addresses(&mut self, line: &Value) {
        let url = |field: &str| line[field].as_str().map(|address| format!("http://{address}"));
        (self.address, self.public, self.ops) = (url("address"), url("public"), url("metrics"));
        self.submission = line["submission"].as_str().map(str::to_owned);
    }

    /// Starts the service without waiting.
    pub fn spawn(mut command: Command) -> Self {
        command.env("POSTRIDER_LOG__FORMAT", "json").stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("a process");
        let (log, (notify, changed)) = (Arc::new(Mutex::new(VecDeque::new())), watch::channel(()));
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        tokio::spawn({
            let log = log.clone();
            async move {
                while let Ok(Some(line)) = lines.next_line().await {
                    log.lock().unwrap().push_back(serde_json::from_str(&line).unwrap_or(Value::String(line)));
                    notify.send_replace(());
                }
            }
        });
        Self { child, log, changed, address: None, submission: None, public: None, ops: None }
    }

    /// Waits for a log line with this text.
    pub async fn logged(&mut self, message: &str) -> Value {
        self.logged_as("message", message).await
    }

    /// Waits for a log line with this `event`.
    pub async fn logged_event(&mut self, event: &str) -> Value {
        self.logged_as("event", event).await
    }

    async fn logged_as(&mut self, field: &str, value: &str) -> Value {
        let found = || self.log.lock().unwrap().iter().find(|line| line[field] == value).cloned();
        let mut changed = self.changed.clone();
        let waited = tokio::time::timeout(LIMIT, async {
            loop {
                changed.mark_unchanged();
                if let Some(line) = found() {
                    return line;
                }
                assert!(changed.changed().await.is_ok(), "it ended without {value:?}: {:?}", self.log.lock().unwrap());
            }
        });
        waited.await.unwrap_or_else(|_| panic!("no {value:?} in {:?}", self.log.lock().unwrap()))
    }

    /// Returns the log so far.
    pub fn lines(&self) -> Vec<Value> {
        self.log.lock().unwrap().iter().cloned().collect()
    }

    /// Returns the resident memory in MiB.
    pub fn memory(&self) -> u64 {
        self.status_in_mib("VmRSS:")
    }

    /// Returns the maximum of the resident memory so far, in MiB.
    pub fn peak_memory(&self) -> u64 {
        self.status_in_mib("VmHWM:")
    }

    fn status_in_mib(&self, field: &str) -> u64 {
        let pid = self.child.id().expect("a running process");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a size");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") >> 10
    }

    /// Sends SIGTERM, and waits for the end.
    pub async fn terminate(self) -> ExitStatus {
        stop(self.child).await
    }

    /// Waits for the end.
    pub async fn ended(mut self) -> ExitStatus {
        tokio::time::timeout(LIMIT, self.child.wait()).await.expect("an end").expect("a status")
    }

    /// Sends SIGTERM without waiting for the end.
    pub async fn send_sigterm(&self) {
        signal(&self.child, "TERM").await;
    }

    /// Sends SIGSTOP.
    pub async fn freeze(&self) {
        signal(&self.child, "STOP").await;
    }

    /// Sends SIGCONT.
    pub async fn thaw(&self) {
        signal(&self.child, "CONT").await;
    }

    /// Sends SIGKILL.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("killed");
    }
}
