//! One embedded Postgres for the whole run, with a separate database for every test.
//!
//! The cluster starts with the first test that needs it, and ends with this process, even if the process is killed;
//! then its directory is removed. Each test's database is a copy of a template that is migrated once.

use std::future::Future;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postrider::db::{Db, schema};
use postrider::dev::postgres::{Options, Postgres};
use sqlx::postgres::PgRow;
use sqlx::{Connection as _, PgConnection, Row as _};
use tokio::runtime::{Builder, Runtime};

use super::app::TestApp;
use super::until::until;

const TEMPLATE: &str = "it_template";
/// How long a statement may take to wait for a lock.
const LOCK_LIMIT: Duration = Duration::from_secs(30);
/// Pages of a partition that may be scanned: it is quickest to scan one that has only a few.
pub const SMALL_PARTITION: i64 = 8;

/// The shell script that waits until this process and Postgres have ended, and then removes the directory.
const SWEEPER: &str = r#"read -r _; while [ -e "$1/data/postmaster.pid" ]; do sleep 0.1; done; rm -rf "$1""#;

struct Cluster {
    postgres: Postgres,
    databases: AtomicUsize,
    /// Keeps the pipe open. The sweeper waits until the pipe is closed.
    _sweeper: Child,
}

static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| run_separately(start));

async fn start() -> Cluster {
    let dir = tempfile::Builder::new().prefix("postrider-it-").tempdir().expect("a directory").keep();
    let sweeper = sweeper(&dir);
    let postgres = Postgres::start(Options { dir, durable: false }).await.expect("a Postgres to test with");
    let url = postgres.ensure_database(TEMPLATE).await.expect("a template");
    let db = Db::new(&url, 2, Duration::from_mins(1)).expect("a pool");
    schema::migrate(&db).await.expect("a schema");
    db.close().await;
    Cluster { postgres, databases: AtomicUsize::new(0), _sweeper: sweeper }
}

fn sweeper(dir: &Path) -> Child {
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", SWEEPER, "postrider-sweeper"]).arg(dir);
    // In a separate process group, so that Ctrl-C does not end it, and without inherited outputs, because readers of
    // the test output would wait for the sweeper.
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command.spawn().expect("a shell")
}

static RUNTIME: LazyLock<Runtime> = LazyLock::new(runtime);

/// Returns a new runtime with one thread.
pub fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

/// Runs a future outside of the test's runtime, and waits for it.
pub fn run_separately<T: Send, F: Future<Output = T>>(work: impl FnOnce() -> F + Send) -> T {
    std::thread::scope(|scope| scope.spawn(|| RUNTIME.block_on(work())).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The database of one test, which is dropped after the test.
pub struct Database {
    name: String,
    pub url: String,
}

impl Database {
    /// Creates a migrated database.
    pub fn new() -> Self {
        Self::copy_of(TEMPLATE)
    }

    /// Creates a database without a schema.
    pub fn empty() -> Self {
        Self::copy_of("template1")
    }

    fn copy_of(template: &str) -> Self {
        let name = format!("it_{}", CLUSTER.databases.fetch_add(1, Ordering::Relaxed));
        let create = format!("CREATE DATABASE {name} TEMPLATE {template}");
        run_separately(|| administer(create));
        Self { url: CLUSTER.postgres.url(&name), name }
    }

    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.expect("a connection")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Does not wait until the database is dropped, because the test's runtime may still be opening a connection.
        RUNTIME.spawn(administer(format!("DROP DATABASE {} WITH (FORCE)", self.name)));
    }
}

async fn administer(statement: String) {
    let mut connection = PgConnection::connect(&CLUSTER.postgres.url("postgres")).await.expect("a connection");
    let done = sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await;
    done.expect("a created or dropped database");
    connection.close().await.expect("closed");
}

/// Returns the statement in `.sqlx` that starts with this text, as Postrider runs it.
pub fn statement(start: &str) -> String {
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.sqlx")).unwrap();
    let query = |file: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let data: serde_json::Value = serde_json::from_str(&text).unwrap();
        data["query"].as_str().unwrap().to_owned()
    };
    files.map(query).find(|query| query.starts_with(start)).expect(start)
}

/// Waits until a statement with this text waits for a lock.
pub async fn until_waiting_for_lock(observer: &mut PgConnection, text: &str) {
    until("a statement waits for a lock", LOCK_LIMIT, async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock' AND position($1 IN query) > 0";
        let count: i64 = sqlx::query_scalar(waiting).bind(text).fetch_one(&mut *observer).await.unwrap();
        if count > 0 { Ok(()) } else { Err("none") }
    })
    .await;
}

/// Returns the number of blocks of a partitioned table and its indexes that were read, in current and past sessions.
pub async fn blocks_read(app: &TestApp, table: &str) -> i64 {
    let mut connection = app.database.connect().await;
    // The statistics of a session are counted once it has ended.
    let leave = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name LIKE 'postrider-%'";
    sqlx::raw_sql(leave).execute(&mut connection).await.unwrap();
    let read =
        "SELECT sum(heap_blks_read + heap_blks_hit + idx_blks_read + idx_blks_hit)::bigint FROM pg_statio_user_tables
                WHERE relname LIKE $1 || '\\_%'";
    sqlx::query_scalar(read).bind(table).fetch_one(&mut connection).await.unwrap()
}

/// Returns the number of rows of messages and events that sequential scans have read, in current and past sessions. Only partitions
/// with more than this many pages count.
pub async fn rows_read_by_seq_scans(app: &TestApp, pages: i64) -> i64 {
    let mut connection = app.database.connect().await;
    // The statistics of a session are counted once it has ended.
    let leave = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name LIKE 'postrider-%'";
    sqlx::raw_sql(leave).execute(&mut connection).await.unwrap();
    let read = "SELECT coalesce(sum(seq_tup_read), 0)::bigint FROM pg_stat_user_tables
                WHERE relname ~ '^(messages|contents|recipients|events)_'
                  AND pg_relation_size(relid) > $1 * current_setting('block_size')::bigint";
    sqlx::query_scalar(read).bind(pages).fetch_one(&mut connection).await.unwrap()
}

/// Returns the text of a plan. Postgres 18 writes row counts with decimals (`rows=1.00`), earlier versions without.
pub fn plan_text(rows: &[PgRow]) -> String {
    let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    lines.join("\n").replace(".00 loops", " loops")
}
