//! `NOTIFY` and `LISTEN`, which wake workers in other processes when recipients are due. Notifications may be lost, so
//! workers also poll.

use std::time::Duration;

use sqlx::postgres::PgListener;

use crate::db::{Db, DbError};

const CHANNEL: &str = "postrider_queue";

/// Wakes every listening worker.
pub async fn notify(db: &Db) -> Result<(), DbError> {
    let query = sqlx::query!("SELECT pg_notify($1, '')", CHANNEL);
    db.timed("pg_notify.notify", query.execute(&db.pool)).await.map(|_| ())
}

/// A connection that receives the notifications of [`notify`].
#[derive(Debug)]
pub struct Listener(PgListener);

/// Starts listening.
pub async fn listen(db: &Db) -> Result<Listener, DbError> {
    db.timed("pg_notify.listen", async {
        // The connection does not come from the shared pool: if it died unnoticed, it would occupy a slot of the pool.
        let mut listener = PgListener::connect_with(&db.pool.single()).await?;
        listener.listen(CHANNEL).await?;
        Ok(Listener(listener))
    })
    .await
}

impl Listener {
    /// Waits for the next notification, for at most `limit`. Returns whether there was one.
    pub async fn wait(&mut self, limit: Duration) -> Result<bool, DbError> {
        let query = "pg_notify.wait";
        match tokio::time::timeout(limit, self.0.recv()).await {
            Ok(result) => result.map(|_| true).map_err(|source| DbError::from_sqlx(query, source)),
            Err(_) => Ok(false),
        }
    }

    /// Checks that the connection still works, because a dead connection receives nothing, just like an idle one.
    pub async fn check(&mut self, db: &Db) -> Result<(), DbError> {
        let query = sqlx::query_scalar!(r#"SELECT 1 AS "one!""#).fetch_one(&mut self.0);
        db.timed("pg_notify.check", query).await.map(|_| ())
    }
}
