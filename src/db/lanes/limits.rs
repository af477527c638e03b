//! Claims from lanes and streams that have a limit on the rate, connections or messages in flight.
//!
//! Limits apply across all replicas: the rate limiter's state (`next_turn_at`) is in the row of the lane or stream, and
//! each worker's share of connections and messages in flight is in `permits` and `stream_permits`. The transaction of
//! the claim locks the rows of the lanes and streams before it reads and writes either, so that exactly the claimed
//! messages are counted. [`queue::claim()`] claims from lanes without limits.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::db::queue::{self, ClaimQuota, Claimed};
use crate::db::{Db, DbError};
use crate::domain::limits::fair_share::{self, Claimant};
use crate::domain::limits::gcra::Gcra;

/// Tenant and name of a stream.
pub type StreamKey = (Uuid, String);

/// A worker's request to claim from a lane with limits, and the worker's current use of the limits.
#[derive(Debug, Clone)]
pub struct Request {
    /// The lane and the number of recipients wanted.
    pub quota: ClaimQuota,
    /// The lane's stream.
    pub stream: StreamKey,
    /// Whether the stream as a whole is limited.
    pub is_stream_limited: bool,
    /// Messages of the lane in flight in this worker.
    pub in_flight: usize,
    /// Connections of this worker to the lane's destination.
    pub open: usize,
    /// Messages of the stream in flight in this worker.
    pub stream_in_flight: usize,
}

/// The result of a claim from limited lanes.
#[derive(Debug, Default)]
pub struct Grant {
    /// Claimed recipients.
    pub claimed: Vec<Claimed>,
    /// Number of connections that this worker may have open, for each requested lane with a connection limit.
    pub connections: HashMap<i64, usize>,
    /// Number of messages in flight that this worker may have, for each stream with a concurrency limit.
    pub in_flight: HashMap<StreamKey, usize>,
    /// Lanes that had fewer due recipients than requested.
    pub emptied: Vec<i64>,
    /// Whether a limited stream has capacity left that its lanes in this claim did not use and its other lanes could
    /// use.
    pub has_unused_stream_capacity: bool,
    /// Lanes whose permits, or whose stream's permits, are all used by other workers.
    pub full: Vec<i64>,
    /// When the lanes and streams whose rate is used up open again.
    pub opens_at: Vec<DateTime<Utc>>,
}

/// Messages in flight per connection: while one is sent, the next one is prepared.
pub const PIPELINE_DEPTH: usize = 2;

/// Claims as many recipients as the limits of these lanes and their streams allow, and the other due recipients of the
/// claimed messages, up to `most` rows in total (more only if the requested quotas add up to more).
pub async fn claim(
    db: &Db,
    worker: Uuid,
    requests: &[Request],
    most: usize,
    now: DateTime<Utc>,
) -> Result<Grant, DbError> {
    db.timed("lanes.limits.claim", async {
        let mut tx = db.pool.begin().await?;
        // Locks the worker's row before the lanes, because the rescue of leases locks them in this order.
        let worker_row = sqlx::query_scalar!("SELECT id FROM workers WHERE id = $1 FOR KEY SHARE", worker);
        if worker_row.fetch_optional(&mut *tx).await?.is_none() {
            return Ok(Grant::default());
        }
        let mut limits = Limits::lock(&mut tx, worker, requests, now).await?;
        let quotas = limits.quotas(requests, now);
        let leased = queue::lease_due(&mut tx, worker, &quotas, now).await?;
        let mut claimed: Vec<Claimed> = leased.into_iter().map(|row| row.claimed).collect();
        let mut grant = limits.count(requests, &claimed, now);
        limits.write(&mut tx, worker).await?;
        let limit = most.saturating_sub(claimed.len());
        let rest = queue::lease_rest_of_messages(&mut tx, worker, &claimed, limit, now).await?;
        tx.commit().await?;
        let is_emptied = |quota: &&ClaimQuota| {
            let rows = claimed.iter().filter(|row| row.lane_id == quota.lane).count();
            i32::try_from(rows).is_ok_and(|rows| rows < quota.rows)
        };
        grant.emptied = quotas.iter().filter(is_emptied).map(|quota| quota.lane).collect();
        grant.has_unused_stream_capacity =
            quotas.len() < requests.len() && !grant.emptied.is_empty() && grant.opens_at.is_empty();
        claimed.extend(rest);
        grant.claimed = claimed;
        Ok(grant)
    })
    .await
}

