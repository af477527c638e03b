//! Reads the settings in environment variables: `POSTRIDER_SECTION__NAME`, `DATABASE_URL` and their `_FILE` forms.
//!
//! A variable is text, so the key decides how it is read: `POSTRIDER_HOSTNAME=123` is a name, `POSTRIDER_MX_PORT=123` a
//! number. The items of a list, and the `key=value` pairs of a map, are separated by commas. The name of a variable is
//! converted to lower case: `POSTRIDER_ROUTES__NEWS__RELAYS` is the key `routes.news.relays`.

use std::collections::BTreeMap;

use figment::value::{Dict, Value};

use super::keys::Keys;
use super::load::Setting;
use super::problem::{Origin, Problems};

/// Prefix of all variables of Postrider.
const PREFIX: &str = "POSTRIDER_";
/// Suffix of variables that name a file with the value.
const FILE: &str = "_FILE";
/// Variables that the command line reads, and that are not keys.
const COMMAND_LINE: [&str; 4] = ["POSTRIDER_CONFIG", "POSTRIDER_URL", "POSTRIDER_API_KEY", "POSTRIDER_API_KEY_FILE"];

/// Returns the settings of all variables with a known key; later ones win.
pub(in crate::config) fn settings(
    env: impl Iterator<Item = (String, String)>,
    keys: &Keys,
    problems: &mut Problems,
) -> Vec<Setting> {
    // `DATABASE_…` sorts before `POSTRIDER_…`, so the latter is merged later and wins.
    let variables: BTreeMap<String, String> = env.filter(|(name, value)| is_setting(name, value)).collect();
    let mut found = Vec::new();
    for (name, text) in &variables {
        let Some(meaning) = meaning(name, keys) else {
            problems.push(name, unknown(name, keys), Origin::Key);
            continue;
        };
        let origin = Origin::Variable(name.clone());
        let text = match &meaning {
            Meaning::Value(_) => text.clone(),
            Meaning::File(key) if variables.contains_key(name.trim_end_matches(FILE)) => {
                problems.push(
                    key,
                    format!("{} is set as well: set one of the two", name.trim_end_matches(FILE)),
                    origin,
                );
                continue;
            }
            Meaning::File(key) => match std::fs::read_to_string(text) {
                Ok(secret) if secret.trim().is_empty() => {
                    problems.push(key, format!("{text} is empty: write the value into it"), origin);
                    continue;
                }
                Ok(secret) => without_newline(secret),
                Err(error) => {
                    problems.push(key, format!("cannot read {text}: {error}"), origin);
                    continue;
                }
            },
        };
        let (Meaning::Value(key) | Meaning::File(key)) = meaning;
        let value = typed(&text, keys.default_of(&key));
        found.push(Setting { key, value, origin });
    }
    found
}

/// The meaning of a variable: the value of a key, or the name of a file with it.
enum Meaning {
    Value(String),
    File(String),
}

fn meaning(name: &str, keys: &Keys) -> Option<Meaning> {
    let known = |name: &str| key_of(name).filter(|key| keys.default_of(key).is_some());
    // The name is first looked up unchanged: `relay_ca_file` is a key, and not the file form of `relay_ca`.
    known(name).map(Meaning::Value).or_else(|| known(name.strip_suffix(FILE)?).map(Meaning::File))
}

fn key_of(name: &str) -> Option<String> {
    if name == "DATABASE_URL" {
        return Some("database.url".into());
    }
    Some(name.strip_prefix(PREFIX)?.to_ascii_lowercase().replace("__", "."))
}

/// Returns the variable of a key.
pub(in crate::config) fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.to_ascii_uppercase().replace('.', "__"))
}

fn is_setting(name: &str, value: &str) -> bool {
    let is_named_for_postrider = name.starts_with(PREFIX) || ["DATABASE_URL", "DATABASE_URL_FILE"].contains(&name);
    is_named_for_postrider && !value.is_empty() && !COMMAND_LINE.contains(&name) && !is_service_link(name, value)
}

/// Returns whether Kubernetes set the variable. Kubernetes gives every container the addresses of all services in
/// variables. For a service called `postrider`, these are `POSTRIDER_PORT=tcp://…`, `POSTRIDER_SERVICE_HOST`,
/// `POSTRIDER_PORT_8080_TCP_ADDR` and so on.
fn is_service_link(name: &str, value: &str) -> bool {
    let rest = name.strip_prefix(PREFIX).unwrap_or_default();
    let port =
        |rest: &str| rest.strip_prefix("PORT_").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    rest.starts_with("SERVICE_HOST") || rest.starts_with("SERVICE_PORT") || port(rest) || {
        rest == "PORT" && value.contains("://")
    }
}

fn unknown(name: &str, keys: &Keys) -> String {
    let near = key_of(name).and_then(|key| keys.nearest(&key).map(|near| variable_of(&near)));
    format!("unknown variable{}", near.map(|near| format!("; did you mean {near}?")).unwrap_or_default())
}

/// Removes the newline with which editors and `echo` end a file.
fn without_newline(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

/// Splits a list at commas and at line ends, since a file may have one item per line.
fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', '\n']).map(str::trim).filter(|item| !item.is_empty())
}

/// Converts the text to the type of the key's default. A text that does not fit stays text and is refused later.
fn typed(text: &str, default: Option<&Value>) -> Value {
    match default {
        Some(Value::Num(..)) => text.trim().parse::<i64>().map_or_else(|_| Value::from(text), Value::from),
        Some(Value::Bool(..)) => text.trim().parse::<bool>().map_or_else(|_| Value::from(text), Value::from),
        Some(Value::Array(..)) => items(text).collect::<Vec<_>>().into(),
        Some(Value::Dict(..)) => {
            let pairs = items(text).map(|item| item.split_once('='));
            let pairs: Option<Dict> = pairs.map(|pair| pair.map(|(k, v)| (k.trim().into(), v.trim().into()))).collect();
            pairs.map_or_else(|| Value::from(text), Value::from)
        }
        _ => Value::from(text),
    }
}
