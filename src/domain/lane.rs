//! Lanes as an operator sees them: their limits, what was learned about their destinations, and why they send or not.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};

use super::explain::Count;
use super::explain::phrases::{capital, one_line, rate, reply, time};
use super::id::LaneId;
use super::limits::LaneLimits;
use super::unreachable::Cause;

/// Whether a lane sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = LaneState)]
pub enum State {
    /// Messages are sent without a limit.
    Open,
    /// Messages are sent at a limited rate: a rate was learned, or messages are due and a configured rate applies.
    Throttled,
    /// The destination is unreachable; it is probed periodically.
    Blocked,
    /// An operator has paused the lane or its stream.
    Paused,
}

impl State {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Open, Self::Throttled, Self::Blocked, Self::Paused];

    /// Returns the word in SQL, JSON and documentation.
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

/// A pause by an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paused {
    /// Since when.
    pub at: DateTime<Utc>,
    /// The reason given, if any.
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
    /// Messages per second now.
    pub rate: f64,
    /// Messages per second above which the limit is dropped.
    pub ceiling: f64,
    /// When the destination last throttled us.
    pub at: DateTime<Utc>,
    /// When success last raised the rate after that.
    pub raised_at: Option<DateTime<Utc>>,
    /// The reply that throttled us.
    pub reply: Option<String>,
}

/// An unreachable destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// Since when.
    pub since: DateTime<Utc>,
    /// Consecutive failures, including the first.
    pub failures: i16,
    /// The last failure's reply or error.
    pub reply: Option<String>,
    /// The cause; `None` if it was not recorded.
    pub cause: Option<Cause>,
    /// The host that was tried last, if one was found.
    pub host: Option<String>,
}

/// Recipients that could not be prepared for sending because of this installation's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unprepared {
    /// How many.
    pub recipients: Count,
    /// Since when the first of them could not.
    pub since: DateTime<Utc>,
    /// The first one's error, with the domain and the configuration key.
    pub error: String,
}

/// The limits of all lanes of a stream together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StreamTerms {
    /// The stream's pause, if any.
    pub paused: Option<Paused>,
    /// Messages in flight at one time.
    pub concurrency: Option<i32>,
    /// Messages per second.
    pub rate: Option<f64>,
    /// No message of the stream is sent before this time; `None` if it is past.
    pub open_at: Option<DateTime<Utc>>,
    /// How much of its concurrency workers have leased.
    pub in_use: i64,
}

/// A lane and its state.
#[derive(Debug, Clone, PartialEq)]
pub struct Lane {
    /// Its id.
    pub id: LaneId,
    /// Its stream.
    pub stream: String,
    /// `mx`, `relay` or `relay:NAME`.
    pub route: String,
    /// Destination domain; `*` for everything sent through a relay.
    pub domain: String,
    /// The stream's priority; lower is sent first.
    pub priority: i16,
    /// Whether it sends.
    pub state: State,
    /// Whether it has due messages.
    pub is_due: bool,
    /// No message is sent before this time: the rate's next turn, or the next probe. `None` if it is past.
    pub open_at: Option<DateTime<Utc>>,
    /// Its own pause.
    pub paused: Option<Paused>,
    /// Its own limits.
    pub limits: LaneLimits,
    /// The rate learned from the destination.
    pub learned: Option<Learned>,
    /// Set if the destination is unreachable.
    pub blocked: Option<Blocked>,
    /// How much of its own connection limit workers use.
    pub in_use: i64,
    /// The stream's limits.
    pub of_stream: StreamTerms,
}

/// Which rate limits a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateOf {
    /// Learned from the destination's replies.
    Learned,
    /// The lane's own rate.
    Lane,
    /// The stream's rate, shared by all its lanes.
    Stream,
}

