//! The embedded Postgres is found, created, started, stopped, and never left running. Also as root, as in containers.

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

async fn remember(url: &str) {
    let mut connection = connect(url).await;
    sqlx::raw_sql("create table kept (n int); insert into kept values (42)")
        .execute(&mut connection)
        .await
        .expect("kept");
}

async fn remembered(url: &str) -> i32 {
    sqlx::query_scalar("select n from kept").fetch_one(&mut connect(url).await).await.expect("what was kept")
}

#[tokio::test]
async fn a_second_start_finds_the_data_of_the_first() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = start(dir.path()).await.expect("a start");
    remember(&first.ensure_database("mail").await.expect("a database")).await;
    first.ensure_database("mail").await.expect("the same database");
    let taken = start(dir.path()).await.err().expect("one at a time");
    assert!(matches!(taken, PostgresError::InUse { .. }), "{taken}");
    first.stop().await.expect("a stop");
    let second = start(dir.path()).await.expect("another start");
    assert_eq!(remembered(&second.url("mail")).await, 42);
    second.stop().await.expect("a stop");
}

#[tokio::test]
async fn a_durable_cluster_is_durable_and_asks_for_the_password() {
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
    let stranger = PgConnection::connect(&format!("postgres://postrider:x@127.0.0.1:{port}/postgres")).await;
    assert!(stranger.is_err());
    connection.close().await.expect("closed");
    postgres.stop().await.expect("a stop");
}

#[tokio::test]
async fn a_half_made_cluster_is_made_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let half = dir.path().join("data.new.1");
    std::fs::create_dir(&half).expect("a directory");
    std::fs::write(half.join("PG_VERSION"), "15\n").expect("written");
    start(dir.path()).await.expect("a start").stop().await.expect("a stop");
    assert!(!half.exists());
}

#[tokio::test]
async fn data_of_another_version_are_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join("data")).expect("a directory");
    std::fs::write(dir.path().join("data/PG_VERSION"), "9\n").expect("written");
    let refused = start(dir.path()).await.err().expect("no start").to_string();
    assert!(refused.contains("Postgres 9, which made the data") && !refused.contains('\n'), "{refused}");
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why_in_one_line() {
    let dir = tempfile::tempdir().expect("a directory");
    start(dir.path()).await.expect("a start").stop().await.expect("a stop");
    std::fs::write(dir.path().join("data/postgresql.conf"), "no_such_setting = 1\n").expect("written");
    let refused = start(dir.path()).await.err().expect("no start").to_string();
    assert!(refused.contains("no_such_setting") && !refused.contains('\n'), "{refused}");
}

#[tokio::test]
async fn one_that_was_dropped_is_in_nobodys_way() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = start(dir.path()).await.expect("a start");
    remember(&first.url("postgres")).await;
    drop(first);
    let second = start(dir.path()).await.expect("another start");
    assert_eq!(remembered(&second.url("postgres")).await, 42);
    second.stop().await.expect("a stop");
}

/// The variable with the cluster's directory for the child process of the test below.
const CHILD_DIR: &str = "POSTRIDER_TEST_CLUSTER";

#[tokio::test]
async fn a_killed_process_leaves_no_postgres_behind() {
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
    remember(&url).await;
    child.kill().await.expect("killed");
    let next = start(dir.path()).await.expect("another start");
    assert!(PgConnection::connect(&url).await.is_err(), "the old one has ended");
    assert_eq!(remembered(&next.url("postgres")).await, 42);
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
