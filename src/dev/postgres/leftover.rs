//! Ends a Postgres that an earlier run left running: its watchdog is still shutting it down, or was killed too,
//! together with that run.
//!
//! `postmaster.pid` contains its pid, which another program may have in the meantime. Only a process whose command line
//! has this cluster's data directory gets a signal.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::Instant;

use super::PostgresError;
use super::home::Home;

/// Poll interval.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Time limit of a fast shutdown.
const FAST_LIMIT: Duration = Duration::from_secs(20);
/// Time limit of an immediate shutdown.
const IMMEDIATE_LIMIT: Duration = Duration::from_secs(5);

/// Ends the Postgres of an earlier run, if there is one. The caller must hold the directory's lock, so that no other
/// process can have started it.
pub(super) async fn stop(home: &Home) -> Result<(), PostgresError> {
    let data = home.data();
    for (name, limit) in [("INT", FAST_LIMIT), ("QUIT", IMMEDIATE_LIMIT)] {
        let Some(pid) = running(&data).await else {
            return Ok(());
        };
        tracing::info!(event = "dev_postgres_leftover", pid, "ending the postgres of an earlier run");
        signal(&data, name).await;
        let deadline = Instant::now() + limit;
        while running(&data).await.is_some() && Instant::now() < deadline {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
    match running(&data).await {
        Some(pid) => Err(PostgresError::Leftover { dir: home.dir().to_owned(), pid }),
        None => Ok(()),
    }
}

/// Sends a signal to the cluster's postmaster, if it runs.
pub(super) async fn signal(data: &Path, name: &str) {
    if let Some(pid) = running(data).await {
        // This uses the shell's `kill`: the standard library has none, and not every system has a program of this name.
        let kill = format!("kill -{name} {pid}");
        let _ = Command::new("/bin/sh").args(["-c", &kill]).status().await;
    }
}

/// Returns the pid of the cluster's postmaster, if it runs.
async fn running(data: &Path) -> Option<u32> {
    let file = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid: u32 = file.lines().next()?.trim().parse().ok()?;
    command_line(pid).await?.contains(data.to_str()?).then_some(pid)
}

/// Returns a process's command line, its arguments joined by spaces.
async fn command_line(pid: u32) -> Option<String> {
    if let Ok(words) = fs::read(format!("/proc/{pid}/cmdline")) {
        return Some(String::from_utf8_lossy(&words).replace('\0', " "));
    }
    if Path::new("/proc/self/cmdline").exists() {
        return None;
    }
    let output = Command::new("ps").args(["-o", "command=", "-p", &pid.to_string()]).output().await.ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}
