//! Reads the settings in the configuration file.

use std::path::Path;

use figment::value::{Dict, Value};

use super::keys::Keys;
use super::load::Setting;
use super::problem::{Origin, Problems};

/// The file that is read if no other is named.
pub(in crate::config) const DEFAULT: &str = "postrider.toml";

/// Returns the text and the path of the file at `path`, or of [`DEFAULT`] if it exists.
pub(in crate::config) fn read<'a>(path: Option<&'a Path>, problems: &mut Problems) -> Option<(String, &'a Path)> {
    let chosen = path.unwrap_or(Path::new(DEFAULT));
    match std::fs::read_to_string(chosen) {
        Ok(text) => Some((text, chosen)),
        Err(error) if path.is_none() && error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            problems.push(chosen.display().to_string(), format!("cannot be read: {error}"), Origin::Key);
            None
        }
    }
}

/// Returns every value in the file that has a known key.
pub(in crate::config) fn settings(text: &str, path: &Path, keys: &Keys, problems: &mut Problems) -> Vec<Setting> {
    let dict = match toml::from_str::<Dict>(text) {
        Ok(dict) => dict,
        Err(error) => {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            problems.push(format!("{}:{line}", path.display()), error.message(), Origin::Key);
            return Vec::new();
        }
    };
    let mut found = Vec::new();
    let origin = Origin::File(path.to_owned());
    walk(dict, "", &mut Walk { keys, origin, problems, found: &mut found });
    found
}

/// The state shared by all levels of the tables.
struct Walk<'a> {
    keys: &'a Keys,
    origin: Origin,
    problems: &'a mut Problems,
    found: &'a mut Vec<Setting>,
}

fn walk(dict: Dict, prefix: &str, state: &mut Walk<'_>) {
    for (name, value) in dict {
        let key = format!("{prefix}{name}");
        if state.keys.default_of(&key).is_some() {
            state.found.push(Setting { key, value, origin: state.origin.clone() });
            continue;
        }
        match (state.keys.is_section(&key), value) {
            (true, Value::Dict(_, section)) => walk(section, &format!("{key}."), state),
            (true, _) => state.problems.push(&key, format!("is a section: write [{key}]"), state.origin.clone()),
            (false, _) => state.problems.push(&key, state.keys.unknown(&key), state.origin.clone()),
        }
    }
}
