//! The states of a recipient, the transitions between them, and the status of a whole message.

pub mod conversation;
pub mod retry;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

use super::bounce::report::Action;
use super::event::EventType;

/// A recipient's delivery state.
///
/// `Queued`, `Deferred` and the end states are stored. `Scheduled` (queued with a first due time in the future) and
/// `Sending` (leased by a worker) are derived from the recipient's row in the queue, so that a claim writes only one
/// row.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
#[schema(as = RecipientStatus)]
pub enum Status {
    /// Leased by a worker.
    Sending,
    /// Waiting for its first attempt.
    Queued,
    /// An attempt failed temporarily; waiting for the next one.
    Deferred,
    /// Waiting for its `scheduled_at`.
    Scheduled,
    /// A relay accepted responsibility.
    Relayed,
    /// The recipient's own mail server accepted the message.
    Delivered,
    /// Refused permanently.
    Bounced,
    /// The retry window or `expires_at` ran out; not a bounce.
    Expired,
    /// Not sent because the address is on the suppression list.
    Suppressed,
    /// Canceled before it was sent.
    Canceled,
    /// The connection dropped after the final dot, and the sender chose not to retry.
    Uncertain,
}

impl Status {
    /// All statuses. The first status that any recipient has is the message's status.
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

    /// Returns the status's name in SQL, JSON and documentation.
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

    /// Returns whether this is an end state, in which the recipient is not in the queue any more.
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

/// A message's status: the first status of [`Status::ALL`] that a recipient has, or `partial` if the recipients reached
/// different end states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageStatus {
    /// The first status of [`Status::ALL`] that a recipient has; an end state only if all recipients have it.
    Recipients(Status),
    /// All recipients have reached end states, but not the same one.
    Partial,
}

impl MessageStatus {
    /// Returns all statuses, in the order of [`Status::ALL`].
    pub fn all() -> impl Iterator<Item = Self> {
        Status::ALL.into_iter().map(Self::Recipients).chain([Self::Partial])
    }

    /// Derives the status from the recipients' statuses. The SQL function `message_status` has the same rule, for the
    /// list filter.
    pub fn from_recipients(recipients: impl IntoIterator<Item = Status>) -> Self {
        let mut statuses: Vec<Status> = recipients.into_iter().collect();
        statuses.sort_unstable();
        statuses.dedup();
        match statuses.as_slice() {
            [] => Self::Recipients(Status::Queued),
            [first, _, ..] if first.is_end() => Self::Partial,
            [first, ..] => Self::Recipients(*first),
        }
    }

    /// Returns the status's name in SQL, JSON and documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Recipients(status) => status.as_str(),
            Self::Partial => "partial",
        }
    }
}

impl FromStr for MessageStatus {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Self::all().find(|status| status.as_str() == word).ok_or(())
    }
}

impl serde::Serialize for MessageStatus {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl utoipa::PartialSchema for MessageStatus {
    fn schema() -> RefOr<Schema> {
        let about = "A message's status: the first status in this list that one of its recipients has, or `partial` if the \
                     recipients reached different end states.";
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some(about))
            .enum_values(Some(Self::all().map(Self::as_str)))
            .into()
    }
}

impl utoipa::ToSchema for MessageStatus {
    fn name() -> Cow<'static, str> {
        "MessageStatus".into()
    }
}

/// The state change of a recipient after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// The recipient reaches an end state and leaves the queue.
    End(Status),
    /// The recipient stays in the queue as `deferred`.
    Retry {
        /// The time at which the next attempt is due.
        at: DateTime<Utc>,
        /// The event: `message.deferred`, or `message.uncertain` if the message may already have arrived.
        event: EventType,
    },
}

impl Transition {
    /// Returns the stored status.
    pub fn status(self) -> Status {
        match self {
            Self::End(status) => status,
            Self::Retry { .. } => Status::Deferred,
        }
    }

    /// Returns the time at which the next attempt is due, if there is one.
    pub fn next_attempt_at(self) -> Option<DateTime<Utc>> {
        match self {
            Self::End(_) => None,
            Self::Retry { at, .. } => Some(at),
        }
    }

    /// Returns the event of the transition.
    pub fn event(self) -> EventType {
        match self {
            Self::Retry { event, .. } => event,
            Self::End(status) => EventType::for_status(status),
        }
    }
}

