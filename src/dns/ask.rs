//! Looks up the current records, as text. Nothing is cached, because the operator has usually just changed a record.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::rdata::TXT;
use hickory_resolver::proto::rr::{Name, RData};
use tokio::time::timeout;

use super::counted;
use crate::metrics::labels::DnsKind;

/// Time limit of one query.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);

/// The records found (empty if there are none), or the reason why the query failed.
type Answer = Result<Vec<String>, String>;

/// Queries the DNS without a cache.
#[derive(Clone)]
pub struct UncachedResolver(TokioResolver);

impl fmt::Debug for UncachedResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UncachedResolver")
    }
}

impl UncachedResolver {
    /// Creates a resolver that queries `server`, or the system's resolvers.
    pub fn new(server: Option<SocketAddr>) -> Result<Self, NetError> {
        let mut dns = super::builder(server)?;
        dns.options_mut().cache_size = 0;
        dns.build().map(Self)
    }

    /// Returns the TXT records of a name, each record's strings joined.
    pub async fn texts(&self, name: &str) -> Answer {
        let text = |data: &RData| if let RData::TXT(text) = data { Some(joined(text)) } else { None };
        self.lookup(name, |name| counted(DnsKind::Txt, self.0.txt_lookup(name)), text).await
    }

    /// Returns the mail exchangers of a name, each as `preference host`.
    pub async fn exchangers(&self, name: &str) -> Answer {
        let text = |data: &RData| {
            if let RData::MX(mx) = data { Some(format!("{} {}", mx.preference, mx.exchange.to_ascii())) } else { None }
        };
        self.lookup(name, |name| counted(DnsKind::Mx, self.0.mx_lookup(name)), text).await
    }

    /// Returns the addresses of a host.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        let name = absolute(host)?;
        match timeout(QUERY_TIMEOUT, counted(DnsKind::Address, self.0.lookup_ip(name))).await {
            Err(_) => Err(TOO_LONG.into()),
            Ok(Ok(found)) => Ok(found.iter().collect()),
            Ok(Err(error)) if is_not_found(&error) => Ok(Vec::new()),
            Ok(Err(error)) => Err(super::describe_error(&error)),
        }
    }

    /// Returns the names in an address's PTR records, in lower case.
    pub async fn names(&self, address: IpAddr) -> Answer {
        let name = |data: &RData| {
            let RData::PTR(host) = data else { return None };
            Some(host.0.to_ascii().trim_end_matches('.').to_ascii_lowercase())
        };
        match timeout(QUERY_TIMEOUT, counted(DnsKind::Ptr, self.0.reverse_lookup(address))).await {
            Err(_) => Err(TOO_LONG.into()),
            Ok(answer) => records(answer, name),
        }
    }

    async fn lookup<F: Future<Output = Result<Lookup, NetError>>>(
        &self,
        name: &str,
        query: impl FnOnce(Name) -> F,
        text: impl Fn(&RData) -> Option<String>,
    ) -> Answer {
        match timeout(QUERY_TIMEOUT, query(absolute(name)?)).await {
            Err(_) => Err(TOO_LONG.into()),
            Ok(answer) => records(answer, text),
        }
    }
}

const TOO_LONG: &str = "it took too long";

fn absolute(name: &str) -> Result<Name, String> {
    Name::from_ascii(format!("{}.", name.trim_end_matches('.')))
        .map_err(|_| format!("{name} is not a valid domain name"))
}

fn is_not_found(error: &NetError) -> bool {
    error.is_nx_domain() || error.is_no_records_found()
}

fn records(answer: Result<Lookup, NetError>, text: impl Fn(&RData) -> Option<String>) -> Answer {
    match answer {
        Ok(found) => Ok(found.answers().iter().filter_map(|record| text(&record.data)).collect()),
        Err(error) if is_not_found(&error) => Ok(Vec::new()),
        Err(error) => Err(super::describe_error(&error)),
    }
}

/// Joins the strings of a record (RFC 7208 §3.3). Replaces invalid UTF-8 and control characters, some of which Postgres
/// would reject.
fn joined(text: &TXT) -> String {
    let bytes = text.txt_data.concat();
    let printable = |c: char| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c };
    String::from_utf8_lossy(&bytes).chars().map(printable).collect()
}
