//! The rows of a group of messages as columns for `unnest`.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{MessageInsert, Suppressed};
use crate::db::messages::columns;
use crate::domain::message::{NewMessage, NewRecipient};
use crate::domain::unsubscribe;

/// `contents`, and the keys of `messages`.
pub(super) struct Contents<'a> {
    pub ids: Vec<Uuid>,
    pub tenants: Vec<Uuid>,
    pub texts: Vec<Option<&'a str>>,
    pub htmls: Vec<Option<&'a str>>,
    pub headers: Vec<Value>,
    pub attachments: Vec<Value>,
}

impl<'a> Contents<'a> {
    pub(super) fn new(group: &[&'a MessageInsert]) -> Self {
        Self {
            ids: group.iter().map(|i| i.message.id.0).collect(),
            tenants: group.iter().map(|i| i.tenant.0).collect(),
            texts: group.iter().map(|i| i.message.content.text.as_deref()).collect(),
            htmls: group.iter().map(|i| i.message.content.html.as_deref()).collect(),
            headers: group.iter().map(|i| columns::headers(&i.message)).collect(),
            attachments: group.iter().map(|i| columns::attachments(&i.message)).collect(),
        }
    }
}

/// `messages`, except their keys.
pub(super) struct Messages<'a> {
    pub created: Vec<DateTime<Utc>>,
    pub streams: Vec<&'a str>,
    pub from_addresses: Vec<String>,
    pub from_names: Vec<Option<&'a str>>,
    pub reply_to: Vec<Value>,
    pub subjects: Vec<&'a str>,
    pub tags: Vec<Value>,
    pub metadata: Vec<Value>,
    pub scheduled: Vec<Option<DateTime<Utc>>>,
    pub expires: Vec<Option<DateTime<Utc>>>,
    pub on_uncertain: Vec<&'a str>,
    pub sizes: Vec<i64>,
    pub ignore_suppression: Vec<bool>,
    pub may_carry_link: Vec<bool>,
}

impl<'a> Messages<'a> {
    pub(super) fn new(group: &[&'a MessageInsert]) -> Self {
        let messages = || group.iter().map(|intake| &intake.message);
        // An unsubscribe link is for one recipient; several recipients would each need a separate message.
        let may_carry_link = |m: &NewMessage| m.recipients.len() == 1 && !unsubscribe::is_in(&m.content.headers);
        Self {
            created: messages().map(|m| m.created_at).collect(),
            streams: messages().map(|m| m.stream.as_str()).collect(),
            from_addresses: messages().map(|m| m.from.address.to_string()).collect(),
            from_names: messages().map(|m| m.from.name.as_deref()).collect(),
            reply_to: messages().map(|m| columns::reply_to(&m.reply_to)).collect(),
            subjects: messages().map(|m| m.subject.as_str()).collect(),
            tags: messages().map(|m| json!(m.tags)).collect(),
            metadata: messages().map(|m| json!(m.metadata)).collect(),
            scheduled: messages().map(|m| m.scheduled_at).collect(),
            expires: messages().map(|m| m.expires_at).collect(),
            on_uncertain: messages().map(|m| m.on_uncertain.as_str()).collect(),
            sizes: messages().map(|m| i64::try_from(m.size()).unwrap_or(i64::MAX)).collect(),
            ignore_suppression: messages().map(|m| m.ignore_suppression).collect(),
            may_carry_link: messages().map(may_carry_link).collect(),
        }
    }
}

/// `recipients`.
pub(super) struct Recipients<'a> {
    pub messages: Vec<Uuid>,
    pub ids: Vec<Uuid>,
    pub tenants: Vec<Uuid>,
    pub positions: Vec<i16>,
    pub kinds: Vec<&'a str>,
    pub addresses: Vec<String>,
    pub names: Vec<Option<&'a str>>,
    /// For suppressed recipients: when they ended, and the recorded reply text.
    pub finished: Vec<Option<DateTime<Utc>>>,
    pub words: Vec<Option<&'a str>>,
}

impl<'a> Recipients<'a> {
    pub(super) fn new(group: &[&'a MessageInsert], suppressed: &'a Suppressed) -> Self {
        let rows: Vec<(&MessageInsert, i16, &NewRecipient)> = group
            .iter()
            .flat_map(|intake| {
                (0i16..).zip(&intake.message.recipients).map(move |(n, recipient)| (*intake, n, recipient))
            })
            .collect();
        let ended = |recipient: &NewRecipient| suppressed.get(&recipient.id);
        Self {
            messages: rows.iter().map(|(intake, ..)| intake.message.id.0).collect(),
            ids: rows.iter().map(|(.., recipient)| recipient.id.0).collect(),
            tenants: rows.iter().map(|(intake, ..)| intake.tenant.0).collect(),
            positions: rows.iter().map(|(_, position, _)| *position).collect(),
            kinds: rows.iter().map(|(.., recipient)| recipient.kind.as_str()).collect(),
            addresses: rows.iter().map(|(.., recipient)| recipient.mailbox.address.to_string()).collect(),
            names: rows.iter().map(|(.., recipient)| recipient.mailbox.name.as_deref()).collect(),
            finished: rows.iter().map(|(intake, _, r)| ended(r).map(|_| intake.message.created_at)).collect(),
            words: rows.iter().map(|(.., r)| ended(r).map(|outcome| &*outcome.reply.text)).collect(),
        }
    }
}

/// `queue`, and the leases offered to workers.
pub(super) struct Queue {
    pub messages: Vec<Uuid>,
    pub recipients: Vec<Uuid>,
    pub tenants: Vec<Uuid>,
    pub lanes: Vec<i64>,
    pub due: Vec<DateTime<Utc>>,
    pub expires: Vec<Option<DateTime<Utc>>>,
    /// Index of the offer below, counted from 1.
    pub offers: Vec<Option<i32>>,
    /// Each distinct pair of worker and lane.
    pub offering: Vec<Uuid>,
    pub offered: Vec<i64>,
}

impl Queue {
    pub(super) fn new(group: &[&MessageInsert], suppressed: &Suppressed) -> Self {
        let rows: Vec<(&MessageInsert, &NewRecipient, i64)> = group
            .iter()
            .flat_map(|intake| {
                intake.message.recipients.iter().zip(&intake.lanes).map(move |(r, lane)| (*intake, r, lane.id))
            })
            .filter(|(_, recipient, _)| !suppressed.contains_key(&recipient.id))
            .collect();
        let offer = |intake: &MessageInsert, lane: i64| Some((intake.taker?, lane));
        let places: BTreeMap<(Uuid, i64), i32> = rows
            .iter()
            .filter_map(|(intake, _, lane)| offer(intake, *lane))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .zip(1..)
            .collect();
        let (offering, offered) = places.keys().copied().unzip();
        Self {
            messages: rows.iter().map(|(intake, ..)| intake.message.id.0).collect(),
            recipients: rows.iter().map(|(_, recipient, _)| recipient.id.0).collect(),
            tenants: rows.iter().map(|(intake, ..)| intake.tenant.0).collect(),
            lanes: rows.iter().map(|(.., lane)| *lane).collect(),
            due: rows.iter().map(|(intake, ..)| intake.due_at()).collect(),
            expires: rows.iter().map(|(intake, ..)| intake.message.expires_at).collect(),
            offers: rows.iter().map(|(intake, _, lane)| places.get(&offer(intake, *lane)?).copied()).collect(),
            offering,
            offered,
        }
    }
}
