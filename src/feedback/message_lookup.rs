//! Finds the message that a report is about.

use std::net::SocketAddr;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::db::delivery_reports::{self, ReportedMessageRecipient};
use crate::db::messages::message_ids;
use crate::db::{Db, DbError};
use crate::domain::address::return_path::{ReturnPaths, Token, TokenFault};
use crate::domain::bounce::report::Report;
use crate::domain::id::{MessageId, TenantId};
use crate::domain::message::message_id::parse_derived;

/// How a report was received.
#[derive(Debug, Clone, Copy)]
pub enum Origin<'a> {
    /// Over SMTP, from an unauthenticated client.
    Smtp {
        /// The envelope's recipients.
        to: &'a [String],
        /// The client.
        peer: SocketAddr,
    },
    /// From a caller with an admin key of this tenant.
    Key {
        /// The tenant of the key.
        tenant: TenantId,
        /// The envelope's recipient, if the caller knows it.
        to: Option<&'a str>,
    },
}

impl Origin<'_> {
    /// Returns the SMTP client.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        if let Self::Smtp { peer, .. } = self { Some(*peer) } else { None }
    }
}

/// How the message was identified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// By the return path to which the report was sent.
    Envelope,
    /// By a return path or an envelope id in the report.
    Reference,
    /// By its Message-ID, which is not secret, and the recipient's address.
    MessageId,
}

impl Basis {
    /// Returns the value used in JSON and documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Envelope => "envelope",
            Self::Reference => "reference",
            Self::MessageId => "message_id",
        }
    }
}

/// Why the message was not found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotFound {
    /// There is no valid token.
    Token(TokenFault),
    /// The message is not stored, or belongs to another tenant.
    Message,
}

impl NotFound {
    /// Returns the value used in JSON and documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token(TokenFault::Missing) => "no_return_path",
            Self::Token(TokenFault::Forged) => "forged_return_path",
            Self::Token(TokenFault::Expired) => "expired_return_path",
            Self::Message => "no_message",
        }
    }
}

/// The message of a report.
#[derive(Debug)]
pub(super) struct FoundMessage {
    pub message: MessageId,
    pub tenant: Uuid,
    pub basis: Basis,
    /// The position of the recipient that the return path identifies.
    pub position: Option<u16>,
    /// All recipients, in the order of the request; at least one.
    pub recipients: Vec<ReportedMessageRecipient>,
}

pub(super) async fn message(
    db: &Db,
    paths: Option<&ReturnPaths>,
    origin: &Origin<'_>,
    report: &Report,
    now: DateTime<Utc>,
) -> Result<Result<FoundMessage, NotFound>, DbError> {
    let (message, position, basis) = match by_token(paths, origin, report, now) {
        Ok((token, basis)) => (token.message, token.position, basis),
        Err(fault) => match by_message_id(db, origin, report).await? {
            Some(message) => (message, None, Basis::MessageId),
            None => return Ok(Err(NotFound::Token(fault))),
        },
    };
    let tenant = if let Origin::Key { tenant, .. } = origin { Some(*tenant) } else { None };
    let recipients = delivery_reports::addressees(db, message, tenant).await?;
    let Some(tenant) = recipients.first().map(|row| row.tenant_id) else { return Ok(Err(NotFound::Message)) };
    Ok(Ok(FoundMessage { message, tenant, basis, position, recipients }))
}

/// Returns the first valid token, from the envelope or else from the report. If there is none, returns the most
/// specific fault.
fn by_token(
    paths: Option<&ReturnPaths>,
    origin: &Origin<'_>,
    report: &Report,
    now: DateTime<Utc>,
) -> Result<(Token, Basis), TokenFault> {
    let paths = paths.ok_or(TokenFault::Missing)?;
    let to: Vec<&str> = match origin {
        Origin::Smtp { to, .. } => to.iter().map(String::as_str).collect(),
        Origin::Key { to, .. } => to.iter().copied().collect(),
    };
    let envelope = to.into_iter().map(|to| (to, Basis::Envelope));
    let references = report.references.iter().map(|reference| (reference.as_str(), Basis::Reference));
    let mut worst = TokenFault::Missing;
    for (text, basis) in envelope.chain(references) {
        match paths.find(text, now) {
            Ok(token) => return Ok((token, basis)),
            Err(fault) => worst = worst.max(fault),
        }
    }
    Err(worst)
}

/// Returns the message with the Message-ID in the report, if the caller has an admin key. A forged or expired return
/// path is ignored, because the key vouches for the report. A Message-ID that several messages have identifies none of
/// them.
async fn by_message_id(db: &Db, origin: &Origin<'_>, report: &Report) -> Result<Option<MessageId>, DbError> {
    let (Origin::Key { tenant, .. }, Some(id)) = (origin, report.original_message_id.as_deref()) else {
        return Ok(None);
    };
    let found = message_ids::find(db, *tenant, id).await?;
    let only = <[Uuid; 1]>::try_from(found).ok().map(|[id]| MessageId(id));
    // Some servers change the domain of a Message-ID; the message id before the `@` still identifies the message.
    Ok(only.or_else(|| derived_from(id)))
}

/// Returns the message that a Message-ID is derived from.
fn derived_from(id: &str) -> Option<MessageId> {
    parse_derived(id).map(|(message, _)| message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_message_id_identifies_a_message() {
        let id = MessageId::new(DateTime::UNIX_EPOCH);
        for text in [format!("{}@acme.test", id.0.simple()), format!("<{}@x>", id.0.simple())] {
            assert_eq!(derived_from(&text), Some(id));
        }
        for text in [format!("{}@acme.test", id.0), id.0.simple().to_string(), "x@y".into(), String::new()] {
            assert_eq!(derived_from(&text), None);
        }
    }
}
