//! Listens for other processes that announce new messages.

use std::sync::Arc;
use std::time::Duration;

use super::Parts;
use crate::db::wake;

/// Between two tries to listen. Meanwhile the poll finds what is due.
const PAUSE: Duration = Duration::from_secs(2);

pub(super) async fn run(parts: Arc<Parts>) {
    loop {
        match wake::listen(&parts.db).await {
            Ok(mut listener) => {
                while listener.recv().await.is_ok() {
                    parts.wake.notify_one();
                }
            }
            Err(error) => tracing::debug!(%error, "could not listen for new messages; the poll finds them"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
