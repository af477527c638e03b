//! Decides when an attempt is retried, and when a recipient expires. Pure: the caller passes the clock and the jitter.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::{Status, Transition};
use crate::domain::event::EventType;
use crate::domain::outcome::{OnUncertain, Outcome, Reply, Verdict, retry_hint};

/// The waits between attempts, and the time until expiry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The waits after the first, second, … attempt; the last one repeats.
    pub schedule: Vec<Duration>,
    /// The time from the first due time to expiry.
    pub window: Duration,
    /// The minimum of the first wait, if the first attempt was greylisted.
    pub greylist: Duration,
}

/// The retry settings of a stream, in seconds. The configuration applies where a setting is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnPolicy {
    /// The waits after the first, second, … attempt.
    pub schedule: Option<Vec<i32>>,
    /// The time from the first due time to expiry.
    pub window: Option<i32>,
    /// The minimum of the first wait, if the first attempt was greylisted.
    pub greylist: Option<i32>,
}

/// The attempt that an outcome belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// The attempt's number, from 1.
    pub number: u32,
    /// No further attempt starts after this time: the end of the window or `expires_at`, whichever is earlier.
    pub deadline: DateTime<Utc>,
    /// The sender's choice for uncertain outcomes.
    pub on_uncertain: OnUncertain,
}

/// The fraction by which a wait is lengthened or shortened, so that retries do not coincide.
const JITTER: f64 = 0.2;
/// The maximum wait that a hint in a reply can cause.
const MAX_HINT: Duration = Duration::from_hours(4);
/// The last attempt after which a greylisting hint may shorten the scheduled wait.
const LAST_SHORTENED_ATTEMPT: u32 = 3;

impl Policy {
    /// Returns the policy of a stream: the stream's settings, and those of this policy where it has none.
    #[must_use]
    pub fn with(&self, own: &OwnPolicy) -> Self {
        let schedule = own.schedule.as_ref().filter(|waits| !waits.is_empty());
        Self {
            schedule: schedule
                .map_or_else(|| self.schedule.clone(), |waits| waits.iter().copied().map(from_seconds).collect()),
            window: window(own.window, self.window),
            greylist: own.greylist.map_or(self.greylist, from_seconds),
        }
    }

    /// Returns the last time at which an attempt may start.
    pub fn deadline(&self, first_due: DateTime<Utc>, expires_at: Option<DateTime<Utc>>) -> DateTime<Utc> {
        let end = first_due + delta(self.window);
        expires_at.map_or(end, |expiry| expiry.min(end))
    }

    /// Returns the wait after attempt `number`. `jitter`, from 0 to 1, varies it by ±20 %. A wait that the reply asks
    /// for is the minimum; only one in a greylisting reply may shorten the scheduled wait.
    fn wait(&self, number: u32, reply: &Reply, jitter: f64) -> Duration {
        let index = usize::try_from(number.saturating_sub(1)).unwrap_or(usize::MAX);
        let base = self.schedule.get(index).or(self.schedule.last()).copied().unwrap_or(Duration::from_mins(1));
        let jitter = jitter.clamp(0.0, 1.0);
        let scheduled = |wait: Duration| wait.mul_f64(1.0 - JITTER + 2.0 * JITTER * jitter);
        // A retry is never earlier than the server asked.
        let at_least = |wait: Duration| wait.mul_f64(1.0 + JITTER * jitter);
        let greylisted = reply.is_greylisting();
        match self.hint(reply) {
            Some(hint) if hint >= base || (greylisted && number <= LAST_SHORTENED_ATTEMPT) => at_least(hint),
            Some(hint) => scheduled(base).max(hint),
            None if greylisted && number == 1 => scheduled(base.max(self.greylist)),
            None => scheduled(base),
        }
    }

    /// Returns the wait that the server asks for, from 1 s to 4 h, and at most the window.
    fn hint(&self, reply: &Reply) -> Option<Duration> {
        let is_refusal = reply.code.is_some_and(|code| (400..500).contains(&code));
        let hint = is_refusal.then(|| retry_hint::wait(&reply.text)).flatten()?;
        Some(hint.max(Duration::from_secs(1)).min(MAX_HINT.min(self.window)))
    }
}

