//! Returned messages: a DSN (RFC 3464), a complaint (RFC 5965), an automatic reply, or none of these.

use super::bounce::Judgement;
use super::outcome::Reply;

/// The kind of a returned message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportKind {
    /// A delivery status notification, standard or not.
    Dsn,
    /// A recipient reported a message as spam.
    Complaint,
    /// An automatic reply such as a vacation notice; says nothing about the delivery.
    AutoReply,
    /// None of these.
    Unknown,
}

impl ReportKind {
    /// Returns the word in JSON and documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dsn => "dsn",
            Self::Complaint => "complaint",
            Self::AutoReply => "auto_reply",
            Self::Unknown => "unknown",
        }
    }
}

/// What happened to a recipient (RFC 3464 §2.3.3), or a complaint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Delivery failed permanently.
    Failed,
    /// Delivery is delayed.
    Delayed,
    /// Delivered to the mailbox.
    Delivered,
    /// Relayed to a system that sends no DSNs.
    Relayed,
    /// Delivered to a list or to several addresses.
    Expanded,
    /// Reported as spam.
    Complained,
}

impl Action {
    /// Returns the word in JSON and documentation.
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
    /// The address it is about, as the reporting server knows it (Final-Recipient).
    pub recipient: String,
    /// The address that the message was sent to, if the report has it (Original-Recipient, ORCPT).
    pub original: Option<String>,
    /// The mailbox that failed if it differs from the one named: a member of an alias, or a forwarding target.
    pub behind: Option<String>,
    /// What happened.
    pub action: Action,
    /// The code, enhanced code and text of the diagnostic.
    pub reply: Reply,
    /// The classification of a failure; `None` if nothing failed.
    pub judgement: Option<Judgement>,
}

/// The content of a returned message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its kind.
    pub kind: ReportKind,
    /// The rule that recognised it, such as `rfc3464` or `qmail`.
    pub rule: &'static str,
    /// The recipients it is about: at least one in a DSN, none in an automatic reply, and none in a complaint if the
    /// provider redacted the address.
    pub recipients: Vec<ReportedRecipient>,
    /// Addresses and ids that may contain our signed token for the original message, the most trustworthy first
    /// (Original-Envelope-Id, the original message's Return-Path, the report's own To).
    pub references: Vec<String>,
    /// The `Message-ID` of the original message, without angle brackets.
    pub original_message_id: Option<String>,
}

impl Report {
    /// Creates the report of a message that was not understood.
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
