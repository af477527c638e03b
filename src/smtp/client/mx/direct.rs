//! Direct delivery to a domain's mail exchangers: which servers, and with which TLS requirements. The stricter of the
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

/// Everything that direct routes need.
pub(in crate::smtp) struct Direct {
    resolver: Resolver,
    /// MTA-STS policies; `None` if they are not followed.
    policies: Option<Arc<Policies>>,
    port: u16,
    manners: MxPolicies,
    /// Health of the mail exchangers.
    pub server_health: ServerHealthMap,
}

/// Where one message may go.
pub(in crate::smtp) struct Way {
    /// Servers in the order in which they are tried.
    pub servers: Vec<Destination>,
    /// How sessions with them are opened.
    pub policy: Arc<handshake::Policy>,
    /// The MTA-STS policy to report in the attempt.
    pub sts: Option<Arc<sts::Policy>>,
}

impl Direct {
    pub fn new(settings: &Settings, resolver: Resolver, manners: MxPolicies) -> Self {
        let policies = if settings.mta_sts.enabled {
            Some(Arc::new(Policies::new(settings, resolver.dns(), manners.verified.tls.config())))
        } else {
            None
        };
        Self { resolver, policies, port: settings.mx_port, manners, server_health: ServerHealthMap::default() }
    }

    /// Finds the domain's servers; returns a judgement for the recipients if there are none.
    pub async fn way(&self, domain: &str) -> Result<Way, Judgement> {
        let sts = match &self.policies {
            Some(policies) => policies.get(domain).await,
            None => None,
        };
        let found = self.resolver.exchangers(domain, sts.as_deref()).await?.into_iter();
        let policy = self.manners.towards(domain, sts.as_ref().map(|sts| sts.mode)).clone();
        let destination =
            |mx: Exchanger| Destination { host: mx.host, port: self.port, ip: Some(mx.ip), policy: policy.id };
        Ok(Way { servers: found.map(destination).collect(), policy, sts })
    }
}
