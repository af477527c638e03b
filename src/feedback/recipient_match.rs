//! Which recipients of a message a report speaks of.

use std::collections::{HashMap, HashSet};

use super::message_lookup::{Basis, Found};
use crate::db::delivery_reports::ReportedMessageRecipient;
use crate::domain::address::Address;
use crate::domain::delivery::Status;
use crate::domain::report::{Action, ReportedRecipient};

/// Reported recipients that are looked at: our messages have not so many.
const LOOKED_AT: usize = 1_000;

/// The place of each reported recipient among the message's, where it has one. A place is given once, to the gravest word.
///
/// A return path that names a recipient speaks of that one and of nobody else, whatever address the mail was forwarded to. One
/// that names none leaves it to the addresses; where there is one on each side they are each other's. A Message-ID is no
/// secret, so that with it the address has to be right.
pub(super) fn pairs(reported: &[ReportedRecipient], found: &Found) -> Vec<Option<usize>> {
    let only = only_candidate(found).is_some() && found.basis != Basis::MessageId && reported.len() == 1;
    let index = Index::of(found);
    let mut order: Vec<(usize, &ReportedRecipient)> = reported.iter().enumerate().take(LOOKED_AT).collect();
    order.sort_by_key(|(_, one)| gravity(one.action));
    let (mut places, mut taken) = (vec![None; reported.len()], HashSet::new());
    for (number, one) in order {
        let place = if only { Some(first_candidate(found)) } else { index.place(one) };
        if let (Some(slot), Some(place)) = (places.get_mut(number), place.filter(|place| taken.insert(*place))) {
            *slot = Some(place);
        }
    }
    places
}

/// Leaves the first place alone. Who complains does so for one recipient: where the return path does not say for which, a list of
/// several is not that.
pub(super) fn keep_first(places: &mut [Option<usize>]) {
    let mut is_first = true;
    for place in places {
        *place = place.filter(|_| std::mem::take(&mut is_first));
    }
}

/// The places of which the report says that the mail arrived somewhere behind them, whatever failed there besides.
pub(super) fn reached(reported: &[ReportedRecipient], found: &Found) -> HashSet<usize> {
    let index = Index::of(found);
    let arrived =
        |one: &&ReportedRecipient| matches!(one.action, Action::Delivered | Action::Relayed | Action::Expanded);
    reported.iter().take(LOOKED_AT).filter(arrived).filter_map(|one| index.place(one)).collect()
}

/// The one whom a report can only be about.
pub(super) fn only_candidate(found: &Found) -> Option<&ReportedMessageRecipient> {
    match found.position {
        Some(position) => found.rows.get(usize::from(position)),
        None if found.rows.len() == 1 => found.rows.first(),
        None => None,
    }
}

/// Whether nobody but the recipient that it is about knows the return path. Each of several recipients of one mail knows that of
/// all, and may write whatever it likes of the others.
pub(super) fn is_vouched(found: &Found) -> bool {
    found.position.is_some() || found.rows.len() == 1
}

/// Whether a failure may give the address up: it is said of that mailbox. A server that expands an alias tells of the mailbox
/// behind it, whose failure says nothing of the alias; neither does one where a note of success came before.
pub(super) fn is_own_mailbox(reported: &ReportedRecipient, row: &ReportedMessageRecipient) -> bool {
    let reached_somebody = row.is_reported && row.status == Status::Delivered.as_str();
    if reached_somebody || reported.behind.is_some() {
        return false;
    }
    let Ok(ours) = row.address.parse::<Address>() else { return false };
    let failed = bare(&reported.recipient);
    match failed.parse::<Address>() {
        Ok(failed) => are_same(&ours, &failed),
        // Some servers name their own mailboxes without a domain.
        Err(_) => failed.to_lowercase() == ours.local().to_lowercase(),
    }
}

/// Without the brackets that some servers put around an address.
fn bare(address: &str) -> &str {
    address.trim().trim_matches(['<', '>'])
}

