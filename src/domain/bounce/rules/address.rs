//! Phrases for an address that is malformed or ambiguous.

use super::Rule;
use crate::domain::bounce::BounceType::Hard;
use crate::domain::bounce::Category::BadAddress;

pub(super) const PHRASES: &[Rule] = &[Rule::new("words-bad-address", Hard, BadAddress).about_recipient().words(&[
    "malformed address",
    "address syntax",
    "syntax error*address",
    "bad address syntax",
    "invalid address",
    "address invalid",
    "invalid mail address",
    "bad recipient address",
    "illegal address",
    "unqualified address",
    "unsafe mailbox",
    "domain literal",
    "mailbox name not allowed",
    "mailbox name invalid",
    "name*not unique",
    "several matches found",
    "ambiguous address",
    "ambiguous recipient",
    "address*ambiguous",
    "recipient*ambiguous",
])];
