//! What a mail that came back says: a DSN (RFC 3464), a complaint (RFC 5965), an automatic reply, or nothing of the kind.

use super::bounce::Judgement;
use super::outcome::Reply;

/// What kind of mail came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportKind {
    /// A delivery status notification, standard or not.
    Dsn,
    /// Somebody called a mail spam.
    Complaint,
    /// A vacation notice or the like: says nothing of the delivery.
    AutoReply,
    /// Nothing that was understood.
    Unknown,
}

impl ReportKind {
    /// The word in JSON and documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dsn => "dsn",
            Self::Complaint => "complaint",
            Self::AutoReply => "auto_reply",
            Self::Unknown => "unknown",
        }
    }
}

/// What happened to a recipient (RFC 3464 §2.3.3), or that it complained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Given up.
    Failed,
    /// Not yet.
    Delayed,
    /// In the mailbox.
    Delivered,
    /// Handed to a system that tells nothing.
    Relayed,
    /// Handed to a list or to several others.
    Expanded,
    /// Called spam.
    Complained,
}

impl Action {
    /// The word in JSON and documentation.
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

/// What a report says of one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportedRecipient {
    /// The address it is about, as the reporting server knows it (Final-Recipient).
    pub recipient: String,
    /// The address that we sent to, where the report says so (Original-Recipient, ORCPT).
    pub original: Option<String>,
    /// The mailbox that failed where it is another than the one named: a member of an alias, or where mail was forwarded to.
    pub behind: Option<String>,
    /// What happened.
    pub action: Action,
    /// The code, enhanced code and text of the diagnostic.
    pub reply: Reply,
    /// What a failure means; none where nothing failed.
    pub judgement: Option<Judgement>,
}

/// What a mail that came back says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What kind it is.
    pub kind: ReportKind,
    /// By which rule that was found out, such as `rfc3464` or `qmail`.
    pub rule: &'static str,
    /// Whom it is about: somebody in a DSN, nobody in an automatic reply, and in a complaint nobody where the provider made
    /// the address unreadable.
    pub recipients: Vec<ReportedRecipient>,
    /// What it says of the mail that it is about: addresses and ids in which a signed token of ours may stand, the most
    /// trustworthy first (Original-Envelope-Id, the returned mail's Return-Path, the report's own To).
    pub references: Vec<String>,
    /// The `Message-ID` of the mail that it is about, without angle brackets.
    pub original_message_id: Option<String>,
}

impl Report {
    /// A mail that says nothing of the kind.
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
