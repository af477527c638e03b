//! Threads: sets the headers by which mail clients show a message below the one that it replies to (RFC 5322 §3.6.4).

use serde::Deserialize as _;

use crate::db::messages::message_ids::{self, ParentRow};
use crate::db::{Db, DbError};
use crate::domain::id::TenantId;
use crate::domain::message::{Header, NewMessage, message_id};

/// Sets `In-Reply-To` and `References` of a message with `in_reply_to`. Returns `false` if there is no such message from
/// a sender for which `can_see` returns `true`.
pub(super) async fn set_headers(
    db: &Db,
    tenant: TenantId,
    message: &mut NewMessage,
    can_see: impl Fn(&str) -> bool,
) -> Result<bool, DbError> {
    let Some(id) = message.in_reply_to else { return Ok(true) };
    let parent = message_ids::parent(db, tenant, id).await?;
    let Some(parent) = parent.filter(|parent| can_see(&parent.from_address)) else { return Ok(false) };
    let ParentRow { from_address, internet_message_id, headers } = parent;
    let message_id = message_id::header_value(id, internet_message_id.as_deref(), &from_address);
    // If this version cannot parse the parent's headers, `References` only lists fewer ancestors.
    let headers = headers.and_then(|headers| Vec::<Header>::deserialize(headers).ok()).unwrap_or_default();
    let value = |name: &str| {
        let found = headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.map(|header| header.value.as_str())
    };
    let references = message_id::references(value("References"), value("In-Reply-To"), &message_id);
    let set = [("In-Reply-To", message_id), ("References", references)];
    message.content.headers.extend(set.map(|(name, value)| Header { name: name.into(), value }));
    Ok(true)
}
