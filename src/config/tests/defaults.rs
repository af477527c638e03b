//! The defaults: `postrider.example.toml` shows every key, and the documentation gives the same values.

use std::path::Path;

use figment::value::Value;

use super::sound;
use crate::config::keys::{self, Keys};
use crate::config::load::Setting;
use crate::config::problem::Problems;
use crate::config::{Config, DEFAULTS, file, variables};

fn shown(config: &Config) -> Value {
    Value::serialize(config).expect("plain data")
}

#[test]
fn the_example_changes_nothing_as_it_is() {
    assert_eq!(shown(&sound(DEFAULTS, &[])), shown(&Config::default()));
}

#[test]
fn the_example_shows_every_key() {
    // Prose starts with "# ", a key that is commented out with "#" alone.
    let uncommented: Vec<_> = DEFAULTS
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with([' ', '#'])).unwrap_or(line))
        .collect();
    let text = uncommented.join("\n");
    sound(&text, &[]);
    let keys = Keys::known();
    let given = file::settings(&text, Path::new("example"), &keys, &mut Problems::default());
    for (key, _) in keys.iter() {
        let is_shown = |setting: &Setting| &*keys::general(&setting.key) == key;
        assert!(given.iter().any(is_shown), "{key} is missing from postrider.example.toml");
    }
}

/// Returns the keys of a page with their defaults: of tables of keys, and of the form "`key` (default `value`)".
fn documented(page: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut is_in_table = false;
    for line in page.lines() {
        is_in_table = line.starts_with("| key | default |") || is_in_table && line.starts_with('|');
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let (true, Some(key)) = (is_in_table, cells.get(1).and_then(|cell| cell.strip_prefix('`'))) {
            found.push((key.trim_end_matches('`'), cells[2]));
        }
        let pieces: Vec<&str> = line.split("` (default ").collect();
        for pair in pieces.windows(2) {
            let key = pair[0].rsplit('`').next().expect("a piece");
            found.push((key, pair[1].split(')').next().expect("a piece")));
        }
    }
    found
}

#[test]
fn documentation_gives_the_defaults() {
    let keys = Keys::known();
    let mut count = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).expect("docs") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        for (key, default) in documented(&std::fs::read_to_string(&path).expect("a page")) {
            let place = format!("{key} in {}", path.display());
            let known = keys.default_of(key).unwrap_or_else(|| panic!("no such key: {place}"));
            match default.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')) {
                // A default that is set changes nothing.
                Some(value) => {
                    let config = sound("", &[(&variables::variable_of(key), value)]);
                    assert_eq!(shown(&config), shown(&Config::default()), "{place}");
                }
                None => {
                    assert!(default.starts_with("unset") && matches!(known, Value::Empty(..)), "{place}: {known:?}");
                }
            }
            count += 1;
        }
    }
    assert!(count > 10, "{count} defaults in docs/");
}
