//! Checks the architecture: modules import only from lower layers, files are short, and only `db` contains SQL.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Each module, and the modules that it may import from. All modules except `domain` may also import from the
/// [`LEAVES`].
const MAY_USE: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("batcher", &[]),
    ("cache", &[]),
    ("clock", &[]),
    ("dns", &["domain"]),
    ("http_client", &[]),
    ("url_guard", &["domain"]),
    ("fetch", &[]),
    ("limiter", &[]),
    ("metrics", &["domain"]),
    ("object_storage", &["domain"]),
    ("config", &["domain"]),
    ("telemetry", &["config"]),
    ("mail", &["domain"]),
    ("template", &["domain"]),
    ("smtp", &["domain"]),
    ("webhook", &["domain"]),
    ("db", &["domain"]),
    ("group_commit", &["db", "domain"]),
    ("accept", &["group_commit", "db", "mail", "rendering", "template", "domain"]),
    ("feedback", &["db", "mail", "domain"]),
    ("rendering", &["db", "template", "domain"]),
    ("simulator", &["feedback", "db", "smtp", "mail", "domain"]),
    ("worker", &["group_commit", "simulator", "db", "smtp", "webhook", "mail", "rendering", "domain"]),
    ("dev", &["db", "smtp", "mail", "domain"]),
    ("bench", &["dev", "db", "smtp", "domain"]),
    ("http", &["accept", "feedback", "db", "mail", "rendering", "template", "domain", "dev"]),
    ("ui", &["http", "db", "mail", "domain"]),
    (
        "app",
        &[
            "ui",
            "http",
            "group_commit",
            "accept",
            "feedback",
            "worker",
            "simulator",
            "db",
            "smtp",
            "webhook",
            "mail",
            "rendering",
            "template",
            "dev",
            "domain",
        ],
    ),
    ("cli", &["app", "bench", "http", "accept", "worker", "db", "smtp", "webhook", "mail", "dev", "domain"]),
];
const LEAVES: &[&str] = &[
    "batcher",
    "cache",
    "clock",
    "config",
    "dns",
    "fetch",
    "http_client",
    "limiter",
    "metrics",
    "object_storage",
    "telemetry",
    "url_guard",
];

pub(super) fn sources() -> Vec<(PathBuf, String)> {
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

/// Returns the module directly under `src` that a file belongs to.
pub(super) fn module(path: &Path) -> String {
    path.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// Returns the modules named after `crate::`, except in comments.
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
fn modules_import_only_from_lower_layers() {
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

/// The folders of `worker`, and the folders that each may import from. Files directly in `worker` may import from all
/// folders, and no folder may import from these files.
const WORKER_FOLDERS: &[(&str, &[&str])] = &[
    ("lease", &[]),
    ("claim", &["lease"]),
    ("outcome", &["claim", "lease"]),
    ("deliver", &["outcome", "claim", "lease"]),
    ("handoff", &["deliver", "outcome", "claim", "lease"]),
    ("maintenance", &["deliver", "outcome", "claim", "lease"]),
    ("webhooks", &["lease"]),
];

/// Returns the module path of a file, without `crate`: `worker::lease` for `worker/lease/mod.rs` and `worker/lease.rs`.
pub(super) fn module_path(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        path.with_extension("").components().map(|part| part.as_os_str().to_str().unwrap().to_owned()).collect();
    names.pop_if(|last| last == "mod");
    names
}

/// Returns every path in a file's code that starts with `crate`, `super`, `self` or one of the file's own `modules`,
/// relative to the crate root: in imports, re-exports and expressions, with groups expanded.
pub(super) fn absolute_paths(own: &[String], modules: &[&str], text: &str) -> BTreeSet<Vec<String>> {
    let code = text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n");
    // Tests are the last module of a file, and their paths are one level deeper.
    let (code, tests) = code.split_once("mod tests {").unwrap_or((&code, ""));
    let paths = |code: &str, extra: usize| -> Vec<Vec<String>> {
        let starts = path_starts(code).into_iter();
        starts
            .flat_map(|at| expanded(&code[at..at + path_length(&code[at..])]))
            .filter_map(|path| resolved(own, modules, &path, extra))
            .collect()
    };
    paths(code, 0).into_iter().chain(paths(tests, 1)).collect()
}

/// Returns the positions at which paths start: names that do not follow `:` or `.`.
fn path_starts(code: &str) -> Vec<usize> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut before = ' ';
    let mut starts = Vec::new();
    for (at, c) in code.char_indices() {
        if is_name(c) && !is_name(before) && !matches!(before, ':' | '.') {
            starts.push(at);
        }
        before = c;
    }
    starts
}

/// Returns the length of the path at the start of `code`, including groups.
fn path_length(code: &str) -> usize {
    let mut depth = 0_usize;
    let mut last = ' ';
    for (at, c) in code.char_indices() {
        let continues = c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '*');
        match c {
            '{' if last == ':' || depth > 0 => depth += 1,
            '}' if depth > 0 => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            ',' if depth > 0 => {}
            _ if c.is_whitespace() && depth > 0 => {}
            _ if continues => {}
            _ => return at,
        }
        last = c;
    }
    code.len()
}

/// Expands the groups of a path: `a::{b, c::d}` becomes `a::b` and `a::c::d`.
fn expanded(path: &str) -> Vec<Vec<String>> {
    let Some((prefix, group)) = path.split_once('{') else {
        let names = path.split("::").map(str::trim).filter(|name| !name.is_empty());
        return vec![names.map(|name| name.split(' ').next().unwrap().to_owned()).collect()];
    };
    let group = group.strip_suffix('}').unwrap_or(group);
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_usize, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&group[start..]);
    let parts = parts.into_iter().filter(|part| !part.trim().is_empty());
    parts.flat_map(|part| expanded(&format!("{prefix}{}", part.trim()))).collect()
}

