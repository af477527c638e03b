//! Lanes as the API shows them: their limits, the health of their destinations, and the reason why they send or do not
//! send.

pub mod destination_health;
pub mod pause;
pub mod unreachable;

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};

use super::explain::Count;
use super::explain::phrases::{capitalised, one_line, rate, reply, time};
use super::id::LaneId;
use super::limits::LaneLimits;
use unreachable::Cause;

/// The state of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = LaneState)]
pub enum State {
    /// Messages are sent without a limit.
    Open,
    /// Messages are sent at a limited rate: one learned from replies, or a configured rate while messages are due.
    Throttled,
    /// The destination is unreachable; it is probed periodically.
    Blocked,
    /// An operator has paused the lane or its stream.
    Paused,
}

impl State {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Open, Self::Throttled, Self::Blocked, Self::Paused];

    /// Returns the state's name in SQL, JSON and documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Throttled => "throttled",
            Self::Blocked => "blocked",
            Self::Paused => "paused",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for State {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|state| state.as_str() == word).ok_or(())
    }
}

/// A pause of a lane or a stream, or the suspension of a tenant, by an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paused {
    /// The time at which it started.
    pub at: DateTime<Utc>,
    /// The operator's reason, if any.
    pub reason: Option<String>,
}

impl Paused {
    /// Removes the reason, for callers that may not see it.
    #[must_use]
    pub fn without_reason(self) -> Self {
        Self { reason: None, ..self }
    }
}

/// A rate limit learned from the destination's replies.
#[derive(Debug, Clone, PartialEq)]
pub struct Learned {
    /// The current rate, in messages per second.
    pub rate: f64,
    /// The rate above which the limit is dropped, in messages per second.
    pub ceiling: f64,
    /// The time at which the destination last throttled Postrider.
    pub at: DateTime<Utc>,
    /// The time at which successful attempts last raised the rate after that; `None` if they have not.
    pub raised_at: Option<DateTime<Utc>>,
    /// The reply that throttled Postrider.
    pub reply: Option<String>,
}

/// An unreachable destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreachable {
    /// The time of the first failure.
    pub since: DateTime<Utc>,
    /// Consecutive failures, including the first.
    pub failures: i16,
    /// The last failure's reply or error.
    pub reply: Option<String>,
    /// The cause; `None` if it was not recorded.
    pub cause: Option<Cause>,
    /// The host that was tried last; `None` if no host was found.
    pub host: Option<String>,
}

/// Recipients that could not be prepared for sending because of this installation's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unprepared {
    /// The number of recipients.
    pub recipients: Count,
    /// The time of the first failure.
    pub since: DateTime<Utc>,
    /// The error of the first recipient, with the domain and the configuration key.
    pub error: String,
}

/// The limits that all lanes of a stream share, and their state.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StreamLimits {
    /// The suspension of the tenant, if any.
    pub suspended: Option<Paused>,
    /// The stream's pause, if any.
    pub paused: Option<Paused>,
    /// Maximum number of messages in flight.
    pub concurrency: Option<i32>,
    /// Maximum messages per second.
    pub rate: Option<f64>,
    /// No message of the stream is sent before this time; `None` if it is past.
    pub open_at: Option<DateTime<Utc>>,
    /// The part of the concurrency limit that workers have leased.
    pub in_use: i64,
}

/// A lane and its state.
#[derive(Debug, Clone, PartialEq)]
pub struct Lane {
    /// The lane's id.
    pub id: LaneId,
    /// The lane's stream.
    pub stream: String,
    /// The route: `mx`, `relay`, `relay:NAME`, `inbound:ID` or `simulator`.
    pub route: String,
    /// The destination domain; `*` if messages for all domains are sent through a relay.
    pub domain: String,
    /// The stream's priority; lower values are sent first.
    pub priority: i16,
    /// The lane's state.
    pub state: State,
    /// Whether the lane has due messages.
    pub is_due: bool,
    /// No message is sent before this time, at which the rate limit opens or the next probe starts. `None` if it is
    /// past.
    pub open_at: Option<DateTime<Utc>>,
    /// The pause of the lane itself, if any.
    pub paused: Option<Paused>,
    /// The limits of the lane itself.
    pub limits: LaneLimits,
    /// The rate learned from the destination.
    pub learned: Option<Learned>,
    /// Set if the destination is unreachable.
    pub unreachable: Option<Unreachable>,
    /// The part of the lane's connection limit that workers use.
    pub in_use: i64,
    /// The limits of the lane's stream.
    pub stream_limits: StreamLimits,
}

