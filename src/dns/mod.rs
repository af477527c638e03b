//! The DNS resolver (configured, or the system's), and the checks of the operator's DNS records.

mod ask;
mod blocklist;
mod check;
mod counted;
mod own;
mod spf;
mod words;

use std::net::SocketAddr;

use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{ResolverBuilder, TokioResolver};

pub use ask::UncachedResolver;
pub use blocklist::is_listed;
pub use check::check;
pub use counted::counted;
pub use own::is_local_address;
pub use words::describe_error;

/// Creates a resolver that queries `server`, or the system's resolvers if it is `None`. Host lookups
/// return IPv4 and IPv6 addresses.
pub fn resolver(server: Option<SocketAddr>) -> Result<TokioResolver, NetError> {
    builder(server)?.build()
}

fn builder(server: Option<SocketAddr>) -> Result<ResolverBuilder<TokioRuntimeProvider>, NetError> {
    let mut builder = match server {
        Some(server) => {
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![name_server(server)]);
            let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            builder.options_mut().use_hosts_file = ResolveHosts::Never;
            builder
        }
        None => TokioResolver::builder_tokio()?,
    };
    builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    Ok(builder)
}

fn name_server(server: SocketAddr) -> NameServerConfig {
    let with_port = |mut connection: ConnectionConfig| {
        connection.port = server.port();
        connection
    };
    NameServerConfig::new(server.ip(), true, [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(with_port).to_vec())
}
