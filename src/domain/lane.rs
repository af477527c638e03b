//! A lane as an operator sees it: what may go through it, what was learned of its destination, and why it moves or not.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};

use super::explain::words::{rate, reply, time};
use super::id::LaneId;
use super::limits::LaneLimits;

/// Whether a lane moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = LaneState)]
pub enum State {
    /// Mail goes as fast as it can.
    Open,
    /// Mail goes, more slowly than it could: a rate was learned, or mail is due and a rate that is set applies to it.
    Throttled,
    /// The destination cannot be reached; now and then it is probed.
    Blocked,
    /// An operator has stopped the lane, or its stream.
    Paused,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Open, Self::Throttled, Self::Blocked, Self::Paused];

    /// The word in SQL, JSON and documentation.
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

/// That an operator has stopped something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paused {
    /// Since when.
    pub at: DateTime<Utc>,
    /// The reason given, if any.
    pub reason: Option<String>,
}

impl Paused {
    /// The same for somebody who need not know why.
    #[must_use]
    pub fn without_reason(self) -> Self {
        Self { reason: None, ..self }
    }
}

/// A limit that the destination asked for by its replies.
#[derive(Debug, Clone, PartialEq)]
pub struct Learned {
    /// Mails a second now.
    pub rate: f64,
    /// Mails a second at which it is forgotten.
    pub ceiling: f64,
    /// When the destination last asked for less.
    pub at: DateTime<Utc>,
    /// When success last raised the rate since then.
    pub raised_at: Option<DateTime<Utc>>,
    /// The reply that asked for it.
    pub reply: Option<String>,
}

/// That the destination cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// Since when.
    pub since: DateTime<Utc>,
    /// Probes that failed in a row, the first failure included.
    pub failures: i16,
    /// What the last one heard.
    pub reply: Option<String>,
}

/// What holds for all lanes of a stream together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StreamTerms {
    /// Its pause, where it is stopped.
    pub paused: Option<Paused>,
    /// Mails in flight at one time.
    pub concurrency: Option<i32>,
    /// Mails a second.
    pub rate: Option<f64>,
    /// Nothing of it starts before then; `None` where that is past.
    pub open_at: Option<DateTime<Utc>>,
    /// Places in flight that workers hold of its concurrency.
    pub in_use: i64,
}

/// A lane as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Lane {
    /// Its id.
    pub id: LaneId,
    /// In which stream.
    pub stream: String,
    /// `mx`, `relay` or `relay:NAME`.
    pub route: String,
    /// Destination domain; `*` for all that goes through a relay.
    pub domain: String,
    /// The stream's; lower goes first.
    pub priority: i16,
    /// Whether it moves.
    pub state: State,
    /// Whether mail waits in it that is due.
    pub is_due: bool,
    /// Nothing starts before then: the rate's next turn, or the next probe. `None` where that is past.
    pub open_at: Option<DateTime<Utc>>,
    /// Its own pause.
    pub paused: Option<Paused>,
    /// Its own limits.
    pub limits: LaneLimits,
    /// What the destination asked for.
    pub learned: Option<Learned>,
    /// Where the destination cannot be reached.
    pub blocked: Option<Blocked>,
    /// Connections that workers hold of its own limit.
    pub in_use: i64,
    /// What its stream imposes.
    pub of_stream: StreamTerms,
}

/// Whose rate holds a lane back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateOf {
    /// Learned from the destination's replies.
    Learned,
    /// The lane's own.
    Lane,
    /// The stream's, over all its lanes.
    Stream,
}

impl StreamTerms {
    /// Whether as many of its mails are in flight as may be.
    pub fn is_full(&self) -> bool {
        self.concurrency.is_some_and(|limit| self.in_use >= i64::from(limit))
    }
}

impl Lane {
    /// Whether all connections of its own limit are in use.
    pub fn is_full(&self) -> bool {
        self.limits.connections.is_some_and(|limit| self.in_use >= i64::from(limit))
    }

    /// Where it goes, in words: a domain, or the relays that stand for many.
    pub fn destination(&self) -> String {
        match self.route.strip_prefix("relay:") {
            _ if self.domain != "*" => self.domain.clone(),
            Some(name) => format!("the relays of route {name}"),
            None => "the relay".into(),
        }
    }

    /// The lowest rate that applies, in mails a second.
    pub fn effective_rate(&self) -> Option<(f64, RateOf)> {
        let stream = self.of_stream.rate.map(|rate| (rate, RateOf::Stream));
        lower(self.own_rate(), stream)
    }

    /// The rate that what is due waits for: the one whose next turn is still to come, the later of two; where none is, the
    /// lowest.
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

    /// Nothing starts before then, whether the lane or its stream says so.
    pub fn opens(&self) -> Option<DateTime<Utc>> {
        self.open_at.max(self.of_stream.open_at)
    }

