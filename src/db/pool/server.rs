//! What the server says of itself: its clock, its connections, and whether a session keeps our settings.

use chrono::{DateTime, TimeDelta, Utc};

use crate::clock::{Clock, Reading, Uptime};
use crate::db::{Db, DbError, service};

/// One look at the server.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// What its clock said.
    pub reading: Reading,
    /// Connections and who has them.
    pub connections: Connections,
    /// Whether a commit waits for the disk, as it must.
    pub is_synchronous: bool,
}

/// Connections of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections {
    /// How many all processes of Postrider may have together: what the server allows a role like ours, less what others have.
    pub available: u32,
    /// How many of these are not in use.
    pub free: u32,
    /// Services of Postrider that have some, this one included.
    pub processes: u32,
}

/// Looks at the server by a connection of the hot path, which leads to the server itself.
pub async fn look(db: &Db) -> Result<Look, DbError> {
    db.timed("server.look", async {
        let mut connection = db.pool.acquire_hot().await?;
        let asked = Uptime::now();
        // Some limits are of newer versions only, and -1 is none.
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
        let reading = Reading { asked, answered: Uptime::now(), time: row.time };
        let count = |n: i64| u32::try_from(n.max(0)).unwrap_or(u32::MAX);
        let connections = Connections {
            available: count(row.available),
            free: count(row.available - row.used),
            processes: count(row.replicas).saturating_add(1),
        };
        Ok(Look { reading, connections, is_synchronous: row.is_synchronous })
    })
    .await
}

/// The server's time.
pub async fn time(db: &Db) -> Result<DateTime<Utc>, DbError> {
    look(db).await.map(|look| look.reading.time)
}

/// How far a clock is ahead of the server's.
pub async fn skew(db: &Db, clock: &dyn Clock) -> Result<TimeDelta, DbError> {
    let time = time(db).await?;
    Ok(clock.now() - time)
}
