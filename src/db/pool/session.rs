//! Session settings of connections, and a check that the server applies them: a connection pooler in transaction mode
//! silently drops session settings, and shares server connections among its clients.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};

use super::error;
use crate::db::{Db, DbError};

/// A setting and its value.
pub(in crate::db) type Setting = (&'static str, String);

/// The settings of every connection.
pub(in crate::db) fn settings(timeout: Duration) -> Vec<Setting> {
    let limit = format!("{}ms", timeout.as_millis());
    vec![
        // A 202 response means that the message is committed, so the server's default must not apply. Transactions set
        // this again: see `Pool::begin`.
        ("synchronous_commit", "on".into()),
        // JIT compilation of the claim's generic plan would take 12 ms. Plans are custom, except on hot connections.
        ("jit", "off".into()),
        ("plan_cache_mode", "force_custom_plan".into()),
        ("statement_timeout", limit.clone()),
        ("lock_timeout", limit.clone()),
        ("idle_in_transaction_session_timeout", limit),
        // Each statement must see everything committed before it, because transactions first lock rows and then read.
        ("default_transaction_isolation", "read committed".into()),
        ("TimeZone", "UTC".into()),
    ]
}

/// Settings of the network connection, which the check does not compare because a pooler has its own. With them, the
/// server releases locks soon after this process was killed or its network connection died.
pub(in crate::db) const NETWORK_SETTINGS: [(&str, &str); 5] = [
    ("client_connection_check_interval", "2s"),
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "20s"),
];

/// Additional settings of hot connections: cached plans do not depend on table sizes, see `Pool::hot`.
pub(in crate::db) const HOT_SETTINGS: [(&str, &str); 4] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
];

/// Why the configured connections cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Clients share server connections, so the session features that the service needs do not work.
    #[error(
        "{key} leads to a connection pooler in transaction mode, on which LISTEN, migrations and cached plans cannot work"
    )]
    Shared {
        /// Configuration key of the URL.
        key: &'static str,
    },
    /// A pooler drops session settings.
    #[error("connections through {key} do not have the settings that Postrider needs ({})", describe(dropped))]
    SettingsDropped {
        /// Configuration key of the URL.
        key: &'static str,
        /// The role that connects.
        user: String,
        /// The settings that were dropped.
        dropped: Vec<Difference>,
    },
    /// A pooler refuses session settings.
    #[error("the connection pooler behind {key} refuses the settings of a session ({reason})")]
    Unsupported {
        /// Configuration key of the URL.
        key: &'static str,
        /// Error message.
        reason: String,
    },
    /// A pooler mixes up the prepared statements of its clients.
    #[error("the connection pooler behind {key} cannot keep prepared statements apart ({reason})")]
    NoStatements {
        /// Configuration key of the URL.
        key: &'static str,
        /// Error message.
        reason: String,
    },
    /// The database failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl SessionError {
    /// Returns whether the database is unavailable, so that waiting may help.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Db(error) if error.is_outage())
    }

    /// Returns what the operator can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Shared { .. } => {
                "set database.direct_url (POSTRIDER_DATABASE__DIRECT_URL) to the Postgres server itself, or use the \
                 pooler in session mode"
            }
            Self::SettingsDropped { key, user, dropped } => return Some(fix(key, user, dropped)),
            Self::Unsupported { .. } => {
                "set database.direct_url (POSTRIDER_DATABASE__DIRECT_URL) to the Postgres server itself, or use that \
                 as database.url"
            }
            Self::NoStatements { .. } => {
                "use PgBouncer 1.21 or later with max_prepared_statements above 0, or set database.url to the Postgres \
                 server itself"
            }
            Self::Db(_) => return None,
        };
        Some(hint.to_owned())
    }
}

/// A setting whose value differs from the required one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Name of the setting.
    pub name: &'static str,
    /// Required value.
    pub wanted: String,
    /// Actual value.
    pub found: String,
}

