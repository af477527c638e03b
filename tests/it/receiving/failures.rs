//! Database outages and kills: every message that was accepted with 250 is stored, and none that was refused with 451.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::process::Command;

use super::relay::{relay_route, url};
use super::{mime, received, route};
use crate::support::client::Api;
use crate::support::inbound_client::Client;
use crate::support::postgres::Database;
use crate::support::process::{Service, admin_key, serve};
use crate::support::site::Site;
use crate::support::smtp::{Gate, SmtpServer};
use crate::support::until::until;

#[tokio::test]
async fn outage_defers_the_message_and_stores_nothing() {
    let mut site = Site::start().await;
    route(&site.api, "x@reply.acme.test", "store").await;
    let unknown = "y@reply.acme.test";
    let mut client = Client::connect(site.inbound()).await;
    client.send("EHLO mx.example.test\r\nMAIL FROM:<ann@example.test>\r\nRCPT TO:<x@reply.acme.test>\r\n").await;
    assert_eq!(client.codes(3).await, [250, 250, 250]);
    site.postgres.kill().await;
    assert_eq!(client.code("DATA\r\n").await, 354);
    let reply = client.say(&format!("{}.\r\n", mime(""))).await;
    assert_eq!(reply, "451 4.3.0 Try again later: the database is unavailable\r\n");
    // A domain that is not cached cannot be looked up.
    client.send("MAIL FROM:<ann@example.test>\r\nRCPT TO:<x@other.acme.test>\r\n").await;
    assert_eq!(client.codes(2).await, [250, 451]);
    site.postgres.start_again().await;
    site.wait_until_working().await;
    assert_eq!(received(&site.api).await.len(), 0);
    let mut client = Client::connect(site.inbound()).await;
    assert_eq!(client.deliver("x@reply.acme.test", &mime("")).await, "250 2.0.0 Accepted\r\n");
    assert_eq!(client.deliver(unknown, &mime("")).await, "550 5.1.1 No such mailbox\r\n");
    assert_eq!(received(&site.api).await.len(), 1);
    site.end().await;
}

/// Returns the command `serve` with an SMTP server for incoming messages, which may be passed on to servers on this machine.
pub(super) fn command(database: &Database, smtp: &SmtpServer, arguments: &[&str]) -> Command {
    let mut command = serve(&database.url, smtp.address(), arguments);
    command
        .env("POSTRIDER_SECRET_KEY", "a secret of the tests, and of nobody else")
        .env("POSTRIDER_RETURN_PATH__DOMAIN", "return.acme.test")
        .env("POSTRIDER_INBOUND__AUTHENTICATE", "false")
        .env("POSTRIDER_INBOUND__ALLOW_PRIVATE_RELAYS", "127.0.0.0/8")
        .env("POSTRIDER_DELIVERY__LEASE", "1s")
        .env("POSTRIDER_INBOUND__LISTEN", "127.0.0.1:0");
    command
}

/// Starts a service with an SMTP server for incoming messages. Returns it with the server's address.
pub(super) async fn service(command: Command) -> (Service, SocketAddr) {
    let mut service = Service::start(command).await;
    let line = service.logged_event("started").await;
    (service, line["inbound"].as_str().unwrap().parse().unwrap())
}

#[tokio::test]
async fn refused_messages_are_one_line_of_the_log() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let (mut service, inbound) = service(command(&database, &smtp, &[])).await;
    let api = Api::new(service.address.clone().unwrap(), admin_key(&database.url).await);
    route(&api, "x@reply.acme.test", "store").await;
    for _ in 0..5 {
        let mut client = Client::connect(inbound).await;
        let begin = "EHLO mx.example.test\r\nMAIL FROM:<ann@example.test>\r\nRCPT TO:<x@reply.acme.test>\r\nDATA\r\n";
        client.send(begin).await;
        assert_eq!(client.codes(4).await, [250, 250, 250, 354]);
        let reply = client.say("Subject: Hello\nX: a bare line feed\r\n\r\n.\r\n").await;
        assert!(reply.starts_with("550 5.5.2 "), "{reply}");
    }
    let line = service.logged_event("smtp_message_refused").await;
    assert_eq!(
        (&line["count"], &line["fault"], &line["server"]),
        (&json!(1), &json!("BareLineBreak"), &json!("inbound"))
    );
    assert_eq!(received(&api).await.len(), 0);
    service.send_sigterm().await;
    service.logged_event("stopped").await;
    let lines = service.lines().into_iter().filter(|line| line["event"] == "smtp_message_refused").count();
    assert_eq!(lines, 1, "at most one per minute");
}

