//! Helpers for tests of [`Sender`] with the scriptable server.

use std::net::SocketAddr;

use postrider::domain::outcome::{Outcome, Verdict};
use postrider::domain::routing::RouteName;
use postrider::smtp::{Envelope, Relay, Route, Sender, Settings};

use super::smtp::SmtpServer;

/// A small message.
pub const MAIL: &[u8] = b"Subject: hello\r\n\r\nHello.\r\n";

/// Returns settings with the server as the relay, without TLS.
pub fn relay(smtp: &SmtpServer) -> Settings {
    relay_at(smtp.address(), "tls=none")
}

/// Returns settings with a relay at this address; `options` is the query of its URL.
pub fn relay_at(address: SocketAddr, options: &str) -> Settings {
    let relay: Relay = format!("smtp://{address}?{options}").parse().unwrap();
    Settings { hostname: "client.test".into(), relay: Some(relay), ..Settings::default() }
}

pub fn sender(settings: Settings) -> Sender {
    Sender::new(settings).unwrap()
}

pub fn envelope<const N: usize>(to: [&str; N]) -> Envelope {
    let to = to.map(|address| address.parse().unwrap()).into();
    Envelope { from: Some("bounce@acme.test".parse().unwrap()), to, dsn: None }
}

/// Returns the route to the relay of the settings.
pub fn through_relay() -> Route {
    Route::Relay(RouteName::Relay)
}

/// Sends [`MAIL`] through the relay.
pub async fn send<const N: usize>(sender: &Sender, to: [&str; N]) -> Vec<Outcome> {
    sender.send(&through_relay(), &envelope(to), MAIL).await
}

/// Sends [`MAIL`] to one recipient through the relay.
pub async fn send_one(sender: &Sender) -> Outcome {
    send(sender, ["ann@example.test"]).await.remove(0)
}

pub fn verdicts(outcomes: &[Outcome]) -> Vec<Verdict> {
    outcomes.iter().map(|outcome| outcome.verdict).collect()
}

/// Returns a message of about this many bytes, with dots at the start of lines.
pub fn message_of_size(size: usize) -> Vec<u8> {
    let mut message = b"Subject: large\r\n\r\n".to_vec();
    while message.len() < size {
        message.extend_from_slice(b".0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrst\r\n");
    }
    message
}