/// The reason why a delivery report has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoEffectReason {
    /// The recipient already has the reported state: the report, or an equivalent one, was received before.
    Duplicate,
    /// The recipient waits for another attempt, which will have its own outcome.
    StillQueued,
    /// A worker has leased the recipient, and the server's reply is not recorded yet. The report may have an effect if
    /// it is repeated later.
    Leased,
    /// Nothing was sent to the recipient.
    NotSent,
    /// The report does not state an end state.
    NotFinal,
}

impl NoEffectReason {
    /// Returns the reason's name in JSON and documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Duplicate => "already_known",
            Self::StillQueued => "still_queued",
            Self::Leased => "in_flight",
            Self::NotSent => "not_sent",
            Self::NotFinal => "not_final",
        }
    }
}

/// The effect of a delivery report on a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportEffect {
    /// The recipient moves to another end state.
    Ends(Status),
    /// The recipient reported the message as spam. Its state does not change, and no further attempt is made.
    Complains,
    /// An event records the report, and the state does not change, because other recipients who know the return path
    /// may have forged the report.
    Noted(EventType),
    /// The report has no effect.
    Nothing(NoEffectReason),
}

impl ReportEffect {
    /// Returns the effect of a report of `action` on a recipient in `status` with `attempts` recorded attempts.
    ///
    /// Transitions have one direction, from `uncertain` and `relayed` to `delivered` and then to `bounced`, so a
    /// repeated report has no effect. A queued recipient does not change: the report is about an earlier attempt, and
    /// the next attempt has its own outcome. A leased recipient may just have been sent, so its state is not known yet.
    /// A recipient that complains has received the message, so a complaint counts in every state after an attempt.
    pub fn new(action: Action, status: Status, attempts: i16, has_complained: bool) -> Self {
        use Status::{Bounced, Delivered, Expired, Relayed, Uncertain};
        match (action, status) {
            (Action::Complained, _) if has_complained => Self::Nothing(NoEffectReason::Duplicate),
            (Action::Complained, _) if attempts > 0 => Self::Complains,
            (_, Status::Sending) => Self::Nothing(NoEffectReason::Leased),
            (_, Status::Queued | Status::Deferred | Status::Scheduled) => Self::Nothing(NoEffectReason::StillQueued),
            (_, Status::Canceled | Status::Suppressed) => Self::Nothing(NoEffectReason::NotSent),
            (Action::Complained, _) => Self::Complains,
            (Action::Failed, Relayed | Delivered | Uncertain) => Self::Ends(Bounced),
            (Action::Delivered, Relayed | Uncertain) => Self::Ends(Delivered),
            // An attempt of an expired recipient may have succeeded without a reply; the recipient stays expired.
            (Action::Failed, Bounced | Expired) | (Action::Delivered, Delivered | Bounced | Expired) => {
                Self::Nothing(NoEffectReason::Duplicate)
            }
            (Action::Delayed | Action::Relayed | Action::Expanded, _) => Self::Nothing(NoEffectReason::NotFinal),
        }
    }

    /// Reduces the effect to an event, for a report to a return path that other recipients also know. `noted` lists the
    /// earlier such reports about the recipient, as [`note`](Self::note) returns them.
    #[must_use]
    pub fn unvouched(self, noted: &[String]) -> Self {
        let (Self::Ends(_) | Self::Complains, Some(event)) = (self, self.event()) else { return self };
        let is_noted = Self::Noted(event).note().is_some_and(|note| noted.iter().any(|noted| noted == note));
        if is_noted { Self::Nothing(NoEffectReason::Duplicate) } else { Self::Noted(event) }
    }

    /// Returns the event that records the effect.
    pub fn event(self) -> Option<EventType> {
        match self {
            Self::Ends(status) => Some(EventType::for_status(status)),
            Self::Noted(event) => Some(event),
            Self::Complains => Some(EventType::Complained),
            Self::Nothing(_) => None,
        }
    }

