//! The content of returned messages: DSNs (RFC 3464), complaints (RFC 5965), automatic replies, and others.

use super::Judgement;
use crate::domain::outcome::Reply;

/// The kind of a returned message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportKind {
    /// A delivery status notification, in the standard format or another one.
    Dsn,
    /// A feedback report: a recipient reported a message as spam.
    Complaint,
    /// An automatic reply such as a vacation notice. It says nothing about the delivery.
    AutoReply,
    /// None of these.
    Unknown,
}

impl ReportKind {
    /// Returns the value's name in JSON and documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dsn => "dsn",
            Self::Complaint => "complaint",
            Self::AutoReply => "auto_reply",
            Self::Unknown => "unknown",
        }
    }
}

/// The action that a report states for a recipient (RFC 3464 §2.3.3), or a complaint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Delivery failed permanently.
    Failed,
    /// Delivery is delayed.
    Delayed,
    /// The message was delivered to the mailbox.
    Delivered,
    /// The message was relayed to a system that sends no DSNs.
    Relayed,
    /// The message was delivered to a mailing list or to several addresses.
    Expanded,
    /// The recipient reported the message as spam.
    Complained,
}

impl Action {
    /// Returns the value's name in JSON and documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Delivered => "delivered",
            Self::Relayed => "relayed",
            Self::Expanded => "expanded",
            Self::Complained => "complained",
        }
    }
}

/// A report's statement about one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportedRecipient {
    /// The recipient's address at the reporting server (Final-Recipient).
    pub recipient: String,
    /// The address that the message was sent to, if the report has it (Original-Recipient, ORCPT).
    pub original: Option<String>,
    /// The mailbox that failed, if it differs from `recipient`: a member of an alias, or a forwarding target.
    pub behind: Option<String>,
    /// The action that the report states.
    pub action: Action,
    /// The code, enhanced code and text of the diagnostic.
    pub reply: Reply,
    /// The classification of a failure; `None` if the action is not a failure.
    pub judgement: Option<Judgement>,
}

/// The content of a returned message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The kind of the returned message.
    pub kind: ReportKind,
    /// The rule that recognised it, such as `rfc3464` or `qmail`.
    pub rule: &'static str,
    /// The recipients that the report is about: at least one in a DSN, none in an automatic reply, and none in a
    /// complaint whose address the provider redacted.
    pub recipients: Vec<ReportedRecipient>,
    /// Addresses and ids that may contain the signed token of the original message, the most trustworthy first:
    /// Original-Envelope-Id, the original message's Return-Path, the report's own To.
    pub references: Vec<String>,
    /// The `Message-ID` of the original message, without angle brackets.
    pub original_message_id: Option<String>,
}

impl Report {
    /// Creates the report for a message of unknown kind.
    pub fn unknown() -> Self {
        Self {
            kind: ReportKind::Unknown,
            rule: "none",
            recipients: Vec::new(),
            references: Vec::new(),
            original_message_id: None,
        }
    }
}