/// The limits of a lane or a stream whose row is locked, and their use.
#[derive(Debug)]
struct Limit {
    gcra: Option<Gcra>,
    /// The limit on connections or messages in flight.
    maximum: Option<usize>,
    /// The share of other workers.
    others: usize,
    /// The share of this worker after the claim.
    own: usize,
    is_open: bool,
    opens_at: Option<DateTime<Utc>>,
}

impl Limit {
    fn new(rate: Option<f64>, used_until: DateTime<Utc>, limit: Option<i32>, is_open: bool) -> Self {
        Self {
            gcra: rate.map(|rate| Gcra::new(rate, used_until)),
            maximum: limit.and_then(|limit| usize::try_from(limit).ok()),
            others: 0,
            own: 0,
            is_open,
            opens_at: None,
        }
    }

    /// Returns the maximum share of this worker; `None` without a limit.
    fn share(&self) -> Option<usize> {
        Some(self.maximum?.saturating_sub(self.others))
    }

    /// Returns the number of recipients that may be claimed now, each of which may be a separate message.
    fn rows(&self, in_flight: usize, depth: usize, now: DateTime<Utc>) -> usize {
        if !self.is_open {
            return 0;
        }
        let permitted = self.share().map_or(usize::MAX, |share| (share * depth).saturating_sub(in_flight));
        permitted.min(self.gcra.map_or(usize::MAX, |gcra| gcra.available(now)))
    }

    /// Counts claimed messages against the rate.
    fn take(&mut self, messages: usize, now: DateTime<Utc>) {
        let Some(gcra) = &mut self.gcra else { return };
        *gcra = gcra.take(messages, now);
        if gcra.available(now) == 0 && self.is_open {
            self.opens_at = Some(gcra.opens_at(now));
        }
    }
}

#[derive(Debug)]
struct Limits {
    lanes: BTreeMap<i64, Limit>,
    streams: BTreeMap<StreamKey, Limit>,
}

impl Limits {
    async fn lock(
        connection: &mut PgConnection,
        worker: Uuid,
        requests: &[Request],
        now: DateTime<Utc>,
    ) -> Result<Self, sqlx::Error> {
        let limited: BTreeSet<&StreamKey> =
            requests.iter().filter(|request| request.is_stream_limited).map(|request| &request.stream).collect();
        let streams = if limited.is_empty() {
            BTreeMap::new()
        } else {
            lock_streams(connection, worker, limited.into_iter().cloned().unzip(), now).await?
        };
        let ids: Vec<i64> = requests.iter().map(|request| request.quota.lane).collect();
        Ok(Self { streams, lanes: lock_lanes(connection, worker, &ids, now).await? })
    }

    /// Returns the quota of each lane; a limited stream is divided fairly among its lanes.
    fn quotas(&self, requests: &[Request], now: DateTime<Utc>) -> Vec<ClaimQuota> {
        let mut claimants = BTreeMap::<&StreamKey, Vec<(&Request, Claimant)>>::new();
        for request in requests {
            let limit = self.lanes.get(&request.quota.lane);
            let limit = limit.map_or(0, |limit| limit.rows(request.in_flight, PIPELINE_DEPTH, now));
            let demand = limit.min(usize::try_from(request.quota.rows).unwrap_or(0));
            claimants
                .entry(&request.stream)
                .or_default()
                .push((request, Claimant { in_use: request.in_flight, demand, weight: 1 }));
        }
        let mut quotas = Vec::with_capacity(requests.len());
        for (stream, requests) in claimants {
            let in_flight = requests.first().map_or(0, |(request, _)| request.stream_in_flight);
            let total = self.streams.get(stream).map_or(usize::MAX, |limit| limit.rows(in_flight, 1, now));
            let (requests, claimants): (Vec<&Request>, Vec<Claimant>) = requests.into_iter().unzip();
            let shares = fair_share::divide(total, &claimants);
            quotas.extend(
                requests
                    .into_iter()
                    .zip(shares)
                    .filter(|(_, share)| *share > 0)
                    .map(|(request, share)| ClaimQuota { rows: count(share), ..request.quota }),
            );
        }
        quotas
    }

