//! The rows of a tenant that move with it to another database: its settings, and what others refer to by an id. Messages,
//! events and what belongs to them stay. So do stored files (`blobs`): only messages refer to them.
//!
//! Rows are JSON objects with a field for each column of their table. So both databases must have the same schema, of
//! which the caller makes sure.

use futures_util::future::BoxFuture;
use serde_json::Value;
use sqlx::{Postgres, Transaction};

use crate::db::receiving::routes;
use crate::db::{Db, DbError};
use crate::domain::id::TenantId;

/// A table whose rows move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MovedTable {
    /// The tenant itself.
    Tenants,
    /// The key of the pseudonyms of erased addresses, which are suppressed.
    ErasureKeys,
    /// Streams.
    Streams,
    /// API keys, with the hashes of their secrets.
    Keys,
    /// Domains.
    Domains,
    /// DKIM keys.
    DkimKeys,
    /// Suppressions.
    Suppressions,
    /// Templates: their drafts.
    Templates,
    /// Published versions of templates.
    TemplateVersions,
    /// Webhook endpoints.
    WebhookEndpoints,
    /// Inbound routes.
    InboundRoutes,
}

impl MovedTable {
    /// All tables, in an order in which their rows can be inserted: a table comes after those that it refers to.
    pub const ALL: [Self; 11] = [
        Self::Tenants,
        Self::ErasureKeys,
        Self::Streams,
        Self::Keys,
        Self::Domains,
        Self::DkimKeys,
        Self::Suppressions,
        Self::Templates,
        Self::TemplateVersions,
        Self::WebhookEndpoints,
        Self::InboundRoutes,
    ];

    /// Returns the name of the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tenants => "tenants",
            Self::ErasureKeys => "erasure_keys",
            Self::Streams => "streams",
            Self::Keys => "keys",
            Self::Domains => "domains",
            Self::DkimKeys => "dkim_keys",
            Self::Suppressions => "suppressions",
            Self::Templates => "templates",
            Self::TemplateVersions => "template_versions",
            Self::WebhookEndpoints => "webhook_endpoints",
            Self::InboundRoutes => "inbound_routes",
        }
    }

    /// Returns the table with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.as_str() == name)
    }

    /// Returns the maximum number of rows of a page: a template may have several hundred kilobytes.
    fn page_size(self) -> i64 {
        match self {
            Self::Templates | Self::TemplateVersions => 16,
            _ => 500,
        }
    }
}

/// Reads a page of a table, in the order of `$key`, after the row `$after`, whose key is `$after_key`.
macro_rules! page {
    ($connection:expr, $tenant:expr, $after:expr, $limit:expr, $table:literal, $owner:literal, $key:literal, $after_key:literal) => {
        sqlx::query_scalar!(
            r#"SELECT to_jsonb(t) AS "row!" FROM "#
                + $table
                + " t WHERE t."
                + $owner
                + " = $1 AND ($2::jsonb IS NULL OR ("
                + $key
                + ") > ("
                + $after_key
                + ")) ORDER BY "
                + $key
                + " LIMIT $3",
            $tenant.0,
            $after,
            $limit
        )
        .fetch_all($connection)
        .await
    };
}

/// Inserts rows.
macro_rules! insert {
    ($connection:expr, $rows:expr, $table:literal) => {
        sqlx::query!(
            "INSERT INTO " + $table + " SELECT * FROM jsonb_populate_recordset(NULL::" + $table + ", $1::jsonb)",
            $rows
        )
        .execute($connection)
        .await
    };
}

/// The transaction in which a tenant moves, with what times its statements.
#[derive(Debug)]
struct Move<'a> {
    db: &'a Db,
    tx: Transaction<'static, Postgres>,
}

impl<'a> Move<'a> {
    async fn begin(db: &'a Db, name: &'static str, begin: Begin) -> Result<Self, DbError> {
        Ok(Self { db, tx: db.timed(name, begin).await? })
    }
}

/// The start of a transaction.
type Begin = BoxFuture<'static, Result<Transaction<'static, Postgres>, sqlx::Error>>;

/// A state of the database from which tenants are exported.
#[derive(Debug)]
pub struct Export<'a>(Move<'a>);

