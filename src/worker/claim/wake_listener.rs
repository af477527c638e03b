//! Listens for other processes that announce new messages.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crate::db::{DbError, wake};
use crate::worker::Parts;

/// Between two tries to listen. Meanwhile the poll finds what is due.
const PAUSE: Duration = Duration::from_secs(2);

/// After so much silence we ask whether there is still somebody to hear.
const SILENCE: Duration = Duration::from_secs(10);

pub(crate) async fn run(parts: Arc<Parts>) {
    loop {
        let Err(error) = listen(&parts).await;
        tracing::debug!(%error, "cannot listen for new messages; the poll finds them");
        tokio::time::sleep(PAUSE).await;
    }
}

async fn listen(parts: &Parts) -> Result<Infallible, DbError> {
    let mut listener = wake::listen(&parts.db).await?;
    loop {
        if listener.heard(SILENCE).await? {
            parts.wake.notify_one();
        } else {
            listener.check(&parts.db).await?;
        }
    }
}
