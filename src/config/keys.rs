//! The keys that exist, read off the default configuration itself, so that no list has to be kept in step.

use std::collections::BTreeMap;

use figment::value::{Dict, Value};

use super::Config;

/// Every key in full, such as `accept.max_body_mib`, with its default.
#[derive(Debug)]
pub(super) struct Keys(BTreeMap<String, Value>);

impl Keys {
    /// The keys of [`Config`].
    pub(super) fn known() -> Self {
        let mut keys = BTreeMap::new();
        // Plain data with string keys always serialises; without it there would be no keys, and tests would tell.
        if let Ok(Value::Dict(_, defaults)) = Value::serialize(Config::default()) {
            flatten(&defaults, "", &mut keys);
        }
        Self(keys)
    }

    /// The default of a key; `None` if there is no such key. A key without a default has an empty value.
    pub(super) fn default_of(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// Whether `name` is a section: a prefix of keys.
    pub(super) fn is_section(&self, name: &str) -> bool {
        self.0.keys().any(|key| key.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
    }

    /// The known key that `key` was most likely meant to be.
    pub(super) fn nearest(&self, key: &str) -> Option<&str> {
        let distance = |known: &&String| strsim::damerau_levenshtein(known, key);
        let nearest = self.0.keys().min_by_key(distance)?;
        (distance(&nearest) <= (key.len() / 3).max(2)).then_some(nearest)
    }

    /// All of them.
    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.0.iter()
    }
}

fn flatten(dict: &Dict, prefix: &str, keys: &mut BTreeMap<String, Value>) {
    for (name, value) in dict {
        let key = format!("{prefix}{name}");
        match value {
            Value::Dict(_, section) => flatten(section, &format!("{key}."), keys),
            leaf => drop(keys.insert(key, leaf.clone())),
        }
    }
}
