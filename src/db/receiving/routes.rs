//! Inbound routes.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::db::{Db, DbError};
use crate::domain::id::{InboundRouteId, TenantId};
use crate::domain::inbound::{InboundAction, RouteMatch, domain_and_parents};

/// Maximum number of routes of a tenant. The routes of a domain are read and cached together.
pub const MAX_ROUTES: i64 = 1_000;

/// An inbound route.
#[derive(Debug, Clone)]
pub struct InboundRouteRow {
    /// `inbound_routes.id`.
    pub id: Uuid,
    /// Time of creation.
    pub created_at: DateTime<Utc>,
    /// The part after the @.
    pub domain: String,
    /// `exact`, `plus` or `wildcard`.
    pub kind: String,
    /// The local part or its prefix.
    pub local: String,
    /// `webhook`, `store` or `relay`.
    pub action: String,
    /// The server to which messages are passed on, without its password.
    pub relay_to: Option<String>,
}

/// The action of a route, and for `relay` the server.
#[derive(Debug, Clone, Copy)]
pub struct ActionColumns<'a> {
    /// The action.
    pub action: InboundAction,
    /// `inbound_routes.relay_url`, from [`RelayTarget::seal`](crate::domain::inbound::relay::RelayTarget::seal).
    pub relay_url: Option<&'a [u8]>,
    /// The URL without its password.
    pub relay_to: Option<&'a str>,
}

/// The result of an insertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// The route was inserted.
    Done,
    /// The tenant has a route with this match.
    Exists,
    /// Another tenant receives messages for the domain, or has shown that it owns it.
    DomainTaken,
    /// The tenant has the maximum number of routes.
    TooMany,
}

/// Returns whether a domain belongs to another tenant. It belongs to the first tenant that has a route for it, with its test tenant;
/// one that is registered by another tenant, or below such a domain, to the first one that has verified it. The routes of those that
/// have not are then ignored. Until the transaction ends, no other tenant gets a route for the domain.
pub(in crate::db) async fn is_taken(
    connection: &mut PgConnection,
    tenant: TenantId,
    domain: &str,
) -> Result<bool, sqlx::Error> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended('inbound_routes ' || $1::text, 0))", domain)
        .execute(&mut *connection)
        .await?;
    sqlx::query_scalar!(
        r#"SELECT CASE WHEN EXISTS (SELECT FROM domains WHERE name = ANY ($4) AND verified_at IS NOT NULL AND tenant_id = $2)
                  THEN EXISTS (SELECT FROM inbound_routes r JOIN tenants t ON t.id = r.tenant_id
                               JOIN domains d ON d.tenant_id = coalesce(t.test_of, t.id)
                               WHERE r.domain = $1 AND r.tenant_id <> ALL (ARRAY[$2, $3]::uuid[])
                                     AND d.name = ANY ($4) AND d.verified_at IS NOT NULL)
                  ELSE EXISTS (SELECT FROM inbound_routes WHERE domain = $1 AND tenant_id <> ALL (ARRAY[$2, $3]::uuid[]))
                       OR EXISTS (SELECT FROM domains WHERE name = ANY ($4) AND tenant_id <> $2)
                  END AS "is_taken!""#,
        domain,
        tenant.live().0,
        tenant.live().test().0,
        &domain_and_parents(domain)
    )
    .fetch_one(connection)
    .await
}