    /// Returns the name under which the recipient's row records the report.
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
    fn report_transitions_have_one_direction() {
        use Status::{Bounced, Delivered, Relayed, Uncertain};
        let effect = |action, status| ReportEffect::new(action, status, 1, false);
        for from in [Relayed, Delivered, Uncertain] {
            assert_eq!(effect(Action::Failed, from), ReportEffect::Ends(Bounced));
        }
        for from in [Relayed, Uncertain] {
            assert_eq!(effect(Action::Delivered, from), ReportEffect::Ends(Delivered));
        }
        assert_eq!(effect(Action::Failed, Bounced), ReportEffect::Nothing(NoEffectReason::Duplicate));
        assert_eq!(effect(Action::Delivered, Delivered), ReportEffect::Nothing(NoEffectReason::Duplicate));
        assert_eq!(effect(Action::Delivered, Bounced), ReportEffect::Nothing(NoEffectReason::Duplicate));
        for action in [Action::Delayed, Action::Relayed, Action::Expanded] {
            assert_eq!(effect(action, Relayed), ReportEffect::Nothing(NoEffectReason::NotFinal));
        }
        assert_eq!(ReportEffect::new(Action::Complained, Delivered, 1, false), ReportEffect::Complains);
        assert_eq!(
            ReportEffect::new(Action::Complained, Delivered, 1, true),
            ReportEffect::Nothing(NoEffectReason::Duplicate)
        );
    }

    #[test]
    fn report_does_not_change_queued_or_unsent_recipients() {
        let no_complaints = [Action::Failed, Action::Delayed, Action::Delivered, Action::Relayed, Action::Expanded];
        let all = no_complaints.into_iter().flat_map(|action| [(action, 0), (action, 3)]);
        for (action, attempts) in all.chain([(Action::Complained, 0)]) {
            for status in Status::ALL {
                let effect = ReportEffect::new(action, status, attempts, false);
                if !status.is_end() {
                    let reason =
                        if status == Status::Sending { NoEffectReason::Leased } else { NoEffectReason::StillQueued };
                    assert_eq!(effect, ReportEffect::Nothing(reason));
                }
                if matches!(status, Status::Canceled | Status::Suppressed) {
                    assert_eq!(effect, ReportEffect::Nothing(NoEffectReason::NotSent));
                }
                if let ReportEffect::Ends(end) = effect {
                    assert!(
                        matches!(ReportEffect::new(action, end, attempts, false), ReportEffect::Nothing(_)),
                        "a repeated report has no effect"
                    );
                }
            }
        }
    }

    #[test]
    fn unvouched_report_is_noted_once_and_changes_no_state() {
        for action in [Action::Failed, Action::Delivered, Action::Complained, Action::Delayed] {
            for status in Status::ALL {
                let vouched = ReportEffect::new(action, status, 1, false);
                let noted = vouched.unvouched(&[]);
                assert_eq!(matches!(vouched, ReportEffect::Nothing(_)), noted == vouched, "{action:?} {status:?}");
                assert!(matches!(noted, ReportEffect::Nothing(_) | ReportEffect::Noted(_)), "{noted:?}");
                if let Some(note) = noted.note() {
                    assert_eq!(vouched.unvouched(&[note.to_owned()]), ReportEffect::Nothing(NoEffectReason::Duplicate));
                }
            }
        }
    }

    #[test]
    fn complaint_counts_in_every_state_after_an_attempt() {
        for status in Status::ALL {
            assert_eq!(ReportEffect::new(Action::Complained, status, 1, false), ReportEffect::Complains);
            assert_eq!(
                ReportEffect::new(Action::Complained, status, 1, true),
                ReportEffect::Nothing(NoEffectReason::Duplicate)
            );
        }
    }

    #[test]
    fn message_has_the_first_status_of_its_recipients() {
        use Status::{Bounced, Deferred, Delivered, Queued, Relayed, Sending};
        let is = MessageStatus::Recipients;
        assert_eq!(MessageStatus::from_recipients([Relayed, Sending, Queued]), is(Sending));
        assert_eq!(MessageStatus::from_recipients([Bounced, Deferred]), is(Deferred));
        assert_eq!(MessageStatus::from_recipients([Relayed, Relayed]), is(Relayed));
        assert_eq!(MessageStatus::from_recipients([Delivered, Bounced]), MessageStatus::Partial);
    }

    #[test]
    fn every_status_round_trips() {
        for status in Status::ALL {
            assert_eq!(status.as_str().parse(), Ok(status));
        }
        for status in MessageStatus::all() {
            assert_eq!(status.as_str().parse(), Ok(status));
        }
    }
}
