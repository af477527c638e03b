//! The statement that inserts the rows of a group of messages, and its parameters as columns. Each field has the name
//! of the column that it is bound to. The fields of a struct are in the order of the parameters.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{MessageInsert, Suppressed};
use crate::db::messages::columns;
use crate::domain::message::{NewMessage, NewRecipient, unsubscribe};

/// Inserts all rows in one statement, because each statement costs a round trip. Returns the ids of messages that carry
/// an unsubscribe link, and of recipients leased to their direct consumer. A recipient is leased if its lane and stream
/// are open, its tenant is not suspended, the lane has no due rows, and neither has a limit that a claim would check. A worker that was declared
/// dead gets no leases.
#[expect(clippy::too_many_lines, reason = "it is one statement with its parameters")]
pub(super) async fn insert(
    connection: &mut PgConnection,
    group: &[&MessageInsert],
    suppressed: &Suppressed,
    now: DateTime<Utc>,
) -> Result<HashSet<Uuid>, sqlx::Error> {
    let (content, message) = (Contents::new(group), Messages::new(group));
    let (recipient, queue) = (Recipients::new(group, suppressed, now), Queue::new(group, suppressed));
    let offer = &queue.offers;
    // The subquery on `lanes` finds a lane's newest row version at the end of the index, as `lower_lanes` does.
    let marked = sqlx::query_scalar!(
        r#"WITH content AS (
               INSERT INTO contents (id, tenant_id, text, html, headers, attachments)
               SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::jsonb[], $6::jsonb[])
                          AS u (id, tenant_id, text, html, headers, attachments)),
           message AS (
               INSERT INTO messages (id, content_id, tenant_id, created_at, stream, from_address, from_name, reply_to, subject,
                                     tags, metadata, scheduled_at, expires_at, on_uncertain, size, ignore_suppression,
                                     template_id, template_version, bulk_id, variables, key_id, received_id,
                                     inbound_route_id, unsubscribe)
               SELECT id, coalesce(content_id, id), u.tenant_id, u.created_at, stream, from_address, from_name, reply_to, subject,
                      tags, metadata,
                      scheduled_at, expires_at, on_uncertain, size, ignore_suppression, template_id, template_version,
                      bulk_id, variables, key_id, received_id, inbound_route_id, u.may_carry_link AND coalesce(s.unsubscribe, false)
               FROM unnest($42::uuid[], $43::uuid[], $7::timestamptz[], $8::text[],
                           $9::text[], $10::text[], $11::jsonb[], $12::text[], $13::jsonb[], $14::jsonb[],
                           $15::timestamptz[], $16::timestamptz[], $17::text[],
                           $18::bigint[], $19::boolean[], $20::boolean[], $40::uuid[], $41::integer[],
                           $44::uuid[], $45::uuid[], $46::jsonb[], $47::uuid[], $48::uuid[], $49::uuid[])
                      AS u (id, tenant_id, created_at, stream,
                            from_address, from_name, reply_to, subject, tags, metadata,
                            scheduled_at, expires_at, on_uncertain,
                            size, ignore_suppression, may_carry_link, template_id, template_version,
                            content_id, bulk_id, variables, key_id, received_id, inbound_route_id)
               LEFT JOIN streams s ON s.tenant_id = u.tenant_id AND s.name = u.stream
               RETURNING id, unsubscribe),
           recipient AS (
               INSERT INTO recipients (message_id, id, tenant_id, position, kind, address, name, status, finished_at,
                                       response_text)
               SELECT message_id, id, tenant_id, position, kind, address, name,
                      CASE WHEN finished_at IS NULL THEN 'queued' WHEN response_text IS NULL THEN 'canceled'
                           ELSE 'suppressed' END, finished_at, response_text
               FROM unnest($21::uuid[], $22::uuid[], $23::uuid[], $24::smallint[], $25::text[], $26::text[], $27::text[],
                           $28::timestamptz[], $29::text[])
                      AS u (message_id, id, tenant_id, position, kind, address, name,
                            finished_at, response_text)),
           alive AS MATERIALIZED (SELECT id FROM workers WHERE id = ANY ($37) FOR KEY SHARE),
           free AS MATERIALIZED (
               SELECT array_agg(open.worker_id ORDER BY offer.n) AS workers
               FROM unnest($37::uuid[], $38::bigint[]) WITH ORDINALITY
                      AS offer (worker_id, lane_id, n)
               LEFT JOIN LATERAL (
                   SELECT alive.id AS worker_id
                   FROM alive
                   CROSS JOIN LATERAL (
                       SELECT * FROM lanes WHERE id >= offer.lane_id AND id <= offer.lane_id ORDER BY id DESC LIMIT 1) l
                   JOIN streams s ON s.tenant_id = l.tenant_id AND s.name = l.stream
                   JOIN tenants t ON t.id = l.tenant_id AND t.suspended_at IS NULL
                   WHERE alive.id = offer.worker_id
                     AND l.ready_at > $39 /* now */ AND l.open_at <= $39 AND s.open_at <= $39
                     AND l.paused_at IS NULL AND s.paused_at IS NULL AND l.blocked_since IS NULL
                     AND l.rate IS NULL AND l.learned_rate IS NULL AND l.connections IS NULL
                     AND l.mails_per_connection IS NULL AND s.rate IS NULL AND s.concurrency IS NULL) open ON true),
           queued AS (
               INSERT INTO queue (message_id, recipient_id, tenant_id, lane_id, due_at, first_due_at, expires_at, lease)
               SELECT u.message_id, u.recipient_id, u.tenant_id, u.lane_id, u.due_at, u.due_at, u.expires_at,
                      (SELECT workers FROM free)[u.offer]
               FROM unnest($30::uuid[], $31::uuid[], $32::uuid[], $33::bigint[],
                           $34::timestamptz[], $35::timestamptz[], $36::integer[])
                      AS u (message_id, recipient_id, tenant_id, lane_id,
                            due_at, expires_at, offer)
               RETURNING recipient_id, lease)
           SELECT recipient_id AS "id!" FROM queued WHERE lease IS NOT NULL
           UNION ALL SELECT id FROM message WHERE unsubscribe"#,
        &content.id,
        &content.tenant_id,
        &content.text as _,
        &content.html as _,
        &content.headers,
        &content.attachments,
        &message.created_at,
        &message.stream as _,
        &message.from_address,
        &message.from_name as _,
        &message.reply_to,
        &message.subject as _,
        &message.tags,
        &message.metadata,
        &message.scheduled_at as _,
        &message.expires_at as _,
        &message.on_uncertain as _,
        &message.size,
        &message.ignore_suppression,
        &message.may_carry_link,
        &recipient.message_id,
        &recipient.id,
        &recipient.tenant_id,
        &recipient.position,
        &recipient.kind as _,
        &recipient.address,
        &recipient.name as _,
        &recipient.finished_at as _,
        &recipient.response_text as _,
        &queue.message_id,
        &queue.recipient_id,
        &queue.tenant_id,
        &queue.lane_id,
        &queue.due_at,
        &queue.expires_at as _,
        &queue.offer as _,
        &offer.worker_id,
        &offer.lane_id,
        now,
        &message.template_id as _,
        &message.template_version as _,
        &message.id,
        &message.tenant_id,
        &message.content_id as _,
        &message.bulk_id as _,
        &message.variables as _,
        &message.key_id as _,
        &message.received_id as _,
        &message.inbound_route_id as _
    )
    .fetch_all(connection)
    .await?;
    Ok(marked.into_iter().collect())
}