impl StreamTerms {
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
            _ if self.domain != "*" => self.domain.clone(),
            Some(name) => format!("the relays of route {name}"),
            None => "the relay".into(),
        }
    }

    /// Returns the lowest rate that applies, in messages per second.
    pub fn effective_rate(&self) -> Option<(f64, RateOf)> {
        let stream = self.of_stream.rate.map(|rate| (rate, RateOf::Stream));
        lower(self.own_rate(), stream)
    }

    /// Returns the rate that due messages wait for: the one whose next turn is in the future (of two, the later); if
    /// there is none, the lowest.
    pub fn holding_rate(&self) -> Option<(f64, RateOf)> {
        let stream = self.of_stream.rate.map(|rate| (rate, RateOf::Stream));
        if self.of_stream.open_at.is_some() && self.of_stream.open_at >= self.open_at && stream.is_some() {
            return stream;
        }
        self.own_rate().filter(|_| self.open_at.is_some()).or_else(|| self.effective_rate())
    }

    fn own_rate(&self) -> Option<(f64, RateOf)> {
        let learned = self.learned.as_ref().map(|learned| (learned.rate, RateOf::Learned));
        lower(learned, self.limits.rate.map(|rate| (rate, RateOf::Lane)))
    }

    /// Returns the time before which no message is sent, because of the lane or its stream.
    pub fn opens(&self) -> Option<DateTime<Utc>> {
        self.open_at.max(self.of_stream.open_at)
    }

    /// Describes why the lane sends or not, in a few sentences. `unprepared` counts its recipients that wait for a
    /// fixed configuration.
    pub fn reason(&self, has_workers: bool, unprepared: Option<&Unprepared>) -> String {
        let limit = self.stopped().or_else(|| self.full()).or_else(|| self.throttled());
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

    /// Describes the pause or the unreachable destination that stops the lane.
    fn stopped(&self) -> Option<String> {
        if let Some(paused) = &self.of_stream.paused {
            return Some(format!("Stream `{}` is paused since {}{}.", self.stream, time(paused.at), given(paused)));
        }
        if let Some(paused) = &self.paused {
            return Some(format!("Paused since {}{}.", time(paused.at), given(paused)));
        }
        self.block()
    }

    /// Describes why its destination is unreachable, since when, and when the next probe is.
    pub(super) fn block(&self) -> Option<String> {
        let blocked = self.blocked.as_ref()?;
        let next = self.open_at.map_or_else(|| "now".into(), |at| format!("at {}", time(at)));
        let tries = if blocked.failures == 1 { "1 try".into() } else { format!("{} tries", blocked.failures) };
        let verb = blocked.cause.map_or("cannot be reached", Cause::verb);
        Some(format!(
            "{} {verb}, since {} ({tries}){}. The next probe is due {next}.",
            capital(&self.server(blocked)),
            time(blocked.since),
            reply(blocked.reply.as_deref()),
        ))
    }

    /// Describes the server that was tried: its host, and its role for this lane.
    fn server(&self, blocked: &Blocked) -> String {
        match (&blocked.host, self.route.as_str()) {
            (Some(host), "mx") => format!("the mail server {host} of {}", self.domain),
            (None, "mx") => format!("the domain {}", self.domain),
            (Some(host), route) => format!("the relay {host} (route `{route}`)"),
            (None, _) => self.destination(),
        }
    }

    /// Describes the connection or concurrency limit that is reached.
    fn full(&self) -> Option<String> {
        match (self.limits.connections, self.of_stream.concurrency) {
            (Some(limit), _) if self.is_full() => {
                Some(format!("The lane is at its connection limit ({limit} in use)."))
            }
            (_, Some(limit)) if self.of_stream.is_full() => {
                Some(format!("Stream `{}` is at its concurrency limit ({limit} in flight).", self.stream))
            }
            _ => None,
        }
    }

    /// Describes the rate that limits it.
    pub(super) fn throttled(&self) -> Option<String> {
        let (per_second, of) = self.holding_rate()?;
        let rate = rate(per_second);
        Some(match of {
            RateOf::Learned => {
                let learned = self.learned.as_ref()?;
                let raised = if learned.raised_at.is_some() { "the rate was raised since to" } else { "the rate is" };
                format!(
                    "The destination throttled us at {}{}; {raised} {rate}.",
                    time(learned.at),
                    reply(learned.reply.as_deref())
                )
            }
            RateOf::Lane => format!("Limited to {rate} by the lane's rate."),
            RateOf::Stream => format!("Limited to {rate} by the rate of stream `{}`.", self.stream),
        })
    }
}

/// The sentence used when no worker is running.
pub(super) const NO_WORKER: &str = "No worker is running (no recent heartbeat), so nothing is sent.";

/// Returns the lower of two rates, the first if they are equal.
fn lower(a: Option<(f64, RateOf)>, b: Option<(f64, RateOf)>) -> Option<(f64, RateOf)> {
    [a, b].into_iter().flatten().min_by(|a, b| a.0.total_cmp(&b.0))
}

/// Formats the reason of a pause to follow its time.
pub(super) fn given(paused: &Paused) -> String {
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
        blocked: None,
        in_use: 0,
        of_stream: StreamTerms::default(),
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
            lane.of_stream.concurrency = Some(3);
            lane.of_stream.in_use = 3;
        };
        assert_eq!(reason(&full, true), "Stream `bulk` is at its concurrency limit (3 in flight).");
        let busy = |lane: &mut Lane| {
            lane.limits.connections = Some(2);
            lane.in_use = 2;
        };
        assert_eq!(reason(&busy, true), "The lane is at its connection limit (2 in use).");
        let slow = |lane: &mut Lane| lane.of_stream.rate = Some(2.0);
        assert_eq!(reason(&slow, true), "Limited to 2 messages per second by the rate of stream `bulk`.");
        let raised = |lane: &mut Lane| {
            let reply = Some("4.7.0 slow down".into());
            lane.learned = Some(Learned { rate: 2.0, ceiling: 40.0, at: at(8), raised_at: Some(at(9)), reply });
        };
        assert_eq!(
            reason(&raised, true),
            "The destination throttled us at 1970-01-01T00:08:00Z: “4.7.0 slow down”; the rate was raised since to 2 messages per \
             second."
        );
    }

    #[test]
    fn block_names_cause_host_route_reply_and_time() {
        let blocked = |cause, host: Option<&str>, route: &str| {
            let mut lane = example();
            lane.route = route.into();
            let reply = Some("535 5.7.8 wrong password".into());
            lane.blocked = Some(Blocked { since: at(8), failures: 3, reply, cause, host: host.map(Into::into) });
            lane.open_at = Some(at(9));
            lane.reason(true, None)
        };
        let rest = "since 1970-01-01T00:08:00Z (3 tries): “535 5.7.8 wrong password”. The next probe is due at \
                    1970-01-01T00:09:00Z.";
        for (cause, host, route, words) in [
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
            assert_eq!(blocked(cause, host, route), format!("{words}, {rest}"));
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
