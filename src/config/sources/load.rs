//! Merges the sources. Each setting is first checked alone, so that every problem is found with its origin; valid
//! settings are merged over the defaults by figment.

use std::path::Path;

use figment::Figment;
use figment::error::{Actual, Kind};
use figment::providers::Serialized;
use figment::value::Value;

use super::keys::Keys;
use super::problem::{ConfigErrors, Origin, Problems};
use super::{file, variables};
use crate::config::Config;

/// A value for a known key.
#[derive(Debug)]
pub(in crate::config) struct Setting {
    pub key: String,
    pub value: Value,
    pub origin: Origin,
}

/// Implements [`Config::load`].
pub(in crate::config) fn load(
    path: Option<&Path>,
    env: impl Iterator<Item = (String, String)>,
) -> Result<Config, ConfigErrors> {
    let keys = Keys::known();
    let mut problems = Problems::default();
    let mut settings = match file::read(path, &mut problems) {
        Some((text, path)) => file::settings(&text, path, &keys, &mut problems),
        None => Vec::new(),
    };
    settings.extend(variables::settings(env, &keys, &mut problems));
    merge(settings, problems)
}

/// Merges `settings` over the defaults; later settings win.
pub(in crate::config) fn merge(settings: Vec<Setting>, mut problems: Problems) -> Result<Config, ConfigErrors> {
    let defaults = Figment::from(Serialized::defaults(Config::default()));
    let mut merged = defaults.clone();
    for Setting { key, value, origin } in settings {
        let alone = defaults.clone().merge((&key, &value));
        match extract(&alone).and_then(|config| config.check()) {
            Ok(()) => merged = merged.merge((&key, &value)),
            Err(message) => problems.push(key, message, origin),
        }
    }
    let config = match extract(&merged) {
        Ok(config) => config,
        Err(message) => {
            problems.push("configuration", message, Origin::Key);
            Config::default()
        }
    };
    if !config.accept.fits_largest_body() {
        let message = "must not be less than accept.max_body_mib, or the largest request could never be read";
        problems.push("accept.body_memory_mib", message, Origin::Key);
    }
    for (key, message) in config.retention.check_whole().into_iter().chain(config.attachments.check_whole()) {
        if !problems.has_problem(key) {
            problems.push(key, message, Origin::Key);
        }
    }
    for (name, route) in &config.routes {
        let key = format!("routes.{name}.relays");
        if let (Err(message), false) = (route.check_whole(), problems.has_problem(&key)) {
            problems.push(key, message, Origin::Key);
        }
    }
    problems.into_result(config)
}

fn extract(figment: &Figment) -> Result<Config, String> {
    figment.extract::<Config>().map_err(|error| {
        let message = describe(&error.kind);
        // In a map whose keys the operator chooses, the message names the key.
        match error.path.as_slice() {
            [section, map, key @ ..] if (section.as_str(), map.as_str()) == ("delivery", "tls") => {
                format!("{} {message}", key.join("."))
            }
            _ => message,
        }
    })
}

/// Rewrites messages of serde and std about a value of the wrong type, so that operators understand them.
fn describe(kind: &Kind) -> String {
    match kind {
        Kind::InvalidType(found, wanted) | Kind::InvalidValue(found, wanted) => {
            let (wanted, is_scalar) = describe_type(wanted);
            format!("must be {wanted}, is {}", if is_scalar { written(found) } else { describe_value(found).into() })
        }
        Kind::UnknownVariant(found, known) => format!("must be {}, is {found}", known.join(" or ")),
        Kind::Message(text) if text.contains("socket address") => {
            "must be an IP address and a port, such as 127.0.0.1:8080".into()
        }
        other => other.to_string(),
    }
}

/// Returns what operators call a type of serde's, and whether a value of the wrong type may be shown: a text in the place of a
/// list may be a secret, but not one in the place of a number.
fn describe_type(wanted: &str) -> (&str, bool) {
    match wanted {
        "u8" => ("a whole number from 0 to 255", true),
        "u16" => ("a whole number from 0 to 65535", true),
        "u32" => ("a whole number from 0 to 4294967295", true),
        "u64" | "u128" | "usize" => ("a whole number of at least 0", true),
        "i8" | "i16" | "i32" | "i64" | "i128" | "isize" => ("a whole number", true),
        "f32" | "f64" => ("a number", true),
        "a boolean" => ("true or false", true),
        "socket address" => ("an IP address and a port, such as 127.0.0.1:8080", true),
        "path string" => ("a path", false),
        "a sequence" => ("a list", false),
        "a map" => ("a section", false),
        _ if wanted.starts_with("struct ") => ("a section", false),
        _ => (wanted, false),
    }
}

/// Returns a value as it would be written in a file.
fn written(found: &Actual) -> String {
    match found {
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(value) => value.to_string(),
        Actual::Signed(value) => value.to_string(),
        Actual::Float(value) => format!("{value:?}"),
        Actual::Str(value) => format!("{value:?}"),
        other => describe_value(other).into(),
    }
}

/// Returns what a value is, without showing it.
fn describe_value(found: &Actual) -> &'static str {
    match found {
        Actual::Bool(_) => "true or false",
        Actual::Unsigned(_) | Actual::Signed(_) | Actual::Float(_) => "a number",
        Actual::Char(_) | Actual::Str(_) => "a text",
        Actual::Seq => "a list",
        Actual::Map => "a section",
        _ => "something else",
    }
}
