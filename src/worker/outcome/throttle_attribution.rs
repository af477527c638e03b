//! Decides whether temporary refusals of recipients by a relay are limits of their domains or of the relay itself.
//! Pure.
//!
//! A reply of 4.7.x to RCPT may pass on a limit of the recipient's own server, or state the relay's limit for its
//! client. If few domains are refused, the refusals are attributed to these domains; if many domains are refused within
//! a minute, the refusals are attributed to the relay.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, TimeDelta, Utc};

use crate::db::lanes::dedicated::SharedLaneRecipient;

/// Number of throttled domains from which the relay is considered to be throttling.
const RELAY_THRESHOLD: usize = 4;
/// Time within which throttled domains are counted.
const WINDOW: TimeDelta = TimeDelta::seconds(60);

/// The domains that were throttled recently, by the shared lane of their recipients.
#[derive(Debug, Default)]
pub(crate) struct ThrottleAttribution(HashMap<i64, HashMap<String, DateTime<Utc>>>);

impl ThrottleAttribution {
    /// Adds these refused recipients. Returns the recipients whose domains are throttled, and the lanes whose relay is
    /// throttling.
    pub(crate) fn attribute(
        &mut self,
        refused: Vec<SharedLaneRecipient>,
        now: DateTime<Utc>,
    ) -> (Vec<SharedLaneRecipient>, BTreeSet<i64>) {
        for SharedLaneRecipient { lane, domain, .. } in &refused {
            self.0.entry(*lane).or_default().insert(domain.clone(), now);
        }
        self.0.retain(|_, domains| {
            domains.retain(|_, at| now - *at < WINDOW);
            !domains.is_empty()
        });
        let is_relay = |lane: i64| self.0.get(&lane).is_some_and(|domains| domains.len() >= RELAY_THRESHOLD);
        let (relays, domains): (Vec<_>, Vec<_>) = refused.into_iter().partition(|sharer| is_relay(sharer.lane));
        (domains, relays.into_iter().map(|sharer| sharer.lane).collect())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
    }

    fn refused(lane: i64, domains: &[&str]) -> Vec<SharedLaneRecipient> {
        domains
            .iter()
            .map(|domain| SharedLaneRecipient { lane, recipient: Uuid::nil(), domain: (*domain).into() })
            .collect()
    }

    #[test]
    fn few_domains_are_throttled_alone_many_throttle_the_relay() {
        let mut attribution = ThrottleAttribution::default();
        let three = refused(1, &["a.test", "b.test", "c.test", "a.test"]);
        assert_eq!(attribution.attribute(three.clone(), at(0)), (three, BTreeSet::new()));
        let other = refused(2, &["d.test"]);
        assert_eq!(attribution.attribute(other.clone(), at(59)), (other, BTreeSet::new()), "of another relay");
        assert_eq!(attribution.attribute(refused(1, &["d.test"]), at(59)), (Vec::new(), BTreeSet::from([1])));
    }

    #[test]
    fn domains_throttled_a_minute_apart_are_not_many() {
        let mut attribution = ThrottleAttribution::default();
        for minute in 0..10 {
            let one = refused(1, &[&format!("{minute}.test")]);
            assert_eq!(attribution.attribute(one.clone(), at(60 * minute)), (one, BTreeSet::new()));
        }
    }
}
