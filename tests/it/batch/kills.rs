//! The service is killed during batches: each batch is stored entirely or not at all, and none twice.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection, Row as _};

use super::{PATH, count, ids, is_replayed, messages, send_keyed};
use crate::support::client::{Api, message};
use crate::support::invariants;
use crate::support::postgres::{Database, until_waiting_for_lock};
use crate::support::process::{Service, key, serve};
use crate::support::smtp::SmtpServer;
use crate::support::until::until;

const LIMIT: Duration = Duration::from_secs(30);
/// Messages per batch.
const SIZE: usize = 40;
/// Clients that send batches.
const CLIENTS: usize = 6;

async fn start(database: &Database, smtp: &SmtpServer) -> (Service, Api) {
    let service = Service::start(serve(&database.url, smtp.address(), &[])).await;
    let api = Api::new(service.address.clone().unwrap(), key(&database.url).await);
    (service, api)
}

#[tokio::test]
async fn kill_before_the_commit_leaves_nothing_of_a_batch() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let (service, api) = start(&database, &smtp).await;
    let (mut lock, mut connection) = (database.connect().await, database.connect().await);
    sqlx::raw_sql("BEGIN; SELECT FROM event_counters FOR UPDATE").execute(&mut lock).await.unwrap();
    let body = json!(messages(SIZE));
    let request = api.request(reqwest::Method::POST, PATH).header("idempotency-key", "run-1").json(&body);
    let sent = tokio::spawn(request.send());
    // All rows are inserted, and the transaction waits for its event numbers.
    until_waiting_for_lock(&mut connection, "take_event_numbers").await;
    service.kill().await;
    assert!(sent.await.unwrap().is_err(), "the client gets no response");
    lock.close().await.unwrap();

    let (again, other_key) = start(&database, &smtp).await;
    let api = other_key.with_key(&api.key);
    let first = send_keyed(&api, "run-1", &body).await;
    assert_eq!((ids(&first).len(), is_replayed(&first)), (SIZE, false));
    let second = send_keyed(&api, "run-1", &body).await;
    assert_eq!((is_replayed(&second), ids(&second)), (true, ids(&first)));
    assert_eq!(count(&mut connection).await, i64::try_from(SIZE).unwrap());
    invariants::queue_is_empty(&mut connection).await;
    assert!(again.terminate().await.success());
    invariants::check(&mut connection).await;
    assert_eq!(smtp.messages().len(), SIZE);
}

/// Returns the body of batch number `run`.
fn batch(run: &str) -> Value {
    let messages = (0..SIZE).map(|n| message(json!({"subject": format!("{run}/{n}"), "metadata": {"run": run}})));
    json!({"messages": messages.collect::<Vec<_>>(), "validation": if run.ends_with('1') { "permissive" } else { "strict" }})
}

/// Sends batches until a request fails. Returns the numbers of all batches, with the response to those that were
/// accepted.
async fn send_until_failure(api: &Api, client: usize) -> Vec<(String, Option<Vec<String>>)> {
    let mut runs = Vec::new();
    for n in 0.. {
        let run = format!("{client}-{n}");
        let request = api.request(reqwest::Method::POST, PATH).header("idempotency-key", &run).json(&batch(&run));
        let response = match request.send().await {
            Ok(response) if response.status() == 202 => response.json::<Value>().await.ok(),
            _ => None,
        };
        let accepted = response.map(|body| {
            let entries = body["data"].as_array().unwrap();
            entries.iter().map(|entry| entry["id"].as_str().unwrap().to_owned()).collect()
        });
        let is_last = accepted.is_none();
        runs.push((run, accepted));
        if is_last {
            break;
        }
    }
    runs
}

/// Returns the number of stored messages of each batch.
async fn sizes(connection: &mut PgConnection) -> BTreeMap<String, i64> {
    let rows = sqlx::query("SELECT metadata->>'run', count(*) FROM messages GROUP BY 1").fetch_all(connection).await;
    rows.unwrap().into_iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn kill_under_load_leaves_whole_batches_only() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let (service, api) = start(&database, &smtp).await;
    let mut connection = database.connect().await;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let api = api.clone();
            tokio::spawn(async move { send_until_failure(&api, client).await })
        })
        .collect();
    until("some batches are stored", LIMIT, async || {
        let stored = count(&mut connection).await;
        if stored >= 500 { Ok(()) } else { Err(stored) }
    })
    .await;
    service.kill().await;
    let runs: Vec<_> = join_all(clients).await.into_iter().flat_map(Result::unwrap).collect();
    // The transactions of the killed process end.
    until("no transaction is open", LIMIT, async || {
        let open =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
                    AND backend_type = 'client backend'";
        let count: i64 = sqlx::query_scalar(open).fetch_one(&mut connection).await.unwrap();
        if count == 0 { Ok(()) } else { Err(count) }
    })
    .await;
    let whole = i64::try_from(SIZE).unwrap();
    let stored = sizes(&mut connection).await;
    assert!(stored.values().all(|size| *size == whole), "{stored:?}");
    for (run, accepted) in &runs {
        assert!(accepted.is_none() || stored.contains_key(run), "batch {run} was accepted with 202 and is lost");
    }

    let (mut again, other_key) = start(&database, &smtp).await;
    let api = other_key.with_key(&api.key);
    for (run, accepted) in &runs {
        let response = send_keyed(&api, run, &batch(run)).await;
        assert_eq!(is_replayed(&response), stored.contains_key(run), "{run}");
        assert!(accepted.as_ref().is_none_or(|accepted| *accepted == ids(&response)), "{run}");
    }
    let stored = sizes(&mut connection).await;
    assert!(stored.len() == runs.len() && stored.values().all(|size| *size == whole), "{stored:?}");
    again.logged_event("leases_rescued").await;
    invariants::queue_is_empty(&mut connection).await;
    assert!(again.terminate().await.success());
    invariants::check(&mut connection).await;
    assert!(smtp.messages().len() >= runs.len() * SIZE);
}
