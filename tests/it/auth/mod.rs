//! API keys, scopes and the security log.

mod keys;
mod scope_matrix;
mod security_log;
mod sender_domains;
