//! `--dkim`: registers the sender's domain through the API, as an operator does.

use std::net::SocketAddr;

use serde::Serialize;

use super::http::Connection;
use crate::bench::BenchError;
use crate::bench::error::Doing as _;

/// How messages are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dkim {
    /// Not signed
    None,
    /// Ed25519 (RFC 8463)
    Ed25519,
    /// RSA with 2048 bits
    Rsa,
}

/// The secret key that encrypts the DKIM keys of the bench's domain. It is a constant, so that a later run on the same
/// database can decrypt them.
const SECRET: &str = "the bench signs for a domain that does not exist";

/// The service settings for this kind of signature.
pub(in crate::bench) fn settings(dkim: Dkim) -> [(&'static str, String); 2] {
    let algorithm = match dkim {
        // Turns signing off even if an earlier run on this database has registered the domain.
        Dkim::None => "none",
        Dkim::Ed25519 => "ed25519",
        Dkim::Rsa => "rsa",
    };
    [("POSTRIDER_SECRET_KEY", SECRET.to_owned()), ("POSTRIDER_DKIM__ALGORITHMS", algorithm.to_owned())]
}

/// Registers the sender's domain for signing, before any message is sent. `key` needs the scope `admin`.
pub(in crate::bench) async fn register(api: SocketAddr, key: &str, domain: &str, dkim: Dkim) -> Result<(), BenchError> {
    if dkim == Dkim::None {
        return Ok(());
    }
    let doing = "register the sender's domain";
    let mut connection = Connection::open(api).await.doing("reach the service")?;
    let body = serde_json::json!({ "name": domain }).to_string();
    match connection.call("POST", "/v1/domains", key, &body).await.doing(doing)? {
        // 409: an earlier run on this database has registered it.
        201 | 409 => Ok(()),
        status => Err(format!("{status} {}", String::from_utf8_lossy(connection.body()))).doing(doing),
    }
}
