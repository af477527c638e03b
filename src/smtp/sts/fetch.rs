//! Fetches a policy over HTTPS (RFC 8461 §3.3): a valid certificate, no redirects, no proxy, no address inside our own
//! network, a bounded text in bounded time. What is at the other end is up to whoever we are sent mail for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, StatusCode, Url, redirect};
use rustls::ClientConfig;

use super::policy::{Policy, PolicyError};

/// The longest text of a policy in octets (RFC 8461 §3.3).
const LIMIT: usize = 64 * 1_024;

/// Why there is no policy.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// The domain makes no host name.
    #[error("the domain makes no URL")]
    Url,
    /// No connection, no valid certificate, no answer, or not in time.
    #[error("{}", chain(.0))]
    Http(#[from] reqwest::Error),
    /// Redirects are among them.
    #[error("it answered {0}")]
    Status(StatusCode),
    /// A page, as parked domains have one under every name.
    #[error("the answer is not text/plain")]
    ContentType,
    /// More than [`LIMIT`].
    #[error("the policy is longer than {LIMIT} octets")]
    TooLong,
    /// Not a policy.
    #[error("the policy is not well-formed: {0}")]
    Policy(#[from] PolicyError),
}

/// Fetches policies.
pub(super) struct Fetcher {
    client: Client,
    port: u16,
}

impl Fetcher {
    /// `tls` verifies certificates; `wait` is for all of a fetch.
    pub fn new(
        dns: TokioResolver,
        tls: ClientConfig,
        port: u16,
        allow_loopback: bool,
        wait: Duration,
    ) -> reqwest::Result<Self> {
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .timeout(wait)
            // Nobody is asked twice within minutes.
            .pool_max_idle_per_host(0)
            .dns_resolver(Guard { dns, allow_loopback })
            .build()?;
        Ok(Self { client, port })
    }

    /// The policy that the domain publishes now.
    pub async fn fetch(&self, domain: &str) -> Result<Policy, FetchError> {
        let host = format!("mta-sts.{domain}");
        let url = Url::parse(&format!("https://{host}:{}/.well-known/mta-sts.txt", self.port));
        let url = url.ok().filter(|url| url.host_str() == Some(&host)).ok_or(FetchError::Url)?;
        let mut response = self.client.get(url).send().await?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/plain") {
            return Err(FetchError::ContentType);
        }
        let mut text = Vec::new();
        while let Some(piece) = response.chunk().await? {
            if text.len() + piece.len() > LIMIT {
                return Err(FetchError::TooLong);
            }
            text.extend_from_slice(&piece);
        }
        Ok(Policy::parse(&String::from_utf8_lossy(&text))?)
    }
}

/// Resolves with our resolver, and to addresses of other people's machines only.
struct Guard {
    dns: TokioResolver,
    allow_loopback: bool,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let (dns, allow_loopback) = (self.dns.clone(), self.allow_loopback);
        Box::pin(async move {
            let found = dns.lookup_ip(format!("{}.", name.as_str().trim_end_matches('.'))).await?;
            let allowed = |ip: &IpAddr| is_public(*ip) || (allow_loopback && ip.is_loopback());
            let addresses: Vec<_> = found.iter().filter(allowed).map(|ip| SocketAddr::new(ip, 0)).collect();
            if addresses.is_empty() {
                return Err(format!("{} has no public address", name.as_str()).into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// Whether an address is on the Internet rather than in our network or nowhere.
fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let special = match ip.octets() {
        // Shared by carriers (RFC 6598); benchmarks (RFC 2544).
        [100, second, ..] => second & 0xC0 == 64,
        [198, second, ..] => second & 0xFE == 18,
        // This network, protocol assignments, reserved (RFC 6890).
        [0 | 240..=255, ..] | [192, 0, 0, _] => true,
        _ => false,
    };
    !(special
        || ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_documentation())
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    match ip.segments() {
        // Teredo, documentation and 6to4, which have other addresses within.
        [0x2001, 0 | 0x0DB8, ..] | [0x2002, ..] => false,
        [first, ..] => first & 0xE000 == 0x2000,
    }
}

/// reqwest's own words leave the cause out.
fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_network_is_not_public() {
        for ip in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "192.0.0.8",
            "192.0.2.1",
            "198.18.0.1",
            "198.19.255.255",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "64:ff9b::a00:1",
            "2001:db8::1",
            "2001::1",
            "2002:a00:1::",
        ] {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["1.1.1.1", "100.128.0.1", "192.0.1.1", "198.20.0.1", "2606:4700::1111", "2001:4860::8888"] {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
    }
}
