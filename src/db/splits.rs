//! Domains that have a lane of their own on a route that else has one lane for all: those a relay complained of, and
//! those an operator has limited.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::lanes::{self, Lowered};
use super::queue::{Claimed, Fence};
use super::{Db, DbError};

/// Whose, stream, route and domain.
pub type SplitKey = (Uuid, String, String, String);

/// Every such lane, asked for at most every 2 s.
#[derive(Debug)]
pub struct Splits {
    db: Db,
    /// With the time it was asked for.
    known: Mutex<Option<(Instant, Arc<SplitLanes>)>>,
}

/// `lanes.id` by what the lane is for.
pub type SplitLanes = HashMap<SplitKey, i64>;

/// How old an answer may be.
const FRESH: Duration = Duration::from_secs(2);

impl Splits {
    /// Asks nothing yet.
    pub fn new(db: Db) -> Self {
        Self { db, known: Mutex::default() }
    }

    /// Lanes by what they are for.
    pub async fn current(&self) -> Result<Arc<SplitLanes>, DbError> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((asked, splits)) = known
            && asked.elapsed() < FRESH
        {
            return Ok(splits);
        }
        let asked = Instant::now();
        let splits = Arc::new(all(&self.db).await?);
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some((asked, splits.clone()));
        Ok(splits)
    }

    /// Asks anew the next time: one has just been made.
    pub fn forget(&self) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

async fn all(db: &Db) -> Result<SplitLanes, DbError> {
    let query =
        sqlx::query!("SELECT id, tenant_id, stream, route, domain FROM lanes WHERE route <> 'mx' AND domain <> '*'");
    let rows = db.timed("splits.all", query.fetch_all(&db.pool)).await?;
    Ok(rows.into_iter().map(|row| ((row.tenant_id, row.stream, row.route, row.domain), row.id)).collect())
}

/// Makes lanes of their own for the domains of these recipients, beside the lanes that they share with others.
pub async fn split<'a>(db: &Db, claimed: impl Iterator<Item = &'a Claimed>) -> Result<Vec<i64>, DbError> {
    let rows = claimed.map(|row| (row.lane_id, (row.message_id, row.recipient_id)));
    let (lanes, (messages, recipients)): (Vec<i64>, (Vec<Uuid>, Vec<Uuid>)) = rows.unzip();
    // The update changes nothing: it makes the statement answer the id of a lane that was there.
    let query = sqlx::query_scalar!(
        "INSERT INTO lanes (tenant_id, stream, route, domain, priority)
         SELECT DISTINCT l.tenant_id, l.stream, l.route, substring(r.address FROM '@([^@]+)$'), l.priority
         FROM unnest($1::bigint[], $2::uuid[], $3::uuid[]) AS u (lane_id, message_id, recipient_id)
         JOIN lanes l ON l.id = u.lane_id
         JOIN recipients r ON r.message_id = u.message_id AND r.id = u.recipient_id AND r.tenant_id = l.tenant_id
              AND r.message_id = ANY ($2)
         ON CONFLICT (tenant_id, stream, route, domain) DO UPDATE SET priority = lanes.priority
         RETURNING id",
        &lanes,
        &messages,
        &recipients
    );
    db.timed("splits.split", query.fetch_all(&db.pool)).await
}

/// Gives claimed rows back into other lanes. It counts as no attempt.
pub async fn move_to_lane(db: &Db, moves: &[(Claimed, i64)]) -> Result<(), DbError> {
    let rows = Fence::of(moves.iter().map(|(claimed, _)| claimed));
    let lanes: Vec<i64> = moves.iter().map(|(_, lane)| *lane).collect();
    db.timed("splits.move_to_lane", async {
        let mut tx = db.pool.begin().await?;
        let freed = sqlx::query_as!(
            Lowered,
            "UPDATE queue SET lease = NULL, begun = false, data_started = false, lane_id = u.lane_id
             FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::integer[], $5::bigint[])
                  AS u (message_id, recipient_id, lease, claims, lane_id)
             WHERE queue.message_id = u.message_id AND queue.recipient_id = u.recipient_id
               AND queue.lease = u.lease AND queue.claims = u.claims
             RETURNING queue.lane_id AS lane, queue.due_at",
            &rows.messages,
            &rows.recipients,
            &rows.leases,
            &rows.claims,
            &lanes
        )
        .fetch_all(&mut *tx)
        .await?;
        lanes::lower(&mut tx, freed).await?;
        tx.commit().await
    })
    .await
}
