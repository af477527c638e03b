//! Operations on a Postgres server, not on one of its databases: readiness, and creating a database. They are used for
//! the Postgres servers that `dev`, `bench` and the tests start. Each call opens a connection.

use sqlx::{Connection as _, PgConnection};

use crate::db::DbError;

/// SQLSTATE `cannot_connect_now`.
const STARTING_UP: &str = "57P03";

/// Readiness of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// It executes statements.
    Ready,
    /// It is starting up, or recovering after a crash.
    StartingUp,
    /// It cannot be reached, or responds with another error.
    Silent,
}

/// Returns the readiness of the server at `url`. Has no time limit.
pub async fn readiness(url: &str) -> Readiness {
    match select_one(url).await {
        Ok(()) => Readiness::Ready,
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(STARTING_UP) => Readiness::StartingUp,
        Err(_) => Readiness::Silent,
    }
}

async fn select_one(url: &str) -> sqlx::Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::query("SELECT 1").execute(&mut connection).await?;
    connection.close().await
}

/// Creates a database unless it exists. `url` is another database of the same server.
pub async fn ensure_database(url: &str, name: &str) -> Result<(), DbError> {
    let ensure = async {
        let mut connection = PgConnection::connect(url).await?;
        let found = sqlx::query("SELECT 1 FROM pg_database WHERE datname = $1").bind(name);
        if found.fetch_optional(&mut connection).await?.is_none() {
            let quoted = name.replace('"', "\"\"");
            let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE \"{quoted}\""));
            sqlx::query(create).execute(&mut connection).await?;
        }
        connection.close().await
    };
    ensure.await.map_err(|source| DbError::from_sqlx("cluster.ensure_database", source))
}