    /// Why it moves or not, in a sentence or two.
    pub fn reason(&self, has_workers: bool) -> String {
        let held = self.stopped().or_else(|| self.full()).or_else(|| self.slowed());
        match (held, has_workers) {
            (Some(held), true) => held,
            (Some(held), false) => format!("{held} {NO_WORKER}"),
            (None, false) => NO_WORKER.into(),
            // How many hands the workers have free is not on record.
            (None, true) if self.is_due => {
                "Nothing of its own holds it back; what is due goes as workers have hands free.".into()
            }
            (None, true) => "Nothing holds it back.".into(),
        }
    }

    /// The pause or the block that keeps everything in it.
    fn stopped(&self) -> Option<String> {
        if let Some(paused) = &self.of_stream.paused {
            return Some(format!("Stream {} is paused since {}{}.", self.stream, time(paused.at), given(paused)));
        }
        if let Some(paused) = &self.paused {
            return Some(format!("Paused since {}{}.", time(paused.at), given(paused)));
        }
        let blocked = self.blocked.as_ref()?;
        let next = self.open_at.map_or_else(|| "now".into(), time);
        let tries = if blocked.failures == 1 { "1 try".into() } else { format!("{} tries", blocked.failures) };
        let heard = reply(blocked.reply.as_deref());
        Some(format!(
            "The destination cannot be reached since {} ({tries}){heard}; next probe {next}.",
            time(blocked.since)
        ))
    }

    /// That all places which it or its stream may use are taken.
    fn full(&self) -> Option<String> {
        match (self.limits.connections, self.of_stream.concurrency) {
            (Some(limit), _) if self.is_full() => Some(format!("All {limit} connections that it may have are in use.")),
            (_, Some(limit)) if self.of_stream.is_full() => {
                Some(format!("All {limit} mails that stream {} may have in flight are.", self.stream))
            }
            _ => None,
        }
    }

    /// The rate that it is held to.
    pub(super) fn slowed(&self) -> Option<String> {
        let (per_second, of) = self.holding_rate()?;
        let rate = rate(per_second);
        Some(match of {
            RateOf::Learned => {
                let learned = self.learned.as_ref()?;
                let raised = if learned.raised_at.is_some() { "raised since to" } else { "held to" };
                format!(
                    "The destination asked for less at {}{}; {raised} {rate}.",
                    time(learned.at),
                    reply(learned.reply.as_deref())
                )
            }
            RateOf::Lane => format!("Held to its limit of {rate}."),
            RateOf::Stream => format!("Held to {rate} by the limit of stream {}.", self.stream),
        })
    }
}

/// What is said where nobody delivers.
pub(super) const NO_WORKER: &str = "No worker has been heard of lately, and without one nothing is sent.";

/// The lower of two rates, the first of two that are the same.
fn lower(a: Option<(f64, RateOf)>, b: Option<(f64, RateOf)>) -> Option<(f64, RateOf)> {
    [a, b].into_iter().flatten().min_by(|a, b| a.0.total_cmp(&b.0))
}

/// The reason of a pause, to stand behind it.
pub(super) fn given(paused: &Paused) -> String {
    paused.reason.as_deref().map_or_else(String::new, |reason| format!(" ({reason})"))
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn at(minute: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::minutes(minute)
    }

    fn lane() -> Lane {
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

    #[test]
    fn a_lane_tells_why_it_moves_or_not() {
        let reason = |change: &dyn Fn(&mut Lane), has_workers| {
            let mut lane = lane();
            change(&mut lane);
            lane.reason(has_workers)
        };
        assert_eq!(reason(&|lane| lane.is_due = false, true), "Nothing holds it back.");
        assert_eq!(
            reason(&|_| (), true),
            "Nothing of its own holds it back; what is due goes as workers have hands free."
        );
        assert_eq!(reason(&|_| (), false), "No worker has been heard of lately, and without one nothing is sent.");
        let full = |lane: &mut Lane| {
            lane.of_stream.concurrency = Some(3);
            lane.of_stream.in_use = 3;
        };
        assert_eq!(reason(&full, true), "All 3 mails that stream bulk may have in flight are.");
        let busy = |lane: &mut Lane| {
            lane.limits.connections = Some(2);
            lane.in_use = 2;
        };
        assert_eq!(reason(&busy, true), "All 2 connections that it may have are in use.");
        let slow = |lane: &mut Lane| lane.of_stream.rate = Some(2.0);
        assert_eq!(reason(&slow, true), "Held to 2 mails a second by the limit of stream bulk.");
        let raised = |lane: &mut Lane| {
            let reply = Some("4.7.0 slow down".into());
            lane.learned = Some(Learned { rate: 2.0, ceiling: 40.0, at: at(8), raised_at: Some(at(9)), reply });
        };
        assert_eq!(
            reason(&raised, true),
            "The destination asked for less at 1970-01-01T00:08:00Z: “4.7.0 slow down”; raised since to 2 mails a second."
        );
    }
}