fn first_candidate(found: &Found) -> usize {
    found.position.map_or(0, usize::from)
}

/// The message's recipients by their addresses: as they are, and with case folded, since only its server may say that it
/// matters, and few do.
struct Index {
    exact: HashMap<Address, usize>,
    folded: HashMap<String, usize>,
}

impl Index {
    fn of(found: &Found) -> Self {
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

    /// The address that we sent to before the one that it became on its way.
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

/// Whether two addresses are the same but for upper and lower case.
pub(super) fn are_same(one: &Address, other: &Address) -> bool {
    folded(one) == folded(other)
}

fn gravity(action: Action) -> u8 {
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
    fn a_return_path_that_names_a_recipient_speaks_of_that_one_alone() {
        let found = found(&TWO, Some(1), Basis::Envelope);
        assert_eq!(pairs(&[failed("somebody@else.test")], &found), [Some(1)], "forwarded");
        assert_eq!(pairs(&[failed("ann@example.test")], &found), [Some(1)], "never another's");
        assert_eq!(pairs(&[failed("ann@example.test"), failed("bo@example.test")], &found), [None, Some(1)]);
    }

    #[test]
    fn one_that_names_none_leaves_it_to_the_addresses() {
        let found = found(&TWO, None, Basis::Envelope);
        assert_eq!(pairs(&[failed("BO@EXAMPLE.TEST"), failed("ann@example.test")], &found), [Some(1), Some(0)]);
        assert_eq!(pairs(&[failed("x@else.test")], &found), [None]);
        let forwarded = about("x@else.test", Some("ann@example.test"), Action::Failed);
        assert_eq!(pairs(&[forwarded], &found), [Some(0)]);
    }

    #[test]
    fn one_on_each_side_are_each_others_but_not_by_a_message_id() {
        let rows = ["ann@example.test"];
        assert_eq!(pairs(&[failed("x@else.test")], &found(&rows, None, Basis::Reference)), [Some(0)]);
        assert_eq!(pairs(&[failed("x@else.test")], &found(&rows, None, Basis::MessageId)), [None]);
        assert_eq!(pairs(&[failed("ann@example.test")], &found(&rows, None, Basis::MessageId)), [Some(0)]);
    }

    #[test]
    fn a_place_goes_to_the_gravest_word() {
        let twice = [about("ann@example.test", None, Action::Delayed), failed("ann@example.test")];
        assert_eq!(pairs(&twice, &found(&TWO, None, Basis::Envelope)), [None, Some(0)]);
    }

    #[test]
    fn the_same_address_in_the_same_case_comes_first() {
        let found = found(&["ANN@example.test", "ann@example.test"], None, Basis::Envelope);
        assert_eq!(pairs(&[failed("ann@example.test")], &found), [Some(1)]);
    }

    #[test]
    fn a_return_path_that_several_know_vouches_for_nothing() {
        let vouched = |rows: &[&str], position| is_vouched(&found(rows, position, Basis::Envelope));
        assert!(vouched(&TWO, Some(0)) && vouched(&["ann@example.test"], None));
        assert!(!vouched(&TWO, None), "the other recipient knows the return path too");
    }

    #[test]
    fn an_address_is_given_up_only_where_it_failed_itself() {
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
    fn whoever_has_the_mail_behind_an_address_keeps_it_good() {
        let some = [failed("ann@example.test"), about("ANN@example.test", None, Action::Delivered)];
        assert_eq!(reached(&some, &found(&TWO, None, Basis::Envelope)), HashSet::from([0]));
        assert!(reached(&some[..1], &found(&TWO, None, Basis::Envelope)).is_empty());
    }

    #[test]
    fn a_place_that_there_is_not_is_nobodys() {
        let found = found(&TWO, Some(7), Basis::Envelope);
        assert_eq!(pairs(&[failed("ann@example.test")], &found), [None]);
    }
}
