//! `NOTIFY` and `LISTEN`: tells workers in other processes that something is due. A hint only: a poll stands behind it.

use std::time::Duration;

use sqlx::postgres::PgListener;

use crate::db::{Db, DbError};

const CHANNEL: &str = "postrider_queue";

/// Wakes every worker that listens.
pub async fn notify(db: &Db) -> Result<(), DbError> {
    let query = sqlx::query!("SELECT pg_notify($1, '')", CHANNEL);
    db.timed("wake.notify", query.execute(&db.pool)).await.map(|_| ())
}

/// A connection of its own that hears [`notify`].
#[derive(Debug)]
pub struct Listener(PgListener);

/// Listens from now on.
pub async fn listen(db: &Db) -> Result<Listener, DbError> {
    db.timed("wake.listen", async {
        // Not one of the pool's: it may die in silence, and would keep its place.
        let mut listener = PgListener::connect_with(&db.pool.single()).await?;
        listener.listen(CHANNEL).await?;
        Ok(Listener(listener))
    })
    .await
}

impl Listener {
    /// Waits for the next word, for at most so long. Answers whether there was one.
    pub async fn heard(&mut self, at_most: Duration) -> Result<bool, DbError> {
        let query = "wake.heard";
        match tokio::time::timeout(at_most, self.0.recv()).await {
            Ok(result) => result.map(|_| true).map_err(|source| DbError::from_sqlx(query, source)),
            Err(_) => Ok(false),
        }
    }

    /// Whether anybody could still be heard: a dead link is as silent as an idle one.
    pub async fn check(&mut self, db: &Db) -> Result<(), DbError> {
        let query = sqlx::query_scalar!(r#"SELECT 1 AS "one!""#).fetch_one(&mut self.0);
        db.timed("wake.check", query).await.map(|_| ())
    }
}
