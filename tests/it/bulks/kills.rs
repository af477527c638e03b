//! The service is killed in the middle of a bulk: each recipient becomes one message.

use std::collections::BTreeMap;

use serde_json::json;
use sqlx::Row as _;

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
    let rows = sqlx::query("SELECT address, count(*) FROM recipients GROUP BY 1").fetch_all(&mut connection).await;
    let counts: BTreeMap<String, i64> = rows.unwrap().into_iter().map(|row| (row.get(0), row.get(1))).collect();
    assert!(counts.len() == SIZE && counts.values().all(|count| *count == 1), "{} recipients", counts.len());
    assert!(again.terminate().await.success());
    invariants::check(&mut connection).await;
    assert!(smtp.messages().len() >= SIZE);
}
