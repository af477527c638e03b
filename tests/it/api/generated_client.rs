//! openapi-python-client generates a client from `/openapi.json` that has every operation, passes mypy, and works. The
//! test is skipped without Python 3.11, `venv` and a package index.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use crate::support::app::TestApp;
use crate::support::python;

/// The generator, the type checker, and what generated clients import.
const PACKAGES: [&str; 4] = ["openapi-python-client==0.29.1", "mypy==2.4.1", "httpx==0.28.1", "attrs==26.1.0"];
/// Time limit for each program.
const LIMIT: Duration = Duration::from_mins(3);
/// Content types that the generated client leaves out, because it has another content type for the same body.
const WITHOUT_BODY: [&str; 2] = ["message/global", "application/x-ndjson"];
/// Two bugs of the generator: the types of `__exit__`, and a variable that is declared once for each list of addresses.
const MYPY_CONFIG: &str = "[mypy]\nstrict = true\n\
    [mypy-postrider_client.client]\ndisable_error_code = arg-type\n\
    [mypy-postrider_client.models.*]\ndisable_error_code = no-redef\n";

/// Runs a program in a directory, with the Python programs in `PATH`; panics if it fails. Returns its output.
pub(super) async fn run(command: &mut Command, dir: &Path, python: &Path) -> String {
    let programs = python.parent().unwrap().display();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap_or_default());
    let command =
        command.current_dir(dir).env("PATH", path).env("NO_PROXY", "*").stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output()).await.expect("the program ends").unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    text
}

/// Returns the path of a file in this repository.
pub(super) fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Returns the names of the Python modules in a directory and its subdirectories.
fn modules(dir: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            names.extend(modules(&path));
        } else if name != "__init__" {
            names.insert(name);
        }
    }
    names
}

/// Returns the ids of all operations.
pub(super) fn operation_ids(document: &Value) -> BTreeSet<String> {
    let paths = document["paths"].as_object().unwrap().values();
    let operations = paths.flat_map(|methods| methods.as_object().unwrap().values());
    operations.map(|operation| operation["operationId"].as_str().unwrap().to_owned()).collect()
}

/// Generates the package `postrider_client` in a directory.
async fn generate(app: &TestApp, dir: &Path, python: &Path) {
    let url = format!("{}/openapi.json", app.base);
    let mut command = Command::new(python.with_file_name("openapi-python-client"));
    command.args(["generate", "--meta", "none", "--output-path", "postrider_client", "--url", &url]);
    command.arg("--config").arg(file("openapi/python-client.yaml"));
    let output = run(&mut command, dir, python).await;
    let warnings: Vec<&str> =
        output.lines().filter_map(|line| line.strip_prefix("Unsupported content type ")).collect();
    assert_eq!(warnings, WITHOUT_BODY, "{output}");
    assert_eq!(output.matches("WARNING parsing").count(), WITHOUT_BODY.len(), "{output}");
    assert!(!output.contains("Unable to"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_python_client_is_typed_and_works() {
    let Some(python) = python::with_packages(&PACKAGES, "openapi_python_client, mypy, httpx, attrs").await else {
        return;
    };
    let app = TestApp::start().await;
    let dir = tempfile::tempdir().unwrap();
    generate(&app, dir.path(), &python).await;

    let client = dir.path().join("postrider_client");
    let document = app.get("/openapi.json").await.body;
    assert_eq!(modules(&client.join("api")), operation_ids(&document));
    let numbered = |name: &String| name.ends_with(|last: char| last.is_ascii_digit());
    let anonymous: Vec<String> = modules(&client.join("models")).into_iter().filter(numbered).collect();
    assert!(anonymous.is_empty(), "{anonymous:?}");

    std::fs::write(dir.path().join("mypy.ini"), MYPY_CONFIG).unwrap();
    std::fs::copy(file("tests/it/api/generated_client.py"), dir.path().join("use_client.py")).unwrap();
    run(Command::new(&python).args(["-m", "mypy", "postrider_client", "use_client.py"]), dir.path(), &python).await;
    let mut program = Command::new(&python);
    program.arg("use_client.py").env("POSTRIDER_API_URL", &app.base).env("POSTRIDER_API_KEY", &app.key);
    run(&mut program, dir.path(), &python).await;
}
