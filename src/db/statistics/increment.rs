//! Adds to the figures.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::domain::id::TenantId;
use crate::domain::statistics::count::{Counter, Figures, Key};

/// Adds to a tenant's figures, within the transaction that moves the cursor.
pub(super) async fn add(
    tx: &mut PgConnection,
    tenant: TenantId,
    increments: &BTreeMap<Key, Figures>,
) -> Result<(), sqlx::Error> {
    if increments.is_empty() {
        return Ok(());
    }
    add_counters(tx, tenant, &CounterColumns::new(increments)).await?;
    add_details(tx, tenant, &DetailColumns::new(increments)).await
}

async fn add_counters(
    tx: &mut PgConnection,
    tenant: TenantId,
    columns: &CounterColumns<'_>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO statistics AS s (tenant_id, step, start_at, stream, provider, accepted, relayed, delivered, bounced,
                                      expired, suppressed, canceled, uncertain, deferred, complained, unsubscribed)
         SELECT $1::uuid /* tenant */, u.*
         FROM unnest($2::text[], $3::timestamptz[], $4::text[], $5::text[],
                     $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[],
                     $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[],
                     $14::bigint[], $15::bigint[], $16::bigint[])
                  AS u (step, start_at, stream, provider,
                        accepted, relayed, delivered, bounced,
                        expired, suppressed, canceled, uncertain,
                        deferred, complained, unsubscribed)
         ON CONFLICT (tenant_id, step, start_at, stream, provider) DO UPDATE SET
             accepted = s.accepted + excluded.accepted, relayed = s.relayed + excluded.relayed,
             delivered = s.delivered + excluded.delivered, bounced = s.bounced + excluded.bounced,
             expired = s.expired + excluded.expired, suppressed = s.suppressed + excluded.suppressed,
             canceled = s.canceled + excluded.canceled, uncertain = s.uncertain + excluded.uncertain,
             deferred = s.deferred + excluded.deferred, complained = s.complained + excluded.complained,
             unsubscribed = s.unsubscribed + excluded.unsubscribed",
        tenant.0,
        &columns.step as _,
        &columns.start_at,
        &columns.stream as _,
        &columns.provider as _,
        &columns.accepted,
        &columns.relayed,
        &columns.delivered,
        &columns.bounced,
        &columns.expired,
        &columns.suppressed,
        &columns.canceled,
        &columns.uncertain,
        &columns.deferred,
        &columns.complained,
        &columns.unsubscribed
    )
    .execute(tx)
    .await
    .map(|_| ())
}

async fn add_details(tx: &mut PgConnection, tenant: TenantId, columns: &DetailColumns<'_>) -> Result<(), sqlx::Error> {
    if columns.value.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO statistics_details AS d (tenant_id, step, start_at, stream, provider, kind, value, count)
         SELECT $1::uuid, u.*
         FROM unnest($2::text[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[])
                  AS u (step, start_at, stream, provider, kind, value, count)
         ON CONFLICT (tenant_id, step, start_at, stream, provider, kind, value) DO UPDATE SET count = d.count + excluded.count",
        tenant.0,
        &columns.step as _,
        &columns.start_at,
        &columns.stream as _,
        &columns.provider as _,
        &columns.kind as _,
        &columns.value as _,
        &columns.count
    )
    .execute(tx)
    .await
    .map(|_| ())
}

/// Rows of `statistics` as columns, in the order of the statement's parameters.
struct CounterColumns<'a> {
    step: Vec<&'static str>,
    start_at: Vec<DateTime<Utc>>,
    stream: Vec<&'a str>,
    provider: Vec<&'static str>,
    accepted: Vec<i64>,
    relayed: Vec<i64>,
    delivered: Vec<i64>,
    bounced: Vec<i64>,
    expired: Vec<i64>,
    suppressed: Vec<i64>,
    canceled: Vec<i64>,
    uncertain: Vec<i64>,
    deferred: Vec<i64>,
    complained: Vec<i64>,
    unsubscribed: Vec<i64>,
}

impl<'a> CounterColumns<'a> {
    fn new(increments: &'a BTreeMap<Key, Figures>) -> Self {
        let column = |counter: Counter| increments.values().map(|figures| figures.get(counter)).collect();
        Self {
            step: increments.keys().map(|key| key.step).collect(),
            start_at: increments.keys().map(|key| key.start).collect(),
            stream: increments.keys().map(|key| key.stream.as_str()).collect(),
            provider: increments.keys().map(|key| key.provider).collect(),
            accepted: column(Counter::Accepted),
            relayed: column(Counter::Relayed),
            delivered: column(Counter::Delivered),
            bounced: column(Counter::Bounced),
            expired: column(Counter::Expired),
            suppressed: column(Counter::Suppressed),
            canceled: column(Counter::Canceled),
            uncertain: column(Counter::Uncertain),
            deferred: column(Counter::Deferred),
            complained: column(Counter::Complained),
            unsubscribed: column(Counter::Unsubscribed),
        }
    }
}

/// Rows of `statistics_details` as columns, in the order of the statement's parameters.
#[derive(Default)]
struct DetailColumns<'a> {
    step: Vec<&'static str>,
    start_at: Vec<DateTime<Utc>>,
    stream: Vec<&'a str>,
    provider: Vec<&'static str>,
    kind: Vec<&'static str>,
    value: Vec<String>,
    count: Vec<i64>,
}

/// `statistics_details.kind` of bounces by category.
pub(super) const BOUNCE: &str = "bounce";
/// `statistics_details.kind` of latencies by bucket.
pub(super) const LATENCY: &str = "latency";

impl<'a> DetailColumns<'a> {
    fn new(increments: &'a BTreeMap<Key, Figures>) -> Self {
        let mut columns = Self::default();
        for (key, figures) in increments {
            for (category, count) in &figures.bounces {
                columns.push(key, BOUNCE, category.clone(), *count);
            }
            for (bucket, count) in figures.latency.buckets() {
                columns.push(key, LATENCY, bucket.to_string(), count);
            }
        }
        columns
    }

    fn push(&mut self, key: &'a Key, kind: &'static str, value: String, count: i64) {
        self.step.push(key.step);
        self.start_at.push(key.start);
        self.stream.push(&key.stream);
        self.provider.push(key.provider);
        self.kind.push(kind);
        self.value.push(value);
        self.count.push(count);
    }
}
