//! Counts and limits the connections of one lane, over all servers that its messages go to.
//!
//! A message acquires a [`MessagePermit`] before it gets a session. Every session holds a [`ConnectionPermit`] from
//! before it connects until it is closed. Both have the same limit, so the holder of a message permit can always open a
//! connection, or finds an idle session to use or to close.

use std::sync::Arc;

use tokio::sync::watch;

/// The permits of a lane.
#[derive(Debug)]
pub(in crate::smtp) struct Lane {
    pub id: i64,
    counts: watch::Sender<Counts>,
}

#[derive(Debug, Clone, Copy)]
struct Counts {
    limit: usize,
    /// Message permits in use.
    messages: usize,
    /// Connection permits in use.
    open: usize,
}

/// The right to use one of the lane's sessions.
#[derive(Debug)]
pub(in crate::smtp) struct MessagePermit(Arc<Lane>);

/// The right to have one connection open.
#[derive(Debug)]
pub(in crate::smtp) struct ConnectionPermit(Arc<Lane>);

impl Lane {
    pub fn new(id: i64) -> Self {
        Self { id, counts: watch::Sender::new(Counts { limit: usize::MAX, messages: 0, open: 0 }) }
    }

    /// Sets the limit. Excess connections are closed as they become idle.
    pub fn allow(&self, limit: usize) {
        self.counts.send_if_modified(|counts| std::mem::replace(&mut counts.limit, limit) != limit);
    }

    /// Waits for a message permit.
    pub async fn acquire_message(self: &Arc<Self>) -> MessagePermit {
        self.wait_for(|counts| (counts.messages < counts.limit).then(|| counts.messages += 1)).await;
        MessagePermit(self.clone())
    }

    /// Acquires a connection permit, if one is free.
    pub fn try_acquire_connection(self: &Arc<Self>) -> Option<ConnectionPermit> {
        self.change(|counts| (counts.open < counts.limit).then(|| counts.open += 1))?;
        Some(ConnectionPermit(self.clone()))
    }

    /// Waits until a connection permit may be free.
    pub async fn connection_available(&self) {
        self.wait_for(|counts| (counts.open < counts.limit).then_some(())).await;
    }

    /// Returns the number of connections open beyond the limit.
    pub fn excess(&self) -> usize {
        let counts = self.counts.borrow();
        counts.open.saturating_sub(counts.limit)
    }

    /// Returns the number of connections that are open or being opened.
    pub fn open(&self) -> usize {
        self.counts.borrow().open
    }

    async fn wait_for(&self, mut condition: impl FnMut(&mut Counts) -> Option<()>) {
        let mut changes = self.counts.subscribe();
        while self.change(&mut condition).is_none() {
            // The sender is in `self`, so it cannot be dropped.
            let _ = changes.changed().await;
        }
    }

    /// Changes the counts without waking waiters, since acquiring a permit frees none.
    fn change<T>(&self, change: impl FnOnce(&mut Counts) -> Option<T>) -> Option<T> {
        let mut changed = None;
        self.counts.send_if_modified(|counts| {
            changed = change(counts);
            false
        });
        changed
    }
}

impl Drop for MessagePermit {
    fn drop(&mut self) {
        self.0.counts.send_modify(|counts| counts.messages -= 1);
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.counts.send_modify(|counts| counts.open -= 1);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_message_waits_for_its_permit() {
        let lane = Arc::new(Lane::new(1));
        lane.allow(1);
        let first = lane.acquire_message().await;
        let mut second = Box::pin(lane.acquire_message());
        assert!((&mut second).now_or_never().is_none());
        drop(first);
        assert!(second.now_or_never().is_some());
    }

    #[test]
    fn a_lower_limit_keeps_open_connections_and_refuses_new_ones() {
        let lane = Arc::new(Lane::new(1));
        lane.allow(2);
        let permits = [lane.try_acquire_connection(), lane.try_acquire_connection()];
        assert!(lane.try_acquire_connection().is_none());
        lane.allow(1);
        assert_eq!((lane.open(), lane.excess()), (2, 1));
        drop(permits);
        assert_eq!((lane.open(), lane.excess(), lane.try_acquire_connection().is_some()), (0, 0, true));
    }
}
