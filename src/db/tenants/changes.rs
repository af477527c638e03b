//! What has changed of what processes cache: API keys with what their tenants allow (`key_changes`), and other settings of
//! tenants (`tenant_changes`). Triggers note each change in the transaction that makes it, so one small query for all keys and
//! tenants tells a process which of its cached values are still valid.

use crate::db::{Db, DbError};
use crate::domain::id::TenantId;

/// Maximum number of changed settings that a poll reads. After more changes, all settings count as changed.
const MAX_CHANGES: usize = 1_000;

/// Settings of a tenant that processes cache (`tenant_changes.kind`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settings {
    /// The names of its streams in the order of their priorities, and which of them have unsubscribe links.
    Streams,
    /// The latest versions and the aliases of its published templates.
    Templates,
}

impl Settings {
    /// Returns the settings with this name; `None` if only a later version caches them.
    fn from_name(name: &str) -> Option<Self> {
        match name {
            "streams" => Some(Self::Streams),
            "templates" => Some(Self::Templates),
            _ => None,
        }
    }
}

/// What has changed.
#[derive(Debug, PartialEq, Eq)]
pub struct Changes {
    /// Whether any API key, or what a tenant allows, has changed.
    pub keys: bool,
    /// The settings that have changed; `None`: all may have.
    pub settings: Option<Vec<(TenantId, Settings)>>,
}

/// The changes that a process knows: the numbers of the last ones, of keys and of settings; `None` before the first poll.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cursor(Option<(i64, i64)>);

impl Cursor {
    /// Moves the cursor to these numbers, and returns what has changed since.
    fn advance(&mut self, keys: i64, latest: i64, settings: Vec<(TenantId, Settings)>, is_complete: bool) -> Changes {
        let known = self.0.replace((keys, latest));
        Changes {
            keys: known.is_none_or(|(known, _)| known != keys),
            // The number is lower than before if the database was restored.
            settings: (is_complete && known.is_some_and(|(_, known)| known <= latest)).then_some(settings),
        }
    }
}

/// Returns what has changed since the last poll with this cursor. A reader that sees the number of a change also sees the change,
/// and all changes with lower numbers.
pub async fn poll(db: &Db, cursor: &mut Cursor) -> Result<Changes, DbError> {
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
    let rows = db.timed("tenants.changes", query.fetch_all(&db.pool)).await?;
    let Some(first) = rows.first() else { return Err(DbError::not_found("tenants.changes")) };
    let (keys, latest, is_complete) = (first.keys, first.latest, rows.len() < limit);
    let settings =
        rows.into_iter().filter_map(|row| Some((TenantId(row.tenant_id?), Settings::from_name(&row.kind?)?)));
    Ok(cursor.advance(keys, latest, settings.collect(), is_complete))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poll_returns_what_has_changed_since_the_last_one() {
        let mut cursor = Cursor::default();
        let changed = vec![(TenantId::DEFAULT, Settings::Streams)];
        let all = |keys| Changes { keys, settings: None };
        let some = |keys, settings: &[_]| Changes { keys, settings: Some(settings.to_vec()) };
        assert_eq!(cursor.advance(7, 3, Vec::new(), true), all(true), "the first poll");
        assert_eq!(cursor.advance(7, 3, Vec::new(), true), some(false, &[]));
        assert_eq!(cursor.advance(7, 4, changed.clone(), true), some(false, &changed));
        assert_eq!(cursor.advance(8, 4, Vec::new(), true), some(true, &[]));
        assert_eq!(cursor.advance(8, 9_000, changed.clone(), false), all(false), "too many changes");
        assert_eq!(cursor.advance(8, 8_999, Vec::new(), true), all(false), "an earlier state was restored");
        assert_eq!(cursor.advance(6, 8_999, Vec::new(), true), some(true, &[]));
    }
}
