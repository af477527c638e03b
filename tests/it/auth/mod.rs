//! API keys, scopes, limits and the security log.

mod allowed_ips;
mod auth_failures;
mod key_format;
mod key_of_messages;
mod keys;
mod quota;
mod rate;
mod replicas;
mod scope_matrix;
mod security_log;
mod sender_domains;
mod slow_bodies;
