//! `NOTIFY` and `LISTEN`: tells workers in other processes that something is due. A hint only: a poll stands behind it.

use sqlx::postgres::PgListener;

use super::{Db, DbError};

const CHANNEL: &str = "postrider_queue";

/// Wakes every worker that listens.
pub async fn notify(db: &Db) -> Result<(), DbError> {
    let query = sqlx::query!("SELECT pg_notify($1, '')", CHANNEL);
    db.timed("wake.notify", query.execute(&db.pool)).await.map(|_| ())
}

/// A connection of its own that hears [`notify`]. It reconnects by itself.
pub async fn listen(db: &Db) -> Result<PgListener, DbError> {
    db.timed("wake.listen", async {
        let mut listener = PgListener::connect_with(&db.pool).await?;
        listener.listen(CHANNEL).await?;
        Ok(listener)
    })
    .await
}
