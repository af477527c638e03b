//! Matches the recipients in a report to the recipients of a message.

use std::collections::{HashMap, HashSet};

use super::message_lookup::{Basis, Found};
use crate::db::delivery_reports::ReportedMessageRecipient;
use crate::domain::address::Address;
use crate::domain::delivery::Status;
use crate::domain::report::{Action, ReportedRecipient};

/// Maximum number of reported recipients that are matched, which is the maximum of a message.
const MAX_MATCHED: usize = 1_000;

/// Returns, for each reported recipient, the index of the matching recipient of the message. Each recipient is matched
/// once, to the most severe report.
///
/// A return path that identifies a recipient matches only that one, even if the message was forwarded to another
/// address. Otherwise the addresses decide; if the report and the message have one recipient each, these match. A
/// Message-ID is not secret, so with it the address must match.
pub(super) fn pairs(reported: &[ReportedRecipient], found: &Found) -> Vec<Option<usize>> {
    let only = only_candidate(found).is_some() && found.basis != Basis::MessageId && reported.len() == 1;
    let index = Index::new(found);
    let mut order: Vec<(usize, &ReportedRecipient)> = reported.iter().enumerate().take(MAX_MATCHED).collect();
    order.sort_by_key(|(_, one)| severity(one.action));
    let (mut places, mut matched) = (vec![None; reported.len()], HashSet::new());
    for (number, one) in order {
        let place = if only { Some(first_candidate(found)) } else { index.place(one) };
        if let (Some(slot), Some(place)) = (places.get_mut(number), place.filter(|place| matched.insert(*place))) {
            *slot = Some(place);
        }
    }
    places
}

/// Keeps only the first match. A complaint is about one recipient, so without a return path that identifies it, further
/// recipients in the complaint are ignored.
pub(super) fn keep_first(places: &mut [Option<usize>]) {
    let mut is_first = true;
    for place in places {
        *place = place.filter(|_| std::mem::take(&mut is_first));
    }
}

/// Returns the indexes of the recipients for which the report says that the message reached some mailbox behind the
/// address, even if others failed.
pub(super) fn reached(reported: &[ReportedRecipient], found: &Found) -> HashSet<usize> {
    let index = Index::new(found);
    let arrived =
        |one: &&ReportedRecipient| matches!(one.action, Action::Delivered | Action::Relayed | Action::Expanded);
    reported.iter().take(MAX_MATCHED).filter(arrived).filter_map(|one| index.place(one)).collect()
}

/// Returns the recipient if the report can only be about one.
pub(super) fn only_candidate(found: &Found) -> Option<&ReportedMessageRecipient> {
    match found.position {
        Some(position) => found.rows.get(usize::from(position)),
        None if found.rows.len() == 1 => found.rows.first(),
        None => None,
    }
}

/// Whether only the reported recipient knows the return path. Recipients that share a return path could forge reports
/// about each other.
pub(super) fn is_vouched(found: &Found) -> bool {
    found.position.is_some() || found.rows.len() == 1
}

/// Whether a failure is about the recipient's own mailbox, so that the address may be suppressed. A server that expands
/// an alias reports a mailbox behind it, whose failure does not prove that the alias is invalid. Neither does a failure
/// after a success notification.
pub(super) fn is_own_mailbox(reported: &ReportedRecipient, row: &ReportedMessageRecipient) -> bool {
    let was_delivered = row.is_reported && row.status == Status::Delivered.as_str();
    if was_delivered || reported.behind.is_some() {
        return false;
    }
    let Ok(ours) = row.address.parse::<Address>() else { return false };
    let failed = bare(&reported.recipient);
    match failed.parse::<Address>() {
        Ok(failed) => are_same(&ours, &failed),
        // Some servers report their mailboxes without a domain.
        Err(_) => failed.to_lowercase() == ours.local().to_lowercase(),
    }
}

/// Removes the angle brackets that some servers put around an address.
fn bare(address: &str) -> &str {
    address.trim().trim_matches(['<', '>'])
}

fn first_candidate(found: &Found) -> usize {
    found.position.map_or(0, usize::from)
}

/// The message's recipients by address: exact, and with case folded, because few servers have case-sensitive mailboxes.
struct Index {
    exact: HashMap<Address, usize>,
    folded: HashMap<String, usize>,
}

impl Index {
    fn new(found: &Found) -> Self {
        let is_candidate = |place: &usize| found.position.is_none_or(|position| usize::from(position) == *place);
        let mut index = Self { exact: HashMap::new(), folded: HashMap::new() };
        for (place, row) in found.rows.iter().enumerate().filter(|(place, _)| is_candidate(place)) {
            if let Ok(address) = row.address.parse::<Address>() {
                index.folded.entry(folded(&address)).or_insert(place);
                index.exact.entry(address).or_insert(place);
            }
        }
        index
    }

