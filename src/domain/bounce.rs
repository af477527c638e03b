//! What a refusal means, whether a server said it while we spoke to it or a DSN told of it later.

use super::outcome::Reply;

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
    /// Nobody can say.
    Other,
}

impl Category {
    /// The word in SQL, JSON and documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownUser => "unknown_user",
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

/// Judges a refusal by its enhanced code, reply code and text.
pub fn judge(reply: &Reply) -> Judgement {
    match reply.enhanced {
        Some(code) if (code.class, code.subject, code.detail) == (5, 1, 1) => {
            Judgement { kind: BounceType::Hard, category: Category::UnknownUser, rule: "5.1.1" }
        }
        _ => Judgement { kind: BounceType::Undetermined, category: Category::Other, rule: "none" },
    }
}
