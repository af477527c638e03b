//! Postgres servers that a test backs up, copies, promotes and restores with the installed tools.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use postrider::db::{Db, schema};
use sqlx::{Connection as _, PgConnection};

use crate::support::until::until;

/// Time limit of a recovery, and of a replication.
pub const LIMIT: Duration = Duration::from_mins(1);
/// The database of the installation.
pub const NAME: &str = "mail";

/// The tools of Postgres, and the user that runs them: Postgres refuses to run as root.
pub struct Tools {
    bin: PathBuf,
    account: Option<(u32, u32)>,
    /// The directory of the servers of one test.
    dir: tempfile::TempDir,
}

const NEEDED: [&str; 6] = ["initdb", "pg_ctl", "pg_basebackup", "pg_dump", "pg_restore", "psql"];

impl Tools {
    /// Finds the tools. If one is missing, fails in continuous integration, and otherwise returns `None` with a message.
    pub fn find() -> Option<Self> {
        let mut dirs: Vec<PathBuf> = std::env::var_os("PATH").iter().flat_map(std::env::split_paths).collect();
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        dirs.extend(versions.map(|version| version.path().join("bin")));
        let bin = dirs.into_iter().find(|dir| NEEDED.iter().all(|tool| dir.join(tool).is_file()));
        let Some(bin) = bin else {
            assert!(
                std::env::var_os("CI").is_none(),
                "the tools of Postgres ({}) are not installed",
                NEEDED.join(", ")
            );
            eprintln!("SKIPPED: the tools of Postgres ({}) are not in one directory", NEEDED.join(", "));
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let account = account();
        if let Some((uid, gid)) = account {
            chown(dir.path(), Some(uid), Some(gid)).unwrap();
        }
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self { bin, account, dir })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Creates a directory of the user that runs the tools.
    pub fn create_dir(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        if let Some((uid, gid)) = self.account {
            chown(&path, Some(uid), Some(gid)).unwrap();
        }
        path
    }

    /// Runs a tool, or a script of this repository that calls the tools, to its end.
    pub fn run(&self, program: &str, arguments: &[&str]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(program);
        let program = if script.is_file() { script } else { self.bin.join(program) };
        // A script of a directory that the user cannot enter is passed to the shell as text.
        let mut command = Command::new("/bin/sh");
        if program.starts_with(env!("CARGO_MANIFEST_DIR")) {
            command.arg("-c").arg(fs::read_to_string(&program).unwrap()).arg(&program);
        } else {
            command.args(["-c", "exec \"$0\" \"$@\""]).arg(&program);
        }
        let path = std::env::join_paths([self.bin.clone(), "/usr/bin".into(), "/bin".into()]).unwrap();
        command.args(arguments).env_clear().env("PATH", path).env("LC_ALL", "C").current_dir(self.dir.path());
        let log = self.path("tools.log");
        let open = || fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        // To a file, because a server that `pg_ctl` starts would keep a pipe open.
        command.stdin(Stdio::null()).stdout(open()).stderr(open());
        if let Some((uid, gid)) = self.account {
            command.uid(uid).gid(gid);
        }
        let status = command.status().unwrap();
        let output = || fs::read_to_string(&log).unwrap();
        assert!(status.success(), "{} {arguments:?}: {}", program.display(), output());
    }

    /// Creates a server with an empty database, and starts it.
    pub fn create(&self, name: &str, settings: &str) -> Server<'_> {
        let data = self.path(name);
        let arguments = ["--username", "postgres", "--auth", "trust", "--encoding", "UTF8", "--locale", "C"];
        self.run("initdb", &[&arguments[..], &["--no-sync", "--pgdata", text(&data)]].concat());
        self.configure(&data, &format!("fsync = off\nmax_wal_senders = 10\nhot_standby = on\n{settings}"));
        let server = self.start(name);
        self.run("psql", &["--quiet", "--command", &format!("CREATE DATABASE {NAME}"), &server.url("postgres")]);
        server
    }

    /// Appends settings to a server's configuration.
    #[allow(clippy::unused_self, reason = "called like its other methods")]
    pub fn configure(&self, data: &Path, settings: &str) {
        let path = data.join("postgresql.auto.conf");
        let old = fs::read_to_string(&path).unwrap_or_default();
        fs::write(&path, format!("{old}\n{settings}\n")).unwrap();
    }

    /// Starts the server in this directory.
    pub fn start(&self, name: &str) -> Server<'_> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Server { tools: self, data: self.path(name), port, runs: false };
        server.start();
        server
    }
}

/// Returns the user to run as, if this process is root.
fn account() -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt as _;
    if fs::metadata("/proc/self").ok()?.uid() != 0 {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let user = |name: &str| passwd.lines().find(|line| line.starts_with(&format!("{name}:"))).map(str::to_owned);
    let line = user("postgres").or_else(|| user("nobody")).expect("a user that is not root");
    let ids: Vec<u32> = line.split(':').skip(2).take(2).map(|id| id.parse().unwrap()).collect();
    Some((ids[0], ids[1]))
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A server; stopped when it is dropped.
pub struct Server<'a> {
    tools: &'a Tools,
    pub data: PathBuf,
    port: u16,
    runs: bool,
}

impl Server<'_> {
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub fn start(&mut self) {
        let options = format!("-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''", self.port);
        let log = self.data.with_extension("log");
        let arguments = ["start", "--wait", "--pgdata", text(&self.data), "--log", text(&log), "--options", &options];
        self.tools.run("pg_ctl", &arguments);
        self.runs = true;
    }

    /// Stops it: `fast` as an operator does, or `immediate` as a crash does.
    pub fn stop(&mut self, mode: &str) {
        self.tools.run("pg_ctl", &["stop", "--wait", "--pgdata", text(&self.data), "--mode", mode]);
        self.runs = false;
    }

    pub fn promote(&self) {
        self.tools.run("pg_ctl", &["promote", "--wait", "--pgdata", text(&self.data)]);
    }

    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url(NAME)).await.unwrap()
    }

    /// Runs a statement.
    pub async fn sql(&self, statement: &str) {
        let mut connection = self.connect().await;
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned())).execute(&mut connection).await.expect("a statement");
        connection.close().await.unwrap();
    }

    /// Returns a number.
    pub async fn number(&self, query: &str) -> i64 {
        let mut connection = self.connect().await;
        let query = sqlx::AssertSqlSafe(format!("SELECT ({query})::bigint"));
        sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap()
    }

    /// Waits until a query returns true.
    pub async fn until(&self, condition: &str) {
        until(condition, LIMIT, async || {
            let found = self.number(&format!("SELECT coalesce(bool_or(({condition})), false)::integer")).await;
            if found == 1 { Ok(()) } else { Err("false") }
        })
        .await;
    }

    pub async fn migrate(&self) {
        let db = Db::new(&self.url(NAME), 2, Duration::from_mins(1)).unwrap();
        schema::migrate(&db).await.unwrap();
        db.close().await;
    }

    /// Waits until the guard has made some marks more.
    pub async fn marked(&self) {
        let mark = self.number("SELECT mark FROM installation").await;
        self.until(&format!("SELECT mark > {mark} + 1 FROM installation")).await;
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        if self.runs {
            // Not asserted, because the test may be failing already.
            let mut stop = Command::new(self.tools.bin.join("pg_ctl"));
            stop.args(["stop", "--pgdata", text(&self.data), "--mode", "immediate"]).stdout(Stdio::null());
            if let Some((uid, gid)) = self.tools.account {
                stop.uid(uid).gid(gid);
            }
            let _ = stop.current_dir("/").status();
        }
    }
}
