//! The embedded Postgres is found, created, started and stopped, and never left running, also if the tests run as root.

use std::path::Path;
use std::process::Stdio;

use postrider::dev::postgres::{Options, Postgres, PostgresError};
use sqlx::{Connection as _, PgConnection};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

async fn start(dir: &Path) -> Result<Postgres, PostgresError> {
    Postgres::start(Options { dir: dir.to_owned(), durable: false }).await
}

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.expect("a connection")
}

async fn store_row(url: &str) {
    let mut connection = connect(url).await;
    sqlx::raw_sql("create table stored (n int); insert into stored values (42)")
        .execute(&mut connection)
        .await
        .expect("a row is stored");
}

async fn stored_row(url: &str) -> i32 {
    sqlx::query_scalar("select n from stored").fetch_one(&mut connect(url).await).await.expect("the stored row")
}

#[tokio::test]
async fn second_start_keeps_the_data() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = start(dir.path()).await.expect("a start");
    store_row(&first.ensure_database("mail").await.expect("a database")).await;
    first.ensure_database("mail").await.expect("the same database");
    let error = start(dir.path()).await.err().expect("one at a time");
    assert!(matches!(error, PostgresError::InUse { .. }), "{error}");
    first.stop().await.expect("a stop");
    let second = start(dir.path()).await.expect("another start");
    assert_eq!(stored_row(&second.url("mail")).await, 42);
    second.stop().await.expect("a stop");
}

#[tokio::test]
async fn durable_cluster_syncs_and_requires_the_password() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options { dir: dir.path().to_owned(), durable: true };
    let postgres = Postgres::start(options).await.expect("a start");
    let mut connection = connect(&postgres.url("postgres")).await;
    for setting in ["fsync", "full_page_writes", "synchronous_commit", "data_checksums"] {
        let value: String = sqlx::query_scalar("select current_setting($1)")
            .bind(setting)
            .fetch_one(&mut connection)
            .await
            .expect("one");
        assert_eq!(value, "on", "{setting}");
    }
    let port = postgres.port();
    let without_password = PgConnection::connect(&format!("postgres://postrider:x@127.0.0.1:{port}/postgres")).await;
    assert!(without_password.is_err());
    connection.close().await.expect("closed");
    postgres.stop().await.expect("a stop");
}

#[tokio::test]
async fn incomplete_cluster_is_created_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let incomplete = dir.path().join("data.new.1");
    std::fs::create_dir(&incomplete).expect("a directory");
    std::fs::write(incomplete.join("PG_VERSION"), "15\n").expect("written");
    start(dir.path()).await.expect("a start").stop().await.expect("a stop");
    assert!(!incomplete.exists());
}

#[tokio::test]
async fn data_of_another_major_version_is_left_unchanged() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join("data")).expect("a directory");
    std::fs::write(dir.path().join("data/PG_VERSION"), "9\n").expect("written");
    let error = start(dir.path()).await.err().expect("no start").to_string();
    assert!(error.contains("Postgres 9, which created the data") && !error.contains('\n'), "{error}");
}

#[tokio::test]
async fn failed_start_is_explained_in_one_line() {
    let dir = tempfile::tempdir().expect("a directory");
    start(dir.path()).await.expect("a start").stop().await.expect("a stop");
    std::fs::write(dir.path().join("data/postgresql.conf"), "no_such_setting = 1\n").expect("written");
    let error = start(dir.path()).await.err().expect("no start").to_string();
    assert!(error.contains("no_such_setting") && !error.contains('\n'), "{error}");
}

#[tokio::test]
async fn dropped_cluster_does_not_block_the_next_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = start(dir.path()).await.expect("a start");
    store_row(&first.url("postgres")).await;
    drop(first);
    let second = start(dir.path()).await.expect("another start");
    assert_eq!(stored_row(&second.url("postgres")).await, 42);
    second.stop().await.expect("a stop");
}

/// The environment variable with the cluster's directory, for the child process of the test below.
const CHILD_DIR: &str = "POSTRIDER_TEST_CLUSTER";

#[tokio::test]
async fn killed_process_leaves_no_postgres_running() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "dev::postgres::holds_a_cluster_until_it_is_killed", "--ignored", "--nocapture"])
        .env(CHILD_DIR, dir.path())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("a child");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let url = loop {
        let line = lines.next_line().await.expect("a line").expect("a URL before the end");
        if let Some((_, url)) = line.split_once("URL ") {
            break url.to_owned();
        }
    };
    store_row(&url).await;
    child.kill().await.expect("killed");
    let next = start(dir.path()).await.expect("another start");
    assert!(PgConnection::connect(&url).await.is_err(), "the server of the killed process has ended");
    assert_eq!(stored_row(&next.url("postgres")).await, 42);
    next.stop().await.expect("a stop");
}

#[tokio::test]
#[ignore = "the child process of the test above, which runs it with its directory; by itself it does nothing"]
async fn holds_a_cluster_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let postgres = start(Path::new(&dir)).await.expect("a start");
    println!("URL {}", postgres.url("postgres"));
    std::future::pending::<()>().await;
}