/// The source of the rate that limits a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateSource {
    /// Learned from the destination's replies.
    Learned,
    /// The lane's own rate.
    Lane,
    /// The stream's rate, shared by all its lanes.
    Stream,
}

impl StreamLimits {
    /// Returns whether the stream is at its concurrency limit.
    pub fn is_full(&self) -> bool {
        self.concurrency.is_some_and(|limit| self.in_use >= i64::from(limit))
    }
}

impl Lane {
    /// Returns whether the lane is at its own connection limit.
    pub fn is_full(&self) -> bool {
        self.limits.connections.is_some_and(|limit| self.in_use >= i64::from(limit))
    }

    /// Describes the destination: a domain, or the relays.
    pub fn destination(&self) -> String {
        match self.route.strip_prefix("relay:") {
            _ if self.route == "simulator" => "the simulator".into(),
            _ if self.domain != "*" => self.domain.clone(),
            Some(name) => format!("the relays of route {name}"),
            None => "the relay".into(),
        }
    }

    /// Returns the lowest rate that applies, in messages per second.
    pub fn effective_rate(&self) -> Option<(f64, RateSource)> {
        let stream = self.stream_limits.rate.map(|rate| (rate, RateSource::Stream));
        lower_rate(self.own_rate(), stream)
    }

    /// Returns the rate that due messages wait for: the one whose `open_at` is the latest; the lowest rate if no
    /// `open_at` is in the future.
    pub fn limiting_rate(&self) -> Option<(f64, RateSource)> {
        let stream = self.stream_limits.rate.map(|rate| (rate, RateSource::Stream));
        if self.stream_limits.open_at.is_some() && self.stream_limits.open_at >= self.open_at && stream.is_some() {
            return stream;
        }
        self.own_rate().filter(|_| self.open_at.is_some()).or_else(|| self.effective_rate())
    }

    fn own_rate(&self) -> Option<(f64, RateSource)> {
        let learned = self.learned.as_ref().map(|learned| (learned.rate, RateSource::Learned));
        lower_rate(learned, self.limits.rate.map(|rate| (rate, RateSource::Lane)))
    }

    /// Returns the time before which no message is sent, because of the lane or its stream.
    pub fn opens_at(&self) -> Option<DateTime<Utc>> {
        self.open_at.max(self.stream_limits.open_at)
    }

    /// Describes why the lane sends or does not send, in a few sentences. `unprepared` counts its recipients that
    /// cannot be prepared because of the configuration.
    pub fn reason(&self, has_workers: bool, unprepared: Option<&Unprepared>) -> String {
        let limit = self.stopped_sentence().or_else(|| self.full_sentence()).or_else(|| self.throttled_sentence());
        let unprepared = unprepared.map(|unprepared| {
            let Count { number, is_more } = unprepared.recipients;
            let more = if is_more { "More than " } else { "" };
            let recipients = if number == 1 { "recipient" } else { "recipients" };
            format!(
                "{more}{number} {recipients} cannot be prepared since {}: {}.",
                time(unprepared.since),
                one_line(&unprepared.error)
            )
        });
        let worker = (!has_workers).then(|| NO_WORKER.to_owned());
        let sentences: Vec<String> = [limit, unprepared, worker].into_iter().flatten().collect();
        match sentences.is_empty() {
            false => sentences.join(" "),
            // The number of free workers is not recorded.
            true if self.is_due => "Not limited. Due messages are sent as soon as workers are free.".into(),
            true => "Not limited.".into(),
        }
    }