/// Inserts a route, unless its domain belongs to another tenant, as `is_taken` says.
pub async fn insert(
    db: &Db,
    tenant: TenantId,
    id: InboundRouteId,
    (route, action): (&RouteMatch, ActionColumns<'_>),
    now: DateTime<Utc>,
) -> Result<Inserted, DbError> {
    db.timed("receiving.routes.insert", async {
        let mut tx = db.pool.begin().await?;
        if is_taken(&mut tx, tenant, &route.domain).await? {
            return Ok(Inserted::DomainTaken);
        }
        // One at a time for each tenant, too.
        sqlx::query!(
            "SELECT pg_advisory_xact_lock(hashtextextended('inbound_routes ' || $1::uuid::text, 0))",
            tenant.0
        )
        .execute(&mut *tx)
        .await?;
        let is_full = sqlx::query_scalar!(
            r#"SELECT count(*) >= $2 AS "is_full!" FROM inbound_routes WHERE tenant_id = $1"#,
            tenant.0,
            MAX_ROUTES
        )
        .fetch_one(&mut *tx)
        .await?;
        let inserted = sqlx::query!(
            "INSERT INTO inbound_routes (tenant_id, id, created_at, domain, kind, local, action, relay_url, relay_to)
             SELECT $1, $2, $3, $4, $5, $6, $7, $9, $10 WHERE NOT $8
             ON CONFLICT (domain, tenant_id, kind, local) DO NOTHING",
            tenant.0,
            id.0,
            now,
            route.domain,
            route.kind.as_str(),
            route.local,
            action.action.as_str(),
            is_full,
            action.relay_url,
            action.relay_to
        )
        .execute(&mut *tx)
        .await?;
        if inserted.rows_affected() == 0 {
            return Ok(if is_full { Inserted::TooMany } else { Inserted::Exists });
        }
        tx.commit().await?;
        Ok(Inserted::Done)
    })
    .await
}

/// Returns a page of a tenant's routes, newest first, starting after `after`.
pub async fn page(
    db: &Db,
    tenant: TenantId,
    after: Option<InboundRouteId>,
    limit: i64,
) -> Result<Vec<InboundRouteRow>, DbError> {
    let query = sqlx::query_as!(
        InboundRouteRow,
        "SELECT id, created_at, domain, kind, local, action, relay_to FROM inbound_routes
         WHERE tenant_id = $1 AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3",
        tenant.0,
        after.map(|id| id.0),
        limit
    );
    db.timed("receiving.routes.page", query.fetch_all(&db.pool)).await
}

/// Returns one route.
pub async fn get(db: &Db, tenant: TenantId, id: InboundRouteId) -> Result<Option<InboundRouteRow>, DbError> {
    let query = sqlx::query_as!(
        InboundRouteRow,
        "SELECT id, created_at, domain, kind, local, action, relay_to FROM inbound_routes WHERE tenant_id = $1 AND id = $2",
        tenant.0,
        id.0
    );
    db.timed("receiving.routes.get", query.fetch_optional(&db.pool)).await
}

/// Changes the action of a route. Returns whether the route exists.
pub async fn set_action(
    db: &Db,
    tenant: TenantId,
    id: InboundRouteId,
    action: ActionColumns<'_>,
) -> Result<bool, DbError> {
    let query = sqlx::query!(
        "UPDATE inbound_routes SET action = $3, relay_url = $4, relay_to = $5 WHERE tenant_id = $1 AND id = $2",
        tenant.0,
        id.0,
        action.action.as_str(),
        action.relay_url,
        action.relay_to
    );
    db.timed("receiving.routes.set_action", query.execute(&db.pool)).await.map(|done| done.rows_affected() > 0)
}

/// Returns the stored URL of the server to which a route passes messages on; `None` if the route does not exist or has another
/// action.
pub async fn relay_url(db: &Db, tenant: TenantId, id: InboundRouteId) -> Result<Option<Vec<u8>>, DbError> {
    // A change of a column that is read here has to be noted in tenant_changes (note_inbound_route_change).
    let query = sqlx::query_scalar!(
        r#"SELECT relay_url AS "url!" FROM inbound_routes WHERE tenant_id = $1 AND id = $2 AND relay_url IS NOT NULL"#,
        tenant.0,
        id.0
    );
    db.timed("receiving.routes.relay_url", query.fetch_optional(&db.pool)).await
}

/// Deletes a route. The messages that it received are kept. Returns whether the route existed.
pub async fn remove(db: &Db, tenant: TenantId, id: InboundRouteId) -> Result<bool, DbError> {
    let query = sqlx::query!("DELETE FROM inbound_routes WHERE tenant_id = $1 AND id = $2", tenant.0, id.0);
    db.timed("receiving.routes.remove", query.execute(&db.pool)).await.map(|done| done.rows_affected() > 0)
}

/// A route of a domain, with the state of its tenant.
#[derive(Debug, Clone)]
pub struct DomainRoute {
    /// The tenant.
    pub tenant_id: Uuid,
    /// `inbound_routes.id`.
    pub id: Uuid,
    /// `exact`, `plus` or `wildcard`.
    pub kind: String,
    /// The local part or its prefix.
    pub local: String,
    /// Whether messages are passed on.
    pub is_relay: bool,
    /// Whether an operator has suspended the tenant.
    pub is_suspended: bool,
}

/// Returns the routes of a domain, of all tenants that are not being deleted. If one of them has verified the domain, only its routes.
pub async fn of_domain(db: &Db, domain: &str) -> Result<Vec<DomainRoute>, DbError> {
    // A change of a column that is read here has to be noted in tenant_changes (note_inbound_route_change, note_domain_change) or in
    // key_changes (tenants_changed).
    let query = sqlx::query_as!(
        DomainRoute,
        r#"WITH routes AS (
               SELECT r.tenant_id, r.id, r.kind, r.local, r.action = 'relay' AS is_relay, t.suspended_at IS NOT NULL AS is_suspended,
                      EXISTS (SELECT FROM domains d WHERE d.name = ANY ($2) AND d.verified_at IS NOT NULL
                              AND d.tenant_id = coalesce(t.test_of, t.id)) AS is_owner
               FROM inbound_routes r JOIN tenants t ON t.id = r.tenant_id
               WHERE r.domain = $1 AND t.deleting_at IS NULL)
           SELECT tenant_id, id, kind, local, is_relay AS "is_relay!", is_suspended AS "is_suspended!" FROM routes
           WHERE is_owner OR NOT EXISTS (SELECT FROM routes WHERE is_owner)"#,
        domain,
        &domain_and_parents(domain)
    );
    db.timed("receiving.routes.of_domain", query.fetch_all(&db.pool)).await
}
