//! Limits how many requests with invalid API keys an address may make, so that nobody can try many keys, or have them
//! looked up in the database.
//!
//! A lookup counts as a failure before it is made, so that concurrent requests cannot exceed the limit; if the key is
//! found, the count is undone. Keys from an address over its limit may still be looked up, out of a budget that all
//! such addresses share. So applications with valid keys are admitted even if they share the address, for example that
//! of a load balancer or an office, with a client that sends invalid keys.

use std::net::IpAddr;

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::Mutex;
use quick_cache::unsync::Cache;

use crate::domain::limits::gcra::Gcra;
use crate::domain::network::owner;

/// Maximum number of addresses that are remembered; the least used ones are forgotten first.
const MAX_CLIENTS: usize = 10_000;
/// Maximum lookups per second for all addresses over their limit together.
const SHARED_LOOKUPS_PER_SECOND: f64 = 50.0;

/// The recent failures of each address (IPv6: of each /64).
#[derive(Debug)]
pub(super) struct AuthFailures {
    per_minute: u32,
    /// Clients with an unknown address (`None`) count together.
    clients: Mutex<Cache<Option<IpAddr>, Gcra>>,
    /// The lookups for addresses over their limit.
    shared_lookups: Mutex<Gcra>,
}

/// A lookup that may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lookup {
    /// The lookup counts as a failure of its address until it is undone.
    Counted,
    /// The address is over its limit until this time; the lookup counts against the budget that all such addresses share.
    Shared(DateTime<Utc>),
}

impl AuthFailures {
    pub(super) fn new(per_minute: u32) -> Self {
        let shared = Gcra::new(SHARED_LOOKUPS_PER_SECOND, DateTime::UNIX_EPOCH).with_burst(TimeDelta::seconds(1));
        Self { per_minute, clients: Mutex::new(Cache::new(MAX_CLIENTS)), shared_lookups: Mutex::new(shared) }
    }

    /// Counts a request with an invalid key. If the address is over its limit, returns when it no longer is.
    pub(super) fn count(&self, client: Option<IpAddr>, now: DateTime<Utc>) -> Result<(), DateTime<Utc>> {
        let mut clients = self.clients.lock();
        let client = client.map(owner);
        let failures = clients.get(&client).copied().unwrap_or_else(|| {
            let rate = f64::from(self.per_minute) / 60.0;
            Gcra::new(rate, DateTime::UNIX_EPOCH).with_burst(TimeDelta::minutes(1))
        });
        if failures.available(now) == 0 {
            return Err(failures.opens_at(now));
        }
        clients.insert(client, failures.take(1, now));
        Ok(())
    }

    /// Begins the lookup of a key, or returns when to try again.
    pub(super) fn begin_lookup(&self, client: Option<IpAddr>, now: DateTime<Utc>) -> Result<Lookup, DateTime<Utc>> {
        let Err(blocked_until) = self.count(client, now) else { return Ok(Lookup::Counted) };
        let mut shared = self.shared_lookups.lock();
        if shared.available(now) == 0 {
            return Err(shared.opens_at(now));
        }
        *shared = shared.take(1, now);
        Ok(Lookup::Shared(blocked_until))
    }

    /// Undoes the count of a lookup that began at `now` and was not a failure.
    pub(super) fn give_back(&self, lookup: Lookup, client: Option<IpAddr>, now: DateTime<Utc>) {
        if let Lookup::Shared(_) = lookup {
            let mut shared = self.shared_lookups.lock();
            *shared = shared.give_back(1);
            return;
        }
        let mut clients = self.clients.lock();
        let client = client.map(owner);
        let Some(failures) = clients.get(&client).map(|failures| failures.give_back(1)) else { return };
        if failures.is_unused(now) {
            // Only addresses with failures are remembered.
            clients.remove(&client);
        } else {
            clients.insert(client, failures);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::seconds(seconds)
    }

    #[expect(clippy::unnecessary_wraps, reason = "the type of the arguments")]
    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn address_waits_after_too_many_failures() {
        let (failures, client) = (AuthFailures::new(6), ip("192.0.2.1"));
        for _ in 0..6 {
            assert_eq!(failures.count(client, at(0)), Ok(()));
        }
        assert_eq!(failures.count(client, at(0)), Err(at(10)));
        assert_eq!(failures.count(client, at(5)), Err(at(10)));
        assert_eq!(failures.count(client, at(10)), Ok(()), "refused requests do not prolong the wait");
        assert_eq!(failures.count(ip("192.0.2.2"), at(0)), Ok(()));
        assert_eq!(failures.count(None, at(0)), Ok(()));
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_together() {
        let failures = AuthFailures::new(1);
        assert!(failures.count(ip("2001:db8::1"), at(0)).is_ok());
        assert!(failures.count(ip("2001:db8::2"), at(0)).is_err());
        assert!(failures.count(ip("2001:db8:0:1::1"), at(0)).is_ok());
    }

    #[test]
    fn clients_with_an_unknown_address_count_together() {
        let failures = AuthFailures::new(1);
        assert!(failures.count(None, at(0)).is_ok());
        assert!(failures.count(None, at(0)).is_err());
    }

    #[test]
    fn lookup_counts_until_it_is_given_back() {
        let (failures, client) = (AuthFailures::new(2), ip("192.0.2.1"));
        let begin = || failures.begin_lookup(client, at(0));
        assert_eq!([begin(), begin()], [Ok(Lookup::Counted); 2]);
        assert_eq!(begin(), Ok(Lookup::Shared(at(30))), "lookups in progress count");
        failures.give_back(Lookup::Counted, client, at(0));
        assert_eq!(begin(), Ok(Lookup::Counted));
        failures.give_back(Lookup::Counted, client, at(0));
        failures.give_back(Lookup::Counted, client, at(0));
        assert_eq!(failures.clients.lock().len(), 0, "an address without failures is forgotten");
    }

    #[test]
    fn addresses_over_their_limit_share_50_lookups_per_second() {
        let (failures, client) = (AuthFailures::new(1), ip("192.0.2.1"));
        assert_eq!(failures.begin_lookup(client, at(0)), Ok(Lookup::Counted));
        let shared =
            |count: usize, seconds| (0..count).filter(|_| failures.begin_lookup(client, at(seconds)).is_ok()).count();
        assert_eq!(shared(60, 0), 50);
        failures.give_back(Lookup::Shared(at(60)), client, at(0));
        assert_eq!([shared(60, 0), shared(60, 1)], [1, 50]);
        assert!(failures.begin_lookup(client, at(1)).unwrap_err() < at(2));
        assert_eq!(failures.begin_lookup(ip("192.0.2.2"), at(1)), Ok(Lookup::Counted));
    }

    #[test]
    fn memory_is_bounded() {
        let failures = AuthFailures::new(1);
        for n in 0..50_000_u32 {
            failures.count(Some(std::net::Ipv4Addr::from(n).into()), at(0)).unwrap();
        }
        assert!(failures.clients.lock().len() <= MAX_CLIENTS + 1);
    }
}
