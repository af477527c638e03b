//! Fetches a policy over HTTPS (RFC 8461 §3.3): a valid certificate, no redirects, no proxy, no address inside our own
//! network, a bounded text in bounded time. What is at the other end is up to whoever we are sent mail for.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, StatusCode, Url, redirect};
use rustls::ClientConfig;

use super::policy::{Policy, PolicyError};
use crate::domain::network::Place;

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
            let allowed = |ip: &IpAddr| Place::of(*ip) == Place::Public || (allow_loopback && ip.is_loopback());
            let addresses: Vec<_> = found.iter().filter(allowed).map(|ip| SocketAddr::new(ip, 0)).collect();
            if addresses.is_empty() {
                return Err(format!("{} has no public address", name.as_str()).into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
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
