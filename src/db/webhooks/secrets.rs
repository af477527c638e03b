//! Webhook signing secrets at rest: encrypts them if `secret_key` is configured, and removes expired ones.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::db::{Db, DbError};
use crate::domain::webhook::endpoint::{ENCRYPTED_PREFIX, StoredSecret};

/// Returns whether the versions of all workers support encrypted secrets. Other versions would sign with the
/// ciphertext.
pub async fn can_encrypt(db: &Db) -> Result<bool, DbError> {
    let query =
        sqlx::query_scalar!(r#"SELECT NOT EXISTS (SELECT FROM workers WHERE NOT reads_sealed_secrets) AS "may!""#);
    db.timed("webhooks.secrets.can_encrypt", query.fetch_one(&db.pool)).await
}

/// Removes previous secrets that have expired. Returns their number.
pub async fn remove_expired(db: &Db, now: DateTime<Utc>) -> Result<u64, DbError> {
    let query = sqlx::query!(
        "UPDATE webhook_endpoints SET old_secret = NULL, old_secret_until = NULL
         WHERE id IN (SELECT id FROM webhook_endpoints WHERE old_secret_until <= $1 ORDER BY id FOR NO KEY UPDATE)",
        now
    );
    db.timed("webhooks.secrets.remove_expired", query.execute(&db.pool)).await.map(|done| done.rows_affected())
}

/// The unencrypted secrets of an endpoint. Without `Debug`, because it contains secrets.
pub struct UnencryptedSecrets {
    /// The endpoint.
    pub id: Uuid,
    /// Signing secret, if unencrypted.
    pub secret: Option<Vec<u8>>,
    /// Previous secret, if unencrypted.
    pub old_secret: Option<Vec<u8>>,
}

/// Returns up to `limit` endpoints with an unencrypted secret.
pub async fn unencrypted(db: &Db, limit: i64) -> Result<Vec<UnencryptedSecrets>, DbError> {
    let query = sqlx::query_as!(
        UnencryptedSecrets,
        r#"SELECT id, CASE WHEN substr(secret, 1, 8) <> $2 THEN secret END AS secret,
                  CASE WHEN substr(old_secret, 1, 8) <> $2 THEN old_secret END AS old_secret
           FROM webhook_endpoints WHERE substr(secret, 1, 8) <> $2 OR substr(old_secret, 1, 8) <> $2 LIMIT $1"#,
        limit,
        ENCRYPTED_PREFIX
    );
    db.timed("webhooks.secrets.unencrypted", query.fetch_all(&db.pool)).await
}

/// Replaces unencrypted secrets by encrypted ones, unless they were changed since they were read.
pub async fn replace(
    db: &Db,
    stored: &UnencryptedSecrets,
    secret: Option<&StoredSecret>,
    old_secret: Option<&StoredSecret>,
) -> Result<(), DbError> {
    let query = sqlx::query!(
        "UPDATE webhook_endpoints SET secret = coalesce($2, secret), old_secret = coalesce($3, old_secret)
         WHERE id = $1 AND ($2::bytea IS NULL OR secret = $4) AND ($3::bytea IS NULL OR old_secret = $5)",
        stored.id,
        secret.map(StoredSecret::bytes),
        old_secret.map(StoredSecret::bytes),
        stored.secret.as_deref(),
        stored.old_secret.as_deref()
    );
    db.timed("webhooks.secrets.replace", query.execute(&db.pool)).await.map(|_| ())
}