/// Rows of `contents`, for messages that have their own content.
struct Contents<'a> {
    id: Vec<Uuid>,
    tenant_id: Vec<Uuid>,
    text: Vec<Option<&'a str>>,
    html: Vec<Option<&'a str>>,
    headers: Vec<Value>,
    attachments: Vec<Value>,
}

impl<'a> Contents<'a> {
    fn new(group: &[&'a MessageInsert]) -> Self {
        // The content of a bulk is inserted with the bulk.
        let own = || group.iter().filter(|insert| insert.message.bulk.is_none());
        Self {
            id: own().map(|i| i.message.id.0).collect(),
            tenant_id: own().map(|i| i.tenant.0).collect(),
            text: own().map(|i| i.message.content.text.as_deref()).collect(),
            html: own().map(|i| i.message.content.html.as_deref()).collect(),
            headers: own().map(|i| columns::headers(&i.message.content.headers)).collect(),
            attachments: own().map(|i| columns::attachments_of(&i.message)).collect(),
        }
    }
}

/// Rows of `messages`.
struct Messages<'a> {
    created_at: Vec<DateTime<Utc>>,
    stream: Vec<&'a str>,
    from_address: Vec<String>,
    from_name: Vec<Option<&'a str>>,
    reply_to: Vec<Value>,
    subject: Vec<&'a str>,
    tags: Vec<Value>,
    metadata: Vec<Value>,
    scheduled_at: Vec<Option<DateTime<Utc>>>,
    expires_at: Vec<Option<DateTime<Utc>>>,
    on_uncertain: Vec<&'a str>,
    size: Vec<i64>,
    ignore_suppression: Vec<bool>,
    may_carry_link: Vec<bool>,
    template_id: Vec<Option<Uuid>>,
    template_version: Vec<Option<i32>>,
    id: Vec<Uuid>,
    tenant_id: Vec<Uuid>,
    /// `None`: the content has the message's id.
    content_id: Vec<Option<Uuid>>,
    bulk_id: Vec<Option<Uuid>>,
    variables: Vec<Option<&'a Value>>,
    key_id: Vec<Option<Uuid>>,
    received_id: Vec<Option<Uuid>>,
    inbound_route_id: Vec<Option<Uuid>>,
}

