//! The connections of one lane, counted over all servers that its messages go to.
//!
//! A message acquires a turn before it gets a session, and every session holds a place from before it connects until it
//! is closed. There are never more turns than places, so the holder of a turn finds an idle session to use or to close.

use std::sync::Arc;

use tokio::sync::watch;

/// The counts of a lane.
#[derive(Debug)]
pub(in crate::smtp) struct Lane {
    pub id: i64,
    counts: watch::Sender<Counts>,
}

#[derive(Debug, Clone, Copy)]
struct Counts {
    limit: usize,
    turns: usize,
    open: usize,
}

/// The right to use one of the lane's sessions.
#[derive(Debug)]
pub(in crate::smtp) struct Turn(Arc<Lane>);

/// The right to have one connection open.
#[derive(Debug)]
pub(in crate::smtp) struct Place(Arc<Lane>);

impl Lane {
    pub fn new(id: i64) -> Self {
        Self { id, counts: watch::Sender::new(Counts { limit: usize::MAX, turns: 0, open: 0 }) }
    }

    /// Sets the limit. Excess connections are closed as they become idle.
    pub fn allow(&self, limit: usize) {
        self.counts.send_if_modified(|counts| std::mem::replace(&mut counts.limit, limit) != limit);
    }

    /// Waits for a turn.
    pub async fn turn(self: &Arc<Self>) -> Turn {
        self.when(|counts| (counts.turns < counts.limit).then(|| counts.turns += 1)).await;
        Turn(self.clone())
    }

    /// Acquires a place, if one is free.
    pub fn place(self: &Arc<Self>) -> Option<Place> {
        self.change(|counts| (counts.open < counts.limit).then(|| counts.open += 1))?;
        Some(Place(self.clone()))
    }

    /// Waits until a place may be free.
    pub async fn has_place(&self) {
        self.when(|counts| (counts.open < counts.limit).then_some(())).await;
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

    async fn when(&self, mut reached: impl FnMut(&mut Counts) -> Option<()>) {
        let mut news = self.counts.subscribe();
        while self.change(&mut reached).is_none() {
            // The sender is in `self`, so it cannot be dropped.
            let _ = news.changed().await;
        }
    }

    /// Changes the counts without waking waiters: acquiring frees nothing.
    fn change<T>(&self, change: impl FnOnce(&mut Counts) -> Option<T>) -> Option<T> {
        let mut changed = None;
        self.counts.send_if_modified(|counts| {
            changed = change(counts);
            false
        });
        changed
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.counts.send_modify(|counts| counts.turns -= 1);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.counts.send_modify(|counts| counts.open -= 1);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_turn_is_waited_for() {
        let lane = Arc::new(Lane::new(1));
        lane.allow(1);
        let first = lane.turn().await;
        let mut second = Box::pin(lane.turn());
        assert!((&mut second).now_or_never().is_none());
        drop(first);
        assert!(second.now_or_never().is_some());
    }

    #[test]
    fn a_lower_limit_closes_nothing_and_opens_nothing() {
        let lane = Arc::new(Lane::new(1));
        lane.allow(2);
        let places = [lane.place(), lane.place()];
        assert!(lane.place().is_none());
        lane.allow(1);
        assert_eq!((lane.open(), lane.excess()), (2, 1));
        drop(places);
        assert_eq!((lane.open(), lane.excess(), lane.place().is_some()), (0, 0, true));
    }
}
