//! Which counters an event increases. Everything is counted per recipient.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::Step;
use super::latency::Histogram;
use crate::domain::event::EventType;
use crate::domain::provider::Provider;

/// Events with the same properties, and their number. An event about a message as a whole is represented once per
/// recipient.
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools, reason = "independent properties of events")]
pub struct EventGroup {
    /// The minute in which they were recorded.
    pub minute: DateTime<Utc>,
    /// Their type, `message.…`, `webhook.…` or `key.…`.
    pub kind: String,
    /// The message's stream; `None` if the events are not about a message, or the message was deleted.
    pub stream: Option<String>,
    /// The recipient's domain.
    pub domain: Option<String>,
    /// The host of the attempt; for an event without one that follows an end state, that of the last attempt.
    pub mx: Option<String>,
    /// The category of a bounce.
    pub category: Option<String>,
    /// Whether the events come from a report that may be forged, and that changed no state.
    pub is_disputed: bool,
    /// Whether they record an attempt.
    pub has_attempt: bool,
    /// Whether they are about one recipient.
    pub has_recipient: bool,
    /// Whether no attempt is planned after them.
    pub is_final: bool,
    /// The bucket of the time from acceptance to this successful attempt; `None` for other events and for messages with
    /// `scheduled_at`.
    pub latency_bucket: Option<i32>,
    /// The number of events.
    pub count: i64,
}

/// A counter. The names are columns of the table `statistics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// Recipients of accepted messages.
    Accepted,
    /// Recipients whose message a relay accepted.
    Relayed,
    /// Recipients whose own mail server accepted the message.
    Delivered,
    /// Recipients that were refused permanently.
    Bounced,
    /// Recipients whose retry window or `expires_at` ran out.
    Expired,
    /// Recipients that nothing was sent to, because the address is suppressed.
    Suppressed,
    /// Recipients that were canceled.
    Canceled,
    /// Recipients for which it is unknown whether the message arrived.
    Uncertain,
    /// Attempts that are followed by another one.
    Deferred,
    /// Complaints.
    Complained,
    /// Uses of the unsubscribe link.
    Unsubscribed,
}

/// The number of counters.
pub const COUNTERS: usize = 11;

impl EventGroup {
    /// Returns the counter of these events; `None` if they are not counted.
    fn counter(&self) -> Option<Counter> {
        if self.is_disputed {
            return None;
        }
        match self.kind.parse::<EventType>().ok()? {
            // About a recipient, `message.scheduled` means that it was rescheduled.
            EventType::Accepted | EventType::Scheduled => (!self.has_recipient).then_some(Counter::Accepted),
            EventType::Canceled => Some(Counter::Canceled),
            // Without an attempt, `retry` requeued an uncertain recipient.
            EventType::Deferred => self.has_attempt.then_some(Counter::Deferred),
            EventType::Relayed => Some(Counter::Relayed),
            EventType::Delivered => Some(Counter::Delivered),
            EventType::Bounced => Some(Counter::Bounced),
            EventType::Expired => Some(Counter::Expired),
            EventType::Suppressed => Some(Counter::Suppressed),
            EventType::Uncertain if self.is_final => Some(Counter::Uncertain),
            EventType::Uncertain => Some(Counter::Deferred),
            EventType::Complained => Some(Counter::Complained),
            EventType::Unsubscribed => Some(Counter::Unsubscribed),
            _ => None,
        }
    }
}

/// Figures of one time span.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    counters: [i64; COUNTERS],
    /// Bounces by category.
    pub bounces: BTreeMap<String, i64>,
    /// Times from acceptance until a message was relayed or delivered by an attempt.
    pub latency: Histogram,
}

impl Figures {
    /// Returns a counter.
    pub fn get(&self, counter: Counter) -> i64 {
        self.counters[counter as usize]
    }

    /// Adds to a counter.
    pub fn add(&mut self, counter: Counter, count: i64) {
        self.counters[counter as usize] += count;
    }

    /// Adds other figures.
    pub fn merge(&mut self, other: &Self) {
        self.counters.iter_mut().zip(other.counters).for_each(|(total, count)| *total += count);
        other.bounces.iter().for_each(|(category, count)| *self.bounces.entry(category.clone()).or_default() += count);
        self.latency.merge(&other.latency);
    }

    fn count(&mut self, group: &EventGroup, counter: Counter) {
        self.add(counter, group.count);
        if counter == Counter::Bounced {
            let category = group.category.clone().unwrap_or_else(|| "other".to_owned());
            *self.bounces.entry(category).or_default() += group.count;
        }
        if let Some(bucket) = group.latency_bucket.and_then(|bucket| usize::try_from(bucket).ok()) {
            self.latency.add(bucket, group.count);
        }
    }
}

/// What figures are counted by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The name of the step.
    pub step: &'static str,
    /// The start of the time span.
    pub start: DateTime<Utc>,
    /// The stream.
    pub stream: String,
    /// The name of the provider.
    pub provider: &'static str,
}

/// The stream of events whose message was deleted.
pub const UNKNOWN_STREAM: &str = "unknown";

