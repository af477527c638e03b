//! Appends events. Every event is created by a constructor of [`NewEvent`], so only this file decides which columns an
//! event of each type sets.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::bounce::Bounce;
use crate::domain::delivery::Transition;
use crate::domain::event::EventType;
use crate::domain::id::{EndpointId, KeyId, MessageId, RecipientKey, TenantId};
use crate::domain::outcome::Outcome;

/// An event to append.
#[derive(Debug, Clone)]
pub(in crate::db) struct NewEvent<'a> {
    tenant: TenantId,
    kind: EventType,
    message_id: Option<Uuid>,
    recipient_id: Option<Uuid>,
    /// The webhook endpoint, if the event is about one.
    endpoint_id: Option<Uuid>,
    /// The API key, if the event is about one.
    key_id: Option<Uuid>,
    attempt: Option<i16>,
    outcome: Option<&'a Outcome>,
    next_attempt_at: Option<DateTime<Utc>>,
    /// Classification of a permanent failure.
    bounce: Option<Bounce>,
    /// For an event from a DSN or complaint: whether only this recipient knows its return path.
    vouched: Option<bool>,
}

/// Events of a message as a whole.
impl NewEvent<'_> {
    /// A message was accepted. With `scheduled`, its first attempt is due at that later time.
    pub fn accepted(tenant: TenantId, message: MessageId, scheduled: Option<DateTime<Utc>>) -> Self {
        let kind = if scheduled.is_some() { EventType::Scheduled } else { EventType::Accepted };
        Self { message_id: Some(message.0), next_attempt_at: scheduled, ..Self::new(tenant, kind) }
    }
}

/// Events of a recipient.
impl<'a> NewEvent<'a> {
    /// The recipient of a new message is suppressed; `outcome` names the suppression.
    pub fn suppressed(recipient: RecipientKey, outcome: &'a Outcome) -> Self {
        Self { outcome: Some(outcome), ..Self::recipient(recipient, EventType::Suppressed) }
    }

    /// The state of a leased recipient changed. `attempt` is the number of the attempt, if one was made.
    pub fn transition(
        recipient: RecipientKey,
        transition: Transition,
        attempt: Option<i16>,
        outcome: Option<&'a Outcome>,
        bounce: Option<Bounce>,
    ) -> Self {
        let next_attempt_at = transition.next_attempt_at();
        Self { attempt, outcome, next_attempt_at, bounce, ..Self::recipient(recipient, transition.event()) }
    }

    /// An API request canceled the recipient.
    pub fn canceled(recipient: RecipientKey) -> Self {
        Self::recipient(recipient, EventType::Canceled)
    }

    /// An API request moved the first attempt to `at`.
    pub fn rescheduled(recipient: RecipientKey, at: DateTime<Utc>) -> Self {
        Self { next_attempt_at: Some(at), ..Self::recipient(recipient, EventType::Scheduled) }
    }

    /// An API request requeued an uncertain recipient; the next attempt is due at `at`.
    pub fn requeued(recipient: RecipientKey, at: DateTime<Utc>) -> Self {
        Self { next_attempt_at: Some(at), ..Self::recipient(recipient, EventType::Deferred) }
    }

    /// A DSN or a complaint reported `kind`. `reply` is the reply that it quotes.
    pub fn reported(
        recipient: RecipientKey,
        kind: EventType,
        reply: Option<&'a Outcome>,
        bounce: Option<Bounce>,
        is_vouched: bool,
    ) -> Self {
        Self { outcome: reply, bounce, vouched: Some(is_vouched), ..Self::recipient(recipient, kind) }
    }

    /// The recipient used the unsubscribe link.
    pub fn unsubscribed(recipient: RecipientKey) -> Self {
        Self::recipient(recipient, EventType::Unsubscribed)
    }
}

/// Events of a webhook endpoint.
impl<'a> NewEvent<'a> {
    /// An API request asked for a test event for the endpoint.
    pub fn webhook_test(tenant: TenantId, endpoint: EndpointId) -> Self {
        Self { endpoint_id: Some(endpoint.0), ..Self::new(tenant, EventType::WebhookTest) }
    }

