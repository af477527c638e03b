//! STARTTLS of the inbound server (RFC 3207): input from before the handshake is discarded.

use std::time::Duration;

use postrider::smtp::inbound::{Certificate as ServerCertificate, Settings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::certificate::Certificate;
use crate::support::inbound_client::{Client, serve};
use crate::support::until::until;

fn settings(certificate: &Certificate) -> Settings {
    // The files are removed afterwards, and the certificate stays in use.
    let (chain, key, _dir) = certificate.as_files();
    Settings { certificate: Some(ServerCertificate::read(&chain, &key).unwrap()), ..Settings::default() }
}

/// Performs the TLS handshake, trusting only this certificate.
async fn secured(client: Client, certificate: &Certificate) -> Client {
    client.trusting(certificate, "mx.acme.test").await
}

#[tokio::test]
async fn a_message_arrives_over_tls_after_another_ehlo() {
    let certificate = Certificate::valid_for("mx.acme.test");
    let (kept, server) = serve(settings(&certificate)).await;
    let mut client = Client::connect(server.address).await;
    assert!(client.say("EHLO x\r\n").await.contains("STARTTLS\r\n"));
    assert_eq!(client.code("STARTTLS\r\n").await, 220);
    let mut client = secured(client, &certificate).await;
    assert_eq!(client.code("MAIL FROM:<>\r\n").await, 503, "EHLO is required again");
    assert!(!client.say("EHLO x\r\n").await.contains("STARTTLS"));
    assert_eq!(client.code("STARTTLS\r\n").await, 502);
    client.send("MAIL FROM:<>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n").await;
    assert_eq!(client.codes(3).await, [250, 250, 354]);
    assert_eq!(client.code("x\r\n.\r\n").await, 250);
    assert_eq!(kept.messages().len(), 1);
}

#[tokio::test]
async fn commands_injected_before_the_handshake_are_discarded() {
    let certificate = Certificate::valid_for("mx.acme.test");
    let (kept, server) = serve(settings(&certificate)).await;
    let mut client = Client::connect(server.address).await;
    client.code("EHLO x\r\n").await;
    let injected = "EHLO evil\r\nMAIL FROM:<evil@x.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n";
    assert_eq!(client.code(&format!("STARTTLS\r\n{injected}")).await, 220);
    let mut client = secured(client, &certificate).await;
    // The first reply is to the test's own command, and no message has started.
    assert_eq!(client.code("RCPT TO:<c@d.test>\r\n").await, 503);
    assert_eq!(client.code("EHLO x\r\n").await, 250);
    assert_eq!(client.code("DATA\r\n").await, 503);
    assert_eq!(kept.messages().len(), 0);
}

#[tokio::test]
async fn starttls_is_refused_in_a_transaction_or_with_an_argument() {
    let certificate = Certificate::valid_for("mx.acme.test");
    let (_kept, server) = serve(settings(&certificate)).await;
    let mut client = Client::connect(server.address).await;
    client.send("EHLO x\r\nMAIL FROM:<>\r\nSTARTTLS\r\nSTARTTLS now\r\n").await;
    assert_eq!(client.codes(4).await, [250, 250, 503, 501]);
}

#[tokio::test]
async fn failed_handshake_is_dropped_and_other_clients_are_served() {
    let certificate = Certificate::valid_for("mx.acme.test");
    let (_kept, server) = serve(Settings { max_connections: 1, ..settings(&certificate) }).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let mut buffer = [0; 1_024];
    assert!(stream.read(&mut buffer).await.unwrap() > 0);
    stream.write_all(b"STARTTLS\r\n").await.unwrap();
    assert!(stream.read(&mut buffer).await.unwrap() > 0);
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    // The server sends an alert and closes the connection.
    while stream.read(&mut buffer).await.unwrap_or(0) > 0 {}
    let mut next = Client::connect_only(server.address).await;
    while next.reply().await.starts_with("421") {
        next = Client::connect_only(server.address).await;
    }
    assert_eq!(next.code("EHLO x\r\n").await, 250);
}

#[tokio::test]
async fn a_renewed_certificate_needs_no_restart() {
    let first = Certificate::valid_for("mx.acme.test");
    let (chain, key, _dir) = first.as_files();
    let certificate = Some(ServerCertificate::read(&chain, &key).unwrap());
    let (_kept, server) = serve(Settings { certificate, implicit_tls: true, ..Settings::default() }).await;
    let mut client = Client::connect_secured(server.address, &first, "mx.acme.test").await;
    assert_eq!(client.code("NOOP\r\n").await, 250);

    // Only one of the files is new, so they do not match, and the earlier certificate stays in use.
    let second = Certificate::valid_for_all(&["mx.acme.test", "mail.acme.test"]);
    let (new_chain, new_key, _new_dir) = second.as_files();
    std::fs::copy(&new_chain, &chain).unwrap();
    Client::connect_secured(server.address, &first, "mx.acme.test").await;
    std::fs::copy(&new_key, &key).unwrap();
    until("the new certificate is in use", Duration::from_secs(20), async || {
        let client = Client::connect_only(server.address).await;
        match client.try_trusting(&second, "mail.acme.test").await {
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    })
    .await;
}