/// Returns a path relative to the crate root; `None` if it is not a path of this crate. `extra` is the number of inline
/// modules of the file that enclose the path.
fn resolved(own: &[String], modules: &[&str], path: &[String], extra: usize) -> Option<Vec<String>> {
    let (first, rest) = path.split_first().filter(|(_, rest)| !rest.is_empty())?;
    match first.as_str() {
        "crate" => Some(rest.to_vec()),
        "self" => Some(own.iter().chain(rest).cloned().collect()),
        "super" => {
            let ups = path.iter().take_while(|name| *name == "super").count();
            let kept = own.len().checked_sub(ups.saturating_sub(extra))?;
            Some(own[..kept].iter().chain(&path[ups..]).cloned().collect())
        }
        name if modules.contains(&name) => Some(own.iter().chain(path).cloned().collect()),
        _ => None,
    }
}

/// Returns the modules that a file declares.
pub(super) fn declared_modules(text: &str) -> Vec<&str> {
    let lines = text.lines().filter_map(|line| line.strip_suffix(';'));
    lines.filter_map(|line| line.split_once("mod ").map(|(_, name)| name)).collect()
}

/// Returns, for each file of `worker`, its folder ("" for files directly in `worker`) and the folders that it imports
/// from.
fn worker_imports() -> BTreeMap<PathBuf, (String, BTreeSet<String>)> {
    let folder = |path: &[String]| -> Option<String> {
        let (first, rest) = path.split_first()?;
        let folder = rest.first().filter(|name| WORKER_FOLDERS.iter().any(|(folder, _)| folder == name));
        (first == "worker").then(|| folder.cloned().unwrap_or_default())
    };
    let files = sources().into_iter().filter(|(path, _)| path.starts_with("worker"));
    let imports = files.map(|(path, text)| {
        let own = module_path(&path);
        let used = absolute_paths(&own, &declared_modules(&text), &text);
        let folder_of_file = folder(&own).unwrap();
        (path, (folder_of_file, used.iter().filter_map(|path| folder(path)).collect()))
    });
    imports.collect()
}

#[test]
fn worker_folders_import_only_from_lower_folders() {
    let mut wrong = Vec::new();
    for (path, (own, used)) in worker_imports() {
        let Some((_, below)) = WORKER_FOLDERS.iter().find(|(folder, _)| *folder == own) else { continue };
        let upward = used.iter().filter(|folder| **folder != own && !below.contains(&folder.as_str()));
        wrong.extend(upward.map(|folder| match folder.as_str() {
            "" => format!("{} uses a file directly in worker", path.display()),
            folder => format!("{} uses {folder}", path.display()),
        }));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // A row may name only rows above it, so that there are no cycles.
    for (at, (folder, below)) in WORKER_FOLDERS.iter().enumerate() {
        let above: Vec<&str> = WORKER_FOLDERS[..at].iter().map(|(folder, _)| *folder).collect();
        assert!(below.iter().all(|folder| above.contains(folder)), "{folder}");
    }
}

#[test]
fn every_worker_folder_is_listed() {
    let folders: BTreeSet<String> = sources()
        .into_iter()
        .filter(|(path, _)| path.starts_with("worker") && path.components().count() > 2)
        .map(|(path, _)| module_path(&path)[1].clone())
        .collect();
    assert_eq!(folders, WORKER_FOLDERS.iter().map(|(folder, _)| (*folder).to_owned()).collect());
}

#[test]
fn relative_and_grouped_paths_are_resolved() {
    let own = ["worker".to_owned(), "lease".to_owned(), "release".to_owned()];
    let text = "pub use super::super::{claim::{self, allocation::URGENT}, deliver}; // super::super::webhooks::X\n\
                fn f() { crate::worker::handoff::g(child::h); child::h(); }\n\
                mod tests {\n use super::*;\n use super::super::identity::Identity;\n}\n";
    let paths: Vec<String> = absolute_paths(&own, &["child"], text).into_iter().map(|path| path.join("::")).collect();
    assert_eq!(
        paths,
        [
            "worker::claim::allocation::URGENT",
            "worker::claim::self",
            "worker::deliver",
            "worker::handoff::g",
            "worker::lease::identity::Identity",
            "worker::lease::release::*",
            "worker::lease::release::child::h",
        ]
    );
}

#[test]
fn sql_stays_in_db() {
    // This log target is not SQL.
    let uses_sqlx = |text: &str| text.replace("sqlx::postgres::notice", "").contains("sqlx::");
    let wrong: Vec<PathBuf> = sources()
        .into_iter()
        .filter(|(path, text)| !path.starts_with("db") && uses_sqlx(text))
        .map(|(path, _)| path)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn files_have_at_most_500_lines() {
    let long: Vec<_> =
        sources().into_iter().filter(|(_, text)| text.lines().count() > 500).map(|(path, _)| path).collect();
    assert!(long.is_empty(), "{long:#?}");
}