impl<'a> Messages<'a> {
    fn new(group: &[&'a MessageInsert]) -> Self {
        let messages = || group.iter().map(|insert| &insert.message);
        // An unsubscribe link identifies one recipient, so a message to several recipients carries none. A message that is passed on
        // is not changed, and a report is no message of the application.
        let may_carry_link = |m: &NewMessage| {
            let is_own = m.relay.is_none() && !m.has_null_sender();
            is_own && m.recipients.len() == 1 && !unsubscribe::has_link(&m.content.headers)
        };
        Self {
            created_at: messages().map(|m| m.created_at).collect(),
            stream: messages().map(|m| m.stream.as_str()).collect(),
            from_address: messages().map(|m| m.from.address.to_string()).collect(),
            from_name: messages().map(|m| m.from.name.as_deref()).collect(),
            reply_to: messages().map(|m| columns::reply_to(&m.reply_to)).collect(),
            subject: messages().map(|m| m.subject.as_str()).collect(),
            tags: messages().map(|m| json!(m.tags)).collect(),
            metadata: messages().map(|m| json!(m.metadata)).collect(),
            scheduled_at: messages().map(|m| m.scheduled_at).collect(),
            expires_at: messages().map(|m| m.expires_at).collect(),
            on_uncertain: messages().map(|m| m.on_uncertain.as_str()).collect(),
            size: messages().map(|m| i64::try_from(m.size()).unwrap_or(i64::MAX)).collect(),
            ignore_suppression: messages().map(|m| m.ignore_suppression).collect(),
            may_carry_link: messages().map(may_carry_link).collect(),
            template_id: messages().map(|m| m.template.map(|used| used.template.0)).collect(),
            template_version: messages().map(|m| m.template.map(|used| used.version)).collect(),
            id: messages().map(|m| m.id.0).collect(),
            tenant_id: group.iter().map(|insert| insert.tenant.0).collect(),
            content_id: messages().map(|m| Some(m.bulk.as_ref()?.content)).collect(),
            bulk_id: messages().map(|m| Some(m.bulk.as_ref()?.bulk.0)).collect(),
            variables: messages().map(|m| m.bulk.as_ref()?.variables.as_ref()).collect(),
            key_id: group.iter().map(|insert| Some(insert.key?.0)).collect(),
            received_id: messages().map(|m| Some(m.relay?.received.0)).collect(),
            inbound_route_id: messages().map(|m| Some(m.relay?.route?.0)).collect(),
        }
    }
}

/// Rows of `recipients`.
struct Recipients<'a> {
    message_id: Vec<Uuid>,
    id: Vec<Uuid>,
    tenant_id: Vec<Uuid>,
    position: Vec<i16>,
    kind: Vec<&'a str>,
    address: Vec<String>,
    name: Vec<Option<&'a str>>,
    /// For suppressed and canceled recipients: the time of their end state; and for suppressed ones, the reason.
    finished_at: Vec<Option<DateTime<Utc>>>,
    response_text: Vec<Option<&'a str>>,
}

