//! When to try again, and when to stop. Pure: the caller brings the time and the dice.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::delivery::{Status, Transition};
use super::event::EventType;
use super::outcome::{OnUncertain, Outcome, Reply, Verdict};

/// How long to wait between attempts and how long to keep trying.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The wait after the first, second, … attempt; the last one repeats.
    pub schedule: Vec<Duration>,
    /// From the first due time to giving up.
    pub window: Duration,
    /// The first wait where the reply speaks of greylisting, if longer than the schedule's.
    pub greylist: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        Self {
            schedule: [1, 5, 15, 30, 60, 120, 240].map(minutes).to_vec(),
            window: minutes(72 * 60),
            greylist: minutes(5),
        }
    }
}

/// The attempt that an outcome belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// 1 for the first.
    pub number: u32,
    /// After this no further attempt starts: the end of the window or `expires_at`, whichever is earlier.
    pub deadline: DateTime<Utc>,
    /// The sender's choice.
    pub on_uncertain: OnUncertain,
}

/// The share by which a wait is stretched or shortened, so that retries do not come in step.
const JITTER: f64 = 0.2;

impl Policy {
    /// The last moment at which an attempt may start.
    pub fn deadline(&self, first_due: DateTime<Utc>, expires_at: Option<DateTime<Utc>>) -> DateTime<Utc> {
        let end = first_due + delta(self.window);
        expires_at.map_or(end, |expiry| expiry.min(end))
    }

    /// The wait after attempt `number`, `dice` in 0..1 choosing within ±20 %.
    fn wait(&self, number: u32, reply: &Reply, dice: f64) -> Duration {
        let index = usize::try_from(number.saturating_sub(1)).unwrap_or(usize::MAX);
        let plain = self.schedule.get(index).or(self.schedule.last()).copied().unwrap_or(Duration::from_mins(1));
        let wait = if number == 1 && is_greylisting(reply) { plain.max(self.greylist) } else { plain };
        wait.mul_f64(1.0 - JITTER + 2.0 * JITTER * dice.clamp(0.0, 1.0))
    }
}

impl Outcome {
    /// What becomes of the recipient after this outcome.
    pub fn next(&self, attempt: &Attempt, policy: &Policy, now: DateTime<Utc>, dice: f64) -> Transition {
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
        // The last wait is cut to the deadline, so that a recipient expires when promised and not up to 4 h later.
        let at = now + delta(policy.wait(attempt.number, &self.reply, dice));
        Transition::Retry { at: at.min(attempt.deadline), event }
    }
}

/// Whether a refusal asks for a second try rather than telling of trouble.
fn is_greylisting(reply: &Reply) -> bool {
    let text = reply.text.to_ascii_lowercase();
    text.contains("greylist") || text.contains("graylist")
}

fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::outcome::Peer;

    fn outcome(verdict: Verdict, text: &str) -> Outcome {
        Outcome { verdict, reply: Reply::ours(text), peer: Peer::default(), duration: Duration::ZERO }
    }

    fn attempt(number: u32, deadline_h: i64, on_uncertain: OnUncertain) -> Attempt {
        Attempt { number, deadline: DateTime::UNIX_EPOCH + TimeDelta::hours(deadline_h), on_uncertain }
    }

    fn minutes_until(transition: Transition) -> i64 {
        (transition.next_attempt_at().expect("a retry") - DateTime::UNIX_EPOCH).num_minutes()
    }

    #[test]
    fn waits_grow_and_then_stay() {
        let policy = Policy::default();
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
    fn jitter_stays_within_a_fifth() {
        let policy = Policy::default();
        let at = |dice| policy.wait(5, &Reply::ours(""), dice).as_secs();
        assert_eq!((at(0.0), at(0.5), at(1.0)), (48 * 60, 60 * 60, 72 * 60));
    }

    #[test]
    fn greylisting_waits_five_minutes_the_first_time() {
        let policy = Policy::default();
        let next = |number, text| {
            let attempt = attempt(number, 72, OnUncertain::Retry);
            minutes_until(outcome(Verdict::Temporary, text).next(&attempt, &policy, DateTime::UNIX_EPOCH, 0.5))
        };
        assert_eq!(next(1, "4.7.1 Greylisted, try again"), 5);
        assert_eq!(next(1, "try again"), 1);
        assert_eq!(next(3, "Greylisted"), 15);
    }

    #[test]
    fn a_temporary_failure_expires_and_never_bounces() {
        let policy = Policy::default();
        let deadline = attempt(30, 72, OnUncertain::Retry);
        let step = |h| {
            outcome(Verdict::Temporary, "").next(&deadline, &policy, DateTime::UNIX_EPOCH + TimeDelta::hours(h), 0.5)
        };
        assert_eq!(step(71).next_attempt_at(), Some(deadline.deadline), "the last wait is cut to the deadline");
        assert_eq!(step(72), Transition::End(Status::Expired));
    }

    #[test]
    fn uncertain_follows_the_senders_choice() {
        let policy = Policy::default();
        let next =
            |choice| outcome(Verdict::Uncertain, "").next(&attempt(1, 72, choice), &policy, DateTime::UNIX_EPOCH, 0.5);
        assert!(matches!(next(OnUncertain::Retry), Transition::Retry { event: EventType::Uncertain, .. }));
        assert_eq!(next(OnUncertain::Hold), Transition::End(Status::Uncertain));
        assert_eq!(next(OnUncertain::Fail), Transition::End(Status::Uncertain));
    }

    #[test]
    fn accepted_is_delivered_only_by_the_recipients_own_server() {
        let mut accepted = outcome(Verdict::Accepted, "ok");
        let next =
            |o: &Outcome| o.next(&attempt(1, 72, OnUncertain::Retry), &Policy::default(), DateTime::UNIX_EPOCH, 0.5);
        assert_eq!(next(&accepted), Transition::End(Status::Relayed));
        accepted.peer.is_final = true;
        assert_eq!(next(&accepted), Transition::End(Status::Delivered));
    }
}
