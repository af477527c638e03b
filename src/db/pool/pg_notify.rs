//! `NOTIFY` and `LISTEN`: wake workers in other processes when recipients are due. Only a hint: workers also poll.

use std::time::Duration;

use sqlx::postgres::PgListener;

use crate::db::{Db, DbError};

const CHANNEL: &str = "postrider_queue";

/// Wakes every listening worker.
pub async fn notify(db: &Db) -> Result<(), DbError> {
    let query = sqlx::query!("SELECT pg_notify($1, '')", CHANNEL);
    db.timed("pg_notify.notify", query.execute(&db.pool)).await.map(|_| ())
}

/// A separate connection that receives [`notify`].
#[derive(Debug)]
pub struct Listener(PgListener);

/// Starts listening.
pub async fn listen(db: &Db) -> Result<Listener, DbError> {
    db.timed("pg_notify.listen", async {
        // Not from the shared pool: the connection may die silently, and would occupy its slot.
        let mut listener = PgListener::connect_with(&db.pool.single()).await?;
        listener.listen(CHANNEL).await?;
        Ok(Listener(listener))
    })
    .await
}

impl Listener {
    /// Waits for the next notification, for at most `at_most`. Returns whether there was one.
    pub async fn heard(&mut self, at_most: Duration) -> Result<bool, DbError> {
        let query = "pg_notify.heard";
        match tokio::time::timeout(at_most, self.0.recv()).await {
            Ok(result) => result.map(|_| true).map_err(|source| DbError::from_sqlx(query, source)),
            Err(_) => Ok(false),
        }
    }

    /// Checks that the connection still works: a dead connection is as silent as an idle one.
    pub async fn check(&mut self, db: &Db) -> Result<(), DbError> {
        let query = sqlx::query_scalar!(r#"SELECT 1 AS "one!""#).fetch_one(&mut self.0);
        db.timed("pg_notify.check", query).await.map(|_| ())
    }
}
