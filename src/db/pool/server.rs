//! State of the server: its clock, its connections, and whether sessions keep their settings.

use chrono::{DateTime, TimeDelta, Utc};

use crate::clock::{Clock, Reading, Uptime};
use crate::db::{Db, DbError, service};

/// A larger difference between a machine's clock and the server's is reported.
pub const MAX_SKEW: TimeDelta = TimeDelta::seconds(2);

/// State of the server at one moment.
#[derive(Debug, Clone, Copy)]
pub struct ServerState {
    /// Reading of its clock.
    pub reading: Reading,
    /// Connections and their use.
    pub connections: Connections,
    /// Whether commits are synchronous, as they must be.
    pub is_synchronous: bool,
}

/// Connections of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections {
    /// Number of connections that all Postrider processes together may use: the server's limits for this role and
    /// database, minus the connections of other clients.
    pub available: u32,
    /// Number of available connections that are unused.
    pub free: u32,
    /// Number of Postrider processes that are connected, including this one.
    pub processes: u32,
}

/// Reads the state of the server over a connection of the hot path, which never goes through a pooler.
pub async fn state(db: &Db) -> Result<ServerState, DbError> {
    db.timed("server.read", async {
        let mut connection = db.pool.acquire_hot().await?;
        let query_sent = Uptime::now();
        // `reserved_connections` exists only in newer versions, and a limit of -1 means no limit.
        let row = sqlx::query!(
            r#"SELECT clock_timestamp() AS "time!", current_setting('synchronous_commit') <> 'off' AS "is_synchronous!",
                      least(current_setting('max_connections')::bigint
                                - current_setting('superuser_reserved_connections')::bigint
                                - coalesce(current_setting('reserved_connections', true)::bigint, 0)
                                - count(*) FILTER (WHERE application_name NOT LIKE 'postrider-%'),
                            (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user),
                            (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database()))
                          AS "available!",
                      count(*) FILTER (WHERE application_name LIKE 'postrider-%') AS "used!",
                      count(DISTINCT application_name)
                          FILTER (WHERE application_name LIKE 'postrider-%' AND application_name <> $1) AS "replicas!"
               FROM pg_stat_activity WHERE backend_type = 'client backend'"#,
            service()
        )
        .fetch_one(&mut *connection)
        .await?;
        let reading = Reading { query_sent, result_received: Uptime::now(), time: row.time };
        let count = |n: i64| u32::try_from(n.max(0)).unwrap_or(u32::MAX);
        let connections = Connections {
            available: count(row.available),
            free: count(row.available - row.used),
            processes: count(row.replicas).saturating_add(1),
        };
        Ok(ServerState { reading, connections, is_synchronous: row.is_synchronous })
    })
    .await
}

/// Returns the server's time.
pub async fn time(db: &Db) -> Result<DateTime<Utc>, DbError> {
    state(db).await.map(|state| state.reading.time)
}

/// Returns how far a clock is ahead of the server's.
pub async fn skew(db: &Db, clock: &dyn Clock) -> Result<TimeDelta, DbError> {
    let time = time(db).await?;
    Ok(clock.now() - time)
}
