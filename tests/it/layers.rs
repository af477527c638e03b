//! The house's drawing, held against every `use`: imports run downward (style.md), files stay small, SQL stays in one
//! room.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Who may use whom. `clock`, `config`, `dns` and `telemetry` are leaves that anyone may use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("clock", &[]),
    ("dns", &["domain"]),
    ("http_client", &[]),
    ("config", &["domain"]),
    ("telemetry", &["config"]),
    ("mail", &["domain"]),
    ("smtp", &["domain"]),
    ("webhook", &["domain"]),
    ("db", &["domain"]),
    ("journal", &["db", "domain"]),
    ("accept", &["journal", "db", "mail", "domain"]),
    ("feedback", &["db", "mail", "domain"]),
    ("worker", &["journal", "db", "smtp", "webhook", "mail", "domain"]),
    ("dev", &["db", "smtp", "domain"]),
    ("bench", &["dev", "db", "smtp", "domain"]),
    ("http", &["accept", "feedback", "db", "mail", "domain", "dev"]),
    ("app", &["http", "journal", "accept", "feedback", "worker", "db", "smtp", "webhook", "mail", "dev", "domain"]),
    ("cli", &["app", "bench", "http", "accept", "worker", "db", "smtp", "webhook", "mail", "dev", "domain"]),
];
const LEAVES: &[&str] = &["clock", "config", "dns", "http_client", "telemetry"];

fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut files, mut dirs) = (Vec::new(), vec![root.clone()]);
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                files.push((path.strip_prefix(&root).unwrap().to_owned(), text));
            }
        }
    }
    files
}

/// The module directly under `src` that a file belongs to.
fn module(path: &Path) -> String {
    path.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// The modules named behind `crate::`, comments left out.
fn used(text: &str) -> BTreeSet<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut names = BTreeSet::new();
    for path in code.split("crate::").skip(1) {
        let group = path.strip_prefix('{').map(|group| group.split('}').next().unwrap());
        for one in group.unwrap_or(path).split(if group.is_some() { ',' } else { ';' }) {
            let name: String = one.trim().chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            names.insert(name);
            if group.is_none() {
                break;
            }
        }
    }
    names
}

#[test]
fn imports_run_downward() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let own = module(&path);
        let Some((_, below)) = MAY_USE.iter().find(|(name, _)| *name == own) else { continue };
        for name in used(&text) {
            let is_module = MAY_USE.iter().any(|(known, _)| *known == name);
            let leaf = LEAVES.contains(&name.as_str()) && own != "domain";
            if is_module && name != own && !leaf && !below.contains(&name.as_str()) {
                wrong.push(format!("{} uses {name}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn sql_stays_in_db() {
    // The name of a log target is no SQL.
    let uses_sqlx = |text: &str| text.replace("sqlx::postgres::notice", "").contains("sqlx::");
    let wrong: Vec<PathBuf> = sources()
        .into_iter()
        .filter(|(path, text)| !path.starts_with("db") && uses_sqlx(text))
        .map(|(path, _)| path)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_file_holds_two_ideas() {
    let long: Vec<_> =
        sources().into_iter().filter(|(_, text)| text.lines().count() > 500).map(|(path, _)| path).collect();
    assert!(long.is_empty(), "{long:#?}");
}
