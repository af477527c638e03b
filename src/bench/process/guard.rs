//! Ends another process when we are gone, by whatever end: a shell that waits for a pipe to close that only we hold.

use std::process::Stdio;

use tokio::process::{Child, Command};

/// `$0` is the process.
const GUARD: &str = r#"read -r _; kill -TERM "$0" 2>/dev/null; sleep 5; kill -KILL "$0" 2>/dev/null"#;

/// A guard over one process.
#[derive(Debug)]
pub(super) struct Guard(Child);

impl Guard {
    pub(super) fn over(pid: u32) -> std::io::Result<Self> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", GUARD]).arg(pid.to_string());
        // In a group of its own: a Ctrl-C in the terminal is for us.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        Ok(Self(command.spawn()?))
    }

    /// The process has ended: its number may soon be another one's.
    pub(super) async fn dismiss(mut self) {
        let _ = self.0.kill().await;
    }
}
