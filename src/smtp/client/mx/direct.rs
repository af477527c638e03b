//! Straight to a domain's own servers: who they are, and how safely the message is to be carried there, by the
//! configuration and by the domain's MTA-STS policy, whichever asks for more.

use std::sync::Arc;

use super::{Exchanger, Resolver};
use crate::smtp::client::connection::handshake;
use crate::smtp::client::failover::ServerHealthMap;
use crate::smtp::client::outgoing_message::Judgement;
use crate::smtp::client::policies::MxPolicies;
use crate::smtp::client::pool::Destination;
use crate::smtp::client::settings::{Settings, SetupError};
use crate::smtp::sts::{self, Policies};

/// What is needed for direct routes.
pub(in crate::smtp) struct Direct {
    resolver: Resolver,
    /// None where they are not to be followed.
    policies: Option<Arc<Policies>>,
    port: u16,
    manners: MxPolicies,
    /// Of the servers that message has gone to.
    pub server_health: ServerHealthMap,
}

/// Where one message may go.
pub(in crate::smtp) struct Way {
    /// In the order in which they are tried.
    pub servers: Vec<Destination>,
    /// How to go there.
    pub policy: Arc<handshake::Policy>,
    /// The MTA-STS policy that is to be told of in the attempt.
    pub sts: Option<Arc<sts::Policy>>,
}

impl Direct {
    pub fn new(settings: &Settings, resolver: Resolver, manners: MxPolicies) -> Result<Self, SetupError> {
        let policies = if settings.mta_sts.enabled {
            Some(Arc::new(Policies::new(settings, resolver.dns(), manners.verified.tls.config())))
        } else {
            None
        };
        Ok(Self { resolver, policies, port: settings.mx_port, manners, server_health: ServerHealthMap::default() })
    }

    /// Finds the domain's servers, or what to tell the recipients.
    pub async fn way(&self, domain: &str) -> Result<Way, Judgement> {
        let sts = match &self.policies {
            Some(policies) => policies.of(domain).await,
            None => None,
        };
        let found = self.resolver.exchangers(domain, sts.as_deref()).await?.into_iter();
        let policy = self.manners.towards(domain, sts.as_ref().map(|sts| sts.mode)).clone();
        let destination =
            |mx: Exchanger| Destination { host: mx.host, port: self.port, ip: Some(mx.ip), policy: policy.id };
        Ok(Way { servers: found.map(destination).collect(), policy, sts })
    }
}