    /// Counts the claimed messages against the limits. Returns the grant without the claimed recipients.
    fn count(&mut self, requests: &[Request], claimed: &[Claimed], now: DateTime<Utc>) -> Grant {
        let mut grant = Grant::default();
        let mut by_lane = HashMap::<i64, HashSet<Uuid>>::new();
        for row in claimed {
            by_lane.entry(row.lane_id).or_default().insert(row.message_id);
        }
        let mut by_stream = BTreeMap::<&StreamKey, (usize, usize)>::new();
        for request in requests {
            let Some(limit) = self.lanes.get_mut(&request.quota.lane) else { continue };
            let messages = by_lane.get(&request.quota.lane).map_or(0, HashSet::len);
            let (_, stream_messages) = by_stream.entry(&request.stream).or_insert((request.stream_in_flight, 0));
            *stream_messages += messages;
            limit.take(messages, now);
            if let Some(share) = limit.share() {
                let in_flight = request.in_flight + messages;
                // Never fewer than the open connections, which were permitted before the limit was lowered.
                limit.own = in_flight.min(share).max(request.open);
                grant.connections.insert(request.quota.lane, limit.own);
                if share == 0 {
                    grant.full.push(request.quota.lane);
                }
            }
        }
        for (stream, (in_flight, messages)) in by_stream {
            let Some(limit) = self.streams.get_mut(stream) else { continue };
            limit.take(messages, now);
            if limit.maximum.is_some() {
                limit.own = in_flight + messages;
                grant.in_flight.insert(stream.clone(), limit.own);
            }
            if limit.share() == Some(0) {
                grant.full.extend(
                    requests.iter().filter(|request| request.stream == *stream).map(|request| request.quota.lane),
                );
            }
        }
        grant.opens_at = self.lanes.values().chain(self.streams.values()).filter_map(|limit| limit.opens_at).collect();
        grant
    }

    async fn write(&self, connection: &mut PgConnection, worker: Uuid) -> Result<(), sqlx::Error> {
        if !self.streams.is_empty() {
            write_streams(connection, worker, &self.streams).await?;
        }
        write_lanes(connection, worker, &self.lanes).await
    }
}

async fn lock_streams(
    connection: &mut PgConnection,
    worker: Uuid,
    (tenants, names): (Vec<Uuid>, Vec<String>),
    now: DateTime<Utc>,
) -> Result<BTreeMap<StreamKey, Limit>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT s.tenant_id, s.name, s.rate, s.concurrency, (s.paused_at IS NULL AND s.open_at <= $3) AS "is_open!",
               greatest(s.next_turn_at, 'epoch') AS "used_until!"
           FROM streams s JOIN unnest($1::uuid[], $2::text[]) AS u (tenant_id, name) USING (tenant_id, name)
           ORDER BY s.tenant_id, s.name FOR NO KEY UPDATE OF s"#,
        &tenants,
        &names,
        now
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut limits: BTreeMap<StreamKey, Limit> = rows
        .into_iter()
        .map(|row| ((row.tenant_id, row.name), Limit::new(row.rate, row.used_until, row.concurrency, row.is_open)))
        .collect();
    // A separate statement, so that it sees everything committed before the locks were acquired.
    let others = sqlx::query!(
        r#"SELECT p.tenant_id, p.stream, sum(p.count) AS "count!" FROM stream_permits p
           JOIN unnest($1::uuid[], $2::text[]) AS u (tenant_id, stream) USING (tenant_id, stream)
           WHERE p.worker_id <> $3 GROUP BY p.tenant_id, p.stream"#,
        &tenants,
        &names,
        worker
    )
    .fetch_all(connection)
    .await?;
    for row in others {
        if let Some(limit) = limits.get_mut(&(row.tenant_id, row.stream)) {
            limit.others = usize::try_from(row.count).unwrap_or(0);
        }
    }
    Ok(limits)
}

