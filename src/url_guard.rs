//! Decides which addresses the URLs of API users may have: public addresses, and those that the configuration allows.
//! At every connection the name is resolved, each address is checked, and only a checked address is connected to, so
//! that a change of the DNS cannot lead to a forbidden address (DNS rebinding).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use tokio::time::timeout;
use url::{Host, Url};

use crate::dns::{describe_error, is_local_address};
use crate::domain::network::{Allowed, IpClass};
use crate::http_client::Lookup;

/// Maximum wait for the DNS when a URL is checked before it is used.
const DNS_TIMEOUT: Duration = Duration::from_secs(5);

/// What the URLs are used for. Errors name the settings of this use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Events are posted to the URL. Public addresses need `https://`: events contain addresses, subjects and metadata,
    /// which a signature does not hide.
    Webhook,
    /// A file is downloaded from the URL. Errors do not reveal the addresses of a host, because every key that may send
    /// messages sees them.
    Attachment,
}

impl Purpose {
    /// Describes an address that only a setting can permit.
    fn private(self, host: &str, ip: IpAddr, class: IpClass) -> String {
        match self {
            Self::Webhook if class.is_private() => format!(
                "{host} is at {ip}, a {class} address: only `webhooks.allow_private` or `webhooks.allow` can permit that"
            ),
            Self::Webhook => format!("{host} is at {ip}, a {class} address: only `webhooks.allow` can permit that"),
            Self::Attachment => {
                format!("{host} has no public address: only `resend.fetch_allow` can permit the one that it has")
            }
        }
    }

    /// Describes a public address of this machine.
    fn own(self, host: &str, ip: IpAddr) -> String {
        match self {
            Self::Webhook => {
                format!("{host} is at {ip}, an address of this machine: only `webhooks.allow` can permit that")
            }
            Self::Attachment => {
                format!("{host} is the machine of this service: only `resend.fetch_allow` can permit that")
            }
        }
    }

    /// Describes an address that `postrider dev` refuses.
    fn other_machine(self, host: &str, ip: IpAddr) -> String {
        match self {
            Self::Webhook => format!(
                "{host} is at {ip}, another machine: `postrider dev` posts to this machine only, such as \
                 http://127.0.0.1:3000/ or its own receiver, /dev/hooks"
            ),
            Self::Attachment => format!(
                "{host} is another machine: `postrider dev` downloads from this machine only, such as \
                 http://127.0.0.1:3000/"
            ),
        }
    }
}

/// Why a URL may not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The scheme is neither `https` nor `http`.
    #[error("the URL must begin with https:// or http://")]
    Scheme,
    /// The URL contains credentials, which would appear in every log.
    #[error("the URL must not contain a user name or a password")]
    Credentials,
    /// The URL has no host.
    #[error("the URL must contain a host")]
    Host,
    /// The address is not public.
    #[error("{}", .purpose.private(.host, *.ip, *.class))]
    Address {
        /// Host as in the URL.
        host: String,
        /// Address of the host.
        ip: IpAddr,
        /// Class of the address.
        class: IpClass,
        /// What the URL is used for.
        purpose: Purpose,
    },
    /// The address is public and belongs to this machine.
    #[error("{}", .purpose.own(.host, *.ip))]
    Own {
        /// Host as in the URL.
        host: String,
        /// Address of the host.
        ip: IpAddr,
        /// What the URL is used for.
        purpose: Purpose,
    },
    /// The address is public and the URL of a webhook has no TLS.
    #[error("{host} is at {ip}, a public address: use https://; only `webhooks.allow` can permit http://")]
    Unencrypted {
        /// Host as in the URL.
        host: String,
        /// Address of the host.
        ip: IpAddr,
    },
    /// The address belongs to another machine; refused by `postrider dev`.
    #[error("{}", .purpose.other_machine(.host, *.ip))]
    NotThisMachine {
        /// Host as in the URL.
        host: String,
        /// Address of the host.
        ip: IpAddr,
        /// What the URL is used for.
        purpose: Purpose,
    },
    /// The name does not exist, or has no address.
    #[error("{0} does not exist, or has no address")]
    Unknown(String),
}

/// Resolves hosts and decides which addresses may be used.
#[derive(Clone)]
pub struct Guard {
    dns: TokioResolver,
    allowed: Arc<Allowed>,
    purpose: Purpose,
    /// Whether the URL's scheme is `http`.
    is_plain: bool,
}

impl Guard {
    /// Creates a guard that resolves with `dns` and admits public addresses and those in `allowed`.
    pub fn new(dns: TokioResolver, allowed: Allowed, purpose: Purpose) -> Self {
        Self { dns, allowed: Arc::new(allowed), purpose, is_plain: false }
    }

    /// Returns the guard for `http://`. For webhooks, it admits public addresses only if `webhooks.allow` names them.
    #[must_use]
    pub fn plain(&self) -> Self {
        Self { is_plain: true, ..self.clone() }
    }

    fn for_scheme(&self, url: &Url) -> Self {
        if url.scheme() == "http" { self.plain() } else { self.clone() }
    }

