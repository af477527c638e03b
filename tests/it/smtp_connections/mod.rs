//! Connections to servers: pools, limits, TLS and MX.

mod lane_limits;
mod mta_sts;
mod mx;
mod pool;
mod tls;
mod tls_by_domain;
mod urgent;
