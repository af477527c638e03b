//! What keeps a week from being deleted: everything that has not ended.

use chrono::{DateTime, TimeDelta, Utc};

use super::{Class, Periods, Week, weeks};
use crate::db::pool::scan::{SCAN_LIMIT, allow_scan};
use crate::db::{Db, DbError};
use crate::domain::id::MessageId;

/// Maximum number of rows that are counted.
const MAX_COUNT: i64 = 10_000;
/// The part of a week whose recipients are read by one statement, where it is not known that they ended long ago.
const SCANNED: TimeDelta = TimeDelta::hours(1);
/// How long a running action on many messages delays deletion.
const ACTION_TIME: TimeDelta = TimeDelta::days(1);

/// Returns why a week is protected, a sentence each; empty if it is not.
pub async fn reasons(
    db: &Db,
    class: Class,
    week: Week,
    periods: &Periods,
    now: DateTime<Utc>,
) -> Result<Vec<String>, DbError> {
    match class {
        Class::Content => content(db, week, now).await,
        Class::Messages => {
            let mut reasons = recipients(db, week, now).await?;
            reasons.extend(return_paths(db, week, periods, now).await?);
            if weeks::exists(db, Class::Content, week).await? {
                reasons.push("The content of the week is still stored.".into());
            }
            Ok(reasons)
        }
        Class::Events => events(db, week).await,
        Class::WebhookLog => Ok(Vec::new()),
    }
}

async fn content(db: &Db, week: Week, now: DateTime<Utc>) -> Result<Vec<String>, DbError> {
    let mut reasons = recipients(db, week, now).await?;
    reasons.extend(bulks(db, week).await?);
    Ok(reasons)
}

/// Recipients of the week's messages that are still to be sent to, or may be.
async fn recipients(db: &Db, week: Week, now: DateTime<Utc>) -> Result<Vec<String>, DbError> {
    let (first, end) = week.ids();
    let counted = db
        .timed_for(SCAN_LIMIT, "retention.protection.recipients", async {
            let mut tx = db.pool.begin().await?;
            allow_scan(&mut tx).await?;
            let queued = sqlx::query!(
                r#"SELECT count(*) FILTER (WHERE held IS NULL AND first_due_at <= $3) AS "waiting!",
                          count(*) FILTER (WHERE held IS NULL AND first_due_at > $3) AS "scheduled!",
                          count(*) FILTER (WHERE held IS NOT NULL) AS "held!"
                   FROM (SELECT held, first_due_at FROM queue WHERE message_id >= $1 AND message_id < $2 LIMIT $4) q"#,
                first,
                end,
                now,
                MAX_COUNT
            )
            .fetch_one(&mut *tx)
            .await?;
            let uncertain = sqlx::query_scalar!(
                r#"SELECT count(*) AS "uncertain!" FROM (
                       SELECT FROM recipients r JOIN messages m ON m.id = r.message_id AND m.tenant_id = r.tenant_id
                       WHERE r.status = 'uncertain' AND r.message_id >= $1 AND r.message_id < $2 AND m.id >= $1 AND m.id < $2
                         AND m.on_uncertain = 'hold' LIMIT $3) u"#,
                first,
                end,
                MAX_COUNT
            )
            .fetch_one(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok([
                (queued.waiting, "to be sent to"),
                (queued.scheduled, "scheduled"),
                (queued.held, "held"),
                (uncertain, "uncertain with `on_uncertain: hold`"),
            ])
        })
        .await?;
    let nonzero = counted.into_iter().filter(|(count, _)| *count > 0);
    Ok(nonzero.map(|(count, what)| sentence(count, "recipient", what)).collect())
}

