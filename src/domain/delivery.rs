//! The states of a recipient, which step leads where, and what they make of the message as a whole.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};

use super::event::EventType;
use super::report::Action;

/// Where a recipient is on its way.
///
/// `Queued`, `Deferred` and the end states are stored; `Scheduled` (queued, its first due time to come) and `Sending`
/// (leased by a worker) follow from the recipient's row in the queue, so that a claim writes one row and not two.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
#[schema(as = RecipientStatus)]
pub enum Status {
    /// In a worker's hand.
    Sending,
    /// Waiting for its first attempt.
    Queued,
    /// Tried, and waiting for the next attempt.
    Deferred,
    /// Waiting for its `scheduled_at`.
    Scheduled,
    /// A relay took responsibility.
    Relayed,
    /// The recipient's own mail server took it.
    Delivered,
    /// Refused for good.
    Bounced,
    /// The retry window or `expires_at` ran out; not a bounce.
    Expired,
    /// Not sent because the address is on the suppression list.
    Suppressed,
    /// Called back before it left.
    Canceled,
    /// The link died after the final dot, and the sender asked not to try again.
    Uncertain,
}

impl Status {
    /// Every status, the most urgent first.
    pub const ALL: [Self; 11] = [
        Self::Sending,
        Self::Queued,
        Self::Deferred,
        Self::Scheduled,
        Self::Relayed,
        Self::Delivered,
        Self::Bounced,
        Self::Expired,
        Self::Suppressed,
        Self::Canceled,
        Self::Uncertain,
    ];

    /// The word in SQL, JSON and documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sending => "sending",
            Self::Queued => "queued",
            Self::Deferred => "deferred",
            Self::Scheduled => "scheduled",
            Self::Relayed => "relayed",
            Self::Delivered => "delivered",
            Self::Bounced => "bounced",
            Self::Expired => "expired",
            Self::Suppressed => "suppressed",
            Self::Canceled => "canceled",
            Self::Uncertain => "uncertain",
        }
    }

    /// Whether the recipient has left the queue.
    pub fn is_end(self) -> bool {
        !matches!(self, Self::Sending | Self::Queued | Self::Deferred | Self::Scheduled)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Status {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|status| status.as_str() == word).ok_or(())
    }
}

/// A message's own status: the most urgent of its recipients', or `partial` where they ended differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MessageStatus {
    /// See [`Status::Sending`].
    Sending,
    /// See [`Status::Queued`].
    Queued,
    /// See [`Status::Deferred`].
    Deferred,
    /// See [`Status::Scheduled`].
    Scheduled,
    /// See [`Status::Relayed`].
    Relayed,
    /// See [`Status::Delivered`].
    Delivered,
    /// See [`Status::Bounced`].
    Bounced,
    /// See [`Status::Expired`].
    Expired,
    /// See [`Status::Suppressed`].
    Suppressed,
    /// See [`Status::Canceled`].
    Canceled,
    /// See [`Status::Uncertain`].
    Uncertain,
    /// Every recipient has ended, and not all in the same state.
    Partial,
}

impl MessageStatus {
    /// Sums up the recipients' states.
    pub fn of(recipients: impl IntoIterator<Item = Status>) -> Self {
        let mut seen: Vec<Status> = recipients.into_iter().collect();
        seen.sort_unstable();
        seen.dedup();
        match seen.as_slice() {
            [] => Self::Queued,
            [first, _, ..] if first.is_end() => Self::Partial,
            [first, ..] => (*first).into(),
        }
    }
}

impl From<Status> for MessageStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Sending => Self::Sending,
            Status::Queued => Self::Queued,
            Status::Deferred => Self::Deferred,
            Status::Scheduled => Self::Scheduled,
            Status::Relayed => Self::Relayed,
            Status::Delivered => Self::Delivered,
            Status::Bounced => Self::Bounced,
            Status::Expired => Self::Expired,
            Status::Suppressed => Self::Suppressed,
            Status::Canceled => Self::Canceled,
            Status::Uncertain => Self::Uncertain,
        }
    }
}

/// What becomes of a recipient after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// It has reached an end state and leaves the queue.
    End(Status),
    /// It stays in the queue as `deferred`; the event says why.
    Retry {
        /// When the next attempt is due.
        at: DateTime<Utc>,
        /// `message.deferred`, or `message.uncertain` where a copy may already have arrived.
        event: EventType,
    },
}

