//! Brings the sources together: every single setting is tried alone first, so that each problem is found, with its
//! origin; what is sound is merged over the defaults by figment.

use std::path::Path;

use figment::Figment;
use figment::error::Kind;
use figment::providers::Serialized;
use figment::value::Value;

use super::keys::Keys;
use super::problem::{ConfigErrors, Origin, Problems};
use super::{Config, file, variables};

/// One value for one known key.
#[derive(Debug)]
pub(super) struct Setting {
    pub key: String,
    pub value: Value,
    pub origin: Origin,
}

/// See [`Config::load`].
pub(super) fn load(path: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> Result<Config, ConfigErrors> {
    let keys = Keys::known();
    let mut problems = Problems::default();
    let mut settings = match file::read(path, &mut problems) {
        Some((text, path)) => file::settings(&text, path, &keys, &mut problems),
        None => Vec::new(),
    };
    settings.extend(variables::settings(env, &keys, &mut problems));
    merge(settings, problems)
}

/// The defaults with `settings` over them, the later the stronger.
pub(super) fn merge(settings: Vec<Setting>, mut problems: Problems) -> Result<Config, ConfigErrors> {
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
    if !config.accept.has_room() {
        let message = "must not be less than accept.max_body_mib, or the largest request could never be read";
        problems.push("accept.body_memory_mib", message, Origin::Key);
    }
    for (name, route) in &config.routes {
        let key = format!("routes.{name}.relays");
        if let (Err(message), false) = (route.check_whole(), problems.concern(&key)) {
            problems.push(key, message, Origin::Key);
        }
    }
    problems.or(config)
}

fn extract(figment: &Figment) -> Result<Config, String> {
    figment.extract::<Config>().map_err(|error| {
        let words = in_words(&error.kind);
        // In a map whose keys are the operator's, the key is told with the value.
        match error.path.as_slice() {
            [section, map, key @ ..] if (section.as_str(), map.as_str()) == ("delivery", "tls") => {
                format!("{} {words}", key.join("."))
            }
            _ => words,
        }
    })
}

/// serde's and std's words for a value of the wrong kind, made an operator's.
fn in_words(kind: &Kind) -> String {
    match kind {
        Kind::InvalidType(found, wanted) | Kind::InvalidValue(found, wanted) => {
            let wanted = if wanted.starts_with(['u', 'i']) { "a whole number" } else { wanted };
            format!("must be {wanted}, is {found}")
        }
        Kind::UnknownVariant(found, known) => format!("must be {}, is {found}", known.join(" or ")),
        Kind::Message(text) if text.contains("socket address") => {
            "must be an IP address and a port, such as 127.0.0.1:8080".into()
        }
        other => other.to_string(),
    }
}
