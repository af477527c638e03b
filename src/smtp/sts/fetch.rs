//! Fetches a policy over HTTPS (RFC 8461 §3.3): a valid certificate, no redirects, no proxy, public addresses only,
//! bounded size and time. The server is untrusted: the owner of the recipient's domain chooses it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode};
use rustls::ClientConfig;
use tokio::time::timeout;
use url::Url;

use super::policy::{Policy, PolicyError};
use crate::dns::counted;
use crate::domain::network::IpClass;
use crate::http_client::{self, BoxError, HttpClient, HttpError, Lookup, RESPONSE_LIMIT};
use crate::metrics::labels::DnsKind;

/// Maximum length of a policy in bytes (RFC 8461 §3.3).
const MAX_POLICY_BYTES: usize = 64 * 1_024;

/// Why a fetch failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// The domain yields no valid host name.
    #[error("the domain yields no valid URL")]
    Url,
    /// The connection, the certificate or the response failed.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The time limit passed.
    #[error("no response within {} s", .0.as_secs_f64())]
    TimedOut(Duration),
    /// The status is not 200; redirects count as failures.
    #[error("the server returned {0}")]
    Status(StatusCode),
    /// The response is of another type, such as the page that parked domains serve under every name.
    #[error("the response is not text/plain")]
    ContentType,
    /// The policy is longer than [`MAX_POLICY_BYTES`].
    #[error("the policy is longer than {MAX_POLICY_BYTES} bytes")]
    TooLong,
    /// The response is not a policy.
    #[error("the policy is not valid: {0}")]
    Policy(#[from] PolicyError),
}

/// Fetches policies over HTTPS.
pub(super) struct Fetcher {
    client: HttpClient,
    port: u16,
    wait: Duration,
}

impl Fetcher {
    /// Creates a fetcher. `tls` verifies certificates; `wait` is the time limit of a whole fetch.
    pub fn new(dns: TokioResolver, tls: ClientConfig, port: u16, allow_loopback: bool, wait: Duration) -> Self {
        // A server is contacted at most once in several minutes, so no idle connections are kept.
        let settings = http_client::Settings {
            https_only: true,
            idle_per_host: 0,
            idle_timeout: Duration::ZERO,
            response_limit: RESPONSE_LIMIT,
        };
        let lookup: Lookup = Arc::new(move |host| {
            let dns = dns.clone();
            Box::pin(async move { lookup(&dns, &host, allow_loopback).await })
        });
        Self { client: HttpClient::new(tls, lookup, settings), port, wait }
    }

    /// Fetches the policy that the domain publishes now.
    pub async fn fetch(&self, domain: &str) -> Result<Policy, FetchError> {
        timeout(self.wait, self.request(domain)).await.map_err(|_| FetchError::TimedOut(self.wait))?
    }

    async fn request(&self, domain: &str) -> Result<Policy, FetchError> {
        let host = format!("mta-sts.{domain}");
        let url = Url::parse(&format!("https://{host}:{}/.well-known/mta-sts.txt", self.port));
        let url = url.ok().filter(|url| url.host_str() == Some(&host)).ok_or(FetchError::Url)?;
        let request = Request::get(url.as_str()).body(Full::default()).map_err(HttpError::from)?;
        let mut response = self.client.send(request).await?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/plain") {
            return Err(FetchError::ContentType);
        }
        let mut text = Vec::new();
        while let Some(piece) = http_client::chunk(&mut response).await? {
            if text.len() + piece.len() > MAX_POLICY_BYTES {
                return Err(FetchError::TooLong);
            }
            text.extend_from_slice(&piece);
        }
        Ok(Policy::parse(&String::from_utf8_lossy(&text))?)
    }
}

/// Resolves a host to its public addresses.
async fn lookup(dns: &TokioResolver, host: &str, allow_loopback: bool) -> Result<Vec<IpAddr>, BoxError> {
    let found = counted(DnsKind::Address, dns.lookup_ip(format!("{host}."))).await?;
    let allowed = |ip: &IpAddr| IpClass::classify(*ip) == IpClass::Public || (allow_loopback && ip.is_loopback());
    let addresses: Vec<_> = found.iter().filter(allowed).collect();
    if addresses.is_empty() { Err(format!("{host} has no public address").into()) } else { Ok(addresses) }
}