impl Transition {
    /// The status that is stored.
    pub fn status(self) -> Status {
        match self {
            Self::End(status) => status,
            Self::Retry { .. } => Status::Deferred,
        }
    }

    /// When the next attempt is due, if there is one.
    pub fn next_attempt_at(self) -> Option<DateTime<Utc>> {
        match self {
            Self::End(_) => None,
            Self::Retry { at, .. } => Some(at),
        }
    }

    /// The event that tells of it.
    pub fn event(self) -> EventType {
        match self {
            Self::Retry { event, .. } => event,
            Self::End(status) => EventType::of_end(status),
        }
    }
}

/// Why a report changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoEffectReason {
    /// It says what is known already: it came twice, or another said it before.
    Known,
    /// The recipient waits for another attempt, which will have its own answer.
    Waiting,
    /// A worker has it in hand: what the server answered is not on record yet. Told again in a moment, it may change much.
    InHand,
    /// Nothing was sent that it could be about.
    NotSent,
    /// It says nothing of the end.
    NoEnd,
}

impl NoEffectReason {
    /// The word in JSON and documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Known => "already_known",
            Self::Waiting => "still_waiting",
            Self::InHand => "in_hand",
            Self::NotSent => "not_sent",
            Self::NoEnd => "no_end",
        }
    }
}

/// What a report does to a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportEffect {
    /// It has another end state.
    Ends(Status),
    /// It is where it was, and its owner called the mail spam; no further attempt is made.
    Complains,
    /// It is where it was, and an event tells what was said: whoever else knows the return path may have forged it.
    Noted(EventType),
    /// Nothing.
    Nothing(NoEffectReason),
}

impl ReportEffect {
    /// What a report of `action` does to a recipient in `status` after so many `attempts` on record. Each step leads one way,
    /// `uncertain` and `relayed` over `delivered` to `bounced`, so that a report that comes again finds nothing to do. One that
    /// waits is not touched: the report is about an earlier attempt, and the next one has its own answer. One in hand may have
    /// been handed over a moment ago, so that nothing can be said of it yet. Who complains has the mail, whatever is known of
    /// it here: a complaint counts in every state, once there was an attempt.
    pub fn of(action: Action, status: Status, attempts: i16, has_complained: bool) -> Self {
        use Status::{Bounced, Delivered, Expired, Relayed, Uncertain};
        match (action, status) {
            (Action::Complained, _) if has_complained => Self::Nothing(NoEffectReason::Known),
            (Action::Complained, _) if attempts > 0 => Self::Complains,
            (_, Status::Sending) => Self::Nothing(NoEffectReason::InHand),
            (_, Status::Queued | Status::Deferred | Status::Scheduled) => Self::Nothing(NoEffectReason::Waiting),
            (_, Status::Canceled | Status::Suppressed) => Self::Nothing(NoEffectReason::NotSent),
            (Action::Complained, _) => Self::Complains,
            (Action::Failed, Relayed | Delivered | Uncertain) => Self::Ends(Bounced),
            (Action::Delivered, Relayed | Uncertain) => Self::Ends(Delivered),
            // Of one that expired an attempt may have got through without our knowledge; it was given up all the same.
            (Action::Failed, Bounced | Expired) | (Action::Delivered, Delivered | Bounced | Expired) => {
                Self::Nothing(NoEffectReason::Known)
            }
            (Action::Delayed | Action::Relayed | Action::Expanded, _) => Self::Nothing(NoEffectReason::NoEnd),
        }
    }

    /// The same by a return path that other recipients know as well: an event and nothing else, once. `noted` is what was said
    /// of the recipient that way before, in the words of [`note`](Self::note).
    #[must_use]
    pub fn unvouched(self, noted: &[String]) -> Self {
        let event = match self {
            Self::Ends(status) => EventType::of_end(status),
            Self::Complains => EventType::Complained,
            Self::Noted(_) | Self::Nothing(_) => return self,
        };
        let is_known = Self::Noted(event).note().is_some_and(|word| noted.iter().any(|noted| noted == word));
        if is_known { Self::Nothing(NoEffectReason::Known) } else { Self::Noted(event) }
    }

