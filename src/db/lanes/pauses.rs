//! Pauses of lanes and streams: current ones (`lanes.paused_at`, `streams.paused_at`) and past ones (`pauses`). The
//! suspension of a tenant (`tenants.suspended_at`) counts as a pause of all its streams.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::db::{Db, DbError};
use crate::domain::id::{LaneId, TenantId};
use crate::domain::lane::pause::{Pause, paused_time};

/// Pauses by lane and stream, in order of their start.
#[derive(Debug, Clone, Default)]
pub struct Pauses {
    streams: HashMap<(Uuid, String), Vec<Pause>>,
    lanes: HashMap<i64, Vec<Pause>>,
}

impl Pauses {
    /// Returns whether there are no pauses.
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.lanes.is_empty()
    }

    /// Returns how long a lane or its stream was paused between `since` and `now`, in total.
    pub fn paused_time(
        &self,
        (tenant, stream): (Uuid, &str),
        lane: i64,
        since: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> TimeDelta {
        let of_lane = self.lanes.get(&lane).into_iter().flatten();
        // Usually no stream was paused; this avoids allocating the key.
        if self.streams.is_empty() {
            return paused_time(of_lane.copied(), since, now);
        }
        let of_stream = self.streams.get(&(tenant, stream.to_owned())).into_iter().flatten();
        let mut both: Vec<Pause> = of_lane.chain(of_stream).copied().collect();
        both.sort_by_key(|pause| pause.from);
        paused_time(both.into_iter(), since, now)
    }
}

/// Retention of past pauses.
const RETENTION: TimeDelta = TimeDelta::days(90);

/// Returns all current and retained past pauses of all tenants.
pub async fn all(db: &Db, now: DateTime<Utc>) -> Result<Pauses, DbError> {
    // A dedicated lane may contain recipients that were moved from the shared lane, so the shared lane's pauses apply
    // to it too.
    let query = sqlx::query!(
        r#"WITH past AS MATERIALIZED (
               SELECT tenant_id, stream, lane_id, paused_at, resumed_at FROM pauses WHERE resumed_at > $1
               UNION ALL
               SELECT tenant_id, stream, id, paused_at, NULL FROM lanes WHERE paused_at IS NOT NULL
               UNION ALL
               SELECT tenant_id, name, NULL, paused_at, NULL FROM streams WHERE paused_at IS NOT NULL
               UNION ALL
               SELECT s.tenant_id, s.name, NULL, t.suspended_at, NULL
               FROM tenants t JOIN streams s ON s.tenant_id = t.id WHERE t.suspended_at IS NOT NULL)
           SELECT tenant_id AS "tenant!", stream AS "stream!", lane_id AS lane, paused_at AS "from!", resumed_at AS until
           FROM past
           UNION ALL
           SELECT past.tenant_id, past.stream, own.id, past.paused_at, past.resumed_at
           FROM past
           JOIN lanes shared ON shared.id = past.lane_id AND shared.domain = '*'
           JOIN lanes own ON own.tenant_id = past.tenant_id AND own.stream = past.stream AND own.route = shared.route
                AND own.domain <> '*'
           ORDER BY 4"#,
        now - RETENTION
    );
    let rows = db.timed("lanes.pauses.all", query.fetch_all(&db.pool)).await?;
    let mut pauses = Pauses::default();
    for row in rows {
        let list = match row.lane {
            Some(lane) => pauses.lanes.entry(lane).or_default(),
            None => pauses.streams.entry((row.tenant, row.stream)).or_default(),
        };
        list.push(Pause { from: row.from, until: row.until });
    }
    Ok(pauses)
}

/// Ends a lane's pause and records it. Returns whether the lane exists.
pub async fn resume_lane(db: &Db, tenant: TenantId, id: LaneId, now: DateTime<Utc>) -> Result<bool, DbError> {
    db.timed("lanes.pauses.resume_lane", async {
        let mut tx = db.pool.begin().await?;
        let lane = sqlx::query!(
            "SELECT stream, paused_at FROM lanes WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE",
            tenant.0,
            id.0
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some(lane) = lane else { return Ok(false) };
        if let Some(paused_at) = lane.paused_at {
            sqlx::query!("UPDATE lanes SET paused_at = NULL, pause_reason = NULL WHERE id = $1", id.0)
                .execute(&mut *tx)
                .await?;
            record(&mut tx, tenant, &lane.stream, Some(id), Pause { from: paused_at, until: Some(now) }).await?;
        }
        tx.commit().await?;
        Ok(true)
    })
    .await
}

/// Ends a stream's pause and records it. Returns whether the stream exists.
pub async fn resume_stream(db: &Db, tenant: TenantId, name: &str, now: DateTime<Utc>) -> Result<bool, DbError> {
    db.timed("lanes.pauses.resume_stream", async {
        let mut tx = db.pool.begin().await?;
        let stream = sqlx::query!(
            "SELECT paused_at FROM streams WHERE tenant_id = $1 AND name = $2 FOR NO KEY UPDATE",
            tenant.0,
            name
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some(stream) = stream else { return Ok(false) };
        if let Some(paused_at) = stream.paused_at {
            sqlx::query!(
                "UPDATE streams SET paused_at = NULL, pause_reason = NULL WHERE tenant_id = $1 AND name = $2",
                tenant.0,
                name
            )
            .execute(&mut *tx)
            .await?;
            record(&mut tx, tenant, name, None, Pause { from: paused_at, until: Some(now) }).await?;
        }
        tx.commit().await?;
        Ok(true)
    })
    .await
}

async fn record(
    connection: &mut sqlx::PgConnection,
    tenant: TenantId,
    stream: &str,
    lane: Option<LaneId>,
    pause: Pause,
) -> Result<(), sqlx::Error> {
    let until = pause.until.unwrap_or(pause.from).max(pause.from);
    sqlx::query!(
        "DELETE FROM pauses WHERE ctid = ANY (ARRAY(
             SELECT ctid FROM pauses WHERE resumed_at < $1 FOR UPDATE SKIP LOCKED))",
        until - RETENTION
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "INSERT INTO pauses (tenant_id, stream, lane_id, paused_at, resumed_at) VALUES ($1, $2, $3, $4, $5)",
        tenant.0,
        stream,
        lane.map(|lane| lane.0),
        pause.from,
        until
    )
    .execute(connection)
    .await?;
    Ok(())
}
