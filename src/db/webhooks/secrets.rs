//! The secrets of `webhook_endpoints` at rest: encrypted where there is a key, and removed when they sign no more.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::db::{Db, DbError};
use crate::domain::endpoint::{SEALED, StoredSecret};

/// Whether every worker reads encrypted secrets. Those of earlier versions would sign with what they cannot decrypt.
pub async fn may_seal(db: &Db) -> Result<bool, DbError> {
    let query =
        sqlx::query_scalar!(r#"SELECT NOT EXISTS (SELECT FROM workers WHERE NOT reads_sealed_secrets) AS "may!""#);
    db.timed("webhook_secrets.may_seal", query.fetch_one(&db.pool)).await
}

/// Removes secrets that sign no more. Returns how many.
pub async fn remove_expired(db: &Db, now: DateTime<Utc>) -> Result<u64, DbError> {
    let query = sqlx::query!(
        "UPDATE webhook_endpoints SET old_secret = NULL, old_secret_until = NULL
         WHERE old_secret_until <= $1",
        now
    );
    db.timed("webhook_secrets.remove_expired", query.execute(&db.pool)).await.map(|done| done.rows_affected())
}

/// An endpoint with a secret in the clear. Without `Debug`: it holds secrets.
pub struct Clear {
    /// The endpoint.
    pub id: Uuid,
    /// Signs every post, where it is in the clear.
    pub secret: Option<Vec<u8>>,
    /// The one before, where it is in the clear.
    pub old_secret: Option<Vec<u8>>,
}

/// Some endpoints with a secret in the clear.
pub async fn clear(db: &Db, limit: i64) -> Result<Vec<Clear>, DbError> {
    let query = sqlx::query_as!(
        Clear,
        r#"SELECT id, CASE WHEN substr(secret, 1, 8) <> $2 THEN secret END AS secret,
                  CASE WHEN substr(old_secret, 1, 8) <> $2 THEN old_secret END AS old_secret
           FROM webhook_endpoints WHERE substr(secret, 1, 8) <> $2 OR substr(old_secret, 1, 8) <> $2 LIMIT $1"#,
        limit,
        SEALED
    );
    db.timed("webhook_secrets.clear", query.fetch_all(&db.pool)).await
}

/// Replaces secrets in the clear by encrypted ones, unless they have changed since.
pub async fn seal(
    db: &Db,
    clear: &Clear,
    secret: Option<&StoredSecret>,
    old_secret: Option<&StoredSecret>,
) -> Result<(), DbError> {
    let query = sqlx::query!(
        "UPDATE webhook_endpoints SET secret = coalesce($2, secret), old_secret = coalesce($3, old_secret)
         WHERE id = $1 AND ($2::bytea IS NULL OR secret = $4) AND ($3::bytea IS NULL OR old_secret = $5)",
        clear.id,
        secret.map(StoredSecret::bytes),
        old_secret.map(StoredSecret::bytes),
        clear.secret.as_deref(),
        clear.old_secret.as_deref()
    );
    db.timed("webhook_secrets.seal", query.execute(&db.pool)).await.map(|_| ())
}
