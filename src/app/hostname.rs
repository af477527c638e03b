//! The name of this host in SMTP.

use std::path::PathBuf;

use crate::config::Config;

/// Returns the name given in EHLO.
pub(super) fn hostname(config: &Config) -> String {
    config.hostname.clone().unwrap_or_else(machine_name)
}

/// Returns the machine's name, if it is known and valid in EHLO, and `localhost` otherwise.
fn machine_name() -> String {
    let name = std::fs::read_to_string(PathBuf::from("/proc/sys/kernel/hostname")).unwrap_or_default();
    let name = name.trim();
    let is_valid = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    if is_valid { name.to_owned() } else { "localhost".into() }
}