impl<'a> Recipients<'a> {
    fn new(group: &[&'a MessageInsert], suppressed: &'a Suppressed, now: DateTime<Utc>) -> Self {
        let rows: Vec<(&MessageInsert, i16, &NewRecipient)> = group
            .iter()
            .flat_map(|insert| {
                (0i16..).zip(&insert.message.recipients).map(move |(n, recipient)| (*insert, n, recipient))
            })
            .collect();
        let reason = |recipient: &NewRecipient| suppressed.get(&recipient.id);
        let end = |insert: &MessageInsert, recipient: &NewRecipient| {
            if insert.is_canceled { Some(now) } else { reason(recipient).map(|_| insert.message.created_at) }
        };
        Self {
            message_id: rows.iter().map(|(insert, ..)| insert.message.id.0).collect(),
            id: rows.iter().map(|(.., recipient)| recipient.id.0).collect(),
            tenant_id: rows.iter().map(|(insert, ..)| insert.tenant.0).collect(),
            position: rows.iter().map(|(_, position, _)| *position).collect(),
            kind: rows.iter().map(|(.., recipient)| recipient.kind.as_str()).collect(),
            address: rows.iter().map(|(.., recipient)| recipient.mailbox.address.to_string()).collect(),
            name: rows.iter().map(|(.., recipient)| recipient.mailbox.name.as_deref()).collect(),
            finished_at: rows.iter().map(|(insert, _, r)| end(insert, r)).collect(),
            response_text: rows.iter().map(|(.., r)| reason(r).map(|outcome| &*outcome.reply.text)).collect(),
        }
    }
}

/// Rows of `queue`, and the leases to direct consumers.
struct Queue {
    message_id: Vec<Uuid>,
    recipient_id: Vec<Uuid>,
    tenant_id: Vec<Uuid>,
    lane_id: Vec<i64>,
    due_at: Vec<DateTime<Utc>>,
    expires_at: Vec<Option<DateTime<Utc>>>,
    /// Position in `offers`, counted from 1.
    offer: Vec<Option<i32>>,
    offers: Offers,
}

/// The distinct pairs of a worker and a lane, for recipients with a direct consumer.
struct Offers {
    worker_id: Vec<Uuid>,
    lane_id: Vec<i64>,
}

impl Queue {
    fn new(group: &[&MessageInsert], suppressed: &Suppressed) -> Self {
        let rows: Vec<(&MessageInsert, &NewRecipient, i64)> = group
            .iter()
            .flat_map(|insert| {
                insert.message.recipients.iter().zip(&insert.lanes).map(move |(r, lane)| (*insert, r, lane.id))
            })
            .filter(|(insert, recipient, _)| !insert.is_canceled && !suppressed.contains_key(&recipient.id))
            .collect();
        let offer = |insert: &MessageInsert, lane: i64| Some((insert.direct_consumer?, lane));
        let positions: BTreeMap<(Uuid, i64), i32> = rows
            .iter()
            .filter_map(|(insert, _, lane)| offer(insert, *lane))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .zip(1..)
            .collect();
        let (worker_id, lane_id) = positions.keys().copied().unzip();
        Self {
            message_id: rows.iter().map(|(insert, ..)| insert.message.id.0).collect(),
            recipient_id: rows.iter().map(|(_, recipient, _)| recipient.id.0).collect(),
            tenant_id: rows.iter().map(|(insert, ..)| insert.tenant.0).collect(),
            lane_id: rows.iter().map(|(.., lane)| *lane).collect(),
            due_at: rows.iter().map(|(insert, ..)| insert.due_at()).collect(),
            expires_at: rows.iter().map(|(insert, ..)| insert.message.expires_at).collect(),
            offer: rows.iter().map(|(insert, _, lane)| positions.get(&offer(insert, *lane)?).copied()).collect(),
            offers: Offers { worker_id, lane_id },
        }
    }
}
