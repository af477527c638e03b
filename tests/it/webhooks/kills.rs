//! The program is killed while it posts webhooks; the next process posts the remaining events.

use std::collections::BTreeMap;

use postrider::clock::{Clock as _, SystemClock};
use tokio::process::Command;

use crate::support::client::Api;
use crate::support::hooks::{Hook, SECRET};
use crate::support::invariants::{self, queue_is_empty};
use crate::support::load::Load;
use crate::support::postgres::Database;
use crate::support::process::{Service, key, serve};
use crate::support::receiver::Receiver;
use crate::support::smtp::SmtpServer;

#[tokio::test]
async fn no_event_is_lost_when_the_process_is_killed() {
    let (database, smtp, receiver) = (Database::new(), SmtpServer::start().await, Receiver::start().await);
    let command = || -> Command {
        let mut command = serve(&database.url, smtp.address(), &[]);
        command.env("POSTRIDER_WEBHOOKS__ALLOW", "127.0.0.1");
        command
    };
    let mut connection = database.connect().await;
    Hook::insert(&mut connection, SystemClock.now(), &receiver.url("/hook")).await;
    let service = Service::start(command()).await;
    let mut load = Load::start(&Api::new(service.address.clone().unwrap(), key(&database.url).await));
    load.wait_for(150).await;
    receiver.received("/hook", 50).await;
    service.kill().await;
    let acknowledged = load.end().await;

    let again = Service::start(command()).await;
    let mut ids = BTreeMap::<i64, String>::new();
    let mut count = 0;
    // Each message has two events: accepted and relayed.
    while ids.len() < 2 * acknowledged.len() {
        let posts = receiver.received("/hook", count + 1).await;
        for post in &posts[count..] {
            assert!(post.is_signed_with(&SECRET));
            let id = ids.entry(post.body["seq"].as_i64().unwrap()).or_insert_with(|| post.id.clone());
            assert_eq!(*id, post.id);
        }
        count = posts.len();
    }
    // The leases of the killed process are rescued last. Its messages may include some that were not acknowledged.
    queue_is_empty(&mut connection).await;
    assert!(again.terminate().await.success());
    let last: i64 = sqlx::query_scalar("SELECT max(seq) FROM events").fetch_one(&mut connection).await.unwrap();
    for post in receiver.posts("/hook") {
        ids.insert(post.body["seq"].as_i64().unwrap(), post.id);
    }
    let cursor = "SELECT cursor FROM webhook_endpoints WHERE lease IS NULL";
    let cursor: i64 = sqlx::query_scalar(cursor).fetch_one(&mut connection).await.unwrap();
    assert!(ids.keys().copied().take_while(|seq| *seq <= cursor).eq(1..=cursor), "no gap up to the cursor");
    assert!(cursor <= last);
    invariants::check(&mut connection).await;
}
