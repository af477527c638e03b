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
use rules::Rule;
use text::Text;

/// How final a refusal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BounceType {
    /// The address does not work and will not.
    Hard,
    /// The address may work another day.
    Soft,
    /// The address may be fine: this sender or this mail is not wanted.
    Block,
    /// Nobody can say.
    Undetermined,
}

impl BounceType {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Hard, Self::Soft, Self::Block, Self::Undetermined];

    /// The word in SQL, JSON and documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hard => "hard",
            Self::Soft => "soft",
            Self::Block => "block",
            Self::Undetermined => "undetermined",
        }
    }
}

/// What kind of refusal it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Category {
    /// There is no such mailbox.
    UnknownUser,
    /// No address can look like this.
    BadAddress,
    /// The domain does not exist, or takes no mail.
    BadDomain,
    /// The mailbox is there, and closed: disabled, suspended, abandoned.
    MailboxDisabled,
    /// The recipient has moved, and mail is not forwarded.
    Moved,
    /// The mailbox has no room.
    MailboxFull,
    /// The mail is too large.
    Size,
    /// The server does not take mail for this domain from us.
    RelayDenied,
    /// The recipient takes mail from some senders only: a closed list, a challenge to the sender.
    Restricted,
    /// The sender's address is refused.
    SenderRejected,
    /// A rule of the receiver, not known more closely.
    Policy,
    /// The sender's reputation is too low.
    Reputation,
    /// The sender's address or domain is on a blocklist.
    Blocklist,
    /// The content is taken for spam.
    SpamContent,
    /// The content is refused: a virus, a forbidden attachment, a harmful link.
    HarmfulContent,
    /// The mail's form is refused: headers, encodings, line lengths.
    Format,
    /// SPF, DKIM, DMARC, ARC or the sender's reverse DNS.
    Authentication,
    /// Too much in too short a time.
    RateLimit,
    /// Come back later, to show that you do.
    Greylisting,
    /// A name could not be looked up.
    Dns,
    /// The server could not be reached, or did not answer.
    Unreachable,
    /// There is no way to the mailbox: loops, wrong tables.
    Routing,
    /// TLS is missing or failed.
    Tls,
    /// The server itself is in trouble: no disk, maintenance, an error of its own.
    System,
    /// It was tried for as long as the server cares to.
    Expired,
    /// The two servers did not understand each other.
    Protocol,
    /// Nobody can say.
    Other,
}

impl Category {
    /// All of them.
    pub const ALL: [Self; 27] = [
        Self::UnknownUser,
        Self::BadAddress,
        Self::BadDomain,
        Self::MailboxDisabled,
        Self::Moved,
        Self::MailboxFull,
        Self::Size,
        Self::RelayDenied,
        Self::Restricted,
        Self::SenderRejected,
        Self::Policy,
        Self::Reputation,
        Self::Blocklist,
        Self::SpamContent,
        Self::HarmfulContent,
        Self::Format,
        Self::Authentication,
        Self::RateLimit,
        Self::Greylisting,
        Self::Dns,
        Self::Unreachable,
        Self::Routing,
        Self::Tls,
        Self::System,
        Self::Expired,
        Self::Protocol,
        Self::Other,
    ];

    /// The word in SQL, JSON and documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownUser => "unknown_user",
            Self::BadAddress => "bad_address",
            Self::BadDomain => "bad_domain",
            Self::MailboxDisabled => "mailbox_disabled",
            Self::Moved => "moved",
            Self::MailboxFull => "mailbox_full",
            Self::Size => "size",
            Self::RelayDenied => "relay_denied",
            Self::Restricted => "restricted",
            Self::SenderRejected => "sender_rejected",
            Self::Policy => "policy",
            Self::Reputation => "reputation",
            Self::Blocklist => "blocklist",
            Self::SpamContent => "spam_content",
            Self::HarmfulContent => "harmful_content",
            Self::Format => "format",
            Self::Authentication => "authentication",
            Self::RateLimit => "rate_limit",
            Self::Greylisting => "greylisting",
            Self::Dns => "dns",
            Self::Unreachable => "unreachable",
            Self::Routing => "routing",
            Self::Tls => "tls",
            Self::System => "system",
            Self::Expired => "expired",
            Self::Protocol => "protocol",
            Self::Other => "other",
        }
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

/// Who told of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The server itself, while the mail was handed over.
    Smtp,
    /// A notification that came later.
    Dsn,
}

impl Source {
    /// The word in SQL, JSON and documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Smtp => "smtp",
            Self::Dsn => "dsn",
        }
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