    /// Checks whether this URL may be used. A DNS failure does not refuse it, because every connection resolves the name
    /// again.
    pub async fn admits(&self, url: &Url) -> Result<(), Denied> {
        let Some(host) = self.check_url(url)? else { return Ok(()) };
        match timeout(DNS_TIMEOUT, self.for_scheme(url).addresses(&host)).await {
            Ok(Err(Refusal::Denied(denied))) => Err(denied),
            Ok(Ok(_) | Err(Refusal::Dns(_))) | Err(_) => Ok(()),
        }
    }

    /// Makes the checks that need no DNS. Returns the name to resolve, or `None` for an IP address.
    pub fn check_url(&self, url: &Url) -> Result<Option<String>, Denied> {
        if !matches!(url.scheme(), "https" | "http") {
            return Err(Denied::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Denied::Credentials);
        }
        let ip = match url.host() {
            None => return Err(Denied::Host),
            Some(Host::Domain(name)) => {
                let name = name.trim_end_matches('.');
                return if name.is_empty() { Err(Denied::Host) } else { Ok(Some(name.to_owned())) };
            }
            Some(Host::Ipv4(ip)) => IpAddr::V4(ip),
            Some(Host::Ipv6(ip)) => IpAddr::V6(ip),
        };
        self.for_scheme(url).check(&ip.to_string(), ip).map(|()| None)
    }

    /// Returns a lookup for an HTTP client that resolves names to permitted addresses only.
    pub fn lookup(&self) -> Lookup {
        let guard = self.clone();
        Arc::new(move |host| {
            let guard = guard.clone();
            Box::pin(async move { guard.addresses(&host).await.map_err(Into::into) })
        })
    }

    /// Resolves a host to its permitted addresses, at least one.
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, Refusal> {
        let found = match self.dns.lookup_ip(format!("{host}.")).await {
            Ok(found) => found,
            Err(error) if error.is_no_records_found() => return Err(Denied::Unknown(host.to_owned()).into()),
            Err(error) => return Err(error.into()),
        };
        let mut admitted = Vec::new();
        let mut denied = Denied::Unknown(host.to_owned());
        for ip in found.iter() {
            match self.check(host, ip) {
                Ok(()) => admitted.push(ip),
                Err(why) => denied = why,
            }
        }
        if admitted.is_empty() { Err(denied.into()) } else { Ok(admitted) }
    }

    fn check(&self, host: &str, ip: IpAddr) -> Result<(), Denied> {
        let (host, purpose) = (|| host.to_owned(), self.purpose);
        if self.allowed.this_machine_only {
            let is_here = IpClass::classify(ip) == IpClass::Loopback || is_local_address(ip);
            return if is_here { Ok(()) } else { Err(Denied::NotThisMachine { host: host(), ip, purpose }) };
        }
        if !self.allowed.admits(&host(), ip) {
            return Err(Denied::Address { host: host(), ip, class: IpClass::classify(ip), purpose });
        }
        match IpClass::classify(ip) {
            IpClass::Public if self.allowed.names(&host(), ip) => Ok(()),
            IpClass::Public if is_local_address(ip) => Err(Denied::Own { host: host(), ip, purpose }),
            IpClass::Public if self.is_plain && purpose == Purpose::Webhook => {
                Err(Denied::Unencrypted { host: host(), ip })
            }
            _ => Ok(()),
        }
    }
}

