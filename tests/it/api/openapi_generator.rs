//! openapi-generator makes a client from `/openapi.json` that has every operation and no anonymous models, and works. The
//! test is skipped without Java, Python 3.10, `venv` and a package index.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use super::generated_client::{file, operation_ids, run};
use crate::support::hooks;
use crate::support::python;

/// The generator, and what its clients import.
const PACKAGES: [&str; 5] = [
    "openapi-generator-cli==7.26.0",
    "pydantic==2.14.4",
    "python-dateutil==4.0.0",
    "typing-extensions==4.16.0",
    "urllib3==2.8.0",
];
/// The generator makes this module for the requests that webhook endpoints receive; it is not valid Python, and the
/// client does not import it.
const NOT_NEEDED: &str = "postrider_client/api/deliveries_api.py";
/// The generator's names for models without a name of their own.
const ANONYMOUS: [&str; 6] = ["_all_of", "_any_of", "_inner", "_one_of", "inline_", "_request_"];

async fn has_java() -> bool {
    let status = Command::new("java").arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status().await;
    status.is_ok_and(|status| status.success())
}

/// Returns the methods for operations in the modules of a directory.
fn operations(dir: &Path) -> BTreeSet<String> {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap());
    let texts: Vec<String> = files.collect();
    let methods = texts.iter().flat_map(|text| text.lines()).filter_map(|line| line.strip_prefix("    def "));
    let names = methods.filter_map(|method| method.split('(').next()).filter(|name| !name.starts_with('_'));
    let is_operation = |name: &&str| !name.ends_with("_with_http_info") && !name.ends_with("_without_preload_content");
    names.filter(is_operation).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn client_of_openapi_generator_is_well_named_and_works() {
    if !has_java().await {
        eprintln!("skipped: this test needs java");
        return;
    }
    let modules = "openapi_generator_cli, pydantic, dateutil, typing_extensions, urllib3";
    let Some(python) = python::with_packages(&PACKAGES, modules).await else { return };
    let app = hooks::start().await;
    let dir = tempfile::tempdir().unwrap();
    let document = app.get("/openapi.json").await;
    std::fs::write(dir.path().join("postrider.json"), &document.bytes).unwrap();
    let mut command = Command::new(python.with_file_name("openapi-generator-cli"));
    command.args(["generate", "-g", "python", "-i", "postrider.json", "-o", ".", "--package-name", "postrider_client"]);
    command.args(["--openapi-generator-ignore-list", NOT_NEEDED]);
    let output = run(&mut command, dir.path(), &python).await;
    assert!(!output.contains("Inline schema created") && !output.contains("COLLISION"), "{output}");

    let client = dir.path().join("postrider_client");
    assert_eq!(operations(&client.join("api")), operation_ids(&document.body));
    for entry in std::fs::read_dir(client.join("models")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let has_number = name.contains(|c: char| c.is_ascii_digit());
        assert!(!has_number && !ANONYMOUS.iter().any(|part| name.contains(part)), "{name}");
    }
    std::fs::copy(file("tests/it/api/openapi_generator.py"), dir.path().join("use_client.py")).unwrap();
    let mut program = Command::new(&python);
    program.arg("use_client.py").env("POSTRIDER_API_URL", &app.base).env("POSTRIDER_API_KEY", &app.key);
    run(&mut program, dir.path(), &python).await;
}