    /// The endpoint was disabled; `outcome` contains the reason.
    pub fn webhook_disabled(tenant: TenantId, endpoint: EndpointId, outcome: &'a Outcome) -> Self {
        let outcome = Some(outcome);
        Self { endpoint_id: Some(endpoint.0), outcome, ..Self::new(tenant, EventType::WebhookDisabled) }
    }
}

/// Events of an API key.
impl<'a> NewEvent<'a> {
    /// 80 % of the key's quota are used; `outcome` contains the numbers.
    pub fn quota_warning(tenant: TenantId, key: KeyId, outcome: &'a Outcome) -> Self {
        Self { key_id: Some(key.0), outcome: Some(outcome), ..Self::new(tenant, EventType::KeyQuotaWarning) }
    }

    /// The key's quota is used up; `outcome` contains the numbers.
    pub fn quota_reached(tenant: TenantId, key: KeyId, outcome: &'a Outcome) -> Self {
        Self { key_id: Some(key.0), outcome: Some(outcome), ..Self::new(tenant, EventType::KeyQuotaReached) }
    }
}

/// Events of the tenant itself.
impl<'a> NewEvent<'a> {
    /// 80 % of the tenant's quota are used; `outcome` contains the numbers.
    pub fn tenant_quota_warning(tenant: TenantId, outcome: &'a Outcome) -> Self {
        Self { outcome: Some(outcome), ..Self::new(tenant, EventType::TenantQuotaWarning) }
    }

    /// The tenant's quota is used up; `outcome` contains the numbers.
    pub fn tenant_quota_reached(tenant: TenantId, outcome: &'a Outcome) -> Self {
        Self { outcome: Some(outcome), ..Self::new(tenant, EventType::TenantQuotaReached) }
    }
}

impl NewEvent<'_> {
    fn new(tenant: TenantId, kind: EventType) -> Self {
        Self {
            tenant,
            kind,
            message_id: None,
            recipient_id: None,
            endpoint_id: None,
            key_id: None,
            attempt: None,
            outcome: None,
            next_attempt_at: None,
            bounce: None,
            vouched: None,
        }
    }

    fn recipient(key: RecipientKey, kind: EventType) -> Self {
        let (message_id, recipient_id) = (Some(key.message.0), Some(key.recipient.0));
        Self { message_id, recipient_id, ..Self::new(key.tenant, kind) }
    }
}

/// Numbers and inserts events, in the order given within each tenant.
pub(in crate::db) async fn append(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
    events: Vec<NewEvent<'_>>,
) -> Result<(), sqlx::Error> {
    let mut by_tenant = BTreeMap::<Uuid, Vec<NewEvent<'_>>>::new();
    for event in events {
        by_tenant.entry(event.tenant.0).or_default().push(event);
    }
    for (tenant, events) in by_tenant {
        append_to(connection, now, tenant, &events).await?;
    }
    Ok(())
}

