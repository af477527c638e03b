//! What came of a mail that came back, for whoever handed it over.

use super::message_lookup::{Basis, Found, NotFound};
use crate::domain::delivery::{NoEffectReason, ReportEffect};
use crate::domain::id::{MessageId, RecipientId};
use crate::domain::report::{Report, ReportedRecipient};

/// All that is to be said of it.
#[derive(Debug)]
pub struct ReportOutcome {
    /// What was understood; its recipients are in `results`.
    pub report: Report,
    /// The message that it is about, and how that is known.
    pub message: Option<(MessageId, Basis)>,
    /// Why the message is not known, where it was looked for.
    pub lost: Option<NotFound>,
    /// Each reported recipient.
    pub results: Vec<RecipientOutcome>,
}

/// A reported recipient.
#[derive(Debug)]
pub struct RecipientOutcome {
    /// What is said of it.
    pub reported: ReportedRecipient,
    /// Which of the message's recipients it is.
    pub recipient: Option<RecipientId>,
    /// What came, or would come, of it; none where it is none of the message's.
    pub word: Option<ReportEffect>,
    /// Whether the recipient was changed.
    pub applied: bool,
}

impl ReportOutcome {
    /// Of a mail that is about no delivery.
    pub(super) fn idle(report: Report) -> Self {
        Self::of(report, None, None, Vec::new(), true)
    }

    /// Of a report whose message is not known.
    pub(super) fn lost(report: Report, why: NotFound) -> Self {
        Self::of(report, None, Some(why), Vec::new(), true)
    }

    /// Of a report with what came of each of its recipients.
    pub(super) fn found(
        report: Report,
        found: &Found,
        words: Vec<Option<(RecipientId, ReportEffect)>>,
        dry_run: bool,
    ) -> Self {
        Self::of(report, Some((found.message, found.basis)), None, words, dry_run)
    }

    fn of(
        mut report: Report,
        message: Option<(MessageId, Basis)>,
        lost: Option<NotFound>,
        words: Vec<Option<(RecipientId, ReportEffect)>>,
        dry_run: bool,
    ) -> Self {
        let mut words = words.into_iter();
        let results = std::mem::take(&mut report.recipients).into_iter().map(|reported| {
            let (recipient, word) = words.next().flatten().unzip();
            let applied = !dry_run && matches!(word, Some(ReportEffect::Ends(_) | ReportEffect::Complains));
            RecipientOutcome { reported, recipient, word, applied }
        });
        Self { results: results.collect(), report, message, lost }
    }

    /// Whether it speaks of somebody who is being sent to this moment, so that it should be told again.
    pub fn is_early(&self) -> bool {
        self.results.iter().any(|result| result.word == Some(ReportEffect::Nothing(NoEffectReason::InHand)))
    }

    /// Recipients of whom something was changed.
    pub fn applied(&self) -> usize {
        self.results.iter().filter(|result| result.applied).count()
    }
}
