//! The rules that classify refusals, as tables: the first match decides.
//!
//! A rule matches if one of its phrases is in the text (see `text.rs`: lower case, `@` for any address, no quotes, `*`
//! for a gap), and the enhanced code and the three digits are among its own; an empty list matches anything. Rules
//! about the sender or the message come first, because such replies often mention a missing user as well and must not
//! suppress the address.

mod address;
mod codes;
mod foreign;
mod sender_or_content;
mod temporary;
mod transport;

use super::text::Text;
use super::{BounceType, Category};
use crate::domain::outcome::Reply;

/// All rules, in the order in which they are tried.
pub const RULES: [&[Rule]; 8] = [
    sender_or_content::WORDS,
    temporary::WORDS,
    transport::WORDS,
    address::WORDS,
    foreign::WORDS,
    codes::WEAK_WORDS,
    codes::ENHANCED,
    codes::REST,
];

/// A rule.
#[derive(Debug)]
pub struct Rule {
    /// Its name, shown with its result.
    pub name: &'static str,
    /// The resulting type.
    pub kind: BounceType,
    /// The resulting category.
    pub category: Category,
    /// The text contains any of these phrases; empty matches any text.
    pub words: &'static [&'static str],
    /// The text contains none of these phrases.
    pub without: &'static [&'static str],
    /// Enhanced codes of class 4 and 5: subject, first and last detail; empty matches any code.
    pub enhanced: &'static [(u16, u16, u16)],
    /// Ranges of the three digits: first and last; empty matches any.
    pub codes: &'static [(u16, u16)],
}

impl Rule {
    const fn new(name: &'static str, kind: BounceType, category: Category) -> Self {
        Self { name, kind, category, words: &[], without: &[], enhanced: &[], codes: &[] }
    }

    const fn words(mut self, words: &'static [&'static str]) -> Self {
        self.words = words;
        self
    }

    const fn without(mut self, words: &'static [&'static str]) -> Self {
        self.without = words;
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
    }
}
