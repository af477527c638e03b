//! Greylisting (RFC 6647): a message from a client, sender and recipient that have not been seen together before is deferred. Servers try
//! again, and programs that only send spam mostly do not.
//!
//! A client is known by its network, because large providers try again from another address. The database has keyed hashes only.

use std::net::IpAddr;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use ipnet::IpNet;

use super::IncomingMessage;
use crate::db::receiving::greylist::{self, Periods};
use crate::db::{Db, DbError};
use crate::domain::installation::keyring::{Keyring, Purpose};

/// How long an entry is kept that has not passed. A server that tries again later is deferred again.
const PENDING: TimeDelta = TimeDelta::days(2);
/// How long an entry that has passed is kept after its last message.
const PASSED: TimeDelta = TimeDelta::days(35);

/// Defers messages from unknown clients, senders and recipients.
#[derive(Debug)]
pub struct Greylist {
    db: Db,
    keyring: Keyring,
    delay: TimeDelta,
}

impl Greylist {
    /// Defers messages for `delay`.
    pub fn new(db: Db, keyring: Keyring, delay: Duration) -> Self {
        Self { db, keyring, delay: TimeDelta::from_std(delay).unwrap_or(TimeDelta::MAX) }
    }

    /// Returns whether all recipients of a message have been seen with its client and sender, for long enough. Remembers those that
    /// have not.
    pub(super) async fn admits(&self, message: &IncomingMessage, now: DateTime<Utc>) -> Result<bool, DbError> {
        let network = network(message.remote_address);
        let key = |to: &String| {
            let parts = [&network, &message.from, to].map(|part| part.to_lowercase());
            self.keyring.mac(Purpose::Greylist, parts.join("\0").as_bytes()).to_vec()
        };
        let mut keys: Vec<Vec<u8>> = message.to.iter().map(key).collect();
        keys.sort_unstable();
        keys.dedup();
        greylist::admits(&self.db, &keys, Periods { delay: self.delay, pending: PENDING, passed: PASSED }, now).await
    }
}

/// Returns the network of a client: its /24, or for IPv6 its /64.
fn network(address: IpAddr) -> String {
    let address = address.to_canonical();
    let length = if address.is_ipv4() { 24 } else { 64 };
    IpNet::new(address, length).map_or_else(|_| address.to_string(), |network| network.trunc().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_is_known_by_its_network() {
        for (address, expected) in [
            ("192.0.2.7", "192.0.2.0/24"),
            ("::ffff:192.0.2.7", "192.0.2.0/24"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ] {
            assert_eq!(network(address.parse().unwrap()), expected);
        }
    }
}