#[tokio::test]
async fn killed_before_the_reply_the_message_is_not_lost() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let (first, inbound) = service(command(&database, &smtp, &[])).await;
    let api = Api::new(first.address.clone().unwrap(), admin_key(&database.url).await);
    route(&api, "x@reply.acme.test", "store").await;
    let mut lock = database.connect().await;
    let trigger = "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS
         'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NULL; END';
         CREATE CONSTRAINT TRIGGER stop AFTER INSERT ON received_messages DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW EXECUTE FUNCTION stop();
         SELECT pg_advisory_lock(1)";
    sqlx::raw_sql(trigger).execute(&mut lock).await.unwrap();
    let mut client = Client::connect(inbound).await;
    client
        .send("EHLO mx.example.test\r\nMAIL FROM:<ann@example.test>\r\nRCPT TO:<x@reply.acme.test>\r\nDATA\r\n")
        .await;
    assert_eq!(client.codes(4).await, [250, 250, 250, 354]);
    client.send(&format!("{}.\r\n", mime(""))).await;
    let mut other = database.connect().await;
    until("the commit waits", Duration::from_secs(20), async || {
        let waiting: i64 =
            sqlx::query_scalar("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
                .fetch_one(&mut other)
                .await
                .unwrap();
        if waiting == 1 { Ok(()) } else { Err(waiting) }
    })
    .await;
    first.kill().await;
    sqlx::raw_sql("SELECT pg_advisory_unlock(1)").execute(&mut lock).await.unwrap();

    // The sending server got no reply, and sends the message again.
    let (second, inbound) = service(command(&database, &smtp, &[])).await;
    let api = Api::new(second.address.clone().unwrap(), api.key.clone());
    let mut client = Client::connect(inbound).await;
    assert_eq!(client.deliver("x@reply.acme.test", &mime("")).await, "250 2.0.0 Accepted\r\n");
    let listed = received(&api).await;
    assert!((1..=2).contains(&listed.len()), "{listed:?}");
    let events = api.get("/v1/events?type=message.received").await.body["data"].clone();
    assert_eq!(events.as_array().unwrap().len(), listed.len(), "each has its event");
    assert!(listed.iter().all(|one| one["subject"] == json!("Hello")));
    assert!(second.terminate().await.success());
}

#[tokio::test]
async fn killed_process_loses_and_doubles_no_relayed_message() {
    let (database, smtp, inside) = (Database::new(), SmtpServer::start().await, SmtpServer::start().await);
    let (first, inbound) = service(command(&database, &smtp, &[])).await;
    let api = Api::new(first.address.clone().unwrap(), admin_key(&database.url).await);
    relay_route(&api, "*@reply.acme.test", &url(&inside)).await;
    // Messages are accepted and queued, but none gets beyond the greeting before the kill.
    let gates: Vec<_> = (0..8).map(|_| inside.greeting().stalls()).collect();
    let mut client = Client::connect(inbound).await;
    for n in 0..5 {
        assert_eq!(client.deliver(&format!("x{n}@reply.acme.test"), &mime("")).await, "250 2.0.0 Accepted\r\n");
    }
    first.kill().await;
    gates.iter().for_each(Gate::open);
    // What the process had claimed would wait for a minute.
    let unclaim = sqlx::raw_sql("UPDATE relays SET claimed_until = '-infinity'");
    unclaim.execute(&mut database.connect().await).await.unwrap();

    let (second, _) = service(command(&database, &smtp, &[])).await;
    let api = Api::new(second.address.clone().unwrap(), api.key.clone());
    until("all are relayed", Duration::from_mins(1), async || {
        let listed = api.get("/v1/messages?status=relayed").await.body["data"].as_array().map_or(0, Vec::len);
        if listed == 5 { Ok(()) } else { Err(listed) }
    })
    .await;
    let mut to: Vec<String> = inside.messages().into_iter().flat_map(|copy| copy.to).collect();
    to.sort();
    assert_eq!(to, [0, 1, 2, 3, 4].map(|n| format!("x{n}@reply.acme.test")));
    assert_eq!(api.get("/v1/messages").await.body["data"].as_array().unwrap().len(), 5);
    assert!(second.terminate().await.success());
}