/// Bulks whose content is in the week, and which are not finished.
async fn bulks(db: &Db, week: Week) -> Result<Vec<String>, DbError> {
    let (first, end) = week.ids();
    let count = db
        .timed_for(SCAN_LIMIT, "retention.protection.bulks", async {
            let mut tx = db.pool.begin().await?;
            allow_scan(&mut tx).await?;
            let count = sqlx::query_scalar!(
                r#"SELECT count(*) AS "count!" FROM bulks b
                   WHERE b.content_id >= $1 AND b.content_id < $2 AND is_bulk_unfinished(b.tenant_id, b.id)"#,
                first,
                end
            )
            .fetch_one(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(count)
        })
        .await?;
    Ok(if count > 0 { vec![sentence(count, "bulk", "not finished")] } else { Vec::new() })
}

/// Recipients of the week's messages to whose return path a bounce may still come.
async fn return_paths(db: &Db, week: Week, periods: &Periods, now: DateTime<Utc>) -> Result<Vec<String>, DbError> {
    let lifetime = TimeDelta::from_std(periods.return_path).unwrap_or(TimeDelta::MAX);
    let Some(since) = now.checked_sub_signed(lifetime) else { return Ok(Vec::new()) };
    if periods.return_path.is_zero() {
        return Ok(Vec::new());
    }
    if weeks::ended_at(db, week).await?.is_some_and(|ended| ended < since) {
        return Ok(Vec::new());
    }
    let mut count = 0;
    let mut start = week.start();
    while start < week.end() && count < MAX_COUNT {
        let end = start + SCANNED;
        count += return_paths_of(db, (start, end), since).await?;
        start = end;
    }
    let count = count.min(MAX_COUNT);
    Ok(if count > 0 {
        vec![sentence(count, "recipient", "still within the lifetime of a return path")]
    } else {
        Vec::new()
    })
}

/// Counts recipients of messages that were accepted in this range, and that were last sent to since then.
async fn return_paths_of(
    db: &Db,
    (start, end): (DateTime<Utc>, DateTime<Utc>),
    since: DateTime<Utc>,
) -> Result<i64, DbError> {
    db.timed_for(SCAN_LIMIT, "retention.protection.return_paths", async {
        let mut tx = db.pool.begin().await?;
        allow_scan(&mut tx).await?;
        let count = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM (
                   SELECT FROM recipients WHERE message_id >= $1 AND message_id < $2
                     AND status IN ('relayed', 'delivered', 'uncertain') AND last_attempt_at > $3 LIMIT $4) r"#,
            MessageId::first_at(start).0,
            MessageId::first_at(end).0,
            since,
            MAX_COUNT
        )
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(count)
    })
    .await
}

/// Records that all recipients of a week's messages have ended, if they have.
pub async fn note_ended(db: &Db, week: Week, now: DateTime<Utc>) -> Result<(), DbError> {
    if recipients(db, week, now).await?.is_empty() {
        weeks::note_ended(db, week, now).await?;
    }
    Ok(())
}

/// Returns why no message may be deleted now: an action on many messages is running, which may be about any of them.
///
/// Recipients that it may change are protected themselves, so one that cannot continue, because its tenant is suspended, is ignored after
/// a day.
pub async fn running_action(db: &Db, now: DateTime<Utc>) -> Result<Option<String>, DbError> {
    let query = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM message_actions WHERE status = 'running' AND created_at > $1"#,
        now - ACTION_TIME
    );
    let count = db.timed("retention.protection.actions", query.fetch_one(&db.pool)).await?;
    Ok((count > 0).then(|| sentence(count, "action", "running")))
}

/// Readers that have not read the week's events: enabled webhook endpoints, their retries, and the statistics.
async fn events(db: &Db, week: Week) -> Result<Vec<String>, DbError> {
    let query = sqlx::query!(
        r#"SELECT webhooks AS "webhooks!", statistics AS "statistics!" FROM unread_events($1, $2)"#,
        week.start(),
        week.end()
    );
    let row = db.timed("retention.protection.events", query.fetch_one(&db.pool)).await?;
    let mut reasons = Vec::new();
    if row.webhooks > 0 {
        reasons.push(sentence(row.webhooks, "webhook endpoint", "behind the events of the week"));
    }
    if row.statistics > 0 {
        reasons.push("The statistics do not include the events of the week yet.".into());
    }
    Ok(reasons)
}

fn sentence(count: i64, noun: &str, state: &str) -> String {
    let (number, verb) = match count {
        1 => (format!("1 {noun}"), "is"),
        MAX_COUNT => (format!("{MAX_COUNT} {noun}s or more"), "are"),
        _ => (format!("{count} {noun}s"), "are"),
    };
    format!("{number} {verb} {state}.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_sentences() {
        assert_eq!(sentence(1, "recipient", "held"), "1 recipient is held.");
        assert_eq!(sentence(2, "bulk", "not finished"), "2 bulks are not finished.");
        assert_eq!(sentence(MAX_COUNT, "recipient", "held"), "10000 recipients or more are held.");
    }
}
