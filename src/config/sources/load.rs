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
            let wanted = match wanted.as_str() {
                "u8" => "a whole number from 0 to 255",
                "u16" => "a whole number from 0 to 65535",
                unsigned if unsigned.starts_with('u') => "a whole number of at least 0",
                signed if signed.starts_with('i') => "a whole number",
                other => other,
            };
            format!("must be {wanted}, is {}", found_value(found))
        }
        Kind::UnknownVariant(found, known) => format!("must be {}, is {found}", known.join(" or ")),
        Kind::Message(text) if text.contains("socket address") => {
            "must be an IP address and a port, such as 127.0.0.1:8080".into()
        }
        other => other.to_string(),
    }
}

/// Returns a value of the wrong type as it would be written in a file.
fn found_value(found: &Actual) -> String {
    match found {
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(value) => value.to_string(),
        Actual::Signed(value) => value.to_string(),
        Actual::Float(value) => value.to_string(),
        Actual::Str(value) => format!("{value:?}"),
        Actual::Seq => "a list".into(),
        Actual::Map => "a section".into(),
        other => other.to_string(),
    }
}
