//! Listens for the notifications by which other processes announce new messages.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::db::pool::pg_notify;
use crate::db::{Db, DbError};

/// Pause between two tries to listen. Meanwhile, polling finds due recipients.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// Silence after which the connection is checked.
const CHECK_AFTER: Duration = Duration::from_secs(10);

/// Notifies `claimer` of new messages, until the future is dropped.
pub(crate) async fn run(db: Db, claimer: Arc<Notify>) {
    loop {
        let Err(error) = listen(&db, &claimer).await;
        tracing::debug!(event = "listen_failed", %error, "failed to listen for new messages; polling finds them");
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn listen(db: &Db, claimer: &Notify) -> Result<Infallible, DbError> {
    let mut listener = pg_notify::listen(db).await?;
    loop {
        if listener.wait(CHECK_AFTER).await? {
            claimer.notify_one();
        } else {
            listener.check(db).await?;
        }
    }
}
