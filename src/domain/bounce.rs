//! What a refusal means, whether a server said it while we spoke to it or a DSN told of it later.
//!
//! Codes are often wrong: a server that is asked for nobody it knows may say 5.7.1, and one that has our address on a list
//! 5.1.1. So words that leave no doubt come first, then the enhanced code (RFC 3463, and what the large providers have made
//! of it), then the three digits (RFC 5321). All rules are tables in [`rules`], in the order in which they are asked. An
//! address is given up for [`Category::UnknownUser`] alone, so that no rule says it that leaves a doubt.

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
        /// The domain does not exist, or takes no email.
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
        /// The server could not be reached, or did not answer.
        Unreachable = "unreachable",
        /// There is no way to the mailbox: a loop, or a wrong routing table.
        Routing = "routing",
        /// TLS is missing or failed.
        Tls = "tls",
        /// The server itself has a problem: a full disk, maintenance or an internal error.
        System = "system",
        /// The server gave up after trying for as long as it does.
        Expired = "expired",
        /// The two servers did not understand each other.
        Protocol = "protocol",
        /// The reply does not say.
        Other = "other",
    }
}

/// What a refusal was judged to be, and by which rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// How final it is.
    pub kind: BounceType,
    /// What kind it is.
    pub category: Category,
    /// The name of the rule that decided, for whoever wants to know why.
    pub rule: &'static str,
}

impl Judgement {
    /// Whether the address is to be left alone from now on: it does not exist. `expired` and soft bounces never suppress.
    pub fn suppresses(&self) -> bool {
        self.kind == BounceType::Hard && self.category == Category::UnknownUser
    }
}

words! {
    /// Who told of a refusal.
    pub enum Source as "BounceSource" {
        /// The server itself, during the SMTP conversation.
        Smtp = "smtp",
        /// A bounce message (DSN) that came later.
        Dsn = "dsn",
    }
}

/// What an event says of a refusal for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounce {
    /// What it means.
    pub judgement: Judgement,
    /// Who told.
    pub source: Source,
}

/// Judges a refusal by its text, enhanced code and reply code: the first of [`rules::RULES`] that fits decides. What was
/// refused for the time being is soft, whatever it says: it was given up because time ran out.
pub fn judge(reply: &Reply) -> Judgement {
    judge_beside(reply, None)
}

/// The same of a refusal beside which a notice says more, such as the command that it answers.
pub fn judge_beside(reply: &Reply, notice: Option<&str>) -> Judgement {
    let text = Text::of(&reply.text);
    // What answers MAIL is not about the recipient, whatever it says does not exist.
    let is_of_sender = answers_mail(&text) || notice.is_some_and(|notice| answers_mail(&Text::of(notice)));
    let is_meant = |rule: &&Rule| !(is_of_sender && rule.kind == BounceType::Hard);
    let mut rules = rules::RULES.iter().copied().flatten().filter(is_meant);
    let Some(rule) = rules.find(|rule| rule.fits(reply, &text)) else {
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

/// Whether servers say that a reply was one to MAIL: Exim's words, and Postfix's.
fn answers_mail(text: &Text) -> bool {
    ["after mail from", "in reply to mail from"].iter().any(|words| text.has(words))
}