impl Outcome {
    /// Returns the recipient's transition after this outcome.
    pub fn next(&self, attempt: &Attempt, policy: &Policy, now: DateTime<Utc>, jitter: f64) -> Transition {
        let event = match (self.verdict, attempt.on_uncertain) {
            (Verdict::Accepted, _) if self.peer.is_final => return Transition::End(Status::Delivered),
            (Verdict::Accepted, _) => return Transition::End(Status::Relayed),
            (Verdict::Permanent, _) => return Transition::End(Status::Bounced),
            (Verdict::Uncertain, OnUncertain::Hold | OnUncertain::Fail) => return Transition::End(Status::Uncertain),
            (Verdict::Uncertain, OnUncertain::Retry) => EventType::Uncertain,
            (Verdict::Temporary, _) => EventType::Deferred,
        };
        if now >= attempt.deadline {
            return Transition::End(Status::Expired);
        }
        // The last wait ends at the deadline, so that the recipient expires on time and not up to 4 h later.
        let at = now + delta(policy.wait(attempt.number, &self.reply, jitter));
        Transition::Retry { at: at.min(attempt.deadline), event }
    }
}

/// Returns the retry window of a stream: its own setting, or the configured one.
pub fn window(own: Option<i32>, configured: Duration) -> Duration {
    own.map_or(configured, from_seconds)
}

/// Converts seconds from a column to a duration of at least one second.
pub fn from_seconds(seconds: i32) -> Duration {
    Duration::from_secs(seconds.max(1).unsigned_abs().into())
}

fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::outcome::{Peer, Stage};

    fn outcome(verdict: Verdict, text: &str) -> Outcome {
        Outcome {
            verdict,
            reply: Reply::local_error(text),
            peer: Peer::default(),
            duration: Duration::ZERO,
            stage: Stage::FinalDot,
        }
    }

    fn policy() -> Policy {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        Policy {
            schedule: [1, 5, 15, 30, 60, 120, 240].map(minutes).to_vec(),
            window: minutes(72 * 60),
            greylist: minutes(5),
        }
    }

    fn attempt(number: u32, deadline_h: i64, on_uncertain: OnUncertain) -> Attempt {
        Attempt { number, deadline: DateTime::UNIX_EPOCH + TimeDelta::hours(deadline_h), on_uncertain }
    }

    fn minutes_until(transition: Transition) -> i64 {
        (transition.next_attempt_at().expect("a retry") - DateTime::UNIX_EPOCH).num_minutes()
    }

    #[test]
    fn waits_follow_the_schedule() {
        let policy = policy();
        let waits = (1..=9).map(|number| {
            let next = outcome(Verdict::Temporary, "later").next(
                &attempt(number, 72, OnUncertain::Retry),
                &policy,
                DateTime::UNIX_EPOCH,
                0.5,
            );
            minutes_until(next)
        });
        assert_eq!(waits.collect::<Vec<_>>(), [1, 5, 15, 30, 60, 120, 240, 240, 240]);
    }

    #[test]
    fn each_stream_setting_overrides_the_configuration() {
        let configured = policy();
        assert_eq!(configured.with(&OwnPolicy::default()), configured);
        let own = OwnPolicy { schedule: Some(vec![90, 600]), window: None, greylist: Some(0) };
        let minutes = |n: u64| Duration::from_secs(n * 60);
        let expected = Policy {
            schedule: vec![Duration::from_secs(90), minutes(10)],
            window: minutes(72 * 60),
            greylist: Duration::from_secs(1),
        };
        assert_eq!(configured.with(&own), expected);
        assert_eq!(configured.with(&OwnPolicy { schedule: Some(Vec::new()), ..own }).schedule, configured.schedule);
    }

    #[test]
    fn jitter_stays_within_a_fifth() {
        let policy = policy();
        let at = |jitter| policy.wait(5, &Reply::local_error(""), jitter).as_secs();
        assert_eq!((at(0.0), at(0.5), at(1.0)), (48 * 60, 60 * 60, 72 * 60));
    }

    #[test]
    fn first_greylisted_attempt_is_retried_after_five_minutes() {
        let policy = policy();
        let next = |number, text| {
            let attempt = attempt(number, 72, OnUncertain::Retry);
            minutes_until(outcome(Verdict::Temporary, text).next(&attempt, &policy, DateTime::UNIX_EPOCH, 0.5))
        };
        assert_eq!(next(1, "4.7.1 Greylisted, try again"), 5);
        assert_eq!(next(1, "try again"), 1);
        assert_eq!(next(3, "Greylisted"), 15);
    }

    #[test]
    fn hint_in_the_reply_changes_the_wait() {
        let policy = policy();
        let seconds = |number, code, text: &str, jitter| {
            let reply = Reply { code, enhanced: None, text: text.into() };
            policy.wait(number, &reply, jitter).as_secs()
        };
        for (case, number, text, earliest, latest) in [
            ("longer than the schedule", 1, "try again in 10 minutes", 600, 720),
            ("shorter than the schedule", 3, "try again in 1 minute", 720, 1_080),
            ("slightly shorter than the schedule", 1, "try again in 55 seconds", 55, 72),
            ("greylisting that ends before the schedule", 1, "Greylisted for 20 seconds", 20, 24),
            ("greylisting after the fourth attempt", 4, "Greylisted for 20 seconds", 1_440, 2_160),
            ("greylisting that ends after the schedule", 1, "Greylisted for 900 seconds", 900, 1_080),
            ("longer than the maximum", 1, "try again in 3 days", 14_400, 17_280),
            ("zero", 1, "Greylisted for 0 seconds", 1, 1),
        ] {
            let range = (seconds(number, Some(451), text, 0.0), seconds(number, Some(451), text, 1.0));
            assert_eq!(range, (earliest, latest), "{case}");
        }
        assert_eq!(seconds(1, None, "try again in 10 minutes", 0.5), 60, "a local error contains no hint");
        let short = Policy { window: Duration::from_mins(2), ..policy };
        let reply = Reply { code: Some(450), enhanced: None, text: "try again in 1 hour".into() };
        assert_eq!(short.wait(1, &reply, 0.0).as_secs(), 120);
    }

    #[test]
    fn temporary_failure_expires_and_never_bounces() {
        let policy = policy();
        let last = attempt(30, 72, OnUncertain::Retry);
        let step =
            |h| outcome(Verdict::Temporary, "").next(&last, &policy, DateTime::UNIX_EPOCH + TimeDelta::hours(h), 0.5);
        assert_eq!(step(71).next_attempt_at(), Some(last.deadline), "the last wait is cut to the deadline");
        assert_eq!(step(72), Transition::End(Status::Expired));
    }

    #[test]
    fn uncertain_outcome_follows_the_senders_choice() {
        let policy = policy();
        let next =
            |choice| outcome(Verdict::Uncertain, "").next(&attempt(1, 72, choice), &policy, DateTime::UNIX_EPOCH, 0.5);
        assert!(matches!(next(OnUncertain::Retry), Transition::Retry { event: EventType::Uncertain, .. }));
        assert_eq!(next(OnUncertain::Hold), Transition::End(Status::Uncertain));
        assert_eq!(next(OnUncertain::Fail), Transition::End(Status::Uncertain));
    }

    #[test]
    fn only_acceptance_by_the_mx_is_delivered() {
        let mut accepted = outcome(Verdict::Accepted, "ok");
        let next = |o: &Outcome| o.next(&attempt(1, 72, OnUncertain::Retry), &policy(), DateTime::UNIX_EPOCH, 0.5);
        assert_eq!(next(&accepted), Transition::End(Status::Relayed));
        accepted.peer.is_final = true;
        assert_eq!(next(&accepted), Transition::End(Status::Delivered));
    }
}