    /// Describes the suspension, the pause or the unreachable destination that stops the lane.
    fn stopped_sentence(&self) -> Option<String> {
        if let Some(suspended) = &self.stream_limits.suspended {
            return Some(format!(
                "The tenant has been suspended since {}{}.",
                time(suspended.at),
                pause_reason(suspended)
            ));
        }
        if let Some(paused) = &self.stream_limits.paused {
            return Some(format!(
                "Stream `{}` is paused since {}{}.",
                self.stream,
                time(paused.at),
                pause_reason(paused)
            ));
        }
        if let Some(paused) = &self.paused {
            return Some(format!("Paused since {}{}.", time(paused.at), pause_reason(paused)));
        }
        self.unreachable_sentence()
    }

    /// Describes since when and why the destination is unreachable, and when the next probe is due.
    pub(super) fn unreachable_sentence(&self) -> Option<String> {
        let unreachable = self.unreachable.as_ref()?;
        let next = self.open_at.map_or_else(|| "now".into(), |at| format!("at {}", time(at)));
        let tries = match unreachable.failures {
            1 => "1 try".into(),
            failures => format!("{failures} tries"),
        };
        let verb = unreachable.cause.map_or("cannot be reached", Cause::verb);
        Some(format!(
            "{} {verb}, since {} ({tries}){}. The next probe is due {next}.",
            capitalised(&self.server(unreachable)),
            time(unreachable.since),
            reply(unreachable.reply.as_deref()),
        ))
    }

    /// Describes the server that was tried: its host, and its role for this lane.
    fn server(&self, unreachable: &Unreachable) -> String {
        match (&unreachable.host, self.route.as_str()) {
            (Some(host), "mx") => format!("the mail server {host} of {}", self.domain),
            (None, "mx") => format!("the domain {}", self.domain),
            (Some(host), route) => format!("the relay {host} (route `{route}`)"),
            (None, _) => self.destination(),
        }
    }

    /// Describes the connection or concurrency limit that is reached.
    fn full_sentence(&self) -> Option<String> {
        match (self.limits.connections, self.stream_limits.concurrency) {
            (Some(limit), _) if self.is_full() => {
                Some(format!("The lane is at its connection limit ({limit} in use)."))
            }
            (_, Some(limit)) if self.stream_limits.is_full() => {
                Some(format!("Stream `{}` is at its concurrency limit ({limit} in flight).", self.stream))
            }
            _ => None,
        }
    }

    /// Describes the rate that limits the lane.
    pub(super) fn throttled_sentence(&self) -> Option<String> {
        let (per_second, source) = self.limiting_rate()?;
        let rate = rate(per_second);
        Some(match source {
            RateSource::Learned => {
                let learned = self.learned.as_ref()?;
                let raised = if learned.raised_at.is_some() { "the rate has been raised to" } else { "the rate is" };
                format!(
                    "The destination throttled Postrider at {}{}; {raised} {rate}.",
                    time(learned.at),
                    reply(learned.reply.as_deref())
                )
            }
            RateSource::Lane => format!("Limited to {rate} by the lane's rate."),
            RateSource::Stream => format!("Limited to {rate} by the rate of stream `{}`.", self.stream),
        })
    }
}

/// The sentence used when no worker is running.
pub(super) const NO_WORKER: &str = "No worker is running (no recent heartbeat), so nothing is sent.";

/// Returns the lower of two rates; the first if they are equal.
fn lower_rate(a: Option<(f64, RateSource)>, b: Option<(f64, RateSource)>) -> Option<(f64, RateSource)> {
    [a, b].into_iter().flatten().min_by(|a, b| a.0.total_cmp(&b.0))
}

/// Formats the reason of a pause, to follow its time.
pub(super) fn pause_reason(paused: &Paused) -> String {
    paused.reason.as_deref().map_or_else(String::new, |reason| format!(" ({reason})"))
}

