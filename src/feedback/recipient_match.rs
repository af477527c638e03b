//! Matches the recipients in a report to the recipients of a message.

use std::collections::{HashMap, HashSet};

use super::message_lookup::{Basis, FoundMessage};
use crate::db::delivery_reports::ReportedMessageRecipient;
use crate::domain::address::Address;
use crate::domain::bounce::report::{Action, ReportedRecipient};
use crate::domain::delivery::Status;

/// Maximum number of reported recipients that are matched: as many as a message may have.
const MAX_MATCHED: usize = 1_000;

/// Returns, for each reported recipient, the index of the matching recipient of the message. Each recipient is matched
/// once, to the most severe report.
///
/// A return path that identifies a recipient never matches another one. If the report names one recipient, and can be
/// about only one recipient of the message, these match whatever their addresses are, because the message may have been
/// forwarded. In all other cases the addresses decide. A Message-ID is not secret, so with it the address must match.
pub(super) fn match_recipients(reported: &[ReportedRecipient], found: &FoundMessage) -> Vec<Option<usize>> {
    let only = only_candidate(found).is_some() && found.basis != Basis::MessageId && reported.len() == 1;
    let candidates = Index::new(found);
    let mut order: Vec<(usize, &ReportedRecipient)> = reported.iter().enumerate().take(MAX_MATCHED).collect();
    order.sort_by_key(|(_, one)| severity(one.action));
    let (mut indexes, mut matched) = (vec![None; reported.len()], HashSet::new());
    for (number, one) in order {
        let found_at = if only { Some(first_candidate(found)) } else { candidates.find(one) };
        if let (Some(slot), Some(index)) = (indexes.get_mut(number), found_at.filter(|index| matched.insert(*index))) {
            *slot = Some(index);
        }
    }
    indexes
}

/// Keeps only the first match. A complaint is about one recipient, so without a return path that identifies it, further
/// recipients in the complaint are ignored.
pub(super) fn keep_first(indexes: &mut [Option<usize>]) {
    let mut is_first = true;
    for index in indexes {
        *index = index.filter(|_| std::mem::take(&mut is_first));
    }
}

/// Returns the indexes of the recipients for which the report says that the message reached some mailbox behind the
/// address, even if others failed.
pub(super) fn reached(reported: &[ReportedRecipient], found: &FoundMessage) -> HashSet<usize> {
    let candidates = Index::new(found);
    let arrived =
        |one: &&ReportedRecipient| matches!(one.action, Action::Delivered | Action::Relayed | Action::Expanded);
    reported.iter().take(MAX_MATCHED).filter(arrived).filter_map(|one| candidates.find(one)).collect()
}

/// Returns the recipient if the report can be about only one.
pub(super) fn only_candidate(found: &FoundMessage) -> Option<&ReportedMessageRecipient> {
    match found.position {
        Some(position) => found.recipients.get(usize::from(position)),
        None if found.recipients.len() == 1 => found.recipients.first(),
        None => None,
    }
}

/// Returns whether only the reported recipient knows the return path. Recipients that share a return path could forge
/// reports about each other.
pub(super) fn is_vouched(found: &FoundMessage) -> bool {
    found.position.is_some() || found.recipients.len() == 1
}

/// Returns whether a failure is about the recipient's own mailbox, so that the address may be suppressed. A server that
/// expands an alias reports a member of the alias, whose failure does not prove that the alias is invalid. Neither does
/// a failure after a success notification.
pub(super) fn is_own_mailbox(reported: &ReportedRecipient, row: &ReportedMessageRecipient) -> bool {
    let was_delivered = row.is_reported && row.status == Status::Delivered.as_str();
    if was_delivered || reported.behind.is_some() {
        return false;
    }
    let Ok(own) = row.address.parse::<Address>() else { return false };
    let failed = without_brackets(&reported.recipient);
    match failed.parse::<Address>() {
        Ok(failed) => are_same(&own, &failed),
        // Some servers report their mailboxes without a domain.
        Err(_) => failed.to_lowercase() == own.local().to_lowercase(),
    }
}

/// Removes the angle brackets that some servers put around an address.
fn without_brackets(address: &str) -> &str {
    address.trim().trim_matches(['<', '>'])
}

fn first_candidate(found: &FoundMessage) -> usize {
    found.position.map_or(0, usize::from)
}

/// The message's recipients by address: exact, and with case folded, because few servers have case-sensitive mailboxes.
struct Index {
    exact: HashMap<Address, usize>,
    folded: HashMap<String, usize>,
}

impl Index {
    fn new(found: &FoundMessage) -> Self {
        let is_candidate = |index: &usize| found.position.is_none_or(|position| usize::from(position) == *index);
        let mut candidates = Self { exact: HashMap::new(), folded: HashMap::new() };
        for (index, row) in found.recipients.iter().enumerate().filter(|(index, _)| is_candidate(index)) {
            if let Ok(address) = row.address.parse::<Address>() {
                candidates.folded.entry(folded(&address)).or_insert(index);
                candidates.exact.entry(address).or_insert(index);
            }
        }
        candidates
    }

    /// Returns the index of the recipient that a reported recipient matches. The original address is tried before the
    /// final one.
    fn find(&self, one: &ReportedRecipient) -> Option<usize> {
        let addresses = [one.original.as_deref(), Some(one.recipient.as_str())].into_iter().flatten();
        let addresses: Vec<Address> = addresses.filter_map(|text| without_brackets(text).parse().ok()).collect();
        let exact = addresses.iter().find_map(|address| self.exact.get(address));
        exact.or_else(|| addresses.iter().find_map(|address| self.folded.get(&folded(address)))).copied()
    }
}

