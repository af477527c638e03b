//! Plans direct delivery to a domain's mail exchangers: the servers and their TLS requirements. The stricter of the
//! configuration and the domain's MTA-STS policy applies.

use std::sync::Arc;

use super::{Exchanger, Resolver};
use crate::smtp::client::connection::handshake;
use crate::smtp::client::failover::ServerHealthMap;
use crate::smtp::client::outgoing_message::Judgement;
use crate::smtp::client::policies::MxPolicies;
use crate::smtp::client::pool::Destination;
use crate::smtp::client::settings::Settings;
use crate::smtp::sts::{self, Policies};

/// Direct delivery to mail exchangers.
pub(in crate::smtp) struct Direct {
    resolver: Resolver,
    /// MTA-STS policies; `None` if MTA-STS is disabled.
    mta_sts: Option<Arc<Policies>>,
    port: u16,
    tls_policies: MxPolicies,
    /// Health of the mail exchangers.
    pub server_health: ServerHealthMap,
}

/// The servers that one message may be sent to.
pub(in crate::smtp) struct MxPlan {
    /// Servers in the order in which they are tried.
    pub servers: Vec<Destination>,
    /// How sessions with the servers are opened.
    pub policy: Arc<handshake::Policy>,
    /// The MTA-STS policy to report in the attempt.
    pub sts: Option<Arc<sts::Policy>>,
}

impl Direct {
    pub fn new(settings: &Settings, resolver: Resolver, tls_policies: MxPolicies) -> Self {
        let mta_sts = if settings.mta_sts.enabled {
            Some(Arc::new(Policies::new(settings, resolver.dns(), tls_policies.verified.tls.config())))
        } else {
            None
        };
        Self { resolver, mta_sts, port: settings.mx_port, tls_policies, server_health: ServerHealthMap::default() }
    }

    /// Finds the domain's servers. If there are none or the lookup fails, returns a judgement for the recipients.
    pub async fn plan(&self, domain: &str) -> Result<MxPlan, Judgement> {
        let sts = match &self.mta_sts {
            Some(policies) => policies.get(domain).await,
            None => None,
        };
        let found = self.resolver.exchangers(domain, sts.as_deref()).await?.into_iter();
        let policy = self.tls_policies.for_domain(domain, sts.as_ref().map(|sts| sts.mode)).clone();
        let destination =
            |mx: Exchanger| Destination { host: mx.host, port: self.port, ip: Some(mx.ip), policy: policy.id };
        Ok(MxPlan { servers: found.map(destination).collect(), policy, sts })
    }
}
