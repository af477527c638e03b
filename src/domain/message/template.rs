//! How templates are named: by their id, or by an alias that the application chooses.

use std::fmt;
use std::str::FromStr;

use crate::domain::id::TemplateId;

/// Maximum length of a template's display name, in characters.
pub const MAX_NAME: usize = 255;
/// Maximum length of an alias, in characters.
pub const MAX_ALIAS: usize = 100;
/// Names that aliases must not have, because their paths belong to other operations.
const RESERVED: &[&str] = &["validate"];

/// A template's id or alias, as in a path and in the `template` of a message.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TemplateName {
    /// The id.
    Id(TemplateId),
    /// The alias.
    Alias(String),
}

/// A text that is neither an id nor a possible alias.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TemplateNameError(&'static str);

impl TemplateName {
    /// Returns the id, if it is one.
    pub fn id(&self) -> Option<TemplateId> {
        match self {
            Self::Id(id) => Some(*id),
            Self::Alias(_) => None,
        }
    }

    /// Returns the alias, if it is one.
    pub fn alias(&self) -> Option<&str> {
        match self {
            Self::Id(_) => None,
            Self::Alias(alias) => Some(alias),
        }
    }
}

impl FromStr for TemplateName {
    type Err = TemplateNameError;

    fn from_str(text: &str) -> Result<Self, TemplateNameError> {
        if text.starts_with("tpl_") {
            let error = TemplateNameError("must be an id: tpl_ followed by 32 lower-case hexadecimal digits");
            return text.parse().map(Self::Id).map_err(|_| error);
        }
        check_alias(text).map(|()| Self::Alias(text.to_owned()))
    }
}

impl fmt::Display for TemplateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Alias(alias) => f.write_str(alias),
        }
    }
}

/// Checks an alias: letters, digits, `.`, `_` and `-`, beginning with a letter, so that it needs no encoding in a path.
pub fn check_alias(text: &str) -> Result<(), TemplateNameError> {
    let is_allowed = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
    if text.len() > MAX_ALIAS || !text.starts_with(|c: char| c.is_ascii_alphabetic()) || !text.bytes().all(is_allowed) {
        return Err(TemplateNameError(
            "must have 1 to 100 ASCII letters, digits, `.`, `_` and `-`, and begin with a letter",
        ));
    }
    if text.starts_with("tpl_") {
        return Err(TemplateNameError("must not begin with `tpl_`, like the ids of templates"));
    }
    if RESERVED.contains(&text) {
        return Err(TemplateNameError("is reserved; use another alias"));
    }
    Ok(())
}

/// A published version of a template. It never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TemplateVersion {
    /// The template.
    pub template: TemplateId,
    /// The number of the version, from 1.
    pub version: i32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn template_is_named_by_id_or_alias() {
        let id = TemplateId::new(chrono::DateTime::UNIX_EPOCH);
        assert_eq!(id.to_string().parse(), Ok(TemplateName::Id(id)));
        for alias in ["invoice", "a", "Order.confirmed_v2-de", &"a".repeat(100)] {
            let name: TemplateName = alias.parse().unwrap();
            assert_eq!((name.alias(), name.id(), name.to_string()), (Some(alias), None, alias.to_owned()));
        }
        for text in ["", "1a", "-a", "a b", "a/b", "é", "tpl_", "tpl_1", "validate", &"a".repeat(101), "a\n", "a\0"] {
            assert!(text.parse::<TemplateName>().is_err(), "{text:?}");
        }
    }
}
