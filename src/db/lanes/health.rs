//! Destination health of lanes: learned rates and unreachable states, stored in `lanes`.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::db::{Db, DbError};
use crate::domain::lane::destination_health::{DestinationHealth, Learned, Observation, Unreachable};
use crate::domain::lane::unreachable::Cause;

/// An observation from a lane's attempts, with the reply that caused it.
#[derive(Debug, Clone)]
pub struct Update {
    /// `lanes.id`.
    pub lane: i64,
    /// The observation; its rates are this worker's, and are multiplied by the number of live workers.
    pub observation: Observation,
    /// The reply, if the destination throttled or failed.
    pub reply: Option<String>,
    /// Details of a failure.
    pub failure: Option<Failure>,
}

/// Why a destination was unreachable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Cause code.
    pub cause: Cause,
    /// The host that was tried, if one was found.
    pub host: Option<String>,
}

/// A lane's health before and after an observation; the two may be equal.
#[derive(Debug, Clone)]
pub struct Change {
    /// `lanes.id`.
    pub lane: i64,
    /// Health before the observation.
    pub before: DestinationHealth,
    /// Health after the observation.
    pub after: DestinationHealth,
    /// The observation.
    pub observation: Observation,
}

/// Applies observations under the lanes' row locks, so that replicas that observe the same thing at the same time lower
/// a rate or move a probe only once.
pub async fn apply(db: &Db, updates: &[Update]) -> Result<Vec<Change>, DbError> {
    let by_lane: BTreeMap<i64, &Update> = updates.iter().map(|one| (one.lane, one)).collect();
    let ids: Vec<i64> = by_lane.keys().copied().collect();
    db.timed("lanes.health.apply", async {
        let mut tx = db.pool.begin().await?;
        let rows = sqlx::query!(
            r#"SELECT id, learned_rate, learned_ceiling, learned_at, raised_at, blocked_since, block_failures,
                   unblocked_at, greatest(open_at, 'epoch') AS "open_at!", (SELECT count(*) FROM workers) AS "workers!"
               FROM lanes WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE"#,
            &ids
        )
        .fetch_all(&mut *tx)
        .await?;
        let mut changes = Vec::new();
        for row in rows {
            let Some(update) = by_lane.get(&row.id) else { continue };
            let learned = (row.learned_rate.zip(row.learned_ceiling).zip(row.learned_at))
                .map(|((rate, ceiling), lowered_at)| Learned { rate, ceiling, lowered_at, raised_at: row.raised_at });
            let unreachable = row.blocked_since.map(|since| Unreachable {
                since,
                failures: row.block_failures,
                open_at: row.open_at,
            });
            let before = DestinationHealth { learned, unreachable, unblocked_at: row.unblocked_at };
            let after = before.after(&update.observation.scaled_to(row.workers));
            changes.push(Change { lane: row.id, before, after, observation: update.observation });
        }
        let different: Vec<&Change> = changes.iter().filter(|change| change.after != change.before).collect();
        if !different.is_empty() {
            write(&mut tx, &different, &by_lane).await?;
        }
        tx.commit().await?;
        Ok(changes)
    })
    .await
}

async fn write(
    connection: &mut sqlx::PgConnection,
    changes: &[&Change],
    updates: &BTreeMap<i64, &Update>,
) -> Result<(), sqlx::Error> {
    let lane = Columns::new(changes, updates);
    // A raised rate or an ended block opens the lane at once; the rate limiter then decides how much may be sent.
    sqlx::query!(
        "UPDATE lanes SET learned_rate = u.rate, learned_ceiling = u.ceiling, raised_at = u.raised_at,
             learned_reply = CASE WHEN u.rate IS NULL THEN NULL
                                  WHEN u.lowered_at IS DISTINCT FROM learned_at THEN u.reply ELSE learned_reply END,
             learned_at = u.lowered_at,
             blocked_since = u.since, block_failures = u.failures, unblocked_at = u.unblocked_at,
             block_reply = CASE WHEN u.since IS NULL THEN NULL
                                WHEN u.failures <> block_failures THEN u.reply ELSE block_reply END,
             block_cause = CASE WHEN u.since IS NULL THEN NULL
                                WHEN u.failures <> block_failures THEN u.cause ELSE block_cause END,
             block_host = CASE WHEN u.since IS NULL THEN NULL
                               WHEN u.failures <> block_failures THEN u.host ELSE block_host END,
             open_at = CASE WHEN u.opens_at IS NOT NULL THEN greatest(open_at, u.opens_at)
                            WHEN blocked_since IS NOT NULL OR u.raised_at IS NOT NULL OR u.rate IS NULL
                            THEN timestamptz '-infinity' ELSE open_at END
         FROM unnest($1::bigint[], $2::float8[], $3::float8[], $4::timestamptz[], $5::timestamptz[],
                     $6::timestamptz[], $7::smallint[], $8::timestamptz[], $9::timestamptz[],
                     $10::text[], $11::text[], $12::text[])
                AS u (id, rate, ceiling, lowered_at, raised_at,
                      since, failures, opens_at, unblocked_at,
                      reply, cause, host)
         WHERE lanes.id = u.id",
        &lane.id,
        &lane.rate as _,
        &lane.ceiling as _,
        &lane.lowered_at as _,
        &lane.raised_at as _,
        &lane.since as _,
        &lane.failures,
        &lane.opens_at as _,
        &lane.unblocked_at as _,
        &lane.reply as _,
        &lane.cause as _,
        &lane.host as _
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The health of lanes as columns, in the order of the statement's parameters.
struct Columns<'a> {
    id: Vec<i64>,
    rate: Vec<Option<f64>>,
    ceiling: Vec<Option<f64>>,
    lowered_at: Vec<Option<DateTime<Utc>>>,
    raised_at: Vec<Option<DateTime<Utc>>>,
    since: Vec<Option<DateTime<Utc>>>,
    failures: Vec<i16>,
    opens_at: Vec<Option<DateTime<Utc>>>,
    unblocked_at: Vec<Option<DateTime<Utc>>>,
    reply: Vec<Option<&'a str>>,
    cause: Vec<Option<&'a str>>,
    host: Vec<Option<&'a str>>,
}

impl<'a> Columns<'a> {
    fn new(changes: &[&Change], updates: &BTreeMap<i64, &'a Update>) -> Self {
        let learned = || changes.iter().map(|change| change.after.learned);
        let unreachable = || changes.iter().map(|change| change.after.unreachable);
        let update = || changes.iter().map(|change| updates.get(&change.lane).copied());
        let failure = || update().map(|update| update?.failure.as_ref());
        Self {
            id: changes.iter().map(|change| change.lane).collect(),
            rate: learned().map(|l| Some(l?.rate)).collect(),
            ceiling: learned().map(|l| Some(l?.ceiling)).collect(),
            lowered_at: learned().map(|l| Some(l?.lowered_at)).collect(),
            raised_at: learned().map(|l| l?.raised_at).collect(),
            since: unreachable().map(|b| Some(b?.since)).collect(),
            failures: unreachable().map(|b| b.map_or(0, |b| b.failures)).collect(),
            opens_at: unreachable().map(|b| Some(b?.open_at)).collect(),
            unblocked_at: changes.iter().map(|change| change.after.unblocked_at).collect(),
            reply: update().map(|update| update?.reply.as_deref()).collect(),
            cause: failure().map(|failure| Some(failure?.cause.as_str())).collect(),
            host: failure().map(|failure| failure?.host.as_deref()).collect(),
        }
    }
}
