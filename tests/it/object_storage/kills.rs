//! A process is killed after an object was stored and before anything refers to it.

use std::time::Duration;

use super::{MIB, attaching};
use crate::support::client::{Api, message};
use crate::support::invariants;
use crate::support::postgres::Database;
use crate::support::process::{Service, key, serve};
use crate::support::s3::{self, Mode, S3Server};
use crate::support::smtp::SmtpServer;
use crate::support::until::until;
use crate::support::uploads::{file, stored_in};

const LIMIT: Duration = Duration::from_mins(1);

/// Returns the number of rows of `unreferenced_objects`.
async fn unreferenced(database: &Database) -> i64 {
    let count = "SELECT count(*) FROM unreferenced_objects";
    sqlx::query_scalar(count).fetch_one(&mut database.connect().await).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_between_put_and_commit_leaves_garbage_only() {
    let (s3, database, smtp) = (S3Server::start().await, Database::new(), SmtpServer::start().await);
    let key = key(&database.url).await;
    let service = |arguments: &[&str]| {
        let mut command = serve(&database.url, smtp.address(), arguments);
        command.envs(s3::variables(&s3.url()));
        command
    };
    // No worker: the accepted message waits.
    let first = Service::start(service(&["--only", "api"])).await;
    let api = Api::new(first.address.clone().unwrap(), key.clone());
    let kept = file(1, MIB);
    let sent = api.send(attaching(&kept)).await;
    let kept_key = s3.keys().remove(0);
    s3.set(Mode::SilentAfterPut);
    let request = api.request(reqwest::Method::POST, "/v1/messages").json(&message(attaching(&file(2, MIB))));
    let request = tokio::spawn(request.send());
    until("the object is stored", LIMIT, async || {
        let count = s3.keys().len();
        if count == 2 { Ok(()) } else { Err(count) }
    })
    .await;
    first.kill().await;
    assert!(request.await.unwrap().is_err(), "the client got no response");
    s3.set(Mode::Works);
    assert_eq!((stored_in(&database).await.0, unreferenced(&database).await), (1, 1));
    // A day later.
    let day = "UPDATE unreferenced_objects SET delete_at = now() - interval '1 minute'";
    sqlx::query(day).execute(&mut database.connect().await).await.unwrap();
    let second = Service::start(service(&[])).await;
    until("the garbage is deleted", LIMIT, async || {
        let keys = s3.keys();
        if keys == [kept_key.clone()] { Ok(()) } else { Err(format!("{keys:?}")) }
    })
    .await;
    let received = smtp.received(1).await;
    assert!(super::attachment(&received[0].raw) == kept);
    let api = Api::new(second.address.clone().unwrap(), key);
    until("the message is relayed", LIMIT, async || {
        let status = api.status(&sent.id).await;
        if status == "relayed" { Ok(()) } else { Err(status) }
    })
    .await;
    until("the row of the garbage is deleted", LIMIT, async || {
        let rows = unreferenced(&database).await;
        if rows == 0 { Ok(()) } else { Err(rows) }
    })
    .await;
    assert!(second.terminate().await.success());
    invariants::check(&mut database.connect().await).await;
}
