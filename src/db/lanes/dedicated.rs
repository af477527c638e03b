//! Dedicated lanes. On a relay route, the domains of a stream share one lane. A domain gets a dedicated lane when a
//! relay throttles it, or when an operator limits or pauses it. When none of this applies any more, and the dedicated
//! lane is not unreachable either, the domain's messages use the shared lane again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::cache::TtlCache;
use crate::db::queue::ready_at::{DueRow, lower};
use crate::db::queue::{Claimed, Fence};
use crate::db::{Db, DbError};

/// Tenant, stream, route and domain of a dedicated lane.
pub type DedicatedLaneKey = (Uuid, String, String, String);

/// Cache of all dedicated lanes in use.
#[derive(Debug)]
pub struct DedicatedLanes {
    db: Db,
    /// One entry with all lanes, because there are usually few.
    cache: TtlCache<(), Arc<DedicatedLaneIds>>,
}

/// `lanes.id` by lane key.
pub type DedicatedLaneIds = HashMap<DedicatedLaneKey, i64>;

/// Cache TTL.
const CACHE_TTL: Duration = Duration::from_secs(2);

impl DedicatedLanes {
    /// Creates an empty cache.
    pub fn new(db: Db) -> Self {
        Self { db, cache: TtlCache::new(1, CACHE_TTL) }
    }

    /// Returns the dedicated lanes by key.
    pub async fn current(&self) -> Result<Arc<DedicatedLaneIds>, DbError> {
        self.cache.get_or_load(&(), Instant::now(), || all(&self.db)).await
    }

    /// Clears the cache. To be called after a lane was created.
    pub fn forget(&self) {
        self.cache.clear();
    }
}

async fn all(db: &Db) -> Result<Arc<DedicatedLaneIds>, DbError> {
    let query = sqlx::query!(
        "SELECT id, tenant_id, stream, route, domain FROM lanes
         WHERE route <> 'mx' AND domain <> '*'
           AND num_nonnulls(connections, rate, mails_per_connection, learned_rate, paused_at, blocked_since) > 0"
    );
    let rows = db.timed("lanes.dedicated.all", query.fetch_all(&db.pool)).await?;
    Ok(Arc::new(rows.into_iter().map(|row| ((row.tenant_id, row.stream, row.route, row.domain), row.id)).collect()))
}

/// A recipient in a shared lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedLaneRecipient {
    /// `lanes.id` of the lane.
    pub lane: i64,
    /// `recipients.id`.
    pub recipient: Uuid,
    /// The recipient's domain.
    pub domain: String,
}

/// Returns the domains of these recipients and the lanes that they were claimed from.
pub async fn domains(db: &Db, claimed: impl Iterator<Item = &Claimed>) -> Result<Vec<SharedLaneRecipient>, DbError> {
    let rows = claimed.map(|row| (row.lane_id, (row.message_id, row.recipient_id)));
    let (lanes, (messages, recipients)): (Vec<i64>, (Vec<Uuid>, Vec<Uuid>)) = rows.unzip();
    let query = sqlx::query_as!(
        SharedLaneRecipient,
        r#"SELECT l.id AS lane, r.id AS recipient, substring(r.address FROM '@([^@]+)$') AS "domain!"
           FROM unnest($1::bigint[], $2::uuid[], $3::uuid[]) AS u (lane_id, message_id, recipient_id)
           JOIN lanes l ON l.id = u.lane_id
           JOIN recipients r ON r.message_id = u.message_id AND r.id = u.recipient_id AND r.tenant_id = l.tenant_id
                AND r.message_id = ANY ($2)"#,
        &lanes,
        &messages,
        &recipients
    );
    db.timed("lanes.dedicated.domains", query.fetch_all(&db.pool)).await
}

/// Creates dedicated lanes for these recipients' domains. Returns the id and domain of each lane.
pub async fn create(db: &Db, recipients: &[SharedLaneRecipient]) -> Result<Vec<(i64, String)>, DbError> {
    let (lanes, domains): (Vec<i64>, Vec<String>) = recipients.iter().map(|one| (one.lane, one.domain.clone())).unzip();
    db.timed("lanes.dedicated.create", async {
        // In a fixed order, so that two workers that create the same lanes cannot deadlock. Existing lanes are not
        // locked.
        sqlx::query!(
            "INSERT INTO lanes (tenant_id, stream, route, domain, priority)
             SELECT l.tenant_id, l.stream, l.route, u.domain, l.priority
             FROM unnest($1::bigint[], $2::text[]) AS u (lane_id, domain) JOIN lanes l ON l.id = u.lane_id
             ORDER BY l.tenant_id, l.stream, l.route, u.domain
             ON CONFLICT (tenant_id, stream, route, domain) DO NOTHING",
            &lanes,
            &domains
        )
        .execute(&db.pool)
        .await?;
        let rows = sqlx::query!(
            "SELECT DISTINCT own.id, own.domain FROM unnest($1::bigint[], $2::text[]) AS u (lane_id, domain)
             JOIN lanes l ON l.id = u.lane_id
             JOIN lanes own ON own.tenant_id = l.tenant_id AND own.stream = l.stream AND own.route = l.route
                  AND own.domain = u.domain",
            &lanes,
            &domains
        )
        .fetch_all(&db.pool)
        .await?;
        Ok(rows.into_iter().map(|row| (row.id, row.domain)).collect())
    })
    .await
}

/// Moves claimed recipients to other lanes and releases them. Does not count as an attempt.
pub async fn move_to_lane(db: &Db, moves: &[(Claimed, i64)]) -> Result<(), DbError> {
    let claim = Fence::new(moves.iter().map(|(claimed, _)| claimed));
    let lanes: Vec<i64> = moves.iter().map(|(_, lane)| *lane).collect();
    db.timed("lanes.dedicated.move_to_lane", async {
        let mut tx = db.pool.begin().await?;
        let released = sqlx::query_as!(
            DueRow,
            "UPDATE queue SET lease = NULL, begun = false, data_started = false, lane_id = u.lane_id
             FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::integer[], $5::bigint[])
                  AS u (message_id, recipient_id, lease, claims, lane_id)
             WHERE queue.message_id = u.message_id AND queue.recipient_id = u.recipient_id
               AND queue.lease = u.lease AND queue.claims = u.claims
             RETURNING queue.lane_id AS lane, queue.due_at",
            &claim.message_id,
            &claim.recipient_id,
            &claim.lease,
            &claim.claims,
            &lanes
        )
        .fetch_all(&mut *tx)
        .await?;
        lower(&mut tx, released).await?;
        tx.commit().await
    })
    .await
}
