//! The service is killed under load: every message that was acknowledged with 250 exists.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use sqlx::PgConnection;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{ANN, FROM, MESSAGE};
use crate::support::client::Api;
use crate::support::inbound_client::Client;
use crate::support::invariants;
use crate::support::postgres::Database;
use crate::support::process::{Service, key, serve};
use crate::support::smtp::SmtpServer;
use crate::support::until::until;

const LIMIT: Duration = Duration::from_secs(30);
const CLIENTS: usize = 8;

async fn start(database: &Database, smtp: &SmtpServer) -> (Service, Api) {
    let mut command = serve(&database.url, smtp.address(), &[]);
    command.env("POSTRIDER_SUBMISSION__LISTEN", "127.0.0.1:0");
    let service = Service::start(command).await;
    let api = Api::new(service.address.clone().unwrap(), key(&database.url).await);
    (service, api)
}

/// Sends messages until the server is gone. Returns the ids that it has acknowledged.
async fn send_until_killed(address: &str, key: &str) -> Vec<String> {
    let mut client = Client::connect(address.parse().unwrap()).await;
    assert!(client.sign_in(key).await.starts_with("235"));
    let mut stream = client.into_stream();
    let (mut acknowledged, mut replies, mut read) = (Vec::new(), String::new(), [0; 4 << 10]);
    let message = format!("MAIL FROM:<{FROM}>\r\nRCPT TO:<{ANN}>\r\nBDAT {} LAST\r\n{MESSAGE}", MESSAGE.len());
    while stream.write_all(message.as_bytes()).await.is_ok() {
        while replies.matches('\n').count() < 3 {
            match stream.read(&mut read).await {
                Ok(count) if count > 0 => replies.push_str(std::str::from_utf8(&read[..count]).unwrap()),
                _ => return acknowledged,
            }
        }
        acknowledged.push(super::id(replies.lines().nth(2).unwrap()));
        replies.clear();
    }
    acknowledged
}

async fn stored(connection: &mut PgConnection) -> BTreeSet<String> {
    let ids: Vec<uuid::Uuid> = sqlx::query_scalar("SELECT id FROM messages").fetch_all(connection).await.unwrap();
    ids.into_iter().map(|id| format!("msg_{}", id.simple())).collect()
}

#[tokio::test]
async fn every_acknowledged_message_survives_a_kill() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let (service, api) = start(&database, &smtp).await;
    let mut connection = database.connect().await;
    let address = service.submission.clone().unwrap();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (address, key) = (address.clone(), api.key.clone());
            tokio::spawn(async move { send_until_killed(&address, &key).await })
        })
        .collect();
    until("some messages are stored", LIMIT, async || {
        let count = stored(&mut connection).await.len();
        if count >= 300 { Ok(()) } else { Err(count) }
    })
    .await;
    service.kill().await;
    let acknowledged: Vec<String> = join_all(clients).await.into_iter().flat_map(Result::unwrap).collect();
    assert!(acknowledged.len() >= 200, "{}", acknowledged.len());
    let found = stored(&mut connection).await;
    let lost: Vec<_> = acknowledged.iter().filter(|id| !found.contains(*id)).collect();
    assert!(lost.is_empty(), "acknowledged with 250 and lost: {lost:?}");

    let (mut again, _) = start(&database, &smtp).await;
    again.logged_event("leases_rescued").await;
    invariants::queue_is_empty(&mut connection).await;
    assert!(again.terminate().await.success());
    invariants::check(&mut connection).await;
}

#[tokio::test]
async fn sigterm_finishes_the_message_in_transfer() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let (service, api) = start(&database, &smtp).await;
    let mut connection = database.connect().await;
    let mut client = Client::connect(service.submission.clone().unwrap().parse().unwrap()).await;
    assert!(client.sign_in(&api.key).await.starts_with("235"));
    client.send(&format!("MAIL FROM:<{FROM}>\r\nRCPT TO:<{ANN}>\r\nDATA\r\n")).await;
    assert_eq!(client.codes(3).await, [250, 250, 354]);
    service.send_sigterm().await;
    let address = service.submission.clone().unwrap();
    until("new clients are refused", LIMIT, async || match TcpStream::connect(&address).await {
        Err(_) => Ok(()),
        Ok(_) => Err("accepted"),
    })
    .await;
    let id = super::id(&client.say(&format!("{MESSAGE}.\r\n")).await);
    assert!(service.ended().await.success());
    assert_eq!(stored(&mut connection).await, BTreeSet::from([id]));
}
