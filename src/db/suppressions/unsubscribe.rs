//! Unsubscribes from a stream: adds the suppression and its event in one transaction.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{Added, Existing};
use crate::db::events::{self, NewEvent};
use crate::db::{Db, DbError, suppressions};
use crate::domain::id::RecipientKey;
use crate::domain::message::unsubscribe::Ticket;
use crate::domain::suppression::{AddressKey, Reason, Suppression};

/// Unsubscribes the address of a ticket. Idempotent, also across replicas: there is one suppression. An event is
/// appended if the address was not suppressed before, or if there is no event yet for the message whose link was used.
/// Changes nothing if the tenant is being deleted, since it sends nothing any more.
pub async fn unsubscribe(db: &Db, ticket: &Ticket, now: DateTime<Utc>) -> Result<(), DbError> {
    let mut entry = Suppression {
        address: AddressKey::from(&ticket.address),
        stream: Some(ticket.stream.clone()),
        reason: Reason::Unsubscribe,
        message_id: Some(ticket.message),
        recipient_id: Some(ticket.recipient),
        note: None,
        created_at: now,
        expires_at: None,
    };
    db.timed("unsubscribe", async {
        let mut tx = db.pool.begin().await?;
        if !has_tenant(&mut tx, ticket).await? {
            return Ok(());
        }
        entry.address = suppressions::pseudonym(&mut tx, ticket.tenant, entry.address).await?;
        let done = suppressions::add(&mut tx, &[(ticket.tenant, entry)], Existing::KeptUnlessShorter, now).await?;
        // `add` has locked the entry's row, so the query for the event sees the result of concurrent unsubscribes.
        if done != (Added { unchanged: 1, ..Added::default() }) || !has_event(&mut tx, ticket).await? {
            let recipient =
                RecipientKey { tenant: ticket.tenant, message: ticket.message, recipient: ticket.recipient };
            events::append(&mut tx, now, vec![NewEvent::unsubscribed(recipient)]).await?;
        }
        tx.commit().await
    })
    .await
}

/// Returns whether the ticket's tenant exists and is not being deleted.
async fn has_tenant(connection: &mut PgConnection, ticket: &Ticket) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM tenants WHERE id = $1 AND deleting_at IS NULL) AS "exists!""#,
        ticket.tenant.0
    )
    .fetch_one(connection)
    .await
}

/// Returns whether the ticket's message and recipient already have a `message.unsubscribed` event.
async fn has_event(connection: &mut PgConnection, ticket: &Ticket) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM events WHERE tenant_id = $1 AND message_id = $2 AND recipient_id = $3
                          AND type = 'message.unsubscribed' AND recorded_at >= $4) AS "is_told!""#,
        ticket.tenant.0,
        ticket.message.0,
        ticket.recipient.0,
        ticket.message.accepted_at()
    )
    .fetch_one(connection)
    .await
}
