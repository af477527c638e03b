//! The result of processing a received report.

use super::message_lookup::{Basis, FoundMessage, NotFound};
use crate::domain::bounce::report::{Report, ReportedRecipient};
use crate::domain::delivery::{NoEffectReason, ReportEffect};
use crate::domain::id::{MessageId, RecipientId};

/// The result of processing a received report.
#[derive(Debug)]
pub struct ReportOutcome {
    /// The parsed report. Its recipients are in `results`.
    pub report: Report,
    /// The message that the report is about, and how the message was identified.
    pub message: Option<(MessageId, Basis)>,
    /// Why the message was not found, if a lookup was made.
    pub not_found: Option<NotFound>,
    /// The result for each reported recipient.
    pub results: Vec<RecipientOutcome>,
    /// Whether the message was sent to the simulator.
    pub(super) is_simulated: bool,
}

/// The result for a reported recipient.
#[derive(Debug)]
pub struct RecipientOutcome {
    /// The report about the recipient.
    pub reported: ReportedRecipient,
    /// The matching recipient of the message.
    pub recipient: Option<RecipientId>,
    /// The effect, which a dry run does not apply; `None` if no recipient of the message matches.
    pub effect: Option<ReportEffect>,
    /// Whether the recipient was changed.
    pub applied: bool,
}

impl ReportOutcome {
    /// Creates the result of an automatic reply or of an unknown message, which affects no recipient.
    pub(super) fn without_effect(report: Report) -> Self {
        Self::new(report, None, None, Vec::new(), true)
    }

    /// Creates the result of a report whose message was not found.
    pub(super) fn not_found(report: Report, why: NotFound) -> Self {
        Self::new(report, None, Some(why), Vec::new(), true)
    }

    /// Creates the result of a report with the effect on each recipient.
    pub(super) fn found(
        report: Report,
        found: &FoundMessage,
        effects: Vec<Option<(RecipientId, ReportEffect)>>,
        dry_run: bool,
    ) -> Self {
        Self::new(report, Some((found.message, found.basis)), None, effects, dry_run)
    }

    fn new(
        mut report: Report,
        message: Option<(MessageId, Basis)>,
        not_found: Option<NotFound>,
        effects: Vec<Option<(RecipientId, ReportEffect)>>,
        dry_run: bool,
    ) -> Self {
        let mut effects = effects.into_iter();
        let results = std::mem::take(&mut report.recipients).into_iter().map(|reported| {
            let (recipient, effect) = effects.next().flatten().unzip();
            let applied = !dry_run && matches!(effect, Some(ReportEffect::Ends(_) | ReportEffect::Complains));
            RecipientOutcome { reported, recipient, effect, applied }
        });
        Self { results: results.collect(), report, message, not_found, is_simulated: false }
    }

    /// Returns whether the report is about a recipient with an attempt in progress. Such a report should be sent again.
    pub fn is_early(&self) -> bool {
        self.results.iter().any(|result| result.effect == Some(ReportEffect::Nothing(NoEffectReason::Leased)))
    }

    /// Returns the number of recipients that were changed.
    pub fn applied(&self) -> usize {
        self.results.iter().filter(|result| result.applied).count()
    }
}
