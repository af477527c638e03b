//! The running server, and the watchdog that ends it when this process ends.
//!
//! A shell between this process and Postgres reads from a pipe that only this process holds open. The pipe closes when
//! this process ends, even by SIGKILL; then the shell shuts Postgres down. The shell and Postgres are in a separate
//! process group, so that Ctrl-C in the terminal reaches only this process, and Postgres ends last.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};

use super::PostgresError;
use super::cluster::Cluster;
use super::home::Home;
use super::leftover;

/// `"$@"` is the server. A subshell waits until the pipe closes and then requests a fast shutdown (SIGINT). If the
/// server ends first, the subshell is killed, because the server's pid may then belong to another process.
const WATCHDOG: &str = r#"
exec 3<&0
"$@" 3<&- </dev/null &
server=$!
(read -r _ <&3; kill -INT "$server") 2>/dev/null &
watcher=$!
exec 3<&- </dev/null
wait "$server"
status=$?
kill "$watcher" 2>/dev/null
exit "$status"
"#;

/// A server with its watchdog.
#[derive(Debug)]
pub(super) struct Watched {
    watchdog: Child,
    data: PathBuf,
}

impl Watched {
    /// Starts the server without waiting until it accepts connections.
    pub(super) fn spawn(
        home: &Home,
        cluster: &Cluster,
        port: u16,
        durable: bool,
        log: File,
    ) -> Result<Self, PostgresError> {
        let shell = Path::new("/bin/sh");
        let mut command = plain_command(home, shell);
        command.args(["-c", WATCHDOG, "postrider-watchdog"]).arg(cluster.binaries.program("postgres"));
        command.arg("-D").arg(&cluster.data);
        for (name, value) in settings(port, durable) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let copy = log.try_clone().map_err(PostgresError::at(&home.log()))?;
        let watchdog = command.stdin(Stdio::piped()).stdout(log).stderr(copy).process_group(0).spawn();
        Ok(Self { watchdog: watchdog.map_err(PostgresError::at(shell))?, data: cluster.data.clone() })
    }

    /// Returns the exit status if the server has ended.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.watchdog.try_wait().ok().flatten()
    }

    /// Closes the pipe and waits until the server has ended: up to `limit` for a fast shutdown, then up to 5 s for an
    /// immediate one.
    pub(super) async fn stop(mut self, limit: Duration) -> Result<(), PostgresError> {
        drop(self.watchdog.stdin.take());
        if tokio::time::timeout(limit, self.watchdog.wait()).await.is_ok() {
            return Ok(());
        }
        leftover::signal(&self.data, "QUIT").await;
        let _ = tokio::time::timeout(Duration::from_secs(5), self.watchdog.wait()).await;
        Err(PostgresError::Stop { seconds: limit.as_secs() })
    }
}

/// Returns a command that runs as the cluster's user, in its directory, without inherited Postgres variables.
pub(super) fn plain_command(home: &Home, program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PG") {
            command.env_remove(name);
        }
    }
    // `first_error` needs English messages, and initdb fails in a directory that the user cannot enter.
    command.env("LC_ALL", "C").current_dir(home.dir()).stdin(Stdio::null());
    if let Some(account) = home.account {
        command.uid(account.uid).gid(account.gid);
    }
    command
}

/// Settings that differ from Postgres's defaults.
fn settings(port: u16, durable: bool) -> Vec<(&'static str, String)> {
    let mut settings: Vec<(&str, String)> = [
        ("listen_addresses", "127.0.0.1"),
        ("unix_socket_directories", ""),
        ("logging_collector", "off"),
        ("log_destination", "stderr"),
        ("log_line_prefix", "%m [%p] "),
        ("timezone", "UTC"),
        ("log_timezone", "UTC"),
        ("jit", "off"),
        ("max_wal_size", "1GB"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .to_vec();
    settings.push(("port", port.to_string()));
    let rest: &[(&str, &str)] = if durable {
        &[
            ("shared_buffers", "128MB"),
            ("max_connections", "100"),
            // These are Postgres's defaults. They are set anyway, because the durability of an accepted message depends
            // on them.
            ("fsync", "on"),
            ("full_page_writes", "on"),
            ("synchronous_commit", "on"),
        ]
    } else {
        &[
            ("shared_buffers", "32MB"),
            ("max_connections", "300"),
            ("fsync", "off"),
            ("full_page_writes", "off"),
            ("synchronous_commit", "off"),
            ("wal_level", "minimal"),
            ("max_wal_senders", "0"),
        ]
    };
    settings.extend(rest.iter().map(|(name, value)| (*name, (*value).to_owned())));
    settings
}
