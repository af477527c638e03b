//! Appends events. Every event is created by a constructor of [`NewEvent`], so only this file decides which columns an
//! event of each type sets.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::bounce::Bounce;
use crate::domain::delivery::Transition;
use crate::domain::event::EventType;
use crate::domain::id::{EndpointId, KeyId, MessageId, ReceivedId, RecipientKey, TenantId};
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
    /// The received message, if the event is about one.
    received_id: Option<Uuid>,
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

    /// An API request erased the content of a message.
    pub fn redacted(tenant: TenantId, message: MessageId) -> Self {
        Self { message_id: Some(message.0), ..Self::new(tenant, EventType::Redacted) }
    }
}

/// Events of a message that was not accepted.
impl<'a> NewEvent<'a> {
    /// A message that was sent from SQL was rejected; `outcome` contains the reason.
    pub fn rejected(tenant: TenantId, message: MessageId, outcome: &'a Outcome) -> Self {
        Self { message_id: Some(message.0), outcome: Some(outcome), ..Self::new(tenant, EventType::Rejected) }
    }
}

/// Events of a received message.
impl NewEvent<'_> {
    /// A message was received for an inbound route.
    pub fn received(tenant: TenantId, received: ReceivedId) -> Self {
        Self { received_id: Some(received.0), ..Self::new(tenant, EventType::Received) }
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
            received_id: None,
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

/// Numbers and inserts events, in the order given within each tenant, in one statement for all tenants.
pub(in crate::db) async fn append(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
    mut events: Vec<NewEvent<'_>>,
) -> Result<(), sqlx::Error> {
    if events.is_empty() {
        return Ok(());
    }
    // In the order of the tenants, so that two transactions never wait for each other's counters. The sort is stable.
    events.sort_by_key(|event| event.tenant.0);
    let (counted, event) = (Counted::new(&events), Columns::new(&events));
    // Transactions often wait for the counter rows, so the lock timeout does not apply here; the statement timeout does.
    let written = sqlx::query!(
        "WITH patient AS MATERIALIZED (SELECT set_config('lock_timeout', '0', true)),
         counter AS MATERIALIZED (SELECT take_event_numbers($1::uuid[] /* tenant_id */, $2::bigint[] /* count */) AS bases FROM patient)
         INSERT INTO events (tenant_id, seq, recorded_at, type, message_id, recipient_id, attempt, response_code,
                             response_enhanced, response_text, mx, ip, tls, duration_ms, next_attempt_at, endpoint_id,
                             bounce_type, bounce_category, bounce_source, vouched, key_id, received_id)
         SELECT ($1::uuid[])[e.tenant], counter.bases[e.tenant] + e.n, $3 /* now */, e.kind, e.message_id, e.recipient_id,
                e.attempt, e.response_code, e.response_enhanced, e.response_text, e.mx, e.ip, e.tls, e.duration_ms,
                e.next_attempt_at, e.endpoint_id, e.bounce_type, e.bounce_category, e.bounce_source, e.vouched, e.key_id,
                e.received_id
         FROM counter,
              unnest($4::integer[], $5::bigint[], $6::text[], $7::uuid[], $8::uuid[], $9::smallint[],
                     $10::smallint[], $11::text[], $12::text[],
                     $13::text[], $14::text[], $15::text[], $16::integer[], $17::timestamptz[],
                     $18::uuid[], $19::text[], $20::text[], $21::text[], $22::boolean[], $23::uuid[],
                     $24::uuid[])
                AS e (tenant, n, kind, message_id, recipient_id, attempt,
                      response_code, response_enhanced, response_text,
                      mx, ip, tls, duration_ms, next_attempt_at,
                      endpoint_id, bounce_type, bounce_category, bounce_source, vouched, key_id, received_id)
         WHERE counter.bases[e.tenant] IS NOT NULL",
        &counted.tenant_id,
        &counted.count,
        now,
        &event.tenant,
        &event.n,
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
        &event.key_id as _,
        &event.received_id as _
    )
    .execute(connection)
    .await?;
    // If a tenant has no counter row, no event was inserted: fails, so that its events are not lost silently.
    if usize::try_from(written.rows_affected()).ok() == Some(events.len()) {
        Ok(())
    } else {
        Err(sqlx::Error::RowNotFound)
    }
}

/// The tenants of events, in the order of their ids, with the number of events of each.
struct Counted {
    tenant_id: Vec<Uuid>,
    count: Vec<i64>,
}

impl Counted {
    /// Counts the events, which are in the order of their tenants.
    fn new(events: &[NewEvent<'_>]) -> Self {
        let groups = events.chunk_by(|event, next| event.tenant == next.tenant);
        let count = |group: &[NewEvent<'_>]| i64::try_from(group.len()).unwrap_or(i64::MAX);
        let (tenant_id, count) = groups.filter_map(|group| Some((group.first()?.tenant.0, count(group)))).unzip();
        Self { tenant_id, count }
    }
}

/// Events as columns, in the order of the statement's parameters.
struct Columns<'a> {
    /// The position of the event's tenant among the tenants, from 1.
    tenant: Vec<i32>,
    /// The position of the event among the events of its tenant, from 1.
    n: Vec<i64>,
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
    received_id: Vec<Option<Uuid>>,
}

impl<'a> Columns<'a> {
    /// Converts events, which are in the order of their tenants.
    fn new(events: &'a [NewEvent<'_>]) -> Self {
        let (tenant, n) = (1..)
            .zip(events.chunk_by(|event, next| event.tenant == next.tenant))
            .flat_map(|(tenant, group)| (1..).zip(group).map(move |(n, _)| (tenant, n)))
            .unzip();
        let outcomes = || events.iter().map(|event| event.outcome);
        let bounces = || events.iter().map(|event| event.bounce);
        // Only an attempt has a duration. Without an attempt, the outcome contains a quoted reply or a reason.
        let duration = |event: &NewEvent<'_>| event.attempt.and(event.outcome).map(|o| milliseconds(o.duration));
        Self {
            tenant,
            n,
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
            received_id: events.iter().map(|event| event.received_id).collect(),
        }
    }
}

fn milliseconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
