//! A separate Postgres for one test, which can kill it, and the proxy through which Postrider connects to it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postrider::db::{Db, schema};
use postrider::dev::postgres::{Options, Postgres};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::process::Command;

use super::proxy::Proxy;

/// Time limit for crash recovery after one of the processes was killed.
const RECOVERY: Duration = Duration::from_secs(20);

pub struct OwnPostgres {
    pub proxy: Proxy,
    postgres: Option<Postgres>,
    dir: tempfile::TempDir,
}

impl OwnPostgres {
    /// Starts Postgres, and creates a role as in production, which owns the databases and is not a superuser.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let postgres = start(&dir).await;
        let proxy = Proxy::to(address_of(&postgres)).await;
        let own = Self { proxy, postgres: Some(postgres), dir };
        own.sql("postgres", "CREATE ROLE app LOGIN PASSWORD 'secret'").await;
        own
    }

    /// Creates a migrated database, and returns its URL through the proxy.
    pub async fn database(&self, name: &str) -> String {
        self.sql("postgres", &format!("CREATE DATABASE {name} OWNER app")).await;
        let db = Db::new(&self.url(name), 2, Duration::from_mins(1)).unwrap();
        schema::migrate(&db).await.unwrap();
        db.close().await;
        self.url(name)
    }

    fn url(&self, name: &str) -> String {
        format!("postgres://app:secret@{}/{name}?sslmode=disable", self.proxy.address)
    }

    /// Opens a superuser connection that bypasses the proxy. Waits if Postgres is still recovering.
    pub async fn connect(&self, name: &str) -> PgConnection {
        let url = self.postgres.as_ref().expect("a running Postgres").url(name);
        let started = Instant::now();
        loop {
            match PgConnection::connect(&url).await {
                Ok(connection) => return connection,
                Err(error) => assert!(started.elapsed() < RECOVERY, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Runs statements one by one, bypassing the proxy.
    pub async fn sql(&self, name: &str, statements: &str) {
        let mut connection = self.connect(name).await;
        for statement in statements.split("; ") {
            let statement = AssertSqlSafe(statement.to_owned());
            sqlx::raw_sql(statement).execute(&mut connection).await.expect("a statement");
        }
        connection.close().await.expect("closed");
    }

    /// Kills the server and all its processes with SIGKILL.
    pub async fn kill(&mut self) {
        let pid = self.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        // A process that has already ended is not a failure.
        let _ = Command::new("kill").args(["-KILL", &pid]).args(children.split_whitespace()).output().await;
        self.postgres = None;
    }

    /// Shuts the server down as an operator does.
    pub async fn stop(&mut self) {
        self.postgres.take().expect("a running Postgres").stop().await.expect("a stop");
    }

    /// Starts the server again on the same data at another port, and redirects the proxy.
    pub async fn start_again(&mut self) {
        let postgres = start(&self.dir).await;
        self.proxy.set_target(address_of(&postgres));
        self.postgres = Some(postgres);
    }

    fn pid(&self) -> String {
        let file = std::fs::read_to_string(self.dir.path().join("data/postmaster.pid")).expect("a pid file");
        file.lines().next().expect("a pid").to_owned()
    }
}

async fn start(dir: &tempfile::TempDir) -> Postgres {
    Postgres::start(Options { dir: dir.path().to_owned(), durable: false }).await.expect("a Postgres to kill")
}

fn address_of(postgres: &Postgres) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], postgres.port()))
}
