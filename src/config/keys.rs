//! The keys that exist, read off the default configuration itself, so that no list has to be kept in step.
//!
//! A route's keys exist under every name that a route can have; here they stand once, under [`ANY`].

use std::borrow::Cow;
use std::collections::BTreeMap;

use figment::value::{Dict, Value};

use super::{Config, Route};

/// The section whose subsections an operator names.
const NAMED: &str = "routes.";
/// Stands for any such name.
const ANY: &str = "*";

/// Every key in full, such as `accept.max_body_mib`, with its default.
#[derive(Debug)]
pub(super) struct Keys(BTreeMap<String, Value>);

impl Keys {
    /// The keys of [`Config`].
    pub(super) fn known() -> Self {
        let mut keys = BTreeMap::new();
        let mut config = Config::default();
        config.routes.insert(ANY.into(), Route::default());
        // Plain data with string keys always serialises; without it there would be no keys, and tests would tell.
        if let Ok(Value::Dict(_, defaults)) = Value::serialize(config) {
            flatten(&defaults, "", &mut keys);
        }
        Self(keys)
    }

    /// The default of a key; `None` if there is no such key. A key without a default has an empty value.
    pub(super) fn default_of(&self, key: &str) -> Option<&Value> {
        self.0.get(&*general(key))
    }

    /// Whether `name` is a section: a prefix of keys.
    pub(super) fn is_section(&self, name: &str) -> bool {
        let name = general(name);
        self.0.keys().any(|key| key.strip_prefix(&*name).is_some_and(|rest| rest.starts_with('.')))
    }

    /// The known key that `key` was most likely meant to be.
    pub(super) fn nearest(&self, key: &str) -> Option<String> {
        let general = general(key);
        let distance = |known: &&String| strsim::damerau_levenshtein(known, &general);
        let nearest = self.0.keys().min_by_key(distance)?;
        let name = if general == key { ANY } else { route_name(key)?.0 };
        (distance(&nearest) <= (key.len() / 3).max(2)).then(|| nearest.replacen(ANY, name, 1))
    }

    /// Why `key` is none, with what it may have been meant to be.
    pub(super) fn stranger(&self, key: &str) -> String {
        if key.starts_with(NAMED) && route_name(key).is_none() {
            return "a route's name is of letters, digits, - and _, at most 64 of them".into();
        }
        let hint = self.nearest(key).filter(|near| !near.contains(ANY));
        format!("unknown key{}", hint.map(|near| format!("; did you mean {near}?")).unwrap_or_default())
    }

    /// All of them.
    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.0.iter()
    }
}

/// The key with the name of a route in it made [`ANY`].
pub(super) fn general(key: &str) -> Cow<'_, str> {
    match route_name(key) {
        Some((_, rest)) => Cow::Owned(format!("{NAMED}{ANY}{rest}")),
        None => Cow::Borrowed(key),
    }
}

/// The name of the route that a key belongs to, and what stands behind it.
fn route_name(key: &str) -> Option<(&str, &str)> {
    let rest = key.strip_prefix(NAMED)?;
    let (name, rest) = rest.split_at(rest.find('.').unwrap_or(rest.len()));
    super::routes::is_name(name).then_some((name, rest))
}

fn flatten(dict: &Dict, prefix: &str, keys: &mut BTreeMap<String, Value>) {
    for (name, value) in dict {
        let key = format!("{prefix}{name}");
        match value {
            // An empty one is a map whose keys are the operator's: one value.
            Value::Dict(_, section) if !section.is_empty() => flatten(section, &format!("{key}."), keys),
            leaf => drop(keys.insert(key, leaf.clone())),
        }
    }
}
