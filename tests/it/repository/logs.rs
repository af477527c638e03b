//! Checks that the table in `docs/logs.md` lists exactly the log events of the code, with their levels.

use std::collections::BTreeMap;
use std::path::Path;

use super::layers::sources;

const LOGS: &str = include_str!("../../../docs/logs.md");
const LEVELS: [&str; 3] = ["info", "warn", "error"];

/// Returns the text after the opening parenthesis of each call of the level's macro.
fn calls<'a>(text: &'a str, level: &str) -> Vec<&'a str> {
    let call = format!("{level}!(");
    let is_macro = |at: usize| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    text.match_indices(&call).filter(|(at, _)| is_macro(*at)).map(|(at, call)| &text[at + call.len()..]).collect()
}

/// Returns the event name at the start of a call: `event = "name"`.
fn name(call: &str) -> Option<&str> {
    let (name, _) = call.trim_start().strip_prefix("event = \"")?.split_once('"')?;
    (!name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_')).then_some(name)
}

/// Returns the log events of the code with their levels.
fn logged() -> BTreeMap<String, String> {
    let mut events = BTreeMap::new();
    for (path, text) in sources() {
        for level in LEVELS {
            for call in calls(&text, level) {
                let start: String = call.chars().take(80).collect();
                let name = name(call).unwrap_or_else(|| panic!("{}: no event in `{start}`", path.display()));
                let earlier = events.insert(name.to_owned(), level.to_owned());
                assert!(earlier.is_none_or(|earlier| earlier == level), "{name} has two levels");
            }
        }
        assert!(calls(&text, "event").is_empty(), "{}: the level is in the macro's name", path.display());
    }
    events
}

#[test]
fn documentation_lists_every_log_event() {
    let mut documented = BTreeMap::new();
    for row in LOGS.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, level, alert, meaning, fix] = cells[..] else { panic!("{row}") };
        assert!(["", "yes"].contains(&alert) && !meaning.is_empty() && !fix.is_empty(), "{row}");
        let earlier = documented.insert(name.trim_matches('`').to_owned(), level.to_owned());
        assert!(earlier.is_none(), "{name} has two rows");
    }
    let logged = logged();
    let missing: Vec<_> = logged.iter().filter(|(name, level)| documented.get(*name) != Some(*level)).collect();
    let extra: Vec<_> = documented.keys().filter(|name| !logged.contains_key(*name)).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing in docs/logs.md: {missing:?}; not in the code: {extra:?}");
}

#[test]
fn log_events_named_in_documentation_exist() {
    let (root, logged) = (Path::new(env!("CARGO_MANIFEST_DIR")), logged());
    let pages = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let texts = pages.filter(|path| path.extension().is_some_and(|ending| ending == "md"));
    let mut count = 0;
    for path in texts.chain([root.join("README.md"), root.join("postrider.example.toml")]) {
        let text = std::fs::read_to_string(&path).unwrap();
        for named in text.split("event = \"").skip(1) {
            let name = named.split('"').next().unwrap();
            assert!(logged.contains_key(name), "{name} in {}", path.display());
            count += 1;
        }
    }
    assert!(count > 0);
}
