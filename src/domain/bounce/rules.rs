//! Tables of the rules that classify refusals. The first matching rule decides.
//!
//! A rule matches if the text contains one of its phrases and none of its excluded phrases, and its lists contain the
//! enhanced code and the reply code; an empty list matches anything. `text.rs` describes the phrases: lower case, `@`
//! for any address, no quotes, `*` for a gap. Rules about the sender or the message come first, because replies about
//! these often mention a missing user as well, but must not suppress the address.

mod address;
mod codes;
mod disabled;
mod foreign;
mod sender_or_content;
mod temporary;
mod transport;
mod unknown_user;

use super::text::Text;
use super::{BounceType, Category};
use crate::domain::outcome::Reply;

/// All rules, in the order in which they are tried.
pub const RULES: [&[Rule]; 11] = [
    sender_or_content::PHRASES,
    temporary::PHRASES,
    transport::PHRASES,
    disabled::PHRASES,
    unknown_user::PHRASES,
    disabled::WEAK_PHRASES,
    address::PHRASES,
    foreign::PHRASES,
    codes::WEAK_PHRASES,
    codes::ENHANCED,
    codes::REST,
];

/// A rule that classifies refusals.
#[derive(Debug)]
pub struct Rule {
    /// The rule's name, recorded with its result.
    pub name: &'static str,
    /// The type of a refusal that matches.
    pub kind: BounceType,
    /// The category of a refusal that matches.
    pub category: Category,
    /// Phrases of which the text must contain one; empty matches any text.
    pub words: &'static [&'static str],
    /// Phrases that the text must not contain.
    pub without: &'static [&'static str],
    /// Whether the rule ignores texts about the sender's account, host or connection.
    pub is_about_recipient: bool,
    /// Ranges of enhanced codes of class 4 and 5: subject, first and last detail. Empty matches any code.
    pub enhanced: &'static [(u16, u16, u16)],
    /// Ranges of reply codes: first and last. Empty matches any code.
    pub codes: &'static [(u16, u16)],
}

impl Rule {
    const fn new(name: &'static str, kind: BounceType, category: Category) -> Self {
        Self { name, kind, category, words: &[], without: &[], is_about_recipient: false, enhanced: &[], codes: &[] }
    }

    const fn words(mut self, words: &'static [&'static str]) -> Self {
        self.words = words;
        self
    }

    const fn without(mut self, words: &'static [&'static str]) -> Self {
        self.without = words;
        self
    }

    const fn about_recipient(mut self) -> Self {
        self.is_about_recipient = true;
        self
    }

    const fn enhanced(mut self, codes: &'static [(u16, u16, u16)]) -> Self {
        self.enhanced = codes;
        self
    }

    const fn codes(mut self, codes: &'static [(u16, u16)]) -> Self {
        self.codes = codes;
        self
    }

    pub(super) fn matches(&self, reply: &Reply, text: &Text) -> bool {
        let has = |phrases: &[&str]| phrases.iter().any(|phrase| text.has(phrase));
        let enhanced = |(subject, first, last): &(u16, u16, u16)| {
            reply.enhanced.is_some_and(|code| {
                code.class >= 4 && code.subject == *subject && (*first..=*last).contains(&code.detail)
            })
        };
        (self.enhanced.is_empty() || self.enhanced.iter().any(enhanced))
            && (self.codes.is_empty()
                || self
                    .codes
                    .iter()
                    .any(|(first, last)| reply.code.is_some_and(|code| (*first..=*last).contains(&code))))
            && (self.words.is_empty() || has(self.words))
            && !has(self.without)
            && !(self.is_about_recipient && has(sender_or_content::ABOUT_SENDER))
    }
}
