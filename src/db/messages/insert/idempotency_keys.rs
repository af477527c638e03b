//! Claims idempotency keys, in the transaction that inserts the messages.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::batch::{BatchInsert, CallKey};
use super::{Committed, IdempotencyKey, MessageInsert};
use crate::db::messages::bulks::insert::{BulkInsert, BulkRecipientInsert};
use crate::db::messages::idempotency::{self, KeyUse};
use crate::domain::id::TenantId;

/// A key, and the message, call or bulk that claims it.
#[derive(Clone)]
struct Claim<'a> {
    tenant: TenantId,
    with: &'a IdempotencyKey,
    /// Identifies the claim: the message that is created with the key; for a call, its first message; for a bulk, the
    /// bulk, or the recipient with a key of its own.
    message: Uuid,
    call: Option<Call<'a>>,
    /// The bulk that is created with the key.
    bulk: Option<Uuid>,
    /// The value to store.
    key: Cow<'a, str>,
}

/// What is stored with the key of a call, which is one request with several messages.
#[derive(Clone)]
struct Call<'a> {
    /// The ids of all messages, as a Postgres array.
    message_ids: String,
    response: &'a Value,
}

impl<'a> Claim<'a> {
    fn of_message(insert: &'a MessageInsert) -> Option<Self> {
        let with = insert.idempotency.as_ref()?;
        let (tenant, message) = (insert.tenant, insert.message.id.0);
        Some(Self { tenant, with, message, call: None, bulk: None, key: Cow::Borrowed(&with.key) })
    }

    fn of_call(batch: &'a BatchInsert) -> Option<Self> {
        let (first, CallKey { key: with, response }) = (batch.messages.first()?, batch.call.as_ref()?);
        let ids: Vec<String> = batch.messages.iter().map(|insert| insert.message.id.0.to_string()).collect();
        let call = Call { message_ids: format!("{{{}}}", ids.join(",")), response };
        let (tenant, message) = (first.tenant, first.message.id.0);
        Some(Self { tenant, with, message, call: Some(call), bulk: None, key: Cow::Borrowed(&with.key) })
    }

    /// Returns the claims of a bulk and of its recipients.
    fn of_bulk(bulk: &'a BulkInsert) -> impl Iterator<Item = Self> {
        let tenant = bulk.tenant;
        let id = bulk.id.0;
        // The messages of a bulk do not exist yet, so the ids of the bulk and of its recipients identify the claims.
        let own = bulk.key.as_ref().map(|with| {
            let (call, key) = (None, Cow::Borrowed(&*with.key));
            Self { tenant, with, message: id, call, bulk: Some(id), key }
        });
        let of_recipient = move |recipient: &'a BulkRecipientInsert| {
            let (with, message) = (recipient.key.as_ref()?, recipient.id);
            Some(Self { tenant, with, message, call: None, bulk: Some(id), key: Cow::Borrowed(&with.key) })
        };
        own.into_iter().chain(bulk.recipients.iter().filter_map(of_recipient))
    }
}