/// An open lane without limits.
#[cfg(test)]
pub(in crate::domain) fn example() -> Lane {
    Lane {
        id: LaneId(7),
        stream: "bulk".into(),
        route: "mx".into(),
        domain: "example.test".into(),
        priority: 50,
        state: State::Open,
        is_due: true,
        open_at: None,
        paused: None,
        limits: LaneLimits::default(),
        learned: None,
        unreachable: None,
        in_use: 0,
        stream_limits: StreamLimits::default(),
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn at(minute: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::minutes(minute)
    }

    #[test]
    fn reason_names_limits_and_missing_workers() {
        let reason = |change: &dyn Fn(&mut Lane), has_workers| {
            let mut lane = example();
            change(&mut lane);
            lane.reason(has_workers, None)
        };
        assert_eq!(reason(&|lane| lane.is_due = false, true), "Not limited.");
        assert_eq!(reason(&|_| (), true), "Not limited. Due messages are sent as soon as workers are free.");
        assert_eq!(reason(&|_| (), false), "No worker is running (no recent heartbeat), so nothing is sent.");
        let full = |lane: &mut Lane| {
            lane.stream_limits.concurrency = Some(3);
            lane.stream_limits.in_use = 3;
        };
        assert_eq!(reason(&full, true), "Stream `bulk` is at its concurrency limit (3 in flight).");
        let busy = |lane: &mut Lane| {
            lane.limits.connections = Some(2);
            lane.in_use = 2;
        };
        assert_eq!(reason(&busy, true), "The lane is at its connection limit (2 in use).");
        let slow = |lane: &mut Lane| lane.stream_limits.rate = Some(2.0);
        assert_eq!(reason(&slow, true), "Limited to 2 messages per second by the rate of stream `bulk`.");
        let raised = |lane: &mut Lane| {
            let reply = Some("4.7.0 slow down".into());
            lane.learned = Some(Learned { rate: 2.0, ceiling: 40.0, at: at(8), raised_at: Some(at(9)), reply });
        };
        assert_eq!(
            reason(&raised, true),
            "The destination throttled Postrider at 1970-01-01T00:08:00Z: “4.7.0 slow down”; the rate has been raised to 2 messages per \
             second."
        );
    }

    #[test]
    fn unreachable_reason_names_cause_host_reply_and_time() {
        let reason = |cause, host: Option<&str>, route: &str| {
            let mut lane = example();
            lane.route = route.into();
            let reply = Some("535 5.7.8 wrong password".into());
            let host = host.map(Into::into);
            lane.unreachable = Some(Unreachable { since: at(8), failures: 3, reply, cause, host });
            lane.open_at = Some(at(9));
            lane.reason(true, None)
        };
        let rest = "since 1970-01-01T00:08:00Z (3 tries): “535 5.7.8 wrong password”. The next probe is due at \
                    1970-01-01T00:09:00Z.";
        for (cause, host, route, start) in [
            (
                Some(Cause::Auth),
                Some("smtp.test"),
                "relay:eu",
                "The relay smtp.test (route `relay:eu`) rejects the login",
            ),
            (
                Some(Cause::Timeout),
                Some("mx.test"),
                "mx",
                "The mail server mx.test of example.test does not respond in time",
            ),
            (Some(Cause::Dns), None, "mx", "The domain example.test cannot be found in the DNS"),
            (None, None, "mx", "The domain example.test cannot be reached"),
        ] {
            assert_eq!(reason(cause, host, route), format!("{start}, {rest}"));
        }
    }

    #[test]
    fn unprepared_recipients_are_named_beside_limits() {
        let mut lane = example();
        lane.limits.rate = Some(1.0);
        let unprepared = Unprepared {
            recipients: Count { number: 2, is_more: false },
            since: at(1),
            error: "messages from domain acme.test cannot be signed: secret_key is not set".into(),
        };
        assert_eq!(
            lane.reason(true, Some(&unprepared)),
            "Limited to 1 message per second by the lane's rate. 2 recipients cannot be prepared since 1970-01-01T00:01:00Z: messages \
             from domain acme.test cannot be signed: secret_key is not set."
        );
    }
}
