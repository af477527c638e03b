//! The configuration keys, derived from the default configuration, so that no separate list has to be maintained.
//!
//! A route's keys exist for every route name; here they are stored once, under [`ANY`].

use std::borrow::Cow;
use std::collections::BTreeMap;

use figment::value::{Dict, Value};

use crate::config::{Config, Route};

/// The section whose subsections have names chosen by the operator.
const NAMED: &str = "routes.";
/// Placeholder for the name of any route.
const ANY: &str = "*";

/// Every full key, such as `accept.max_body_mib`, with its default.
#[derive(Debug)]
pub(in crate::config) struct Keys(BTreeMap<String, Value>);

impl Keys {
    /// Returns the keys of [`Config`].
    pub(in crate::config) fn known() -> Self {
        let mut keys = BTreeMap::new();
        let mut config = Config::default();
        config.routes.insert(ANY.into(), Route::default());
        // Plain data with string keys always serialises; otherwise there would be no keys, and tests would fail.
        if let Ok(Value::Dict(_, defaults)) = Value::serialize(config) {
            flatten(&defaults, "", &mut keys);
        }
        Self(keys)
    }

    /// Returns the default of a key, or `None` if there is no such key. A key without a default has an empty value.
    pub(in crate::config) fn default_of(&self, key: &str) -> Option<&Value> {
        self.0.get(&*generic_key(key))
    }

    /// Returns whether `name` is a section, which is a prefix of keys.
    pub(in crate::config) fn is_section(&self, name: &str) -> bool {
        let name = generic_key(name);
        self.0.keys().any(|key| key.strip_prefix(&*name).is_some_and(|rest| rest.starts_with('.')))
    }

    /// Returns the known key that is most similar to `key`; `None` if no key is similar enough.
    pub(in crate::config) fn nearest(&self, key: &str) -> Option<String> {
        let generic = generic_key(key);
        let distance = |known: &&String| strsim::damerau_levenshtein(known, &generic);
        let nearest = self.0.keys().min_by_key(distance)?;
        let name = if generic == key { ANY } else { route_name(key)?.0 };
        (distance(&nearest) <= (key.len() / 3).max(2)).then(|| nearest.replacen(ANY, name, 1))
    }

    /// Returns the error message for an unknown key, with a similar key as a hint.
    pub(in crate::config) fn unknown(&self, key: &str) -> String {
        if key.starts_with(NAMED) && route_name(key).is_none() {
            return "a route's name must be 1 to 64 letters, digits, - and _".into();
        }
        let similar = self.nearest(key).filter(|near| !near.contains(ANY));
        format!("unknown key{}", similar.map(|near| format!("; did you mean {near}?")).unwrap_or_default())
    }

    /// Iterates over all keys.
    #[cfg(test)]
    pub(in crate::config) fn iter(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.0.iter()
    }
}

/// Replaces the name of a route in the key with [`ANY`].
pub(in crate::config) fn generic_key(key: &str) -> Cow<'_, str> {
    match route_name(key) {
        Some((_, rest)) => Cow::Owned(format!("{NAMED}{ANY}{rest}")),
        None => Cow::Borrowed(key),
    }
}

/// Returns the name of the route that a key belongs to, and the rest of the key.
fn route_name(key: &str) -> Option<(&str, &str)> {
    let rest = key.strip_prefix(NAMED)?;
    let (name, rest) = rest.split_at(rest.find('.').unwrap_or(rest.len()));
    crate::config::sections::sending::routes::is_name(name).then_some((name, rest))
}

fn flatten(dict: &Dict, prefix: &str, keys: &mut BTreeMap<String, Value>) {
    for (name, value) in dict {
        let key = format!("{prefix}{name}");
        match value {
            // An empty section is a map whose keys the operator chooses; it counts as one value.
            Value::Dict(_, section) if !section.is_empty() => flatten(section, &format!("{key}."), keys),
            leaf => drop(keys.insert(key, leaf.clone())),
        }
    }
}
