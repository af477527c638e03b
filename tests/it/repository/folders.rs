//! Checks the modules that have several folders: imports between their folders have one direction.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::layers::{absolute_paths, declared_modules, module_path, sources};

/// A module, its folders, and the folders that each may import from. A row may name only rows above it. The files
/// directly in the module have no row. Folders of tests may import from all folders.
type Folders = (&'static str, &'static [(&'static str, &'static [&'static str])]);

const FOLDERS: &[Folders] = &[
    (
        "accept",
        &[
            ("request", &[]),
            ("blobs", &[]),
            ("import", &["request"]),
            ("batch", &["request"]),
            ("bulk", &["request"]),
            ("background", &["request"]),
        ],
    ),
    (
        "accept/request",
        &[
            ("json", &[]),
            ("message", &["json"]),
            ("resources", &["message", "json"]),
            ("mime", &["message", "json"]),
            ("batch", &["message", "json"]),
            ("bulk", &["batch", "message", "json"]),
        ],
    ),
    ("app", &[("database", &[]), ("settings", &[]), ("smtp_servers", &[]), ("self_checks", &["settings"])]),
    (
        "bench",
        &[
            ("client", &[]),
            ("sink", &["client"]),
            ("setup", &["sink", "client"]),
            ("measure", &["setup", "sink", "client"]),
        ],
    ),
    ("cli", &[("admin", &[]), ("doctor", &[]), ("dev", &["admin"]), ("client", &["dev"])]),
    ("cli/client", &[("output", &[]), ("api", &[]), ("send", &["output", "api"])]),
    ("config", &[("values", &[]), ("sections", &["values"]), ("sources", &["sections", "values"])]),
    ("config/sections", &[("api", &[]), ("sending", &[]), ("receiving", &["sending"])]),
    (
        "http/messages",
        &[
            ("read", &[]),
            ("actions", &["read"]),
            ("export", &["read"]),
            ("batch", &["read"]),
            ("bulk", &["batch", "read"]),
        ],
    ),
    (
        "mail",
        &[
            ("encoding", &[]),
            ("header", &["encoding"]),
            ("body", &["header", "encoding"]),
            ("raw", &["header"]),
            ("dkim", &[]),
            ("report", &[]),
            ("received", &["report"]),
        ],
    ),
    ("mail/report", &[("received", &[]), ("notice", &["received"])]),
];

/// Returns the folder of `root` that a module path leads into; `None` for the files directly in `root` and for tests.
fn folder(root: &str, modules: &[String]) -> Option<String> {
    let within = modules.strip_prefix(root.split('/').map(str::to_owned).collect::<Vec<_>>().as_slice())?;
    let is_test = within.iter().any(|name| name == "tests");
    within.first().filter(|name| !is_test && source_folder(root).join(name).is_dir()).cloned()
}

fn source_folder(root: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(root)
}

/// Returns the folders of `root` that a file imports from, except in its tests.
fn used_folders(root: &str, path: &Path, text: &str) -> BTreeSet<String> {
    let code = text.split_once("mod tests {").map_or(text, |(code, _)| code);
    let used = absolute_paths(&module_path(path), &declared_modules(code), code);
    used.iter().filter_map(|path| folder(root, path)).collect()
}

#[test]
fn folders_import_only_from_lower_folders() {
    let files = sources();
    let mut wrong = Vec::new();
    for (root, folders) in FOLDERS {
        for (path, text) in files.iter().filter(|(path, _)| path.starts_with(root)) {
            let Some(own) = folder(root, &module_path(path)) else { continue };
            let Some((_, below)) = folders.iter().find(|(name, _)| *name == own) else {
                wrong.push(format!("{root}/{own} has no row in FOLDERS"));
                continue;
            };
            let used = used_folders(root, path, text);
            let upward = used.iter().filter(|name| **name != own && !below.contains(&name.as_str()));
            wrong.extend(upward.map(|name| format!("{} uses {name}", path.display())));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn folders_have_no_import_cycles() {
    for (root, folders) in FOLDERS {
        for (at, (name, below)) in folders.iter().enumerate() {
            let above: Vec<&str> = folders[..at].iter().map(|(name, _)| *name).collect();
            assert!(below.iter().all(|name| above.contains(name)), "{root}/{name}");
            assert!(source_folder(root).join(name).is_dir(), "there is no folder {root}/{name}");
        }
    }
}

#[test]
fn imports_of_a_lower_folder_are_found() {
    let path = Path::new("accept/request/json/walk.rs");
    let text = "use super::pointer::Pointer;\nuse crate::accept::request::{Context, message::send};\n\
                mod tests {\n use crate::accept::request::bulk::Bulk;\n}\n";
    let used: Vec<String> = used_folders("accept/request", path, text).into_iter().collect();
    assert_eq!(used, ["json", "message"]);
}