fn describe(dropped: &[Difference]) -> String {
    let one = |Difference { name, wanted, found }: &Difference| format!("{name} is {found} and must be {wanted}");
    dropped.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn fix(key: &str, user: &str, dropped: &[Difference]) -> String {
    if key != POOLED {
        return format!("{key} must name the Postgres server itself, or a pooler in session mode");
    }
    let user = user.replace('"', "\"\"");
    let set = |Difference { name, wanted, .. }: &Difference| format!("ALTER ROLE \"{user}\" SET {name} = '{wanted}';");
    let statements = dropped.iter().map(set).collect::<Vec<_>>().join(" ");
    format!("a pooler drops session settings, so set them on the role, and reconnect the pooler: {statements}")
}

const POOLED: &str = "database.url beside database.direct_url";
const DIRECT: &str = "database.direct_url";
const ONLY: &str = "database.url";

/// Checks only the connections to the server itself: whether each has a session, and the settings that it needs.
pub async fn check_direct(db: &Db) -> Result<(), SessionError> {
    let key = if db.pool.pooled().is_some() { DIRECT } else { ONLY };
    check_one(db, key, db.pool.direct(), &settings(db.timeout), false).await
}

/// Opens a new connection to each configured URL, and compares the session's settings with the required ones.
pub async fn check(db: &Db) -> Result<(), SessionError> {
    let (direct, pooled) = (db.pool.direct().clone(), db.pool.pooled().cloned());
    let wanted = settings(db.timeout);
    let hot: Vec<Setting> = HOT_SETTINGS.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    let others = wanted.iter().filter(|(name, _)| hot.iter().all(|(other, _)| other != name)).cloned();
    let on_hot: Vec<Setting> = others.chain(hot.clone()).collect();
    let key = if pooled.is_some() { DIRECT } else { ONLY };
    check_one(db, key, &direct, &wanted, false).await?;
    check_one(db, key, &db.pool.hot_options(), &on_hot, false).await?;
    match pooled {
        Some(pooled) => check_one(db, POOLED, &pooled, &wanted, true).await,
        None => Ok(()),
    }
}

async fn check_one(
    db: &Db,
    key: &'static str,
    options: &PgConnectOptions,
    wanted: &[Setting],
    may_be_shared: bool,
) -> Result<(), SessionError> {
    let opened = db.timed("session.check", open_session(options, wanted)).await;
    let Session { is_shared, user, dropped } = match opened {
        Ok(session) => session,
        Err(DbError::Unavailable { source, .. } | DbError::Refused { source, .. }) if is_startup_error(&source) => {
            return Err(SessionError::Unsupported { key, reason: source.to_string() });
        }
        Err(DbError::Unavailable { source, .. } | DbError::Refused { source, .. })
            if is_prepared_statement_error(&source) =>
        {
            return Err(SessionError::NoStatements { key, reason: source.to_string() });
        }
        Err(error) => return Err(error.into()),
    };
    if is_shared && !may_be_shared {
        return Err(SessionError::Shared { key });
    }
    if dropped.is_empty() { Ok(()) } else { Err(SessionError::SettingsDropped { key, user, dropped }) }
}

/// Returns whether this is `protocol_violation`, the error of poolers for an unknown startup parameter.
fn is_startup_error(source: &sqlx::Error) -> bool {
    error::code(source).as_deref() == Some("08P01") && source.to_string().contains("startup parameter")
}

/// Returns whether the error says that a prepared statement already exists or is missing, because the pooler mixed up
/// its clients.
fn is_prepared_statement_error(source: &sqlx::Error) -> bool {
    matches!(error::code(source).as_deref(), Some("42P05" | "26000"))
}

/// The result of opening a session.
struct Session {
    is_shared: bool,
    user: String,
    dropped: Vec<Difference>,
}

/// Opens two connections and compares their backends: while neither is busy, a pooler in transaction mode uses one
/// server connection for both.
async fn open_session(options: &PgConnectOptions, wanted: &[Setting]) -> Result<Session, sqlx::Error> {
    let mut first = options.connect().await?;
    let mut second = options.connect().await?;
    let mut is_shared = false;
    for _ in 0..2 {
        is_shared |= backend(&mut first).await? == backend(&mut second).await?;
    }
    let names: Vec<&str> = wanted.iter().map(|(name, _)| *name).collect();
    let found: Vec<(String, String, Option<String>)> =
        sqlx::query_as("SELECT name, setting, unit FROM pg_settings WHERE name = ANY ($1)")
            .bind(&names)
            .fetch_all(&mut second)
            .await?;
    let user: String = sqlx::query_scalar("SELECT session_user::text").fetch_one(&mut second).await?;
    let _ = first.close().await;
    let _ = second.close().await;
    Ok(Session { is_shared, user, dropped: compare(wanted, &found) })
}

async fn backend(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(connection).await
}

/// Compares the settings of a session with the required ones, and returns those that differ.
fn compare(wanted: &[Setting], found: &[(String, String, Option<String>)]) -> Vec<Difference> {
    let mut dropped = Vec::new();
    for (name, wanted) in wanted {
        let row = found.iter().find(|(found, ..)| found == name);
        let is_applied = row.is_some_and(|(_, value, unit)| match unit.as_deref().and_then(millis) {
            Some(unit) => value.parse::<u64>().ok().map(|value| value * unit) == millis(wanted),
            None => value.eq_ignore_ascii_case(wanted),
        });
        if !is_applied {
            let found = match row {
                Some((_, value, unit)) => format!("{value}{}", unit.as_deref().unwrap_or_default()),
                None => "unknown".to_owned(),
            };
            dropped.push(Difference { name, wanted: wanted.clone(), found });
        }
    }
    dropped
}

/// Parses `10s`, `ms` or `250ms` into milliseconds; `None` if it is not a duration.
fn millis(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (count, unit) = text.split_at(digits);
    let unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(unit * if count.is_empty() { 1 } else { count.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, value: &str, unit: Option<&str>) -> (String, String, Option<String>) {
        (name.into(), value.into(), unit.map(Into::into))
    }

    #[test]
    fn settings_are_compared_across_units() {
        let wanted = [("statement_timeout", "10000ms".to_owned()), ("jit", "off".to_owned())];
        assert_eq!(compare(&wanted, &[found("statement_timeout", "10", Some("s")), found("jit", "off", None)]), []);
        assert_eq!(compare(&wanted, &[found("statement_timeout", "10000", Some("ms")), found("jit", "OFF", None)]), []);
        let dropped = compare(&wanted, &[found("statement_timeout", "0", Some("ms"))]);
        let missing = |name, wanted: &str, found: &str| Difference { name, wanted: wanted.into(), found: found.into() };
        assert_eq!(dropped, [missing("statement_timeout", "10000ms", "0ms"), missing("jit", "off", "unknown")]);
    }

    #[test]
    fn hint_contains_the_statements_that_fix_the_role() {
        let dropped = vec![Difference { name: "synchronous_commit", wanted: "on".into(), found: "off".into() }];
        let error = SessionError::SettingsDropped { key: POOLED, user: "app".into(), dropped };
        let (text, hint) = (error.to_string(), error.hint().expect("a fix"));
        assert!(text.contains("synchronous_commit is off and must be on"), "{text}");
        assert!(hint.contains("ALTER ROLE \"app\" SET synchronous_commit = 'on';"), "{hint}");
    }
}
