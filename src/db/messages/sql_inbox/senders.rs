//! The table `sql_senders`: roles of the database server that may call `postrider.send`.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::db::{Db, DbError};
use crate::domain::id::TenantId;

/// A role that may send.
#[derive(Debug, Clone)]
pub struct SenderRow {
    /// The role's name.
    pub role: String,
    /// The tenant that it sends for.
    pub tenant_id: Uuid,
    /// Domains that it may send from; `None`: any.
    pub sender_domains: Option<Vec<String>>,
    /// Since when.
    pub created_at: DateTime<Utc>,
}

/// Returns all roles that may send, by name.
pub async fn all(db: &Db) -> Result<Vec<SenderRow>, DbError> {
    let query = sqlx::query_as!(
        SenderRow,
        r#"SELECT role::text AS "role!", tenant_id, sender_domains, created_at FROM sql_senders ORDER BY role"#
    );
    db.timed("sql_senders.all", query.fetch_all(&db.pool)).await
}

/// Returns a role that may send.
pub async fn get(db: &Db, role: &str) -> Result<Option<SenderRow>, DbError> {
    let query = sqlx::query_as!(
        SenderRow,
        r#"SELECT role::text AS "role!", tenant_id, sender_domains, created_at FROM sql_senders WHERE role = $1::text::name"#,
        role
    );
    db.timed("sql_senders.get", query.fetch_optional(&db.pool)).await
}

/// Returns whether the server has a role with this name.
pub async fn has_role(db: &Db, role: &str) -> Result<bool, DbError> {
    let query = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1::text::name) AS "exists!""#,
        role
    );
    db.timed("sql_senders.has_role", query.fetch_one(&db.pool)).await
}

/// A role that could get the rights of Postrider's role, or change what applications call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatorRow {
    /// The role's name.
    pub role: String,
    /// The schema that it can create objects in, or `postrider` if it can replace the function.
    pub schema: String,
}

/// Maximum number of roles that [`creators`] returns.
const MAX_CREATORS: i64 = 20;

/// Returns the roles that can create objects in the schema of Postrider's tables or in the schema `postrider`, directly or as
/// everybody can, and those that own the function `postrider.send`. A function of such a role could be called with the rights of
/// Postrider's role, or by applications in place of `postrider.send`. Roles that have the rights of Postrider's role anyway do not
/// count.
pub async fn creators(db: &Db) -> Result<Vec<CreatorRow>, DbError> {
    let query = sqlx::query_as!(
        CreatorRow,
        r#"SELECT r.rolname::text AS "role!", n.nspname::text AS "schema!"
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace OR n.nspname = 'postrider'
           CROSS JOIN pg_roles r
           LEFT JOIN pg_proc p ON n.nspname = 'postrider' AND p.oid = to_regprocedure('postrider.send(jsonb, text)')
           WHERE c.oid = to_regclass('sql_inbox') AND r.rolname !~ '^pg_' AND NOT pg_has_role(r.oid, c.relowner, 'USAGE')
             AND (has_schema_privilege(r.oid, n.oid, 'CREATE') OR coalesce(pg_has_role(r.oid, p.proowner, 'USAGE'), false))
           ORDER BY r.rolname, n.nspname LIMIT $1"#,
        MAX_CREATORS
    );
    db.timed("sql_senders.creators", query.fetch_all(&db.pool)).await
}

/// Lets a role send for a tenant, from these domains or from any; replaces what it could do before. Creates
/// `postrider.send` if it is missing, which fails without the right to create its schema.
pub async fn grant(
    db: &Db,
    role: &str,
    tenant: TenantId,
    sender_domains: Option<&[String]>,
    now: DateTime<Utc>,
) -> Result<(), DbError> {
    db.timed("sql_senders.grant", async {
        let mut tx = db.pool.begin().await?;
        sqlx::query!("SELECT FROM grant_sql_send($1::text::name)", role).execute(&mut *tx).await?;
        sqlx::query!(
            "INSERT INTO sql_senders (role, tenant_id, sender_domains, created_at) VALUES ($1::text::name, $2, $3, $4)
             ON CONFLICT (role) DO UPDATE SET tenant_id = excluded.tenant_id, sender_domains = excluded.sender_domains",
            role,
            tenant.0,
            sender_domains,
            now
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    })
    .await
}

/// Lets a role no longer send. Messages that it has sent are accepted. Returns `false` if it could not send.
pub async fn revoke(db: &Db, role: &str) -> Result<bool, DbError> {
    db.timed("sql_senders.revoke", async {
        let mut tx = db.pool.begin().await?;
        sqlx::query!("SELECT FROM revoke_sql_send($1::text::name)", role).execute(&mut *tx).await?;
        let removed =
            sqlx::query!("DELETE FROM sql_senders WHERE role = $1::text::name", role).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(removed.rows_affected() > 0)
    })
    .await
}
