//! Cancels a message that was sent from SQL and is not accepted yet, for example because it waits for a quota.
//!
//! The message is accepted as a canceled one, in the transaction that deletes its row. From then on it is a message like any other that was
//! canceled before its first attempt. It does not count towards the quota.

use chrono::{DateTime, TimeDelta, Utc};

use crate::accept::{AcceptError, Acceptor};
use crate::db::messages::insert::batch::BatchSource;
use crate::db::messages::sql_inbox::rejected::Refusal;
use crate::db::messages::sql_inbox::{self, EnqueuedPart, EnqueuedRow};
use crate::domain::id::{MessageId, RecipientId, TenantId};

/// How long the row is claimed. If the process dies, the message is accepted after this time.
const CLAIM: TimeDelta = TimeDelta::seconds(30);
/// How long the row stays claimed after a failure: as long as the `Retry-After` of the response, so that the next call usually comes before
/// the task accepts the message.
const AFTER_FAILURE: TimeDelta = TimeDelta::seconds(2);

impl Acceptor {
    /// Cancels a message that was sent from SQL and waits to be accepted. Returns its recipients; `None` if it is not canceled, because it is
    /// being accepted, was accepted or rejected meanwhile, or is no longer valid, in which case it is rejected.
    pub async fn cancel_enqueued(
        &self,
        tenant: TenantId,
        message: MessageId,
        now: DateTime<Utc>,
    ) -> Result<Option<Vec<RecipientId>>, AcceptError> {
        let claimed_until = now + CLAIM;
        let claimed = sql_inbox::claim_one(&self.db, (tenant, message), now, claimed_until).await?;
        let Some(row) = claimed else { return Ok(None) };
        let canceled = self.cancel_claimed(tenant, &row, now, claimed_until).await;
        if canceled.is_err() {
            // The time is read again, because a call that fails may take long. If this fails, too, the claim ends later.
            let until = self.blobs.clock.now() + AFTER_FAILURE;
            let _ = sql_inbox::release(&self.db, (tenant, message), claimed_until, until).await;
        }
        canceled
    }

    /// Cancels a message whose row is claimed until `claimed_until`.
    async fn cancel_claimed(
        &self,
        tenant: TenantId,
        row: &EnqueuedRow,
        now: DateTime<Utc>,
        claimed_until: DateTime<Utc>,
    ) -> Result<Option<Vec<RecipientId>>, AcceptError> {
        let message = MessageId(row.id);
        let new = match self.parse_enqueued(tenant, row, now).await? {
            Ok(new) => new,
            Err(faults) => {
                self.refuse_enqueued(tenant, claimed_until, &[Refusal { message, faults }], now).await?;
                return Ok(None);
            }
        };
        let recipients = new.recipients.iter().map(|recipient| recipient.id).collect();
        let part = EnqueuedPart { tenant, messages: vec![message.0], claimed_until };
        let mut batch = self.prepare_from(tenant, vec![new], BatchSource::Enqueued(part)).await?;
        for insert in &mut batch.messages {
            insert.is_canceled = true;
        }
        Ok(self.insert_prepared(batch).await?.then_some(recipients))
    }
}
