//! Each recipient becomes one message, even if the service is killed in the middle of a bulk, or two processes work on
//! it.

use std::collections::BTreeMap;

use serde_json::json;
use sqlx::{PgConnection, Row as _};

use super::{LIMIT, accepted, bulk, expanded, recipients, send_keyed};
use crate::support::client::Api;
use crate::support::invariants;
use crate::support::postgres::Database;
use crate::support::process::{Service, key, serve};
use crate::support::smtp::SmtpServer;
use crate::support::until::until;

const SIZE: usize = 4_000;

#[tokio::test]
async fn kill_in_the_middle_of_a_bulk_loses_and_doubles_nothing() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let service = Service::start(serve(&database.url, smtp.address(), &[])).await;
    let api = Api::new(service.address.clone().unwrap(), key(&database.url).await);
    let body = bulk(&recipients(SIZE), json!({}));
    let id = accepted(&send_keyed(&api, "news", &body).await);
    let mut connection = database.connect().await;
    until("no message was created", LIMIT, async || {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM messages").fetch_one(&mut connection).await.unwrap();
        if count > 0 { Ok(()) } else { Err(count) }
    })
    .await;
    service.kill().await;
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM bulk_recipients").fetch_one(&mut connection).await.unwrap();
    assert!(left > 0, "the service was killed too late to test anything");

    let again = Service::start(serve(&database.url, smtp.address(), &[])).await;
    let api = Api::new(again.address.clone().unwrap(), api.key);
    let repeated = send_keyed(&api, "news", &body).await;
    assert_eq!((accepted(&repeated), &repeated.body["accepted"]), (id, &json!(SIZE)));
    expanded(&database).await;
    invariants::queue_is_empty(&mut connection).await;
    each_has_one_message(&mut connection).await;
    assert!(again.terminate().await.success());
    invariants::check(&mut connection).await;
    assert!(smtp.messages().len() >= SIZE);
}

#[tokio::test]
async fn two_processes_with_the_same_bulk_double_nothing() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let first = Service::start(serve(&database.url, smtp.address(), &[])).await;
    let second = Service::start(serve(&database.url, smtp.address(), &[])).await;
    let api = Api::new(first.address.clone().unwrap(), key(&database.url).await);
    accepted(&send_keyed(&api, "news", &bulk(&recipients(SIZE), json!({}))).await);
    let mut connection = database.connect().await;
    let mut expired = 0;
    until("recipients without a message", LIMIT, async || {
        // Takes the lease away, so that the other process works on the bulk too.
        let taken = sqlx::query("UPDATE bulks SET leased_until = 'epoch' WHERE leased_until > now()");
        expired += taken.execute(&mut connection).await.unwrap().rows_affected();
        let waiting = "SELECT count(*) FROM bulk_recipients";
        let count: i64 = sqlx::query_scalar(waiting).fetch_one(&mut connection).await.unwrap();
        if count == 0 { Ok(()) } else { Err(count) }
    })
    .await;
    assert!(expired > 0, "the processes never worked on the bulk at the same time");
    invariants::queue_is_empty(&mut connection).await;
    each_has_one_message(&mut connection).await;
    assert!(first.terminate().await.success() && second.terminate().await.success());
    invariants::check(&mut connection).await;
    assert_eq!(smtp.messages().len(), SIZE);
}

/// Checks that each recipient of the bulk has one message.
async fn each_has_one_message(connection: &mut PgConnection) {
    let rows = sqlx::query("SELECT address, count(*) FROM recipients GROUP BY 1").fetch_all(connection).await;
    let counts: BTreeMap<String, i64> = rows.unwrap().into_iter().map(|row| (row.get(0), row.get(1))).collect();
    assert!(counts.len() == SIZE && counts.values().all(|count| *count == 1), "{} recipients", counts.len());
}