    /// Returns the index of a reported recipient. The original address is tried before the final one.
    fn place(&self, one: &ReportedRecipient) -> Option<usize> {
        let known = [one.original.as_deref(), Some(one.recipient.as_str())].into_iter().flatten();
        let known: Vec<Address> = known.filter_map(|text| bare(text).parse().ok()).collect();
        let exact = known.iter().find_map(|address| self.exact.get(address));
        exact.or_else(|| known.iter().find_map(|address| self.folded.get(&folded(address)))).copied()
    }
}

fn folded(address: &Address) -> String {
    format!("{}@{}", address.local().to_lowercase(), address.domain())
}

/// Whether two addresses are equal, ignoring case.
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

    fn found(rows: &[&str], position: Option<u16>, basis: Basis) -> Found {
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
        Found { message, tenant: Uuid::nil(), basis, position, rows: rows.collect() }
    }

    fn failed(recipient: &str) -> ReportedRecipient {
        about(recipient, None, Action::Failed)
    }

    fn about(recipient: &str, original: Option<&str>, action: Action) -> ReportedRecipient {
        let original = original.map(str::to_owned);
        let recipient = recipient.into();
        ReportedRecipient { recipient, original, behind: None, action, reply: Reply::ours("x"), judgement: None }
    }

    const TWO: [&str; 2] = ["ann@example.test", "Bo@example.test"];

    #[test]
    fn a_return_path_with_a_recipient_matches_only_that_one() {
        let found = found(&TWO, Some(1), Basis::Envelope);
        assert_eq!(pairs(&[failed("someone@else.test")], &found), [Some(1)], "forwarded");
        assert_eq!(pairs(&[failed("ann@example.test")], &found), [Some(1)], "never another's");
        assert_eq!(pairs(&[failed("ann@example.test"), failed("bo@example.test")], &found), [None, Some(1)]);
    }

    #[test]
    fn without_a_named_recipient_the_addresses_decide() {
        let found = found(&TWO, None, Basis::Envelope);
        assert_eq!(pairs(&[failed("BO@EXAMPLE.TEST"), failed("ann@example.test")], &found), [Some(1), Some(0)]);
        assert_eq!(pairs(&[failed("x@else.test")], &found), [None]);
        let forwarded = about("x@else.test", Some("ann@example.test"), Action::Failed);
        assert_eq!(pairs(&[forwarded], &found), [Some(0)]);
    }

    #[test]
    fn single_recipients_match_but_not_by_message_id() {
        let rows = ["ann@example.test"];
        assert_eq!(pairs(&[failed("x@else.test")], &found(&rows, None, Basis::Reference)), [Some(0)]);
        assert_eq!(pairs(&[failed("x@else.test")], &found(&rows, None, Basis::MessageId)), [None]);
        assert_eq!(pairs(&[failed("ann@example.test")], &found(&rows, None, Basis::MessageId)), [Some(0)]);
    }

    #[test]
    fn a_recipient_is_matched_to_the_most_severe_report() {
        let twice = [about("ann@example.test", None, Action::Delayed), failed("ann@example.test")];
        assert_eq!(pairs(&twice, &found(&TWO, None, Basis::Envelope)), [None, Some(0)]);
    }

    #[test]
    fn the_same_address_in_the_same_case_comes_first() {
        let found = found(&["ANN@example.test", "ann@example.test"], None, Basis::Envelope);
        assert_eq!(pairs(&[failed("ann@example.test")], &found), [Some(1)]);
    }

    #[test]
    fn a_shared_return_path_does_not_vouch() {
        let vouched = |rows: &[&str], position| is_vouched(&found(rows, position, Basis::Envelope));
        assert!(vouched(&TWO, Some(0)) && vouched(&["ann@example.test"], None));
        assert!(!vouched(&TWO, None), "the other recipient knows the return path too");
    }

    #[test]
    fn only_a_failure_of_the_own_mailbox_counts() {
        let mut row = found(&["ann@example.test"], None, Basis::Envelope).rows.remove(0);
        assert!(is_own_mailbox(&failed("Ann@Example.test"), &row) && is_own_mailbox(&failed("ann"), &row));
        let member = about("member@else.test", Some("ann@example.test"), Action::Failed);
        assert!(!is_own_mailbox(&member, &row), "a member of an alias");
        let behind = ReportedRecipient { behind: Some("member@else.test".into()), ..failed("ann@example.test") };
        assert!(!is_own_mailbox(&behind, &row), "a member of an alias, named beside it");
        assert!(!is_own_mailbox(&failed("root"), &row));
        (row.status, row.is_reported) = ("delivered".into(), true);
        assert!(!is_own_mailbox(&failed("ann@example.test"), &row), "another member has it");
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
        assert_eq!(pairs(&[failed("ann@example.test")], &found), [None]);
    }
}