    /// The word by which the recipient's row keeps that it was said.
    pub fn note(self) -> Option<&'static str> {
        match self {
            Self::Noted(event) => event.as_str().strip_prefix("message."),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_moves_a_recipient_one_way_and_once() {
        use Status::{Bounced, Delivered, Relayed, Uncertain};
        let word = |action, status| ReportEffect::of(action, status, 1, false);
        for from in [Relayed, Delivered, Uncertain] {
            assert_eq!(word(Action::Failed, from), ReportEffect::Ends(Bounced));
        }
        for from in [Relayed, Uncertain] {
            assert_eq!(word(Action::Delivered, from), ReportEffect::Ends(Delivered));
        }
        assert_eq!(word(Action::Failed, Bounced), ReportEffect::Nothing(NoEffectReason::Known));
        assert_eq!(word(Action::Delivered, Delivered), ReportEffect::Nothing(NoEffectReason::Known));
        assert_eq!(word(Action::Delivered, Bounced), ReportEffect::Nothing(NoEffectReason::Known));
        for action in [Action::Delayed, Action::Relayed, Action::Expanded] {
            assert_eq!(word(action, Relayed), ReportEffect::Nothing(NoEffectReason::NoEnd));
        }
        assert_eq!(ReportEffect::of(Action::Complained, Delivered, 1, false), ReportEffect::Complains);
        assert_eq!(
            ReportEffect::of(Action::Complained, Delivered, 1, true),
            ReportEffect::Nothing(NoEffectReason::Known)
        );
    }

    #[test]
    fn who_waits_or_was_never_sent_to_is_not_touched_by_any_report() {
        let no_complaints = [Action::Failed, Action::Delayed, Action::Delivered, Action::Relayed, Action::Expanded];
        let all = no_complaints.into_iter().flat_map(|action| [(action, 0), (action, 3)]);
        for (action, attempts) in all.chain([(Action::Complained, 0)]) {
            for status in Status::ALL {
                let word = ReportEffect::of(action, status, attempts, false);
                if !status.is_end() {
                    let why = if status == Status::Sending { NoEffectReason::InHand } else { NoEffectReason::Waiting };
                    assert_eq!(word, ReportEffect::Nothing(why));
                }
                if matches!(status, Status::Canceled | Status::Suppressed) {
                    assert_eq!(word, ReportEffect::Nothing(NoEffectReason::NotSent));
                }
                if let ReportEffect::Ends(end) = word {
                    assert!(
                        matches!(ReportEffect::of(action, end, attempts, false), ReportEffect::Nothing(_)),
                        "a replay does nothing"
                    );
                }
            }
        }
    }

    #[test]
    fn unvouched_reports_are_noted_once_and_move_nothing() {
        for action in [Action::Failed, Action::Delivered, Action::Complained, Action::Delayed] {
            for status in Status::ALL {
                let vouched = ReportEffect::of(action, status, 1, false);
                let noted = vouched.unvouched(&[]);
                assert_eq!(matches!(vouched, ReportEffect::Nothing(_)), noted == vouched, "{action:?} {status:?}");
                assert!(matches!(noted, ReportEffect::Nothing(_) | ReportEffect::Noted(_)), "{noted:?}");
                if let Some(note) = noted.note() {
                    assert_eq!(vouched.unvouched(&[note.to_owned()]), ReportEffect::Nothing(NoEffectReason::Known));
                }
            }
        }
    }

    #[test]
    fn a_complaint_counts_in_every_state_once_there_was_an_attempt() {
        for status in Status::ALL {
            assert_eq!(ReportEffect::of(Action::Complained, status, 1, false), ReportEffect::Complains);
            assert_eq!(
                ReportEffect::of(Action::Complained, status, 1, true),
                ReportEffect::Nothing(NoEffectReason::Known)
            );
        }
    }

    #[test]
    fn a_message_shows_its_most_urgent_recipient() {
        use Status::{Bounced, Deferred, Delivered, Queued, Relayed, Sending};
        assert_eq!(MessageStatus::of([Relayed, Sending, Queued]), MessageStatus::Sending);
        assert_eq!(MessageStatus::of([Bounced, Deferred]), MessageStatus::Deferred);
        assert_eq!(MessageStatus::of([Relayed, Relayed]), MessageStatus::Relayed);
        assert_eq!(MessageStatus::of([Delivered, Bounced]), MessageStatus::Partial);
    }

    #[test]
    fn every_status_reads_back_from_its_word() {
        for status in Status::ALL {
            assert_eq!(status.as_str().parse(), Ok(status));
        }
    }
}
