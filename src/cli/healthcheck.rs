//! `postrider healthcheck`: the health check of a container without a shell.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::config::Config;

const TIMEOUT: Duration = Duration::from_secs(3);

pub(super) async fn run(config: &Config) -> anyhow::Result<ExitCode> {
    // A worker has no other listener.
    let address = reachable(config.metrics.listen.unwrap_or(config.listen));
    tokio::time::timeout(TIMEOUT, probe(address))
        .await
        .with_context(|| format!("{address} did not respond in time"))??;
    Ok(ExitCode::SUCCESS)
}

/// Returns an address at which a server that listens on all addresses can be reached.
pub(super) fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

async fn probe(address: SocketAddr) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address).await.with_context(|| format!("nothing listens on {address}"))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await?;
    if !response.starts_with(b"HTTP/1.1 200 ") {
        bail!("{address} responds, but is not healthy");
    }
    Ok(())
}
