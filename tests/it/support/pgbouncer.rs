//! A real PgBouncer in transaction mode, in front of a Postgres of its own.

use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::net::TcpStream;
use url::Url;

use super::until::until;

/// The oldest version that keeps the prepared statements of its clients apart by default.
const OLDEST: (u32, u32) = (1, 24);
/// Time limit of a start.
const START_LIMIT: Duration = Duration::from_secs(10);
/// An unprivileged user: PgBouncer refuses to run as root.
const UNPRIVILEGED: &str = "nobody";

/// Returns the PgBouncer to test with: the program in `POSTRIDER_TEST_PGBOUNCER`, or the one on PATH. `None`, with the
/// reason on standard error, if there is none that is new enough.
pub fn find() -> Option<PathBuf> {
    let program = std::env::var_os("POSTRIDER_TEST_PGBOUNCER").unwrap_or_else(|| "pgbouncer".into());
    let Ok(output) = Command::new(&program).arg("--version").output() else {
        eprintln!("skipped: this test needs PgBouncer on PATH, or in POSTRIDER_TEST_PGBOUNCER");
        return None;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let numbers = text.split_whitespace().nth(1).and_then(|version| version.split_once('.'));
    let version = numbers.and_then(|(major, rest)| Some((major.parse().ok()?, rest.split('.').next()?.parse().ok()?)));
    if version.is_none_or(|version: (u32, u32)| version < OLDEST) {
        eprintln!("skipped: this test needs PgBouncer {}.{} or newer, and found {}", OLDEST.0, OLDEST.1, text.trim());
        return None;
    }
    Some(program.into())
}

/// A running PgBouncer, which is killed when it is dropped.
pub struct PgBouncer {
    /// The URL of the database through it.
    pub url: String,
    _process: tokio::process::Child,
    _dir: tempfile::TempDir,
}

impl PgBouncer {
    /// Starts PgBouncer in front of the database at `url`, with these lines added to its configuration.
    pub async fn start(program: &Path, url: &str, settings: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("an open directory");
        let mut url: Url = url.parse().expect("a URL");
        let port = free_port();
        let config = dir.path().join("pgbouncer.ini");
        std::fs::write(&config, configuration(&url, port, settings)).expect("a configuration");
        url.set_port(Some(port)).expect("a port");
        let mut command = unprivileged(program);
        command.arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let process = command.spawn().expect("PgBouncer");
        until("PgBouncer", START_LIMIT, async || TcpStream::connect(("127.0.0.1", port)).await.map(drop)).await;
        Self { url: url.into(), _process: process, _dir: dir }
    }
}

fn configuration(url: &Url, port: u16, settings: &str) -> String {
    let name = url.path().trim_start_matches('/');
    let (host, server_port) = (url.host_str().expect("a host"), url.port().expect("a port"));
    let (user, password) = (url.username(), url.password().expect("a password"));
    format!(
        "[databases]
{name} = host={host} port={server_port} user={user} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 8
{settings}
"
    )
}

/// Returns a command of the program, as another user if this process is root.
fn unprivileged(program: &Path) -> tokio::process::Command {
    if std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() != 0) {
        return tokio::process::Command::new(program);
    }
    let mut command = tokio::process::Command::new("setpriv");
    let user = [format!("--reuid={UNPRIVILEGED}"), "--regid=nogroup".into(), "--clear-groups".into(), "--".into()];
    command.args(user).arg(program);
    command
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}
