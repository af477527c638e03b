//! One embedded Postgres for the whole run, with a separate database for every test.
//!
//! The cluster starts with the first test that needs it and ends with this process, even if that is killed; then its
//! directory is removed. A test's database is a copy of a database that is migrated once.

use std::future::Future;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postrider::db::{Db, schema};
use postrider::dev::postgres::{Options, Postgres};
use sqlx::{Connection as _, PgConnection};
use tokio::runtime::{Builder, Runtime};

const TEMPLATE: &str = "it_template";

/// Waits until this process and Postgres have ended, then removes the directory.
const SWEEPER: &str = r#"read -r _; while [ -e "$1/data/postmaster.pid" ]; do sleep 0.1; done; rm -rf "$1""#;

struct Cluster {
    postgres: Postgres,
    made: AtomicUsize,
    /// Holds the pipe that the sweeper waits for.
    _sweeper: Child,
}

static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| apart(start));

async fn start() -> Cluster {
    let dir = tempfile::Builder::new().prefix("postrider-it-").tempdir().expect("a directory").keep();
    let sweeper = sweeper(&dir);
    let postgres = Postgres::start(Options { dir, durable: false }).await.expect("a Postgres to test with");
    let url = postgres.ensure_database(TEMPLATE).await.expect("a template");
    let db = Db::new(&url, 2, Duration::from_mins(1)).expect("a pool");
    schema::migrate(&db).await.expect("a schema");
    db.close().await;
    Cluster { postgres, made: AtomicUsize::new(0), _sweeper: sweeper }
}

fn sweeper(dir: &Path) -> Child {
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", SWEEPER, "postrider-sweeper"]).arg(dir);
    // In a separate process group, so that Ctrl-C does not reach it; without the inherited outputs, whose readers wait
    // for the end.
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command.spawn().expect("a shell")
}

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime"));

/// Runs a future outside of the test's runtime, and waits for it.
pub fn apart<T: Send, F: Future<Output = T>>(work: impl FnOnce() -> F + Send) -> T {
    std::thread::scope(|scope| scope.spawn(|| RUNTIME.block_on(work())).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A database of one test, which is dropped after it.
pub struct Database {
    name: String,
    pub url: String,
}

impl Database {
    /// Migrated.
    pub fn new() -> Self {
        Self::copy_of(TEMPLATE)
    }

    /// Without a schema.
    pub fn empty() -> Self {
        Self::copy_of("template1")
    }

    fn copy_of(template: &str) -> Self {
        let name = format!("it_{}", CLUSTER.made.fetch_add(1, Ordering::Relaxed));
        let create = format!("CREATE DATABASE {name} TEMPLATE {template}");
        apart(|| administer(create));
        Self { url: CLUSTER.postgres.url(&name), name }
    }

    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.expect("a connection")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Does not wait: the test's runtime, which is about to end, may still be opening a connection.
        RUNTIME.spawn(administer(format!("DROP DATABASE {} WITH (FORCE)", self.name)));
    }
}

async fn administer(statement: String) {
    let mut connection = PgConnection::connect(&CLUSTER.postgres.url("postgres")).await.expect("a connection");
    let done = sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await;
    done.expect("a database is made or dropped");
    connection.close().await.expect("closed");
}

/// The committed statement that starts with this text, whose plan is that of the product.
pub fn statement(start: &str) -> String {
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.sqlx")).unwrap();
    let query = |file: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let data: serde_json::Value = serde_json::from_str(&text).unwrap();
        data["query"].as_str().unwrap().to_owned()
    };
    files.map(query).find(|query| query.starts_with(start)).expect(start)
}
