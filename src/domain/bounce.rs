//! Classifies refusals, from the SMTP conversation or from a DSN.
//!
//! Codes are often wrong: a server may reply 5.7.1 for an unknown user, and 5.1.1 if our address is on a blocklist. So
//! unambiguous phrases come first, then the enhanced code (RFC 3463, and the large providers' own), then the three
//! digits (RFC 5321). All rules are tables in [`rules`], in the order in which they are tried. Only
//! [`Category::UnknownUser`] suppresses an address, so only unambiguous rules return it.

pub mod rules;
#[cfg(test)]
mod tests;
mod text;

use super::outcome::Reply;
use super::words::words;
use rules::Rule;
use text::Text;

words! {
    /// How final a refusal is.
    pub enum BounceType as "BounceType" {
        /// The address does not work and will not: do not send to it again.
        Hard = "hard",
        /// The address may work another day.
        Soft = "soft",
        /// The address may be fine: this sender or this message is not wanted.
        Block = "block",
        /// The reply does not say.
        Undetermined = "undetermined",
    }
}

words! {
    /// Why a message was refused. New ones may be added.
    pub enum Category as "BounceCategory" {
        /// There is no such mailbox.
        UnknownUser = "unknown_user",
        /// The address is malformed.
        BadAddress = "bad_address",
        /// The domain does not exist, or accepts no email.
        BadDomain = "bad_domain",
        /// The mailbox exists and is closed: disabled, suspended or abandoned.
        MailboxDisabled = "mailbox_disabled",
        /// The recipient has moved, and messages are not forwarded.
        Moved = "moved",
        /// The mailbox is full.
        MailboxFull = "mailbox_full",
        /// The message is too large.
        Size = "size",
        /// The server does not accept messages for this domain from us.
        RelayDenied = "relay_denied",
        /// The recipient accepts messages from some senders only: a closed list, or a challenge to the sender.
        Restricted = "restricted",
        /// The sender's address is refused.
        SenderRejected = "sender_rejected",
        /// A rule of the receiver refuses it, and the reply does not say which.
        Policy = "policy",
        /// The sender's reputation is too low.
        Reputation = "reputation",
        /// The sender's IP address or domain is on a blocklist.
        Blocklist = "blocklist",
        /// The content looks like spam.
        SpamContent = "spam_content",
        /// The content is refused: a virus, a forbidden attachment or a harmful link.
        HarmfulContent = "harmful_content",
        /// The message's form is refused: headers, encodings or line lengths.
        Format = "format",
        /// SPF, DKIM, DMARC, ARC or the sender's reverse DNS failed.
        Authentication = "authentication",
        /// Too many messages in too short a time.
        RateLimit = "rate_limit",
        /// The server asks to try again later.
        Greylisting = "greylisting",
        /// A name could not be resolved.
        Dns = "dns",
        /// The server could not be reached, or did not respond.
        Unreachable = "unreachable",
        /// There is no route to the mailbox: a loop, or a wrong routing table.
        Routing = "routing",
        /// TLS is missing or failed.
        Tls = "tls",
        /// The server itself has a problem: a full disk, maintenance or an internal error.
        System = "system",
        /// The server gave up after its own retry period.
        Expired = "expired",
        /// The two servers did not understand each other.
        Protocol = "protocol",
        /// The reply does not say.
        Other = "other",
    }
}

/// The classification of a refusal, and the rule that decided it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// How final it is.
    pub kind: BounceType,
    /// Its category.
    pub category: Category,
    /// The name of the rule that decided.
    pub rule: &'static str,
}

impl Judgement {
    /// Returns whether the address must be suppressed, because it does not exist. `expired` and soft bounces never
    /// suppress.
    pub fn suppresses(&self) -> bool {
        self.kind == BounceType::Hard && self.category == Category::UnknownUser
    }
}

words! {
    /// How a refusal was received.
    pub enum Source as "BounceSource" {
        /// The server itself, during the SMTP conversation.
        Smtp = "smtp",
        /// A bounce message (DSN) received later.
        Dsn = "dsn",
    }
}

/// A permanent refusal, as events show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounce {
    /// Its classification.
    pub judgement: Judgement,
    /// How it was received.
    pub source: Source,
}

/// Classifies a refusal by its text, enhanced code and reply code: the first of [`rules::RULES`] that matches decides.
/// A temporary refusal is soft, whatever its text: the recipient ended because its time ran out.
pub fn judge(reply: &Reply) -> Judgement {
    judge_beside(reply, None)
}

/// Classifies a refusal like [`judge`], with the surrounding text of a notice, such as the command that was refused.
pub fn judge_beside(reply: &Reply, notice: Option<&str>) -> Judgement {
    let text = Text::new(&reply.text);
    // A reply to MAIL is not about the recipient, even if it says that something does not exist.
    let is_of_sender = answers_mail(&text) || notice.is_some_and(|notice| answers_mail(&Text::new(notice)));
    let is_meant = |rule: &&Rule| !(is_of_sender && rule.kind == BounceType::Hard);
    let mut rules = rules::RULES.iter().copied().flatten().filter(is_meant);
    let Some(rule) = rules.find(|rule| rule.matches(reply, &text)) else {
        return Judgement { kind: BounceType::Undetermined, category: Category::Other, rule: "none" };
    };
    let is_for_now = match (reply.code, reply.enhanced) {
        (Some(code), _) => code < 500,
        (None, Some(enhanced)) => enhanced.class < 5,
        (None, None) => false,
    };
    let is_final = matches!(rule.kind, BounceType::Hard | BounceType::Block);
    let kind = if is_for_now && is_final { BounceType::Soft } else { rule.kind };
    Judgement { kind, category: rule.category, rule: rule.name }
}

/// Returns whether the text says that the reply was to MAIL, in Exim's or Postfix's words.
fn answers_mail(text: &Text) -> bool {
    ["after mail from", "in reply to mail from"].iter().any(|words| text.has(words))
}