impl<'a> Export<'a> {
    /// Begins to read. All pages show the state of this moment.
    pub async fn begin(db: &'a Db) -> Result<Self, DbError> {
        // A pooler in transaction mode is no obstacle, and neither is a transaction that only reads to others.
        let begin = db.pool.begin_hot("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
        Move::begin(db, "tenants.export.begin", begin).await.map(Self)
    }

    /// Returns the number of the tenant's last event; `None` if there is no such tenant.
    pub async fn last_seq(&mut self, tenant: TenantId) -> Result<Option<i64>, DbError> {
        let query = sqlx::query_scalar!("SELECT last_seq FROM event_counters WHERE tenant_id = $1", tenant.0);
        self.0.db.timed("tenants.export.last_seq", query.fetch_optional(&mut *self.0.tx)).await
    }

    /// Returns the next rows of a table, after the last row of the page before.
    pub async fn page(
        &mut self,
        table: MovedTable,
        tenant: TenantId,
        after: Option<Value>,
    ) -> Result<Vec<Value>, DbError> {
        let limit = table.page_size();
        let connection = &mut *self.0.tx;
        self.0
            .db
            .timed("tenants.export.page", async move {
                match table {
                    MovedTable::Tenants => {
                        page!(connection, tenant, after, limit, "tenants", "id", "t.id", "($2->>'id')::uuid")
                    }
                    MovedTable::ErasureKeys => page!(
                        connection,
                        tenant,
                        after,
                        limit,
                        "erasure_keys",
                        "tenant_id",
                        "t.tenant_id",
                        "($2->>'tenant_id')::uuid"
                    ),
                    MovedTable::Streams => {
                        page!(connection, tenant, after, limit, "streams", "tenant_id", "t.name", "$2->>'name'")
                    }
                    MovedTable::Keys => {
                        page!(connection, tenant, after, limit, "keys", "tenant_id", "t.id", "($2->>'id')::uuid")
                    }
                    MovedTable::Domains => {
                        page!(connection, tenant, after, limit, "domains", "tenant_id", "t.name", "$2->>'name'")
                    }
                    MovedTable::DkimKeys => page!(
                        connection,
                        tenant,
                        after,
                        limit,
                        "dkim_keys",
                        "tenant_id",
                        "t.domain, t.selector",
                        "$2->>'domain', $2->>'selector'"
                    ),
                    MovedTable::Suppressions => page!(
                        connection,
                        tenant,
                        after,
                        limit,
                        "suppressions",
                        "tenant_id",
                        "t.address, t.stream",
                        "$2->>'address', $2->>'stream'"
                    ),
                    MovedTable::Templates => {
                        page!(connection, tenant, after, limit, "templates", "tenant_id", "t.id", "($2->>'id')::uuid")
                    }
                    MovedTable::TemplateVersions => page!(
                        connection,
                        tenant,
                        after,
                        limit,
                        "template_versions",
                        "tenant_id",
                        "t.template_id, t.version",
                        "($2->>'template_id')::uuid, ($2->>'version')::integer"
                    ),
                    MovedTable::WebhookEndpoints => page!(
                        connection,
                        tenant,
                        after,
                        limit,
                        "webhook_endpoints",
                        "tenant_id",
                        "t.id",
                        "($2->>'id')::uuid"
                    ),
                    MovedTable::InboundRoutes => page!(
                        connection,
                        tenant,
                        after,
                        limit,
                        "inbound_routes",
                        "tenant_id",
                        "t.id",
                        "($2->>'id')::uuid"
                    ),
                }
            })
            .await
    }
}

/// A transaction that inserts a tenant. Dropped, it changes nothing.
#[derive(Debug)]
pub struct Import<'a>(Move<'a>);

impl<'a> Import<'a> {
    /// Begins a transaction.
    pub async fn begin(db: &'a Db) -> Result<Self, DbError> {
        Move::begin(db, "tenants.import.begin", db.pool.begin()).await.map(Self)
    }

    /// Inserts rows of a table. Suppressions that exist are kept; every other row that exists is an error.
    pub async fn insert(&mut self, table: MovedTable, rows: Value) -> Result<u64, DbError> {
        let connection = &mut *self.0.tx;
        let inserted = self.0.db.timed("tenants.import.insert", async move {
            match table {
                MovedTable::Tenants => insert!(connection, rows, "tenants"),
                MovedTable::ErasureKeys => insert!(connection, rows, "erasure_keys"),
                MovedTable::Streams => insert!(connection, rows, "streams"),
                MovedTable::Keys => insert!(connection, rows, "keys"),
                MovedTable::Domains => insert!(connection, rows, "domains"),
                MovedTable::DkimKeys => insert!(connection, rows, "dkim_keys"),
                MovedTable::Suppressions => {
                    sqlx::query!(
                        "INSERT INTO suppressions
                         SELECT * FROM jsonb_populate_recordset(NULL::suppressions, $1::jsonb) ON CONFLICT DO NOTHING",
                        rows
                    )
                    .execute(connection)
                    .await
                }
                MovedTable::Templates => insert!(connection, rows, "templates"),
                MovedTable::TemplateVersions => insert!(connection, rows, "template_versions"),
                MovedTable::WebhookEndpoints => insert!(connection, rows, "webhook_endpoints"),
                MovedTable::InboundRoutes => insert!(connection, rows, "inbound_routes"),
            }
        });
        inserted.await.map(|done| done.rows_affected())
    }

    /// Returns a domain of the tenant's inbound routes that belongs to another tenant, as `routes::is_taken` says.
    pub async fn taken_domain(&mut self, tenant: TenantId) -> Result<Option<String>, DbError> {
        // In this order, so that no two imports wait for each other.
        let query = sqlx::query_scalar!(
            "SELECT DISTINCT domain FROM inbound_routes WHERE tenant_id IN ($1, $2) ORDER BY domain",
            tenant.0,
            tenant.test().0
        );
        let domains = self.0.db.timed("tenants.import.domains", query.fetch_all(&mut *self.0.tx)).await?;
        for domain in domains {
            let is_taken = routes::is_taken(&mut self.0.tx, tenant, &domain);
            if self.0.db.timed("tenants.import.is_taken", is_taken).await? {
                return Ok(Some(domain));
            }
        }
        Ok(None)
    }

    /// Lets the tenant's event numbers continue after `seq`: earlier ones are in the other database, and are not used again.
    pub async fn start_feed(&mut self, tenant: TenantId, seq: i64) -> Result<(), DbError> {
        let connection = &mut *self.0.tx;
        let query = sqlx::query!(
            "WITH counter AS (INSERT INTO event_counters (tenant_id, last_seq) VALUES ($1, $2)),
                  counted AS (INSERT INTO statistics_cursors (tenant_id, seq) VALUES ($1, $2))
             INSERT INTO deleted_events (tenant_id, up_to) VALUES ($1, $2)",
            tenant.0,
            seq
        );
        self.0.db.timed("tenants.import.start_feed", query.execute(connection)).await.map(drop)
    }

    /// Commits.
    pub async fn commit(self) -> Result<(), DbError> {
        let Move { db, tx } = self.0;
        db.timed("tenants.import.commit", tx.commit()).await
    }
}
