//! Checks the folders of `db`, whose imports have one direction, and that no folder of `src` has too many files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::layers::{module, sources};

/// Each folder of `db`, and the folders that it may import from. Files directly in `db` may import from all folders,
/// and no folder may import from these files.
const DB_MAY_USE: &[(&str, &[&str])] = &[
    ("pool", &[]),
    ("schema", &["pool"]),
    ("changes", &["pool"]),
    ("events", &["pool"]),
    ("suppressions", &["events", "pool"]),
    ("queue", &["events", "suppressions", "pool"]),
    ("lanes", &["queue", "pool"]),
    ("messages", &["lanes", "queue", "events", "suppressions", "pool"]),
    ("erasures", &["messages", "events", "pool"]),
    ("streams", &["pool"]),
    ("domains", &["changes", "pool"]),
    ("webhooks", &["events", "pool"]),
    ("receiving", &["events", "pool"]),
    ("templates", &["pool"]),
    ("keys", &["events", "pool"]),
    ("statistics", &["pool"]),
    ("installation", &["messages", "queue", "events", "pool"]),
    ("tenants", &["receiving", "pool"]),
    ("retention", &["pool"]),
];
/// Maximum number of files in a folder, not counting those in its folders.
const MAX_FILES: usize = 12;

/// Returns the modules of `db` that a file in a folder of `db` imports from, by `crate::db::…` or `super::…`.
fn used_of_db(path: &Path, text: &str) -> BTreeSet<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let is_folder_root = path.components().count() == 3 && path.ends_with("mod.rs");
    let mut names = BTreeSet::new();
    for prefix in ["crate::db::", if is_folder_root { " super::" } else { " super::super::" }] {
        for path in code.split(prefix).skip(1) {
            let group = path.strip_prefix('{').map(|group| group.split('}').next().unwrap());
            for one in group.map_or_else(|| vec![path], |group| group.split(',').collect()) {
                names.insert(one.trim().chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect());
            }
        }
    }
    names
}

#[test]
fn db_folders_import_in_one_direction() {
    let files = sources();
    let modules: BTreeSet<String> = files
        .iter()
        .filter(|(path, _)| path.starts_with("db") && path.components().count() > 1)
        .map(|(path, _)| module(path.strip_prefix("db").unwrap()))
        .collect();
    let mut wrong = Vec::new();
    for (path, text) in files.iter().filter(|(path, _)| path.starts_with("db") && path.components().count() > 2) {
        let own = module(path.strip_prefix("db").unwrap());
        let below = DB_MAY_USE.iter().find(|(name, _)| *name == own).map(|(_, below)| *below);
        let Some(below) = below else {
            wrong.push(format!("{own} has no line in DB_MAY_USE"));
            continue;
        };
        for name in used_of_db(path, text) {
            if modules.contains(&name) && name != own && !below.contains(&name.as_str()) {
                wrong.push(format!("{} uses {name}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn folders_have_few_files() {
    let mut counts = BTreeMap::new();
    for (path, _) in sources() {
        *counts.entry(path.parent().unwrap().to_owned()).or_insert(0) += 1;
    }
    counts.retain(|_, count| *count > MAX_FILES);
    assert!(counts.is_empty(), "{counts:#?}");
}