fn folded(address: &Address) -> String {
    format!("{}@{}", address.local().to_lowercase(), address.domain())
}

/// Returns whether two addresses are equal, ignoring case.
pub(super) fn are_same(one: &Address, other: &Address) -> bool {
    folded(one) == folded(other)
}

fn severity(action: Action) -> u8 {
    match action {
        Action::Failed | Action::Complained => 0,
        Action::Delivered => 1,
        Action::Delayed | Action::Relayed | Action::Expanded => 2,
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use uuid::Uuid;

    use super::*;
    use crate::domain::id::MessageId;
    use crate::domain::outcome::Reply;

    fn found(rows: &[&str], position: Option<u16>, basis: Basis) -> FoundMessage {
        let rows = rows.iter().map(|address| ReportedMessageRecipient {
            id: Uuid::nil(),
            tenant_id: Uuid::nil(),
            address: (*address).to_owned(),
            status: "relayed".into(),
            attempts: 1,
            has_complained: false,
            is_reported: false,
            unvouched: Vec::new(),
        });
        let message = MessageId::new(DateTime::UNIX_EPOCH);
        FoundMessage { message, tenant: Uuid::nil(), basis, position, recipients: rows.collect() }
    }

    fn failed(recipient: &str) -> ReportedRecipient {
        about(recipient, None, Action::Failed)
    }

    fn about(recipient: &str, original: Option<&str>, action: Action) -> ReportedRecipient {
        let original = original.map(str::to_owned);
        let recipient = recipient.into();
        ReportedRecipient { recipient, original, behind: None, action, reply: Reply::local_error("x"), judgement: None }
    }

    const TWO: [&str; 2] = ["ann@example.test", "Bo@example.test"];

    #[test]
    fn a_return_path_with_a_recipient_matches_only_that_one() {
        let found = found(&TWO, Some(1), Basis::Envelope);
        assert_eq!(match_recipients(&[failed("someone@else.test")], &found), [Some(1)], "forwarded");
        assert_eq!(match_recipients(&[failed("ann@example.test")], &found), [Some(1)], "never another recipient");
        assert_eq!(match_recipients(&[failed("ann@example.test"), failed("bo@example.test")], &found), [None, Some(1)]);
    }

    #[test]
    fn recipients_are_matched_by_address_without_a_position() {
        let found = found(&TWO, None, Basis::Envelope);
        assert_eq!(
            match_recipients(&[failed("BO@EXAMPLE.TEST"), failed("ann@example.test")], &found),
            [Some(1), Some(0)]
        );
        assert_eq!(match_recipients(&[failed("x@else.test")], &found), [None]);
        let forwarded = about("x@else.test", Some("ann@example.test"), Action::Failed);
        assert_eq!(match_recipients(&[forwarded], &found), [Some(0)]);
    }

    #[test]
    fn single_recipients_match_but_not_by_message_id() {
        let rows = ["ann@example.test"];
        assert_eq!(match_recipients(&[failed("x@else.test")], &found(&rows, None, Basis::Reference)), [Some(0)]);
        assert_eq!(match_recipients(&[failed("x@else.test")], &found(&rows, None, Basis::MessageId)), [None]);
        assert_eq!(match_recipients(&[failed("ann@example.test")], &found(&rows, None, Basis::MessageId)), [Some(0)]);
    }

    #[test]
    fn a_recipient_is_matched_to_the_most_severe_report() {
        let twice = [about("ann@example.test", None, Action::Delayed), failed("ann@example.test")];
        assert_eq!(match_recipients(&twice, &found(&TWO, None, Basis::Envelope)), [None, Some(0)]);
    }

    #[test]
    fn exact_address_takes_precedence_over_other_case() {
        let found = found(&["ANN@example.test", "ann@example.test"], None, Basis::Envelope);
        assert_eq!(match_recipients(&[failed("ann@example.test")], &found), [Some(1)]);
    }

    #[test]
    fn a_shared_return_path_does_not_vouch() {
        let vouched = |rows: &[&str], position| is_vouched(&found(rows, position, Basis::Envelope));
        assert!(vouched(&TWO, Some(0)) && vouched(&["ann@example.test"], None));
        assert!(!vouched(&TWO, None), "the other recipient knows the return path too");
    }

    #[test]
    fn only_failures_of_the_own_mailbox_may_suppress() {
        let mut row = found(&["ann@example.test"], None, Basis::Envelope).recipients.remove(0);
        assert!(is_own_mailbox(&failed("Ann@Example.test"), &row) && is_own_mailbox(&failed("ann"), &row));
        let member = about("member@else.test", Some("ann@example.test"), Action::Failed);
        assert!(!is_own_mailbox(&member, &row), "a member of an alias");
        let behind = ReportedRecipient { behind: Some("member@else.test".into()), ..failed("ann@example.test") };
        assert!(!is_own_mailbox(&behind, &row), "a member of an alias, named beside it");
        assert!(!is_own_mailbox(&failed("root"), &row));
        (row.status, row.is_reported) = ("delivered".into(), true);
        assert!(!is_own_mailbox(&failed("ann@example.test"), &row), "another member received it");
    }

    #[test]
    fn a_delivery_behind_an_address_counts_as_reached() {
        let some = [failed("ann@example.test"), about("ANN@example.test", None, Action::Delivered)];
        assert_eq!(reached(&some, &found(&TWO, None, Basis::Envelope)), HashSet::from([0]));
        assert!(reached(&some[..1], &found(&TWO, None, Basis::Envelope)).is_empty());
    }

    #[test]
    fn a_position_beyond_the_recipients_matches_none() {
        let found = found(&TWO, Some(7), Basis::Envelope);
        assert_eq!(match_recipients(&[failed("ann@example.test")], &found), [None]);
    }
}