/// Why a host has no permitted address.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("cannot resolve the host: {}", describe_error(.0))]
    Dns(#[from] NetError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::resolver;

    /// Returns a guard whose DNS server cannot be reached.
    fn guard(allowed: Allowed) -> Guard {
        guard_for(allowed, Purpose::Webhook)
    }

    fn guard_for(allowed: Allowed, purpose: Purpose) -> Guard {
        Guard::new(resolver(Some("127.0.0.1:1".parse().unwrap())).unwrap(), allowed, purpose)
    }

    #[test]
    fn a_refusal_names_the_settings_that_would_permit_it() {
        let text = |ip: &str| {
            let ip = ip.parse().unwrap();
            let (host, class, purpose) = ("a.test".into(), IpClass::classify(ip), Purpose::Webhook);
            Denied::Address { host, ip, class, purpose }.to_string()
        };
        assert!(text("10.0.0.1").contains("`webhooks.allow_private` or `webhooks.allow`"));
        assert!(!text("169.254.169.254").contains("allow_private"));
    }

    #[tokio::test]
    async fn no_spelling_of_a_private_address_is_admitted() {
        let guard = guard(Allowed::default());
        for host in [
            "127.0.0.1",
            "127.1",
            "127.0.1",
            "127.000.000.001",
            "2130706433",
            "017700000001",
            "0x7f000001",
            "0x7f.1",
            "0x7F.0x0.0x0.0x1",
            "0177.0.0.1",
            "127.0.0.1.",
            "%31%32%37.0.0.1",
            "\u{ff11}\u{ff12}\u{ff17}.0.0.1",
            "127\u{3002}0\u{3002}0\u{3002}1",
            "\u{2460}\u{2461}\u{2466}.0.0.1",
            "0",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "3232235777",
            "169.254.169.254",
            "2852039166",
            "0xa9fea9fe",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "[::]",
            "[::1]",
            "[0:0:0:0:0:0:0:1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::127.0.0.1]",
            "[fe80::1]",
            "[fd00::1]",
            "[ff02::1]",
            "[64:ff9b::7f00:1]",
            "[64:ff9b:1::10.0.0.1]",
            "[2002:7f00:1::]",
            "[2001:0:7f00:1::]",
            "localhost",
            "LOCALHOST",
            "localhost.",
            "api.localhost",
        ] {
            let url = Url::parse(&format!("https://{host}/hook")).unwrap_or_else(|error| panic!("{host}: {error}"));
            let denied = guard.admits(&url).await;
            assert!(matches!(denied, Err(Denied::Address { .. })), "{host}: {denied:?}");
        }
    }

    #[tokio::test]
    async fn other_schemes_and_credentials_are_refused() {
        let guard = guard(Allowed { private: true, ..Allowed::default() });
        for (url, denied) in [
            ("ftp://1.1.1.1/", Denied::Scheme),
            ("file:///etc/passwd", Denied::Scheme),
            ("gopher://127.0.0.1:25/", Denied::Scheme),
            ("https://user@1.1.1.1/", Denied::Credentials),
            ("https://user:pass@1.1.1.1/", Denied::Credentials),
            ("https://:pass@1.1.1.1/", Denied::Credentials),
            ("https://./", Denied::Host),
        ] {
            assert_eq!(guard.admits(&Url::parse(url).unwrap()).await, Err(denied), "{url}");
        }
        for url in ["https://1.1.1.1/", "https://[2606:4700::1111]:8080/", "http://127.0.0.1/"] {
            assert_eq!(guard.admits(&Url::parse(url).unwrap()).await, Ok(()), "{url}");
        }
    }

    #[tokio::test]
    async fn http_to_a_public_address_must_be_allowed_explicitly() {
        let allowed = Allowed { private: true, rules: vec!["1.1.1.0/24".parse().unwrap()], ..Allowed::default() };
        let guard = guard(allowed);
        for url in ["http://8.8.8.8/", "http://[2606:4700::1111]:8080/"] {
            let denied = guard.admits(&Url::parse(url).unwrap()).await;
            assert!(matches!(denied, Err(Denied::Unencrypted { .. })), "{url}: {denied:?}");
        }
        for url in ["https://8.8.8.8/", "http://1.1.1.1/", "http://10.0.0.1/"] {
            assert_eq!(guard.admits(&Url::parse(url).unwrap()).await, Ok(()), "{url}");
        }
    }

    #[tokio::test]
    async fn only_this_machine_is_admitted_if_so_configured() {
        let rules = vec!["10.0.0.0/8".parse().unwrap(), "1.1.1.1".parse().unwrap()];
        let guard = guard(Allowed { this_machine_only: true, private: true, rules });
        for url in ["http://127.0.0.1:3000/", "http://[::1]/", "http://localhost:8080/dev/hooks"] {
            assert_eq!(guard.admits(&Url::parse(url).unwrap()).await, Ok(()), "{url}");
        }
        for url in ["https://1.1.1.1/", "http://10.255.0.1/", "http://169.254.169.254/", "http://[2606:4700::1111]/"] {
            let denied = guard.admits(&Url::parse(url).unwrap()).await;
            assert!(matches!(denied, Err(Denied::NotThisMachine { .. })), "{url}: {denied:?}");
        }
    }

    #[tokio::test]
    async fn files_may_come_from_public_addresses_without_tls() {
        let guard = guard_for(Allowed::default(), Purpose::Attachment);
        for url in ["http://1.1.1.1/a.pdf", "https://1.1.1.1/a.pdf"] {
            assert_eq!(guard.admits(&Url::parse(url).unwrap()).await, Ok(()), "{url}");
        }
        for url in ["http://10.1.2.3/a.pdf", "https://127.0.0.1/a.pdf", "http://169.254.169.254/latest/meta-data"] {
            let denied = guard.admits(&Url::parse(url).unwrap()).await.unwrap_err();
            assert!(matches!(denied, Denied::Address { .. }), "{url}: {denied:?}");
        }
        let local = guard_for(Allowed { this_machine_only: true, ..Allowed::default() }, Purpose::Attachment);
        let denied = local.admits(&Url::parse("https://1.1.1.1/a.pdf").unwrap()).await.unwrap_err();
        assert!(denied.to_string().contains("downloads from this machine only"), "{denied}");
        let (host, ip) = ("files.test".to_owned(), "10.1.2.3".parse().unwrap());
        let (class, purpose) = (IpClass::Private, Purpose::Attachment);
        let text = Denied::Address { host, ip, class, purpose }.to_string();
        assert!(text.contains("`resend.fetch_allow`") && !text.contains("10.1.2.3"), "{text}");
    }
}
