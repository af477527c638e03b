//! Queries of the suppression API: list, lookup of one address, export and removal.

use chrono::{DateTime, Utc};

use super::Row;
use crate::db::{Db, DbError};
use crate::domain::id::TenantId;
use crate::domain::suppression::{AddressKey, Reason, Suppression};

/// Filters for suppressions.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only entries for this address.
    pub address: Option<AddressKey>,
    /// Only entries for this stream; `''` for entries for all streams.
    pub stream: Option<String>,
    /// Only entries with one of these reasons.
    pub reasons: Option<Vec<Reason>>,
    /// Only entries created at or after this time.
    pub created_after: Option<DateTime<Utc>>,
    /// Only entries created before this time.
    pub created_before: Option<DateTime<Utc>>,
    /// Only entries after this cursor: creation time, address and stream of the last entry of the previous page.
    pub after: Option<(DateTime<Utc>, String, String)>,
}

/// Returns a page of active entries, newest first.
pub async fn page(
    db: &Db,
    tenant: TenantId,
    filter: &Filter,
    limit: i64,
    now: DateTime<Utc>,
) -> Result<Vec<Suppression>, DbError> {
    let after = filter.after.as_ref();
    let reasons: Option<Vec<String>> =
        filter.reasons.as_ref().map(|reasons| reasons.iter().map(|reason| reason.as_str().to_owned()).collect());
    let query = sqlx::query_as!(
        Row,
        "SELECT address, stream, reason, message_id, recipient_id, note, created_at, expires_at FROM suppressions
         WHERE tenant_id = $1 /* tenant */ AND (expires_at IS NULL OR expires_at > $2 /* now */)
           AND ($3::text /* filter.address */ IS NULL
                OR address = ANY (ARRAY[$3, (SELECT erased_address(key, $3) FROM erasure_keys WHERE tenant_id = $1)]))
           AND ($4::text /* filter.stream */ IS NULL OR stream = $4)
           AND ($5::text[] /* reasons.as_deref */ IS NULL OR reason = ANY ($5))
           AND ($6::timestamptz /* created_after */ IS NULL OR created_at >= $6)
           AND ($7::timestamptz /* created_before */ IS NULL OR created_at < $7)
           AND ($8::timestamptz /* at */ IS NULL
                OR (created_at, address, stream) < ($8, $9 /* address.as_str */, $10 /* stream.as_str */))
         ORDER BY created_at DESC, address DESC, stream DESC LIMIT $11 /* limit */",
        tenant.0,
        now,
        filter.address.as_ref().map(AddressKey::as_str),
        filter.stream,
        reasons.as_deref(),
        filter.created_after,
        filter.created_before,
        after.map(|(at, ..)| *at),
        after.map(|(_, address, _)| address.as_str()),
        after.map(|(.., stream)| stream.as_str()),
        limit
    );
    let rows = db.timed("suppressions.page", query.fetch_all(&db.pool)).await?;
    Ok(rows.into_iter().map(Suppression::from).collect())
}

/// Returns the active entries for one address, also those with its pseudonym, the entry for all streams first.
pub async fn for_address(
    db: &Db,
    tenant: TenantId,
    address: &AddressKey,
    now: DateTime<Utc>,
) -> Result<Vec<Suppression>, DbError> {
    let query = sqlx::query_as!(
        Row,
        "SELECT address, stream, reason, message_id, recipient_id, note, created_at, expires_at FROM suppressions
         WHERE tenant_id = $1 AND (expires_at IS NULL OR expires_at > $3)
           AND address = ANY (ARRAY[$2, (SELECT erased_address(key, $2) FROM erasure_keys WHERE tenant_id = $1)])
         ORDER BY stream",
        tenant.0,
        address.as_str(),
        now
    );
    let rows = db.timed("suppressions.for_address", query.fetch_all(&db.pool)).await?;
    Ok(rows.into_iter().map(Suppression::from).collect())
}

/// Returns the next active entries after this address and stream, ordered by both, for the export.
pub async fn following(
    db: &Db,
    tenant: TenantId,
    (address, stream): (&str, &str),
    limit: i64,
    now: DateTime<Utc>,
) -> Result<Vec<Suppression>, DbError> {
    let query = sqlx::query_as!(
        Row,
        "SELECT address, stream, reason, message_id, recipient_id, note, created_at, expires_at FROM suppressions
         WHERE tenant_id = $1 AND (address, stream) > ($2, $3) AND (expires_at IS NULL OR expires_at > $4)
         ORDER BY address, stream LIMIT $5",
        tenant.0,
        address,
        stream,
        now,
        limit
    );
    let rows = db.timed("suppressions.following", query.fetch_all(&db.pool)).await?;
    Ok(rows.into_iter().map(Suppression::from).collect())
}

/// Entries to remove: all entries for an address, or only the one for a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// The address.
    pub address: AddressKey,
    /// The stream, or `''` for the entry for all streams; `None` removes every entry for the address.
    pub stream: Option<String>,
}

/// Removes entries. Returns how many of them were active.
pub async fn remove(db: &Db, tenant: TenantId, removals: &[Removal], now: DateTime<Utc>) -> Result<u64, DbError> {
    let plain: Vec<&str> = removals.iter().map(|removal| removal.address.as_str()).collect();
    let mut streams: Vec<Option<&str>> = removals.iter().map(|removal| removal.stream.as_deref()).collect();
    db.timed("suppressions.remove", async {
        let mut tx = db.pool.begin().await?;
        // An entry of an address that was erased has its pseudonym.
        let erased = sqlx::query_scalar!(
            r#"SELECT erased_address(k.key, u.address) AS "pseudonym!"
               FROM erasure_keys k CROSS JOIN unnest($2::text[]) WITH ORDINALITY AS u (address, n)
               WHERE k.tenant_id = $1 ORDER BY u.n"#,
            tenant.0,
            &plain as _
        )
        .fetch_all(&mut *tx)
        .await?;
        let addresses: Vec<&str> = plain.iter().copied().chain(erased.iter().map(String::as_str)).collect();
        streams.extend_from_within(..erased.len());
        // Locks the rows in key order and waits for concurrent changes, which the next statement then sees.
        sqlx::query!(
            "SELECT FROM suppressions s JOIN unnest($2::text[], $3::text[]) AS u (address, stream)
                 ON s.tenant_id = $1 AND s.address = u.address AND (u.stream IS NULL OR s.stream = u.stream)
             ORDER BY s.address, s.stream FOR UPDATE OF s",
            tenant.0,
            &addresses as _,
            &streams as _
        )
        .execute(&mut *tx)
        .await?;
        let removed = sqlx::query_scalar!(
            r#"DELETE FROM suppressions s USING unnest($2::text[], $3::text[]) AS u (address, stream)
               WHERE s.tenant_id = $1 AND s.address = u.address AND (u.stream IS NULL OR s.stream = u.stream)
               RETURNING (s.expires_at IS NULL OR s.expires_at > $4) AS "counted!""#,
            tenant.0,
            &addresses as _,
            &streams as _,
            now
        )
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(removed.into_iter().filter(|counted| *counted).count() as u64)
    })
    .await
}