async fn lock_lanes(
    connection: &mut PgConnection,
    worker: Uuid,
    ids: &[i64],
    now: DateTime<Utc>,
) -> Result<BTreeMap<i64, Limit>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT id, least(rate, learned_rate) AS rate, connections, (paused_at IS NULL AND open_at <= $2) AS "is_open!",
               greatest(next_turn_at, 'epoch') AS "used_until!"
           FROM lanes WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE"#,
        ids,
        now
    )
    .fetch_all(&mut *connection)
    .await?;
    let is_limited = rows.iter().any(|row| row.connections.is_some());
    let mut limits: BTreeMap<i64, Limit> = rows
        .into_iter()
        .map(|row| (row.id, Limit::new(row.rate, row.used_until, row.connections, row.is_open)))
        .collect();
    if is_limited {
        let others = sqlx::query!(
            r#"SELECT lane_id, sum(count) AS "count!" FROM permits
               WHERE lane_id = ANY ($1) AND worker_id <> $2 GROUP BY lane_id"#,
            ids,
            worker
        )
        .fetch_all(connection)
        .await?;
        for row in others {
            if let Some(limit) = limits.get_mut(&row.lane_id) {
                limit.others = usize::try_from(row.count).unwrap_or(0);
            }
        }
    }
    Ok(limits)
}

async fn write_lanes(
    connection: &mut PgConnection,
    worker: Uuid,
    limits: &BTreeMap<i64, Limit>,
) -> Result<(), sqlx::Error> {
    let (mut ids, mut used, mut opens) = (Vec::new(), Vec::new(), Vec::new());
    for (id, limit) in limits {
        if let Some(gcra) = limit.gcra.filter(|_| limit.is_open) {
            ids.push(*id);
            used.push(gcra.used_until());
            opens.push(limit.opens_at);
        }
    }
    if !ids.is_empty() {
        // While the destination is unreachable, `open_at` is the time of the next probe.
        sqlx::query!(
            "UPDATE lanes SET next_turn_at = u.used_until,
                 open_at = CASE WHEN blocked_since IS NULL THEN coalesce(u.opens_at, open_at) ELSE open_at END
             FROM unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[]) AS u (id, used_until, opens_at)
             WHERE lanes.id = u.id",
            &ids,
            &used,
            &opens as _
        )
        .execute(&mut *connection)
        .await?;
    }
    let limited = limits.iter().filter(|(_, limit)| limit.maximum.is_some());
    let (ids, counts) = limited.map(|(id, limit)| (*id, count(limit.own))).unzip();
    set_permits(connection, worker, ids, counts).await
}

/// Sets the number of a worker's connection permits for these lanes; 0 deletes the row.
async fn set_permits(
    connection: &mut PgConnection,
    worker: Uuid,
    ids: Vec<i64>,
    counts: Vec<i32>,
) -> Result<(), sqlx::Error> {
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "WITH wanted AS (SELECT * FROM unnest($1::bigint[], $2::integer[]) AS u (lane_id, count)),
              gone AS (DELETE FROM permits p USING wanted
                       WHERE p.lane_id = wanted.lane_id AND p.worker_id = $3 AND wanted.count = 0)
         INSERT INTO permits (tenant_id, lane_id, worker_id, count)
         SELECT l.tenant_id, l.id, $3, wanted.count FROM wanted JOIN lanes l ON l.id = wanted.lane_id WHERE wanted.count > 0
         ON CONFLICT (lane_id, worker_id) DO UPDATE SET count = excluded.count WHERE permits.count <> excluded.count",
        &ids,
        &counts,
        worker
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn write_streams(
    connection: &mut PgConnection,
    worker: Uuid,
    limits: &BTreeMap<StreamKey, Limit>,
) -> Result<(), sqlx::Error> {
    let (mut tenants, mut names) = (Vec::new(), Vec::new());
    let (mut used, mut opens) = (Vec::<Option<DateTime<Utc>>>::new(), Vec::new());
    for ((tenant, name), limit) in limits {
        tenants.push(*tenant);
        names.push(name.clone());
        used.push(limit.gcra.filter(|_| limit.is_open).map(|gcra| gcra.used_until()));
        opens.push(limit.opens_at);
    }
    if used.iter().any(Option::is_some) {
        sqlx::query!(
            "UPDATE streams SET next_turn_at = u.used_until, open_at = coalesce(u.opens_at, open_at)
             FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[])
                  AS u (tenant_id, name, used_until, opens_at)
             WHERE streams.tenant_id = u.tenant_id AND streams.name = u.name AND u.used_until IS NOT NULL",
            &tenants,
            &names,
            &used as _,
            &opens as _
        )
        .execute(&mut *connection)
        .await?;
    }
    let limited = limits.iter().filter(|(_, limit)| limit.maximum.is_some());
    let (keys, counts): (Vec<&StreamKey>, Vec<i32>) = limited.map(|(key, limit)| (key, count(limit.own))).unzip();
    set_stream_permits(connection, worker, &keys, &counts).await
}

