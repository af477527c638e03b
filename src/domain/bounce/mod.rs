//! Classifies refusals from the SMTP conversation or from a DSN.
//!
//! Codes are often wrong: a server may reply 5.7.1 for an unknown user, and 5.1.1 if the sender's IP address is on a
//! blocklist. So rules for unambiguous phrases come first, then those for the enhanced code (RFC 3463 and the codes of
//! large providers), then those for the reply code (RFC 5321). All rules are in the tables of [`rules`], in the order
//! in which they are tried. Only [`Category::UnknownUser`] suppresses an address, so only unambiguous rules return it.

pub mod report;
pub mod rules;
#[cfg(test)]
mod tests;
mod text;
pub mod verdict;

use super::outcome::Reply;
use super::words::words;
use rules::Rule;
use text::Text;

words! {
    /// The permanence of a refusal.
    pub enum BounceType as "BounceType" {
        /// The address does not work and will not work later. Do not send to it again.
        Hard = "hard",
        /// The address may work at another time.
        Soft = "soft",
        /// The address may work: the server refuses this sender or this message.
        Block = "block",
        /// The reply does not show which of these it is.
        Undetermined = "undetermined",
    }
}

words! {
    /// The reason why a message was refused. New categories may be added.
    pub enum Category as "BounceCategory" {
        /// There is no such mailbox.
        UnknownUser = "unknown_user",
        /// The address is malformed.
        BadAddress = "bad_address",
        /// The domain does not exist, or accepts no email.
        BadDomain = "bad_domain",
        /// The mailbox exists but is disabled, suspended or abandoned.
        MailboxDisabled = "mailbox_disabled",
        /// The recipient has moved, and messages are not forwarded.
        Moved = "moved",
        /// The mailbox is full.
        MailboxFull = "mailbox_full",
        /// The message is too large.
        Size = "size",
        /// The server does not accept messages for this domain from this sender.
        RelayDenied = "relay_denied",
        /// The recipient accepts messages only from certain senders: a closed mailing list, or a challenge to the
        /// sender.
        Restricted = "restricted",
        /// The sender's address is refused.
        SenderRejected = "sender_rejected",
        /// A policy of the receiver refuses the message, and the reply does not name it.
        Policy = "policy",
        /// The sender's reputation is too low.
        Reputation = "reputation",
        /// The sender's IP address or domain is on a blocklist.
        Blocklist = "blocklist",
        /// The content looks like spam.
        SpamContent = "spam_content",
        /// The content is refused: a virus, a forbidden attachment or a harmful link.
        HarmfulContent = "harmful_content",
        /// The message's format is refused: headers, encodings or line lengths.
        Format = "format",
        /// SPF, DKIM, DMARC, ARC or the sender's reverse DNS failed.
        Authentication = "authentication",
        /// Too many messages were sent in too short a time.
        RateLimit = "rate_limit",
        /// The server greylists the message: it asks for a later attempt.
        Greylisting = "greylisting",
        /// A name could not be resolved.
        Dns = "dns",
        /// The server could not be reached, or did not respond.
        Unreachable = "unreachable",
        /// The server has no route to the mailbox: a mail loop, or an incorrect routing table.
        Routing = "routing",
        /// TLS is missing or failed.
        Tls = "tls",
        /// The server itself has a problem: a full disk, maintenance or an internal error.
        System = "system",
        /// The server gave up after its own retry period.
        Expired = "expired",
        /// An SMTP protocol error.
        Protocol = "protocol",
        /// The reply does not give a reason.
        Other = "other",
    }
}

/// The classification of a refusal, and the rule that matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// The permanence of the refusal.
    pub kind: BounceType,
    /// The reason for the refusal.
    pub category: Category,
    /// The name of the rule that matched.
    pub rule: &'static str,
}

impl Judgement {
    /// Returns whether the address must be suppressed because it does not exist. `expired` and soft bounces never
    /// suppress an address.
    pub fn suppresses(&self) -> bool {
        self.kind == BounceType::Hard && self.category == Category::UnknownUser
    }
}

words! {
    /// The source of a refusal.
    pub enum Source as "BounceSource" {
        /// A reply of the server in the SMTP conversation.
        Smtp = "smtp",
        /// A bounce message (DSN) received later.
        Dsn = "dsn",
    }
}

/// A permanent refusal, as recorded in events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounce {
    /// The classification.
    pub judgement: Judgement,
    /// The source of the refusal.
    pub source: Source,
}

/// Classifies a refusal by its text, enhanced code and reply code. The first of [`rules::RULES`] that matches decides.
/// A temporary refusal is never hard or a block, regardless of its text: the recipient ended because its time ran out.
pub fn judge(reply: &Reply) -> Judgement {
    judge_with_notice(reply, None)
}

/// Classifies a refusal like [`judge`], but also considers the text of the bounce message that contains it, which may
/// name the refused command.
pub fn judge_with_notice(reply: &Reply, notice: Option<&str>) -> Judgement {
    let text = Text::new(&reply.text);
    // A reply to MAIL is not about the recipient, even if it says that something does not exist.
    let is_about_sender = is_code_about_sender(reply)
        || is_reply_to_mail(&text)
        || notice.is_some_and(|notice| is_reply_to_mail(&Text::new(notice)));
    let is_candidate = |rule: &&Rule| !(is_about_sender && rule.kind == BounceType::Hard);
    let mut rules = rules::RULES.iter().copied().flatten().filter(is_candidate);
    let Some(rule) = rules.find(|rule| rule.matches(reply, &text)) else {
        return Judgement { kind: BounceType::Undetermined, category: Category::Other, rule: "none" };
    };
    let is_temporary = match (reply.code, reply.enhanced) {
        (Some(code), _) => code < 500,
        (None, Some(enhanced)) => enhanced.class < 5,
        (None, None) => false,
    };
    let is_permanent = matches!(rule.kind, BounceType::Hard | BounceType::Block);
    let kind = if is_temporary && is_permanent { BounceType::Soft } else { rule.kind };
    Judgement { kind, category: rule.category, rule: rule.name }
}

/// Returns whether a code refuses the sender: a reply code or enhanced code about authentication (RFC 4954), or an
/// enhanced code about the sender's address (RFC 3463, RFC 7505).
fn is_code_about_sender(reply: &Reply) -> bool {
    matches!(reply.code, Some(530 | 534 | 535 | 538))
        || reply.enhanced.is_some_and(|code| matches!((code.subject, code.detail), (1, 7 | 8) | (7, 8 | 9 | 27)))
}

/// Returns whether the text says that the reply was to MAIL, in the phrases of Exim or Postfix.
fn is_reply_to_mail(text: &Text) -> bool {
    ["after mail from", "in reply to mail from"].iter().any(|words| text.has(words))
}
