//! The proofs of `ops/scaling`, in a short form: a failover of Postgres under load, and cells that do not depend on each other.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

/// How long the clients of a proof send, in seconds.
const SECONDS: &str = "20";
/// Time limit of a proof, with its starts and with the delivery of what a killed replica had leased.
const LIMIT: Duration = Duration::from_mins(5);

/// Returns whether a program is on PATH, or where Debian has the programs of the system.
fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
        || Path::new("/usr/sbin").join(program).is_file()
}

/// Runs a proof, and returns its report. `None`, with the reason on standard error, without what it needs.
async fn report(script: &str, arguments: &[&str]) -> Option<Value> {
    for program in ["haproxy", "python3", "ps"] {
        if !is_installed(program) {
            eprintln!("skipped: ops/scaling/{script} needs {program}");
            return None;
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ops/scaling").join(script);
    let search = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("timeout");
    // The script stops its servers before it ends.
    command.args(["--signal=TERM", &LIMIT.as_secs().to_string()]).arg(path);
    command.args(["--seconds", SECONDS, "--json"]).args(arguments);
    command.env("POSTRIDER", env!("CARGO_BIN_EXE_postrider")).env("PATH", search).stdin(Stdio::null());
    let output = command.output().await.unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {}\n{error}", String::from_utf8_lossy(&output.stdout));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["lost"], &report["phantom"]), (&Value::from(0), &Value::from(0)), "{report}\n{error}");
    assert!(report["accepted"].as_u64() > Some(0), "{report}\n{error}");
    Some(report)
}

#[tokio::test]
async fn failover_under_load_loses_no_message() {
    let Some(report) = report("failover", &["--clients", "4", "--replicas", "2"]).await else { return };
    assert!(report["errors_seen_by_clients"].is_object(), "{report}");
}

#[tokio::test]
async fn cell_goes_on_without_the_database_of_another() {
    let Some(report) = report("cells", &["--clients", "4"]).await else { return };
    let gap = |cell: &str| report[format!("{cell}_gap_seconds")].as_f64().unwrap();
    assert!(gap("eu1") < gap("us1"), "{report}");
}