/// Claims the keys of messages. Returns the result for each message.
pub(super) async fn claim_for_messages(
    connection: &mut PgConnection,
    group: &[MessageInsert],
    now: DateTime<Utc>,
) -> Result<Vec<Committed>, sqlx::Error> {
    let mut results = vec![Committed::new(); group.len()];
    let claims = group.iter().enumerate().filter_map(|(n, insert)| Some((n, Claim::of_message(insert)?)));
    let (positions, mut claims): (Vec<usize>, Vec<Claim<'_>>) = claims.unzip();
    let used = claim_all(connection, &mut claims, now).await?;
    for (position, used) in positions.into_iter().zip(used) {
        if let Some(used) = used {
            results[position] = Committed::KeyUsed(used);
        }
    }
    Ok(results)
}

/// Claims the keys of calls and of their messages. Returns for each batch whether all of its keys were free. If they were
/// not, none of them stays claimed.
pub(super) async fn claim_for_batches(
    connection: &mut PgConnection,
    batches: &[BatchInsert],
    now: DateTime<Utc>,
) -> Result<Vec<bool>, sqlx::Error> {
    let claims = batches.iter().enumerate().flat_map(|(n, batch)| claims_of(batch).map(move |claim| (n, claim)));
    let (owners, mut claims): (Vec<usize>, Vec<Claim<'_>>) = claims.unzip();
    let mut is_free = vec![true; batches.len()];
    let used = claim_all(connection, &mut claims, now).await?;
    for (owner, used) in owners.iter().zip(&used) {
        is_free[*owner] &= used.is_none();
    }
    let claimed = owners.into_iter().zip(claims).zip(used).filter(|(_, used)| used.is_none()).map(|(claim, _)| claim);
    let refused: Vec<Claim<'_>> = claimed.filter(|(owner, _)| !is_free[*owner]).map(|(_, claim)| claim).collect();
    release(connection, &refused).await?;
    Ok(is_free)
}

/// Claims the keys of a bulk and of its recipients. Returns whether all of them were free; if they were not, the caller must
/// roll the transaction back.
pub(in crate::db) async fn claim_for_bulk(
    connection: &mut PgConnection,
    bulk: &BulkInsert,
) -> Result<bool, sqlx::Error> {
    let mut claims: Vec<Claim<'_>> = Claim::of_bulk(bulk).collect();
    let used = claim_all(connection, &mut claims, bulk.created_at).await?;
    Ok(used.iter().all(Option::is_none))
}

/// Returns the claims of a call and of its messages.
fn claims_of(batch: &BatchInsert) -> impl Iterator<Item = Claim<'_>> {
    Claim::of_call(batch).into_iter().chain(batch.messages.iter().filter_map(Claim::of_message))
}

/// Claims keys, each for its API key. Returns the earlier use of each key; `None` if the key was free.
async fn claim_all(
    connection: &mut PgConnection,
    claims: &mut [Claim<'_>],
    now: DateTime<Utc>,
) -> Result<Vec<Option<KeyUse>>, sqlx::Error> {
    if claims.is_empty() {
        return Ok(Vec::new());
    }
    let mut uses = claim(connection, claims, now).await?;
    // If another API key used the value first, this API key's use is stored under the value that `scoped` returns.
    let (mut positions, mut scoped) = (Vec::new(), Vec::new());
    for (position, (claim, used)) in claims.iter_mut().zip(&uses).enumerate() {
        let owner = claim.with.owner;
        if used.as_ref().and_then(|used| used.owner).is_some_and(|first| first != owner.0) {
            claim.key = Cow::Owned(idempotency::scoped(owner, &claim.with.key));
            positions.push(position);
            scoped.push(claim.clone());
        }
    }
    if !scoped.is_empty() {
        for (position, used) in positions.into_iter().zip(claim(connection, &scoped, now).await?) {
            uses[position] = used;
        }
    }
    for (claim, used) in claims.iter().zip(&mut uses) {
        if used.as_ref().is_some_and(|used| used.message_id == claim.message) {
            *used = None;
        }
    }
    Ok(uses)
}

/// Inserts keys that are not used yet. Returns the stored use of each key.
async fn claim(
    connection: &mut PgConnection,
    claims: &[Claim<'_>],
    now: DateTime<Utc>,
) -> Result<Vec<Option<KeyUse>>, sqlx::Error> {
    let tenants: Vec<Uuid> = claims.iter().map(|one| one.tenant.0).collect();
    let keys: Vec<&str> = claims.iter().map(|one| &*one.key).collect();
    let fingerprints: Vec<&[u8]> = claims.iter().map(|one| &one.with.fingerprint[..]).collect();
    let digests: Vec<&[u8]> = claims.iter().map(|one| &one.with.digest[..]).collect();
    let owners: Vec<Uuid> = claims.iter().map(|one| one.with.owner.0).collect();
    let messages: Vec<Uuid> = claims.iter().map(|one| one.message).collect();
    let calls = || claims.iter().map(|one| one.call.as_ref());
    let call_messages: Vec<Option<&str>> = calls().map(|call| Some(call?.message_ids.as_str())).collect();
    let call_responses: Vec<Option<Value>> = calls().map(|call| Some(call?.response.clone())).collect();
    let bulks: Vec<Option<Uuid>> = claims.iter().map(|one| one.bulk).collect();
    // In a fixed order, so that two replicas that insert the same keys cannot deadlock.
    sqlx::query!(
        "INSERT INTO idempotency_keys (tenant_id, key, fingerprint, message_ids, created_at, api_key_id, request_digest,
                                       batch_response, bulk_id)
         SELECT tenant_id, key, fingerprint, coalesce(call_messages::uuid[], ARRAY[message_id]), $5, owner, digest,
                call_response, bulk
         FROM unnest($1::uuid[], $2::text[], $3::bytea[], $4::uuid[], $6::uuid[], $7::bytea[], $8::text[], $9::jsonb[],
                     $10::uuid[])
              AS u (tenant_id, key, fingerprint, message_id, owner, digest, call_messages, call_response, bulk)
         ORDER BY tenant_id, key ON CONFLICT DO NOTHING",
        &tenants,
        &keys as _,
        &fingerprints as _,
        &messages,
        now,
        &owners,
        &digests as _,
        &call_messages as _,
        &call_responses as _,
        &bulks as _
    )
    .execute(&mut *connection)
    .await?;
    let rows = sqlx::query!(
        r#"SELECT u.n AS "n!", k.message_ids[1] AS "message_id!", k.api_key_id, k.fingerprint, k.request_digest
           FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY AS u (tenant_id, key, n)
           JOIN idempotency_keys k ON k.tenant_id = ANY (ARRAY[u.tenant_id]) AND k.key = u.key"#,
        &tenants,
        &keys as _
    )
    .fetch_all(connection)
    .await?;
    let mut found = vec![None; claims.len()];
    for row in rows {
        let Some(slot) = usize::try_from(row.n - 1).ok().and_then(|index| found.get_mut(index)) else { continue };
        *slot = Some(KeyUse {
            message_id: row.message_id,
            owner: row.api_key_id,
            fingerprint: row.fingerprint,
            digest: row.request_digest,
        });
    }
    Ok(found)
}

/// Deletes keys that this transaction claimed for batches that it does not insert.
async fn release(connection: &mut PgConnection, claims: &[Claim<'_>]) -> Result<(), sqlx::Error> {
    if claims.is_empty() {
        return Ok(());
    }
    let tenants: Vec<Uuid> = claims.iter().map(|one| one.tenant.0).collect();
    let keys: Vec<&str> = claims.iter().map(|one| &*one.key).collect();
    let messages: Vec<Uuid> = claims.iter().map(|one| one.message).collect();
    sqlx::query!(
        "DELETE FROM idempotency_keys k USING unnest($1::uuid[], $2::text[], $3::uuid[]) AS u (tenant_id, key, message_id)
         WHERE k.tenant_id = ANY (ARRAY[u.tenant_id]) AND k.key = u.key AND k.message_ids[1] = u.message_id",
        &tenants,
        &keys as _,
        &messages
    )
    .execute(connection)
    .await?;
    Ok(())
}