async fn set_stream_permits(
    connection: &mut PgConnection,
    worker: Uuid,
    keys: &[&StreamKey],
    counts: &[i32],
) -> Result<(), sqlx::Error> {
    if keys.is_empty() {
        return Ok(());
    }
    let (tenants, names): (Vec<Uuid>, Vec<String>) = keys.iter().map(|key| (*key).clone()).unzip();
    sqlx::query!(
        "WITH wanted AS (SELECT * FROM unnest($1::uuid[], $2::text[], $3::integer[]) AS u (tenant_id, stream, count)),
              gone AS (DELETE FROM stream_permits p USING wanted
                       WHERE p.tenant_id = wanted.tenant_id AND p.stream = wanted.stream AND p.worker_id = $4
                         AND wanted.count = 0)
         INSERT INTO stream_permits (tenant_id, stream, worker_id, count)
         SELECT tenant_id, stream, $4, count FROM wanted WHERE count > 0
         ON CONFLICT (tenant_id, stream, worker_id) DO UPDATE SET count = excluded.count
         WHERE stream_permits.count <> excluded.count",
        &tenants,
        &names,
        counts,
        worker
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A worker's permits: connections by lane, and messages in flight by stream.
pub type HeldPermits = (HashMap<i64, usize>, HashMap<StreamKey, usize>);

/// Returns the permits of a worker.
pub async fn held_permits(db: &Db, worker: Uuid) -> Result<HeldPermits, DbError> {
    let lanes = sqlx::query!("SELECT lane_id, count FROM permits WHERE worker_id = $1", worker);
    let streams = sqlx::query!("SELECT tenant_id, stream, count FROM stream_permits WHERE worker_id = $1", worker);
    let size = |count: i32| usize::try_from(count).unwrap_or(0);
    db.timed("lanes.limits.held_permits", async {
        let lanes = lanes.fetch_all(&db.pool).await?.into_iter().map(|row| (row.lane_id, size(row.count)));
        let streams = streams.fetch_all(&db.pool).await?;
        let streams = streams.into_iter().map(|row| ((row.tenant_id, row.stream), size(row.count)));
        Ok((lanes.collect(), streams.collect()))
    })
    .await
}

/// Releases a worker's unused permits; `lanes` and `streams` contain the numbers of permits that it keeps.
pub async fn release(
    db: &Db,
    worker: Uuid,
    lanes: &[(i64, usize)],
    streams: &[(StreamKey, usize)],
) -> Result<(), DbError> {
    let (ids, counts): (Vec<i64>, Vec<i32>) = lanes.iter().map(|(id, kept)| (*id, count(*kept))).unzip();
    let (keys, kept): (Vec<&StreamKey>, Vec<i32>) = streams.iter().map(|(key, kept)| (key, count(*kept))).unzip();
    db.timed("lanes.limits.release", async {
        let mut tx = db.pool.begin().await?;
        let worker_row = sqlx::query_scalar!("SELECT id FROM workers WHERE id = $1 FOR KEY SHARE", worker);
        if worker_row.fetch_optional(&mut *tx).await?.is_some() {
            set_permits(&mut tx, worker, ids, counts).await?;
            set_stream_permits(&mut tx, worker, &keys, &kept).await?;
        }
        tx.commit().await
    })
    .await
}

fn count(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
