//! Divides a page of examined rows into parts, each of which is changed in one transaction.

use uuid::Uuid;

use crate::db::messages::actions::select::{ExaminedRow, Position};

/// Maximum number of recipients that one transaction changes. While it appends their events, other transactions of the
/// tenant wait for the event counter.
pub(super) const PART: usize = 250;

/// Consecutive examined rows, of which at most [`PART`] match.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ExaminedPart {
    /// The message and the id of each recipient that matches.
    pub recipients: Vec<(Uuid, Uuid)>,
    /// The position after these rows.
    pub position: Position,
    /// Number of rows.
    pub examined: usize,
}

/// Splits a page. Every row belongs to one part.
pub(super) fn split(rows: &[ExaminedRow]) -> Vec<ExaminedPart> {
    let mut parts = Vec::new();
    let mut part = ExaminedPart { recipients: Vec::new(), position: Position::default(), examined: 0 };
    for row in rows {
        part.position = row.position();
        part.examined += 1;
        if row.is_match {
            part.recipients.push((row.message_id, row.recipient_id));
        }
        if part.recipients.len() >= PART {
            let next = ExaminedPart { recipients: Vec::new(), position: part.position, examined: 0 };
            parts.push(std::mem::replace(&mut part, next));
        }
    }
    if part.examined > 0 {
        parts.push(part);
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_matching_row_is_in_one_part(matches in prop::collection::vec(any::<bool>(), 0..2_000)) {
            let row = |(n, is_match): (usize, &bool)| ExaminedRow {
                message_id: Uuid::from_u128(n as u128),
                recipient_id: Uuid::nil(),
                is_match: *is_match,
            };
            let rows: Vec<ExaminedRow> = matches.iter().enumerate().map(row).collect();
            let parts = split(&rows);
            let found: Vec<(Uuid, Uuid)> = parts.iter().flat_map(|part| part.recipients.clone()).collect();
            let expected: Vec<(Uuid, Uuid)> =
                rows.iter().filter(|row| row.is_match).map(|row| (row.message_id, row.recipient_id)).collect();
            prop_assert_eq!(found, expected);
            prop_assert_eq!(parts.iter().map(|part| part.examined).sum::<usize>(), rows.len());
            prop_assert!(parts.iter().all(|part| part.recipients.len() <= PART && part.examined > 0));
            prop_assert_eq!(parts.last().map(|part| part.position), rows.last().map(ExaminedRow::position));
        }
    }
}
