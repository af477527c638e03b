//! Determines how sessions are opened: to each relay as configured, to mail exchangers by the TLS requirements of the
//! recipient's domain.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use hickory_resolver::TokioResolver;
use lettre::transport::smtp::extension::ClientId;

use super::connection::handshake::Policy;
use super::connection::tls::Tls;
use super::failover::Server;
use super::mx::mx_guard::MxGuard;
use super::pool::Destination;
use super::settings::{Settings, SetupError};
use crate::dns::resolver;
use crate::domain::network::Allowed;
use crate::domain::routing::RouteName;
use crate::domain::routing::relay::{Relay, TlsMode};
use crate::smtp::sts;

/// Creates policies, each with a unique id.
pub(in crate::smtp) struct Policies {
    settings: Settings,
    client: ClientId,
    /// Resolver for the names of relays; `None` for the system's.
    dns: Option<TokioResolver>,
    guard: Arc<MxGuard>,
    /// Number of policies created; the last id.
    count: u32,
}

impl Policies {
    pub fn new(settings: Settings) -> Result<Self, SetupError> {
        let dns = settings.dns.map(|server| resolver(Some(server))).transpose();
        let dns = dns.map_err(|error| SetupError::Dns(error.to_string()))?;
        let guard = Arc::new(settings.mx_guard());
        Ok(Self { client: client_id(&settings.hostname)?, settings, dns, guard, count: 0 })
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns every route's relays. Routes with the same relay share it and its connections.
    pub fn relays(&mut self) -> Result<HashMap<RouteName, Vec<Arc<Server>>>, SetupError> {
        let default = self.settings.relay.iter().map(|relay| (RouteName::Relay, vec![relay.clone()]));
        let named = self.settings.routes.iter().map(|(name, relays)| (RouteName::Named(name.clone()), relays.clone()));
        let lists: Vec<_> = default.chain(named).collect();
        let mut created: Vec<(Relay, Arc<Server>)> = Vec::new();
        let mut routes = HashMap::new();
        for (name, relays) in lists {
            let mut servers = Vec::with_capacity(relays.len());
            for relay in relays {
                let server = match created.iter().find(|(other, _)| *other == relay) {
                    Some((_, server)) => server.clone(),
                    None => Arc::new(self.relay(&relay)?),
                };
                created.push((relay, server.clone()));
                servers.push(server);
            }
            routes.insert(name, servers);
        }
        Ok(routes)
    }

    /// Returns a server that users of the API chose. It is connected to at admitted addresses only.
    pub fn chosen_server(&mut self, relay: &Relay) -> Result<Server, SetupError> {
        let allowed = Some(self.settings.allow_private_relays.clone());
        self.server(relay, allowed)
    }

    fn relay(&mut self, relay: &Relay) -> Result<Server, SetupError> {
        self.server(relay, None)
    }

    fn server(&mut self, relay: &Relay, allowed: Option<Allowed>) -> Result<Server, SetupError> {
        let policy = Policy {
            implicit_tls: relay.implicit_tls,
            credentials: relay.credentials.clone(),
            is_final: false,
            guard: None,
            allowed,
            idle: self.settings.relay_idle,
            ..self.policy(relay.tls, relay.ca_file.as_deref())?
        };
        let destination = Destination { host: relay.host.clone(), port: relay.port, ip: None, policy: policy.id };
        Ok(Server::new(relay.to_string(), destination, Arc::new(policy)))
    }

    /// Returns the policies for mail exchangers.
    pub fn mx(&mut self) -> Result<MxPolicies, SetupError> {
        let (ca_file, tls_modes) = (self.settings.mta_sts.ca_file.clone(), self.settings.mx_tls.clone());
        let mut policy = |mode| self.policy(mode, ca_file.as_deref());
        Ok(MxPolicies {
            none: Arc::new(policy(TlsMode::None)?),
            opportunistic: Arc::new(policy(TlsMode::Opportunistic)?),
            probing: Arc::new(Policy { tls: Tls::probing(ca_file.as_deref())?, ..policy(TlsMode::Opportunistic)? }),
            required: Arc::new(policy(TlsMode::Required)?),
            verified: Arc::new(policy(TlsMode::Verified)?),
            tls_modes,
        })
    }

    fn policy(&mut self, mode: TlsMode, ca_file: Option<&Path>) -> Result<Policy, SetupError> {
        self.count += 1;
        Ok(Policy {
            id: self.count,
            client: self.client.clone(),
            mode,
            implicit_tls: false,
            tls: Tls::new(mode, ca_file)?,
            credentials: None,
            is_final: true,
            dns: self.dns.clone(),
            guard: Some(self.guard.clone()),
            allowed: None,
            connections: self.settings.connections,
            max_messages: self.settings.messages_per_connection,
            age: self.settings.connection_age,
            idle: self.settings.mx_idle,
            timeouts: self.settings.timeouts.clone(),
        })
    }
}

/// The policies for mail exchangers.
pub(in crate::smtp) struct MxPolicies {
    none: Arc<Policy>,
    opportunistic: Arc<Policy>,
    /// Opportunistic, and reports certificate errors; for an MTA-STS policy in testing mode.
    probing: Arc<Policy>,
    required: Arc<Policy>,
    pub verified: Arc<Policy>,
    /// The configured modes by recipient domain; `*` applies to all others.
    tls_modes: BTreeMap<String, TlsMode>,
}

impl MxPolicies {
    /// Returns the policy for a domain's mail exchangers: the stricter of the configuration and the domain's MTA-STS
    /// policy.
    pub fn for_domain(&self, domain: &str, sts: Option<sts::Mode>) -> &Arc<Policy> {
        let configured = self.tls_modes.get(domain).or_else(|| self.tls_modes.get("*")).copied();
        match (configured.unwrap_or(TlsMode::Opportunistic), sts) {
            (TlsMode::Verified, _) | (_, Some(sts::Mode::Enforce)) => &self.verified,
            (TlsMode::Required, _) => &self.required,
            (TlsMode::Opportunistic, Some(sts::Mode::Testing)) => &self.probing,
            (TlsMode::Opportunistic, _) => &self.opportunistic,
            (TlsMode::None, _) => &self.none,
        }
    }
}

fn client_id(hostname: &str) -> Result<ClientId, SetupError> {
    match hostname.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => return Ok(ClientId::Ipv4(ip)),
        Ok(IpAddr::V6(ip)) => return Ok(ClientId::Ipv6(ip)),
        Err(_) => {}
    }
    let is_valid = (1..=255).contains(&hostname.len())
        && hostname.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if is_valid { Ok(ClientId::Domain(hostname.to_owned())) } else { Err(SetupError::Hostname(hostname.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_that_is_invalid_in_ehlo_is_refused() {
        assert_eq!(client_id("mail.acme.test").unwrap().to_string(), "mail.acme.test");
        assert_eq!(client_id("192.0.2.1").unwrap().to_string(), "[192.0.2.1]");
        assert_eq!(client_id("2001:db8::1").unwrap().to_string(), "[IPv6:2001:db8::1]");
        for name in ["", "a b", "a\r\nQUIT", "café.test"] {
            assert!(client_id(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn domain_mode_precedes_default_and_mta_sts_only_tightens() {
        let mx_tls = [("bank.test", TlsMode::Verified), ("*", TlsMode::None)];
        let mx_tls = mx_tls.map(|(domain, mode)| (domain.to_owned(), mode)).into();
        let settings = Settings { mx_tls, ..Settings::default() };
        let mx = Policies::new(settings).unwrap().mx().unwrap();
        let mode = |domain, sts| mx.for_domain(domain, sts).mode;
        assert_eq!((mode("bank.test", None), mode("other.test", None)), (TlsMode::Verified, TlsMode::None));
        assert_eq!(mode("other.test", Some(sts::Mode::Testing)), TlsMode::None);
        assert_eq!(mode("other.test", Some(sts::Mode::Enforce)), TlsMode::Verified);
    }
}
