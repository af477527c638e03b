//! Inserts batches: the messages of a call of `POST /v1/messages/batch`, of a part of a bulk, of rows of `sql_inbox` or of a row
//! of `relays`, all or none.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;

use crate::db::messages::bulks::expand::{self, BulkPart};
use crate::db::messages::relays::{self, RelayPart};
use crate::db::messages::sql_inbox::{self, EnqueuedPart};

use super::{Committed, IdempotencyKey, Inserted, MessageInsert, idempotency_keys, insert_new};

/// The messages of a call, which are inserted together or not at all.
#[derive(Debug)]
pub struct BatchInsert {
    /// The messages, at least one. Their idempotency keys differ from each other and from the key of the call.
    pub messages: Vec<MessageInsert>,
    /// The idempotency key of the whole call.
    pub call: Option<CallKey>,
    /// The recipients of a bulk that the messages come from.
    pub bulk: Option<BulkPart>,
    /// The rows of `sql_inbox` that the messages come from.
    pub enqueued: Option<EnqueuedPart>,
    /// The row of `relays` that the message comes from.
    pub relay: Option<RelayPart>,
}

/// The idempotency key of a call, and the parts of its response besides the new messages.
#[derive(Debug, Clone, PartialEq)]
pub struct CallKey {
    /// The key.
    pub key: IdempotencyKey,
    /// `idempotency_keys.batch_response`.
    pub response: Value,
}

/// The result for one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchCommitted {
    /// All messages were inserted. Contains a [`Committed::New`] for each.
    Inserted(Vec<Committed>),
    /// Nothing was inserted: a concurrent request used one of the idempotency keys, the state of the bulk has changed,
    /// or another process inserted messages of this part of the bulk, or of these rows of `sql_inbox` or `relays`.
    NotInserted,
}

/// Inserts the batches whose idempotency keys are free. The caller must then lower the lanes' `ready_at` and append the
/// events, in this order.
pub(in crate::db) async fn store_batches<'a>(
    connection: &mut PgConnection,
    batches: &'a [BatchInsert],
    now: DateTime<Utc>,
) -> Result<(Inserted<'a>, Vec<bool>), sqlx::Error> {
    let mut is_free = idempotency_keys::claim_for_batches(connection, batches, now).await?;
    for (batch, is_free) in batches.iter().zip(&mut is_free) {
        if let Some(part) = &batch.bulk {
            *is_free = expand::take(connection, part).await?;
        }
        if let Some(part) = &batch.enqueued {
            *is_free = sql_inbox::take(connection, part).await?;
        }
        if let Some(part) = &batch.relay {
            *is_free = relays::take(connection, part).await?;
        }
    }
    let free = batches.iter().zip(&is_free).filter(|(_, is_free)| **is_free);
    let group: Vec<&MessageInsert> = free.flat_map(|(batch, _)| &batch.messages).collect();
    let results = vec![Committed::new(); group.len()];
    let inserted = insert_new(connection, &group, results, now).await?;
    Ok((inserted, is_free))
}

/// Divides the results of messages among their batches.
pub(in crate::db) fn results_by_batch(
    batches: &[BatchInsert],
    is_free: Vec<bool>,
    results: Vec<Committed>,
) -> Vec<BatchCommitted> {
    let mut results = results.into_iter();
    let result = |(batch, is_free): (&BatchInsert, bool)| {
        if is_free {
            BatchCommitted::Inserted(results.by_ref().take(batch.messages.len()).collect())
        } else {
            BatchCommitted::NotInserted
        }
    };
    batches.iter().zip(is_free).map(result).collect()
}
