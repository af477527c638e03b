//! Python with packages from an index, for tests of clients. They are installed once, into the build directory.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// Time limit for an installation.
const INSTALL_LIMIT: Duration = Duration::from_mins(3);

/// Returns a Python program that has these packages, each with its version (`name==1.2.3`), and can import these
/// modules (`a, b`). Without Python 3, `venv` or a package index it returns `None`, with the reason on standard error.
/// Each list of packages belongs to one test binary, and is installed by one test at a time.
pub async fn with_packages(packages: &[&str], modules: &str) -> Option<PathBuf> {
    static INSTALLING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _installing = INSTALLING.lock().await;
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(packages.join("-").replace("==", "-"));
    let python = dir.join("bin/python");
    if succeeds(Command::new(&python).args(["-c", &format!("import {modules}")])).await {
        return Some(python);
    }
    if !succeeds(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&dir)).await {
        eprintln!("skipped: this test needs python3 with venv");
        return None;
    }
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    if !succeeds(Command::new(&python).args(install).args(packages)).await {
        eprintln!("skipped: this test needs a package index, to install {} for this Python", packages.join(" "));
        return None;
    }
    Some(python)
}

async fn succeeds(command: &mut Command) -> bool {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    matches!(tokio::time::timeout(INSTALL_LIMIT, command.status()).await, Ok(Ok(status)) if status.success())
}