/// Returns by how much events increase the figures of each step. Steps whose time spans are deleted at `now` are left
/// out. `is_relay` returns whether a host is a relay: then only the recipient's domain says which provider it has.
pub fn increments(
    groups: &[EventGroup],
    now: DateTime<Utc>,
    is_relay: impl Fn(&str) -> bool,
) -> BTreeMap<Key, Figures> {
    let mut increments = BTreeMap::<Key, Figures>::new();
    for group in groups {
        let Some(counter) = group.counter() else { continue };
        // A relay that is no longer configured is still recognised by its event.
        let mx = group.mx.as_deref().filter(|mx| counter != Counter::Relayed && !is_relay(mx));
        let provider = Provider::find(mx, group.domain.as_deref());
        for step in Step::ALL {
            let start = step.floor(group.minute);
            if step.deleted_before(now).is_some_and(|before| start < before) {
                continue;
            }
            let stream = group.stream.clone().unwrap_or_else(|| UNKNOWN_STREAM.to_owned());
            let key = Key { step: step.as_str(), start, stream, provider: provider.as_str() };
            increments.entry(key).or_default().count(group, counter);
        }
    }
    increments
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-11-23T12:34:00Z".parse().unwrap()
    }

    fn group(kind: &str) -> EventGroup {
        EventGroup {
            minute: now(),
            kind: kind.to_owned(),
            stream: Some("bulk".to_owned()),
            domain: Some("gmail.com".to_owned()),
            mx: None,
            category: None,
            is_disputed: false,
            has_attempt: true,
            has_recipient: true,
            is_final: true,
            latency_bucket: None,
            count: 3,
        }
    }

    #[test]
    fn each_event_increases_its_counter() {
        let accepted = EventGroup { has_recipient: false, ..group("message.accepted") };
        let requeued = EventGroup { has_attempt: false, ..group("message.deferred") };
        let repeated = EventGroup { is_final: false, ..group("message.uncertain") };
        let forged = EventGroup { is_disputed: true, ..group("message.complained") };
        for (group, counter) in [
            (accepted.clone(), Some(Counter::Accepted)),
            (EventGroup { kind: "message.scheduled".into(), ..accepted }, Some(Counter::Accepted)),
            (group("message.scheduled"), None),
            (group("message.deferred"), Some(Counter::Deferred)),
            (requeued, None),
            (group("message.uncertain"), Some(Counter::Uncertain)),
            (repeated, Some(Counter::Deferred)),
            (group("message.complained"), Some(Counter::Complained)),
            (forged, None),
            (group("webhook.test"), None),
            (group("message.unheard_of"), None),
        ] {
            assert_eq!(group.counter(), counter, "{group:?}");
        }
    }

    #[test]
    fn event_is_counted_in_each_step() {
        let bounced = EventGroup { category: Some("unknown_user".to_owned()), ..group("message.bounced") };
        let increments = increments(&[bounced.clone(), bounced], now(), |_| false);
        let keys: Vec<(&str, &str)> = increments.keys().map(|key| (key.step, key.provider)).collect();
        assert_eq!(keys, [("day", "google"), ("hour", "google"), ("minute", "google")]);
        for figures in increments.values() {
            assert_eq!((figures.get(Counter::Bounced), figures.bounces["unknown_user"]), (6, 6));
            assert_eq!(figures.latency.count(), 0);
        }
    }

    #[test]
    fn steps_that_are_no_longer_kept_are_left_out() {
        for (age, steps) in [(TimeDelta::hours(1), 3), (TimeDelta::hours(72), 2), (TimeDelta::days(800), 1)] {
            let old = EventGroup { minute: now() - age, ..group("message.relayed") };
            assert_eq!(increments(&[old], now(), |_| false).len(), steps, "{age}");
        }
    }

    #[test]
    fn relay_is_no_mailbox_provider() {
        let relay = "eu-smtp-outbound-1.mimecast.com";
        let is_relay = |host: &str| host == relay;
        for (kind, mx, domain, provider) in [
            ("message.relayed", relay, "gmail.com", "google"),
            ("message.relayed", "smtp-relay.googlemail.com", "acme.test", "other"),
            ("message.bounced", relay, "acme.test", "other"),
            ("message.deferred", relay, "gmx.de", "gmx"),
            ("message.bounced", "mxa-001.gslb.pphosted.com", "acme.test", "proofpoint"),
        ] {
            let group = EventGroup { mx: Some(mx.to_owned()), domain: Some(domain.to_owned()), ..group(kind) };
            let increments = increments(&[group], now(), is_relay);
            assert!(increments.keys().all(|key| key.provider == provider), "{kind} {mx} {domain}: {increments:?}");
        }
    }

    fn any_group() -> impl Strategy<Value = EventGroup> {
        let kinds = prop::sample::select(EventType::ALL.to_vec());
        (kinds, 0..3_i64, 0..2_i64, prop::option::of(0..30_i32), any::<bool>(), 1..5_i64).prop_map(
            |(kind, minutes, stream, latency_bucket, has_recipient, count)| EventGroup {
                minute: now() - TimeDelta::minutes(minutes * 40),
                stream: Some(format!("stream{stream}")),
                latency_bucket,
                has_recipient,
                count,
                ..group(kind.as_str())
            },
        )
    }

    proptest! {
        /// The figures do not depend on how events are divided among transactions.
        #[test]
        fn counting_in_parts_equals_counting_at_once(
            groups in prop::collection::vec(any_group(), 0..30),
            at in 0..30_usize,
        ) {
            let (left, right) = groups.split_at(at.min(groups.len()));
            let mut parts = increments(left, now(), |_| false);
            for (key, figures) in increments(right, now(), |_| false) {
                parts.entry(key).or_default().merge(&figures);
            }
            prop_assert_eq!(parts, increments(&groups, now(), |_| false));
        }

        #[test]
        fn all_steps_have_the_same_sums(groups in prop::collection::vec(any_group(), 0..30)) {
            let increments = increments(&groups, now(), |_| false);
            let sum = |step: Step| {
                let mut sum = Figures::default();
                increments.iter().filter(|(key, _)| key.step == step.as_str()).for_each(|(_, figures)| sum.merge(figures));
                sum
            };
            prop_assert_eq!(sum(Step::Minute), sum(Step::Hour));
            prop_assert_eq!(sum(Step::Hour), sum(Step::Day));
        }
    }
}
