//! The fence that makes a stale lease harmless: statements change claimed rows only if `lease` and `claims` still have
//! the values of the claim. This file has the values. The conditions are in the statements that use them: above all in
//! `record_attempts` (`record.rs`), and in those that reschedule leased recipients, hold them, or move them to another
//! lane.

use uuid::Uuid;

use super::Claimed;

/// The keys and fences (`lease`, `claims`) of claimed rows, as four arrays for `unnest`. A statement joins them with
/// the queue on all four columns, so that it changes only rows whose claim is still valid.
#[derive(Default)]
pub(in crate::db) struct Fence {
    pub message_id: Vec<Uuid>,
    pub recipient_id: Vec<Uuid>,
    pub lease: Vec<Uuid>,
    pub claims: Vec<i32>,
}

impl Fence {
    pub fn new<'a>(rows: impl Iterator<Item = &'a Claimed>) -> Self {
        let mut fence = Self::default();
        for row in rows {
            fence.message_id.push(row.message_id);
            fence.recipient_id.push(row.recipient_id);
            fence.lease.push(row.lease);
            fence.claims.push(row.claims);
        }
        fence
    }
}
