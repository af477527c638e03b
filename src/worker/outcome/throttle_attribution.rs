//! Whether a relay that refuses recipients of some domains for now means the domains or itself. Pure.
//!
//! A reply to RCPT with 4.7.x may pass on what the recipient's own server asked for, or be the relay's limit for us. Of a
//! few domains it is taken for theirs; of many within a minute for the relay's.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, TimeDelta, Utc};

use crate::db::splits::Sharer;

/// So many domains are many.
const MANY: usize = 4;
/// Within this time.
const SPAN: TimeDelta = TimeDelta::seconds(60);

/// The domains complained of lately, by the lane that they shared.
#[derive(Debug, Default)]
pub(crate) struct ThrottleAttribution(HashMap<i64, HashMap<String, DateTime<Utc>>>);

impl ThrottleAttribution {
    /// Adds these recipients, who were refused. Answers those whose domains are meant, and the lanes whose relay is.
    pub(crate) fn sort(&mut self, refused: Vec<Sharer>, now: DateTime<Utc>) -> (Vec<Sharer>, BTreeSet<i64>) {
        for Sharer { lane, domain, .. } in &refused {
            self.0.entry(*lane).or_default().insert(domain.clone(), now);
        }
        self.0.retain(|_, domains| {
            domains.retain(|_, at| now - *at < SPAN);
            !domains.is_empty()
        });
        let is_relay = |lane: i64| self.0.get(&lane).is_some_and(|domains| domains.len() >= MANY);
        let (relays, apart): (Vec<_>, Vec<_>) = refused.into_iter().partition(|one| is_relay(one.lane));
        (apart, relays.into_iter().map(|one| one.lane).collect())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
    }

    fn refused(lane: i64, domains: &[&str]) -> Vec<Sharer> {
        domains.iter().map(|domain| Sharer { lane, recipient: Uuid::nil(), domain: (*domain).into() }).collect()
    }

    #[test]
    fn a_few_domains_are_meant_themselves_and_many_mean_the_relay() {
        let mut complaints = ThrottleAttribution::default();
        let three = refused(1, &["a.test", "b.test", "c.test", "a.test"]);
        assert_eq!(complaints.sort(three.clone(), at(0)), (three, BTreeSet::new()));
        let other = refused(2, &["d.test"]);
        assert_eq!(complaints.sort(other.clone(), at(59)), (other, BTreeSet::new()), "of another relay");
        assert_eq!(complaints.sort(refused(1, &["d.test"]), at(59)), (Vec::new(), BTreeSet::from([1])));
    }

    #[test]
    fn domains_complained_of_one_after_the_other_are_not_many() {
        let mut complaints = ThrottleAttribution::default();
        for minute in 0..10 {
            let one = refused(1, &[&format!("{minute}.test")]);
            assert_eq!(complaints.sort(one.clone(), at(60 * minute)), (one, BTreeSet::new()));
        }
    }
}
