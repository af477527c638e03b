//! `--dkim`: the sender's domain gets its keys through the API, as an operator's does.

use std::net::SocketAddr;

use serde::Serialize;

use super::BenchError;
use super::error::Doing as _;
use super::http::Connection;

/// How mail is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dkim {
    /// Not at all.
    None,
    /// Ed25519 (RFC 8463)
    Ed25519,
    /// RSA with 2048 bits
    Rsa,
}

/// Registers the sender's domain for signing, before anything is sent. To be called with a key that administers.
pub(super) async fn register(api: SocketAddr, key: &str, domain: &str, dkim: Dkim) -> Result<(), BenchError> {
    if dkim == Dkim::None {
        return Ok(());
    }
    let mut connection = Connection::open(api).await.doing("reach the service")?;
    let body = serde_json::json!({ "name": domain }).to_string();
    let status = connection.call("POST", "/v1/domains", key, &body).await;
    match status.doing("register the sender's domain")? {
        // Which of its keys sign is the one thing that is left to say here.
        200 | 201 => BenchError::refused("--dkim cannot choose the algorithm yet"),
        _ => BenchError::refused("--dkim needs /v1/domains, which this version does not have: leave it out"),
    }
}
