//! Each row becomes one message, even if a process is killed while it accepts rows, or several processes do.

use std::collections::BTreeMap;

use serde_json::json;
use sqlx::{Connection as _, PgConnection, Row as _};

use super::{LIMIT, execute, inbox_is_empty, send, sender};
use crate::support::client::message;
use crate::support::invariants;
use crate::support::postgres::Database;
use crate::support::process::{Service, serve};
use crate::support::smtp::SmtpServer;
use crate::support::until::until;

/// Sends this number of messages in one transaction, each to another recipient.
async fn send_many(database: &Database, count: usize) {
    let mut sql = sender(database).await;
    execute(&mut sql, "BEGIN").await;
    for n in 0..count {
        let fields = json!({"to": format!("r{n}@example.test")});
        send(&mut sql, &message(fields), Some(&format!("order-{n}"))).await.unwrap();
    }
    execute(&mut sql, "COMMIT").await;
    sql.close().await.unwrap();
}

/// Checks that each recipient has one message.
async fn each_has_one_message(connection: &mut PgConnection, count: usize) {
    let rows = sqlx::query("SELECT address, count(*) FROM recipients GROUP BY 1").fetch_all(connection).await;
    let counts: BTreeMap<String, i64> = rows.unwrap().into_iter().map(|row| (row.get(0), row.get(1))).collect();
    assert!(counts.len() == count && counts.values().all(|count| *count == 1), "{} recipients", counts.len());
}

#[tokio::test]
async fn kill_before_the_commit_loses_and_doubles_nothing() {
    const SIZE: usize = 200;
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let service = Service::start(serve(&database.url, smtp.address(), &[])).await;
    // The transaction that inserts the messages waits for the event counter.
    let (mut lock, mut observer) = (database.connect().await, database.connect().await);
    execute(&mut lock, "BEGIN; SELECT FROM event_counters FOR UPDATE").await;
    send_many(&database, SIZE).await;
    until("no transaction waits for the event counter", LIMIT, async || {
        let waiting = "SELECT (SELECT count(*) FROM sql_inbox WHERE claimed_until > now()) = 200 AND EXISTS (
                           SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')";
        let is_waiting: bool = sqlx::query_scalar(waiting).fetch_one(&mut observer).await.unwrap();
        if is_waiting { Ok(()) } else { Err("not") }
    })
    .await;
    service.kill().await;
    drop(lock.close().await);
    let waiting: i64 = sqlx::query_scalar("SELECT count(*) FROM sql_inbox").fetch_one(&mut observer).await.unwrap();
    assert_eq!(waiting, i64::try_from(SIZE).unwrap());

    let again = Service::start(serve(&database.url, smtp.address(), &[])).await;
    inbox_is_empty(&database).await;
    invariants::queue_is_empty(&mut observer).await;
    each_has_one_message(&mut observer, SIZE).await;
    assert!(again.terminate().await.success());
    invariants::check(&mut observer).await;
    assert_eq!(smtp.messages().len(), SIZE);
}

#[tokio::test]
async fn kill_in_the_middle_loses_and_doubles_nothing() {
    const SIZE: usize = 2_000;
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    send_many(&database, SIZE).await;
    let service = Service::start(serve(&database.url, smtp.address(), &[])).await;
    let mut observer = database.connect().await;
    until("no message was accepted", LIMIT, async || {
        match sqlx::query_scalar::<_, i64>("SELECT count(*) FROM messages").fetch_one(&mut observer).await.unwrap() {
            0 => Err(0),
            _ => Ok(()),
        }
    })
    .await;
    service.kill().await;
    let again = Service::start(serve(&database.url, smtp.address(), &[])).await;
    inbox_is_empty(&database).await;
    invariants::queue_is_empty(&mut observer).await;
    each_has_one_message(&mut observer, SIZE).await;
    assert!(again.terminate().await.success());
    invariants::check(&mut observer).await;
    assert!(smtp.messages().len() >= SIZE);
}

#[tokio::test]
async fn two_processes_share_the_rows() {
    const SIZE: usize = 1_000;
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let first = Service::start(serve(&database.url, smtp.address(), &[])).await;
    let second = Service::start(serve(&database.url, smtp.address(), &[])).await;
    send_many(&database, SIZE).await;
    let mut observer = database.connect().await;
    let mut to_end = 10;
    until("rows wait", LIMIT, async || {
        // Ends claims, so that the other process works on the same rows, too. Not always: neither could insert them.
        if to_end > 0 {
            execute(&mut observer, "UPDATE sql_inbox SET claimed_until = '-infinity'").await;
            to_end -= 1;
        }
        match sqlx::query_scalar::<_, i64>("SELECT count(*) FROM sql_inbox").fetch_one(&mut observer).await.unwrap() {
            0 => Ok(()),
            waiting => Err(waiting),
        }
    })
    .await;
    invariants::queue_is_empty(&mut observer).await;
    each_has_one_message(&mut observer, SIZE).await;
    assert!(first.terminate().await.success() && second.terminate().await.success());
    invariants::check(&mut observer).await;
    assert_eq!(smtp.messages().len(), SIZE);
}
