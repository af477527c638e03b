//! Session settings of connections, and a check that the server applies them: a connection pooler in transaction mode
//! drops session settings silently, and shares a server connection among several clients.

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
        // 202 means committed, whatever the server's default is. Transactions set it again: see `Pool::begin`.
        ("synchronous_commit", "on".into()),
        // JIT compilation of the claim's generic plan takes 12 ms. Plans are custom, except on hot connections.
        ("jit", "off".into()),
        ("plan_cache_mode", "force_custom_plan".into()),
        ("statement_timeout", limit.clone()),
        ("lock_timeout", limit.clone()),
        ("idle_in_transaction_session_timeout", limit),
        // Each statement must see what was committed before it: transactions lock first and read afterwards.
        ("default_transaction_isolation", "read committed".into()),
        ("TimeZone", "UTC".into()),
    ]
}

/// Settings of the network connection, which may differ behind a pooler. They release locks soon after this process
/// vanishes (SIGKILL, a dead network connection).
pub(in crate::db) const OF_LINK: [(&str, &str); 5] = [
    ("client_connection_check_interval", "2s"),
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "20s"),
];

/// Additional settings of hot connections: cached plans do not depend on table sizes, see `Pool::hot`.
pub(in crate::db) const HOT: [(&str, &str); 4] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
];

/// Why connections cannot be used as they are.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Clients share server connections, which do not support everything that the service needs.
    #[error(
        "{key} leads to a connection pooler in transaction mode, on which LISTEN, migrations and cached plans cannot work"
    )]
    Shared {
        /// Configuration key of the URL.
        key: &'static str,
    },
    /// A pooler drops session settings.
    #[error("connections through {key} do not have the settings that Postrider needs ({})", differences(lost))]
    Lost {
        /// Configuration key of the URL.
        key: &'static str,
        /// The role that connects.
        user: String,
        /// The settings that were not kept.
        lost: Vec<Lost>,
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
    /// Returns what the operator can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Shared { .. } => {
                "set database.direct_url (POSTRIDER_DATABASE__DIRECT_URL) to the Postgres server itself, or use the \
                 pooler in session mode"
            }
            Self::Lost { key, user, lost } => return Some(fix(key, user, lost)),
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

/// A setting that a connection lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Name of the setting.
    pub name: &'static str,
    /// Required value.
    pub wanted: String,
    /// Actual value.
    pub found: String,
}

fn differences(lost: &[Lost]) -> String {
    let words = |Lost { name, wanted, found }: &Lost| format!("{name} is {found} and must be {wanted}");
    lost.iter().map(words).collect::<Vec<_>>().join(", ")
}

fn fix(key: &str, user: &str, lost: &[Lost]) -> String {
    if key != POOLED {
        return format!("{key} must name the Postgres server itself, or a pooler in session mode");
    }
    let user = user.replace('"', "\"\"");
    let set = |Lost { name, wanted, .. }: &Lost| format!("ALTER ROLE \"{user}\" SET {name} = '{wanted}';");
    let statements = lost.iter().map(set).collect::<Vec<_>>().join(" ");
    format!("a pooler drops session settings, so set them on the role, and reconnect the pooler: {statements}")
}

const POOLED: &str = "database.url beside database.direct_url";
const DIRECT: &str = "database.direct_url";
const ONLY: &str = "database.url";

/// Opens a new connection to each configured URL, and compares the session's settings with the required ones.
pub async fn check(db: &Db) -> Result<(), SessionError> {
    let (direct, pooled) = (db.pool.direct().clone(), db.pool.pooled().cloned());
    let wanted = settings(db.timeout);
    let hot: Vec<Setting> = HOT.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
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
    let looked = db.timed("session.check", look(options, wanted)).await;
    let Seen { is_shared, user, lost } = match looked {
        Ok(seen) => seen,
        Err(DbError::Unavailable { source, .. } | DbError::Refused { source, .. }) if is_about_startup(&source) => {
            return Err(SessionError::Unsupported { key, reason: source.to_string() });
        }
        Err(DbError::Unavailable { source, .. } | DbError::Refused { source, .. }) if is_about_statements(&source) => {
            return Err(SessionError::NoStatements { key, reason: source.to_string() });
        }
        Err(error) => return Err(error.into()),
    };
    if is_shared && !may_be_shared {
        return Err(SessionError::Shared { key });
    }
    if lost.is_empty() { Ok(()) } else { Err(SessionError::Lost { key, user, lost }) }
}

/// `protocol_violation`: the error of poolers for an unknown startup parameter.
fn is_about_startup(source: &sqlx::Error) -> bool {
    error::code(source).as_deref() == Some("08P01") && source.to_string().contains("startup parameter")
}

/// A prepared statement already exists or is missing, because it is another client's.
fn is_about_statements(source: &sqlx::Error) -> bool {
    matches!(error::code(source).as_deref(), Some("42P05" | "26000"))
}

struct Seen {
    is_shared: bool,
    user: String,
    lost: Vec<Lost>,
}

/// Opens two connections: a pooler in transaction mode serves both from one server connection while neither is busy.
async fn look(options: &PgConnectOptions, wanted: &[Setting]) -> Result<Seen, sqlx::Error> {
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
    Ok(Seen { is_shared, user, lost: lost(wanted, &found) })
}

async fn backend(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(connection).await
}

/// Returns the settings that the server did not apply.
fn lost(wanted: &[Setting], found: &[(String, String, Option<String>)]) -> Vec<Lost> {
    let mut lost = Vec::new();
    for (name, wanted) in wanted {
        let row = found.iter().find(|(found, ..)| found == name);
        let is_kept = row.is_some_and(|(_, value, unit)| match unit.as_deref().and_then(millis) {
            Some(unit) => value.parse::<u64>().ok().map(|value| value * unit) == millis(wanted),
            None => value.eq_ignore_ascii_case(wanted),
        });
        if !is_kept {
            let found = match row {
                Some((_, value, unit)) => format!("{value}{}", unit.as_deref().unwrap_or_default()),
                None => "unknown".to_owned(),
            };
            lost.push(Lost { name, wanted: wanted.clone(), found });
        }
    }
    lost
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
    fn settings_are_compared_whatever_unit_the_server_uses() {
        let wanted = [("statement_timeout", "10000ms".to_owned()), ("jit", "off".to_owned())];
        assert_eq!(lost(&wanted, &[found("statement_timeout", "10", Some("s")), found("jit", "off", None)]), []);
        assert_eq!(lost(&wanted, &[found("statement_timeout", "10000", Some("ms")), found("jit", "OFF", None)]), []);
        let lost = lost(&wanted, &[found("statement_timeout", "0", Some("ms"))]);
        let missing = |name, wanted: &str, found: &str| Lost { name, wanted: wanted.into(), found: found.into() };
        assert_eq!(lost, [missing("statement_timeout", "10000ms", "0ms"), missing("jit", "off", "unknown")]);
    }

    #[test]
    fn error_names_each_statement_that_fixes_the_role() {
        let lost = vec![Lost { name: "synchronous_commit", wanted: "on".into(), found: "off".into() }];
        let error = SessionError::Lost { key: POOLED, user: "app".into(), lost };
        let (text, hint) = (error.to_string(), error.hint().expect("a fix"));
        assert!(text.contains("synchronous_commit is off and must be on"), "{text}");
        assert!(hint.contains("ALTER ROLE \"app\" SET synchronous_commit = 'on';"), "{hint}");
    }
}
