//! Inserts batches: the messages of a call of `POST /v1/messages/batch`, of a part of a bulk, of rows of `sql_inbox` or of a row
//! of `relays`, all or none.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

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
    /// The rows that the messages come from; `None`: they come from a request.
    pub source: Option<BatchSource>,
}

/// The rows that the messages of a batch come from. The transaction that inserts the messages takes these rows, so that each row
/// becomes exactly one message, even if two processes work on it. If it cannot take all of them, it inserts nothing.
///
/// A process has claimed the rows until a time, which is in the row: another process leaves them alone until then. They are taken only if
/// the row still has this time.
#[derive(Debug)]
pub enum BatchSource {
    /// Recipients of a bulk. They are not claimed: the bulk is leased.
    Bulk(BulkPart),
    /// Rows of `sql_inbox`.
    Enqueued(EnqueuedPart),
    /// A row of `relays`.
    Relay(RelayPart),
}

impl BatchSource {
    /// Returns the position of the source in the order in which the sources of a transaction are taken: its table, and its smallest key.
    fn position(&self) -> (u8, Option<Uuid>, i16) {
        match self {
            Self::Bulk(part) => (0, Some(part.bulk.0), 0),
            Self::Enqueued(part) => (1, part.messages.iter().min().copied(), 0),
            Self::Relay(part) => (2, Some(part.received), part.position),
        }
    }

    /// Deletes or marks the rows. Changes nothing and returns `false` unless all of them can be taken.
    async fn take(&self, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
        match self {
            Self::Bulk(part) => expand::take(connection, part).await,
            Self::Enqueued(part) => sql_inbox::take(connection, part).await,
            Self::Relay(part) => relays::take(connection, part).await,
        }
    }
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
    /// Nothing was inserted: a concurrent request used one of the idempotency keys, or the rows that the messages come from could not be
    /// taken.
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
    let sources = batches.iter().zip(&mut is_free);
    let mut sources: Vec<(&BatchSource, &mut bool)> =
        sources.filter_map(|(batch, is_free)| Some((batch.source.as_ref()?, is_free))).collect();
    // Another transaction may lock the same rows, in the order of their keys.
    sources.sort_by_key(|(source, _)| source.position());
    for (source, is_free) in sources {
        *is_free = source.take(connection).await?;
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
