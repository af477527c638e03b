//! Polls for changes of API keys and of settings of tenants: while cached values are used, one statement four times a second reads
//! what has changed of all keys and tenants. What has changed is removed from the caches, and everything else is confirmed
//! ([`Confirmations`]).
//!
//! [`Confirmations`]: crate::cache::confirmations::Confirmations

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Caches, Outdated, TenantSettings};
use crate::db::{Db, DbError};
use crate::domain::id::TenantId;

/// Poll interval.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Maximum time from the start of one poll to the answer of the next, within which the numbers that a process knows stay valid. In a
/// longer time, the database may have failed over and lost the last changes, whose numbers other changes get then.
const MAX_INTERVAL: Duration = Duration::from_secs(2);
/// Maximum number of changed settings that a poll reads. After more changes, everything counts as changed.
const MAX_CHANGES: usize = 1_000;

/// The changes that a process knows: the numbers of the last ones, of keys and of settings; `None` before the first poll.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Cursor(Option<(i64, i64)>);

impl Cursor {
    /// Forgets the numbers if the last poll started longer than [`MAX_INTERVAL`] ago, so that everything counts as changed.
    fn expire(&mut self, interval: Duration) {
        if interval > MAX_INTERVAL {
            self.0 = None;
        }
    }

    /// Moves the cursor to these numbers, and returns what has changed since.
    fn advance(&mut self, keys: i64, latest: i64, settings: Vec<Outdated>, is_complete: bool) -> Vec<Outdated> {
        match self.0.replace((keys, latest)) {
            // The number is lower than before if the database was restored.
            Some((known_keys, known)) if is_complete && known <= latest => {
                let keys = (known_keys != keys).then_some(Outdated::Keys);
                keys.into_iter().chain(settings).collect()
            }
            _ => vec![Outdated::Everything],
        }
    }
}

/// Polls for changes while the caches are used. Runs until it is cancelled.
pub async fn run(db: Db, caches: Arc<Caches>) {
    let (mut cursor, mut last_asked_at) = (Cursor::default(), Instant::now());
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        if caches.confirmations.take_use() {
            let asked_at = Instant::now();
            once(&db, &caches, &mut cursor, (last_asked_at, asked_at)).await;
            last_asked_at = asked_at;
        }
    }
}

/// Polls once, at `asked_at`; the last poll was at `last_asked_at`.
async fn once(db: &Db, caches: &Caches, cursor: &mut Cursor, (last_asked_at, asked_at): (Instant, Instant)) {
    match read(db, cursor, last_asked_at).await {
        Ok(changes) => {
            for outdated in changes {
                caches.forget(outdated);
            }
            // After the removals, so that no changed value is confirmed.
            caches.confirmations.confirm(asked_at);
        }
        // Without a confirmation, cached values expire and are loaded again.
        Err(error) => {
            // The database may have failed over and lost the last changes, whose numbers other changes get then. So
            // everything counts as changed at the next poll.
            *cursor = Cursor::default();
            tracing::debug!(%error, "failed to poll for changes of API keys and settings of tenants");
        }
    }
}

/// Returns what has changed since the last poll with this cursor. A reader that sees the number of a change also sees the change,
/// and all changes with lower numbers.
async fn read(db: &Db, cursor: &mut Cursor, last_asked_at: Instant) -> Result<Vec<Outdated>, DbError> {
    let limit = MAX_CHANGES + 1;
    // No join of the single rows: without statistics, Postgres expects thousands of them.
    let query = sqlx::query!(
        r#"SELECT v.keys AS "keys!", v.latest AS "latest!", c.tenant_id AS "tenant_id?", c.kind AS "kind?"
           FROM (SELECT (SELECT version FROM key_changes WHERE id) AS keys,
                        (SELECT version FROM tenant_change_counter WHERE id) AS latest) v
           LEFT JOIN (SELECT tenant_id, kind FROM tenant_changes WHERE version > $1 ORDER BY version LIMIT $2) c ON true"#,
        cursor.0.map_or(i64::MAX, |(_, latest)| latest),
        i64::try_from(limit).unwrap_or(i64::MAX)
    );
    let rows = db.timed("changes.poll", query.fetch_all(&db.pool)).await?;
    let Some(first) = rows.first() else { return Err(DbError::not_found("changes.poll")) };
    let (keys, latest, is_complete) = (first.keys, first.latest, rows.len() < limit);
    let settings = rows
        .into_iter()
        .filter_map(|row| Some(Outdated::Settings(TenantId(row.tenant_id?), TenantSettings::from_name(&row.kind?)?)));
    cursor.expire(last_asked_at.elapsed());
    Ok(cursor.advance(keys, latest, settings.collect(), is_complete))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poll_returns_what_has_changed_since_the_last_one() {
        let mut cursor = Cursor::default();
        let streams = Outdated::Settings(TenantId::DEFAULT, TenantSettings::Streams);
        assert_eq!(cursor.advance(7, 3, Vec::new(), true), [Outdated::Everything], "the first poll");
        assert!(cursor.advance(7, 3, Vec::new(), true).is_empty());
        assert_eq!(cursor.advance(7, 4, vec![streams], true), [streams]);
        assert_eq!(cursor.advance(8, 4, Vec::new(), true), [Outdated::Keys]);
        assert_eq!(cursor.advance(9, 5, vec![streams], true), [Outdated::Keys, streams]);
        assert_eq!(cursor.advance(9, 9_000, vec![streams], false), [Outdated::Everything], "too many changes");
        assert_eq!(cursor.advance(9, 8_999, Vec::new(), true), [Outdated::Everything], "an earlier state was restored");
        assert_eq!(cursor.advance(6, 8_999, Vec::new(), true), [Outdated::Keys]);
    }

    #[test]
    fn everything_counts_as_changed_after_seconds_without_polls() {
        let mut cursor = Cursor(Some((7, 3)));
        cursor.expire(MAX_INTERVAL);
        assert!(cursor.advance(7, 3, Vec::new(), true).is_empty());
        cursor.expire(MAX_INTERVAL + POLL_INTERVAL);
        assert_eq!(cursor.advance(7, 3, Vec::new(), true), [Outdated::Everything]);
    }
}
