//! Ends another process when this one ends, even if this one is killed: a shell waits for the end of a pipe that only
//! this process holds open.

use std::process::Stdio;

use tokio::process::{Child, Command};

/// The shell script of the guard; `$0` is the process id.
const GUARD: &str = r#"read -r _; kill -TERM "$0" 2>/dev/null; sleep 5; kill -KILL "$0" 2>/dev/null"#;

/// A guard for one process.
#[derive(Debug)]
pub(super) struct Guard(Child);

impl Guard {
    pub(super) fn start(pid: u32) -> std::io::Result<Self> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", GUARD]).arg(pid.to_string());
        // In a separate process group, so that Ctrl-C in the terminal reaches only this process.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        Ok(Self(command.spawn()?))
    }

    /// Stops the guard. Call this once the process has ended, because its pid may be reused.
    pub(super) async fn dismiss(mut self) {
        let _ = self.0.kill().await;
    }
}
