//! The database schema: `postrider migrate` updates it, and `postrider serve` checks it.

pub mod partitions;

use sqlx::migrate::{MigrateError, Migrator};

use super::{Db, DbError};

static MIGRATOR: Migrator = sqlx::migrate!();

/// Why the schema does not match this binary.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// Some migrations have not run.
    #[error("the database schema is {missing} migration(s) behind this postrider")]
    Behind {
        /// Number of missing migrations.
        missing: usize,
    },
    /// A newer binary has migrated the schema.
    #[error("the database schema is newer than this postrider (unknown migration {version})")]
    Ahead {
        /// The first unknown migration.
        version: i64,
    },
    /// The first migration that ran is not that of a release.
    #[error(
        "the database was created by a pre-release build of postrider, whose schema cannot be upgraded; nothing was changed"
    )]
    PreRelease,
    /// A migration that ran has another checksum than in this binary.
    #[error("migration {version} in the database differs from the one in this postrider")]
    Different {
        /// Version of the migration.
        version: i64,
    },
    /// The schema holds tables of another application.
    #[error("the schema `{schema}` already holds tables of another application ({tables}), and nothing was changed")]
    Occupied {
        /// The schema.
        schema: String,
        /// Some of its tables.
        tables: String,
    },
    /// The role cannot create tables in the schema.
    #[error("the role `{role}` may not create tables in the schema `{schema}`")]
    NotAllowed {
        /// The role that connects.
        role: String,
        /// The schema.
        schema: String,
    },
    /// The database failed.
    #[error(transparent)]
    Db(#[from] DbError),
    /// A migration failed.
    #[error("the migration failed: {0}")]
    Migrate(#[from] MigrateError),
}

impl SchemaError {
    /// Returns what the operator can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Behind { .. } => "run `postrider migrate`, or start with --migrate",
            Self::Ahead { .. } => "start the newer version",
            Self::PreRelease => {
                "create an empty database for this version; to keep messages that are still queued, let the old build \
                 deliver them first"
            }
            Self::Different { .. } => "start the build that created the database",
            Self::Occupied { .. } => {
                "give Postrider a separate database, or a separate schema (CREATE SCHEMA postrider, and \
                 ?options=-csearch_path%3Dpostrider in the URL)"
            }
            Self::NotAllowed { role, schema } => {
                return Some(format!(
                    "GRANT CREATE ON SCHEMA {schema} TO {role}, or make it the owner of the database"
                ));
            }
            Self::Migrate(error) if is_lock_timeout(error) => {
                "another transaction uses the table, and this migration has changed nothing: run it again, once the \
                 transaction has ended (pg_stat_activity lists it)"
            }
            Self::Db(_) | Self::Migrate(_) => return None,
        };
        Some(hint.to_owned())
    }
}

/// Returns whether a migration waited too long for a lock. Migrations of tables in use set `lock_timeout`.
fn is_lock_timeout(error: &MigrateError) -> bool {
    const LOCK_NOT_AVAILABLE: &str = "55P03";
    let MigrateError::ExecuteMigration(sqlx::Error::Database(error), _) = error else { return false };
    error.code().as_deref() == Some(LOCK_NOT_AVAILABLE)
}

/// Runs the missing migrations, one process at a time, and returns how many ran. Changes nothing in a database whose
/// migrations are not those of this binary.
pub async fn migrate(db: &Db) -> Result<usize, SchemaError> {
    let applied = applied(db).await?;
    if applied.is_empty() {
        check_empty(db).await?;
    }
    let missing = missing(&applied)?;
    // Needs a connection with a session, because sqlx's advisory lock against concurrent migrations belongs to a
    // session. A migration may take longer than the service's statements.
    let mut connection = db.timed("schema.migrate", db.pool.connect_directly()).await?;
    for setting in ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"] {
        sqlx::query("SELECT set_config($1, '0', false)")
            .bind(setting)
            .execute(&mut connection)
            .await
            .map_err(|source| DbError::Unavailable { query: "schema.migrate", source })?;
    }
    stay_in_schema(&mut connection).await?;
    MIGRATOR.run(&mut connection).await?;
    Ok(missing)
}

/// Lets migrations create tables where the tables are, or in a new database where the first ones will be. For a role named
/// `postrider`, the first schema of the default `search_path` is `postrider` as soon as a migration has created it for the
/// function `postrider.send`.
async fn stay_in_schema(connection: &mut sqlx::PgConnection) -> Result<(), DbError> {
    sqlx::query_scalar!(
        "SELECT set_config('search_path', concat_ws(', ', quote_ident(coalesce(
             (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE c.oid = to_regclass('_sqlx_migrations')),
             current_schema())), current_setting('search_path')), false)"
    )
    .fetch_optional(connection)
    .await
    .map(drop)
    .map_err(|source| DbError::Unavailable { query: "schema.stay_in_schema", source })
}

/// Checks before the first migration that the role can create tables and that the schema is empty, apart from tables of
/// extensions.
async fn check_empty(db: &Db) -> Result<(), SchemaError> {
    let query = sqlx::query!(
        r#"SELECT current_user::text AS "role!", coalesce(current_schema()::text, 'public') AS "schema!",
                  coalesce(has_schema_privilege(current_schema()::text, 'CREATE'), false) AS "may_create!",
                  (SELECT string_agg(relname, ', ') FROM (
                       SELECT c.relname::text FROM pg_class c
                       JOIN pg_namespace n ON n.oid = c.relnamespace
                       WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p', 'v', 'm') AND c.relname <> '_sqlx_migrations'
                         AND NOT EXISTS (SELECT FROM pg_depend d
                                         WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
                       ORDER BY c.relname LIMIT 5) tables) AS tables"#
    );
    let found = db.timed("schema.check_empty", query.fetch_one(&db.pool)).await?;
    match found.tables {
        Some(tables) => Err(SchemaError::Occupied { schema: found.schema, tables }),
        None if !found.may_create => Err(SchemaError::NotAllowed { role: found.role, schema: found.schema }),
        None => Ok(()),
    }
}

/// Checks that the schema is exactly that of this binary.
pub async fn check(db: &Db) -> Result<(), SchemaError> {
    match missing(&applied(db).await?)? {
        0 => Ok(()),
        missing => Err(SchemaError::Behind { missing }),
    }
}

/// Returns the version of the schema of this binary: that of its last migration.
pub fn version() -> i64 {
    MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// Returns how many migrations of this binary have not run, given those that have, in order.
fn missing(applied: &[(i64, Vec<u8>)]) -> Result<usize, SchemaError> {
    for (version, checksum) in applied {
        match MIGRATOR.iter().find(|migration| migration.version == *version) {
            None => return Err(SchemaError::Ahead { version: *version }),
            Some(known) if known.checksum.as_ref() == checksum.as_slice() => {}
            // The first migration never changes after its release.
            Some(_) if *version == 1 => return Err(SchemaError::PreRelease),
            Some(_) => return Err(SchemaError::Different { version: *version }),
        }
    }
    Ok(MIGRATOR.iter().count().saturating_sub(applied.len()))
}

async fn applied(db: &Db) -> Result<Vec<(i64, Vec<u8>)>, DbError> {
    db.timed("schema.applied", async {
        let exists: bool =
            sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL").fetch_one(&db.pool).await?;
        if !exists {
            return Ok(Vec::new());
        }
        sqlx::query_as("SELECT version, checksum FROM _sqlx_migrations WHERE success ORDER BY version")
            .fetch_all(&db.pool)
            .await
    })
    .await
}