async fn append_to(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
    tenant: Uuid,
    events: &[NewEvent<'_>],
) -> Result<(), sqlx::Error> {
    let count = i64::try_from(events.len()).unwrap_or(i64::MAX);
    let event = Columns::new(events);
    // Transactions often wait for the counter row, so the lock timeout does not apply here; the statement timeout does.
    let written = sqlx::query!(
        "WITH patient AS MATERIALIZED (SELECT set_config('lock_timeout', '0', true)),
         counter AS MATERIALIZED (SELECT take_event_numbers($1 /* tenant */, $3 /* count */) AS base FROM patient)
         INSERT INTO events (tenant_id, seq, recorded_at, type, message_id, recipient_id, attempt, response_code,
                             response_enhanced, response_text, mx, ip, tls, duration_ms, next_attempt_at, endpoint_id,
                             bounce_type, bounce_category, bounce_source, vouched, key_id)
         SELECT $1, counter.base + e.n, $2 /* now */, e.kind, e.message_id, e.recipient_id, e.attempt, e.response_code,
                e.response_enhanced, e.response_text, e.mx, e.ip, e.tls, e.duration_ms, e.next_attempt_at,
                e.endpoint_id, e.bounce_type, e.bounce_category, e.bounce_source, e.vouched, e.key_id
         FROM counter,
              unnest($4::text[], $5::uuid[], $6::uuid[], $7::smallint[],
                     $8::smallint[], $9::text[], $10::text[],
                     $11::text[], $12::text[], $13::text[], $14::integer[], $15::timestamptz[],
                     $16::uuid[], $17::text[], $18::text[], $19::text[], $20::boolean[], $21::uuid[])
              WITH ORDINALITY
                AS e (kind, message_id, recipient_id, attempt,
                      response_code, response_enhanced, response_text,
                      mx, ip, tls, duration_ms, next_attempt_at,
                      endpoint_id, bounce_type, bounce_category, bounce_source, vouched, key_id, n)
         WHERE counter.base IS NOT NULL",
        tenant,
        now,
        count,
        &event.kind as _,
        &event.message_id as _,
        &event.recipient_id as _,
        &event.attempt as _,
        &event.response_code as _,
        &event.response_enhanced as _,
        &event.response_text as _,
        &event.mx as _,
        &event.ip as _,
        &event.tls as _,
        &event.duration_ms as _,
        &event.next_attempt_at as _,
        &event.endpoint_id as _,
        &event.bounce_type as _,
        &event.bounce_category as _,
        &event.bounce_source as _,
        &event.vouched as _,
        &event.key_id as _
    )
    .execute(connection)
    .await?;
    // Without a counter row, no event was inserted: fails, so that the tenant's events are not lost silently.
    if usize::try_from(written.rows_affected()).ok() == Some(events.len()) {
        Ok(())
    } else {
        Err(sqlx::Error::RowNotFound)
    }
}

/// The events of one tenant as columns, in the order of the statement's parameters.
struct Columns<'a> {
    kind: Vec<&'static str>,
    message_id: Vec<Option<Uuid>>,
    recipient_id: Vec<Option<Uuid>>,
    attempt: Vec<Option<i16>>,
    response_code: Vec<Option<i16>>,
    response_enhanced: Vec<Option<String>>,
    response_text: Vec<Option<&'a str>>,
    mx: Vec<Option<&'a str>>,
    ip: Vec<Option<String>>,
    tls: Vec<Option<&'a str>>,
    duration_ms: Vec<Option<i32>>,
    next_attempt_at: Vec<Option<DateTime<Utc>>>,
    endpoint_id: Vec<Option<Uuid>>,
    bounce_type: Vec<Option<&'static str>>,
    bounce_category: Vec<Option<&'static str>>,
    bounce_source: Vec<Option<&'static str>>,
    vouched: Vec<Option<bool>>,
    key_id: Vec<Option<Uuid>>,
}

impl<'a> Columns<'a> {
    fn new(events: &'a [NewEvent<'_>]) -> Self {
        let outcomes = || events.iter().map(|event| event.outcome);
        let bounces = || events.iter().map(|event| event.bounce);
        // Only an attempt has a duration. Without an attempt, the outcome contains a quoted reply or a reason.
        let duration = |event: &NewEvent<'_>| event.attempt.and(event.outcome).map(|o| milliseconds(o.duration));
        Self {
            kind: events.iter().map(|event| event.kind.as_str()).collect(),
            message_id: events.iter().map(|event| event.message_id).collect(),
            recipient_id: events.iter().map(|event| event.recipient_id).collect(),
            attempt: events.iter().map(|event| event.attempt).collect(),
            response_code: outcomes().map(|o| o?.reply.stored_code()).collect(),
            response_enhanced: outcomes().map(|o| Some(o?.reply.enhanced?.to_string())).collect(),
            response_text: outcomes().map(|o| Some(o?.reply.text.as_str())).collect(),
            mx: outcomes().map(|o| o?.peer.mx.as_deref()).collect(),
            ip: outcomes().map(|o| Some(o?.peer.ip?.to_string())).collect(),
            tls: outcomes().map(|o| o?.peer.tls.as_deref()).collect(),
            duration_ms: events.iter().map(duration).collect(),
            next_attempt_at: events.iter().map(|event| event.next_attempt_at).collect(),
            endpoint_id: events.iter().map(|event| event.endpoint_id).collect(),
            bounce_type: bounces().map(|b| Some(b?.judgement.kind.as_str())).collect(),
            bounce_category: bounces().map(|b| Some(b?.judgement.category.as_str())).collect(),
            bounce_source: bounces().map(|b| Some(b?.source.as_str())).collect(),
            vouched: events.iter().map(|event| event.vouched).collect(),
            key_id: events.iter().map(|event| event.key_id).collect(),
        }
    }
}

fn milliseconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
