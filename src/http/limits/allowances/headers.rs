//! The response headers that show the limits of a key and its tenant, of each kind the one of which less is left:
//! `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers),
//! and the older `ratelimit-limit`, `ratelimit-remaining` and `ratelimit-reset`, which many clients read and which show
//! the rate only.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use chrono::{DateTime, Utc};

use super::{Blocks, Limited};
use crate::domain::key::allowance::LimitState;
use crate::domain::key::{KeyQuota, KeyRate};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STATE: HeaderName = HeaderName::from_static("ratelimit");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");
/// Seconds of the quota's window.
const DAY: u32 = 86_400;

/// The limits that a response shows.
#[derive(Debug)]
pub(in crate::http) struct ShownLimits {
    rate: Option<(KeyRate, LimitState)>,
    /// The quotas of the key and the tenant.
    quotas: Vec<(KeyQuota, Arc<Blocks>)>,
    /// When the request was admitted.
    now: DateTime<Utc>,
}

impl ShownLimits {
    /// Creates the limits that a response shows, with the rates' states at `now`.
    pub(super) fn new(limits: &[Limited], now: DateTime<Utc>) -> Self {
        let state = |limited: &Limited| {
            let rate = limited.rate?;
            Some((rate, limited.blocks.rate.lock().state(rate, now)))
        };
        let quota = |limited: &Limited| Some((limited.quota?, limited.blocks.clone()));
        let rate = limits.iter().filter_map(state).min_by_key(|(rate, state)| (state.remaining, rate.burst));
        Self { rate, quotas: limits.iter().filter_map(quota).collect(), now }
    }

    /// Adds the headers. The states of the quotas are read now, after the request.
    pub(in crate::http) fn add_to(&self, headers: &mut HeaderMap) {
        let state = |(quota, blocks): &(KeyQuota, Arc<Blocks>)| (*quota, blocks.quota.lock().state(*quota, self.now));
        let (policy, state) = texts(self.rate, stricter(self.quotas.iter().map(state)));
        insert(headers, POLICY, &policy);
        insert(headers, STATE, &state);
        if let Some((rate, LimitState { remaining, reset_seconds })) = self.rate {
            headers.insert(LIMIT, HeaderValue::from(rate.burst));
            headers.insert(REMAINING, HeaderValue::from(remaining));
            headers.insert(RESET, HeaderValue::from(reset_seconds));
        }
    }
}

/// Returns the quota of which the fewest recipients are left. Of a quota whose state is unknown, all may be.
fn stricter(quotas: impl Iterator<Item = (KeyQuota, Option<LimitState>)>) -> Option<(KeyQuota, Option<LimitState>)> {
    quotas.min_by_key(|(quota, state)| {
        let limit = u64::from(quota.recipients_per_day);
        (state.map_or(limit, |state| state.remaining), limit)
    })
}

fn insert(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if let Some(value) = Some(text).filter(|text| !text.is_empty()).and_then(|text| HeaderValue::from_str(text).ok()) {
        headers.insert(name, value);
    }
}

/// Returns the values of `RateLimit-Policy` and `RateLimit`. The state of a quota is unknown until the process has leased a
/// part of it.
fn texts(rate: Option<(KeyRate, LimitState)>, quota: Option<(KeyQuota, Option<LimitState>)>) -> (String, String) {
    let (mut policy, mut states) = (String::new(), String::new());
    if let Some((rate, state)) = rate {
        let _ = write!(policy, "\"rate\";q={};w={}", rate.burst, rate.window_seconds());
        push(&mut states, "rate", state);
    }
    if let Some((quota, state)) = quota {
        let comma = if policy.is_empty() { "" } else { ", " };
        let _ = write!(policy, "{comma}\"daily\";q={};w={DAY};qu=\"recipients\"", quota.recipients_per_day);
        if let Some(state) = state {
            push(&mut states, "daily", state);
        }
    }
    (policy, states)
}

fn push(states: &mut String, name: &str, state: LimitState) {
    let comma = if states.is_empty() { "" } else { ", " };
    let _ = write!(states, "{comma}\"{name}\";r={};t={}", state.remaining, state.reset_seconds);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quota_with_the_fewest_recipients_left_is_shown() {
        let quota = |recipients_per_day| KeyQuota { recipients_per_day };
        let left = |remaining| Some(LimitState { remaining, reset_seconds: 60 });
        let (key, tenant) = (quota(1_000), quota(5_000));
        assert_eq!(stricter([(key, left(900)), (tenant, left(40))].into_iter()), Some((tenant, left(40))));
        assert_eq!(stricter([(key, left(900)), (tenant, None)].into_iter()), Some((key, left(900))));
        assert_eq!(stricter([(key, None), (tenant, None)].into_iter()), Some((key, None)));
        assert_eq!(stricter(std::iter::empty()), None);
    }

    #[test]
    fn headers_name_each_limit() {
        let rate = KeyRate { requests_per_second: 10, burst: 25 };
        let quota = KeyQuota { recipients_per_day: 1_000 };
        let state = LimitState { remaining: 9, reset_seconds: 2 };
        let left = LimitState { remaining: 400, reset_seconds: 3_600 };
        assert_eq!(texts(Some((rate, state)), None), ("\"rate\";q=25;w=3".into(), "\"rate\";r=9;t=2".into()));
        assert_eq!(
            texts(Some((rate, state)), Some((quota, Some(left)))),
            (
                "\"rate\";q=25;w=3, \"daily\";q=1000;w=86400;qu=\"recipients\"".into(),
                "\"rate\";r=9;t=2, \"daily\";r=400;t=3600".into()
            )
        );
        let unknown = texts(None, Some((quota, None)));
        assert_eq!(unknown, ("\"daily\";q=1000;w=86400;qu=\"recipients\"".into(), String::new()));
    }
}
