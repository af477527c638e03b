//! Checks that `postrider.example.toml` has every key, and that the documentation names the same defaults.

use std::path::Path;

use figment::value::Value;

use super::valid_config;
use crate::config::sources::keys::{self, Keys};
use crate::config::sources::load::Setting;
use crate::config::sources::problem::Problems;
use crate::config::sources::{file, variables};
use crate::config::{Config, DEFAULTS};

fn serialized(config: &Config) -> Value {
    Value::serialize(config).expect("plain data")
}

#[test]
fn example_file_equals_the_defaults() {
    assert_eq!(serialized(&valid_config(DEFAULTS, &[])), serialized(&Config::default()));
}

#[test]
fn example_file_has_every_key() {
    // Prose starts with "# ", a key that is commented out with "#" alone.
    let uncommented: Vec<_> = DEFAULTS
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with([' ', '#'])).unwrap_or(line))
        .collect();
    let text = uncommented.join("\n");
    let can_be_set_together = |line: &&&str| !line.starts_with("credentials_file ");
    valid_config(&uncommented.iter().filter(can_be_set_together).copied().collect::<Vec<_>>().join("\n"), &[]);
    let keys = Keys::known();
    let given = file::settings(&text, Path::new("example"), &keys, &mut Problems::default());
    for (key, _) in keys.iter() {
        let is_key = |setting: &Setting| &*keys::generic_key(&setting.key) == key;
        assert!(given.iter().any(is_key), "{key} is missing from postrider.example.toml");
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
fn documentation_has_the_same_defaults() {
    let keys = Keys::known();
    let mut count = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).expect("docs") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        for (key, default) in documented(&std::fs::read_to_string(&path).expect("a page")) {
            let position = format!("{key} in {}", path.display());
            let known = keys.default_of(key).unwrap_or_else(|| panic!("no such key: {position}"));
            match default.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')) {
                // Setting a key to its default changes nothing.
                Some(value) => {
                    let config = valid_config("", &[(&variables::variable_of(key), value)]);
                    assert_eq!(serialized(&config), serialized(&Config::default()), "{position}");
                }
                None if default == "none" => assert_eq!(format!("{known:?}"), "Array([])", "{position}"),
                None => {
                    assert!(default.starts_with("unset") && matches!(known, Value::Empty(..)), "{position}: {known:?}");
                }
            }
            count += 1;
        }
    }
    assert!(count > 10, "{count} defaults in docs/");
}
