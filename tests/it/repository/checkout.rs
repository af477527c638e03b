//! Checks of files in the repository: `.gitignore`, the compose file, the Dockerfile and Cargo's configuration.

use std::collections::BTreeSet;

const COMPOSE: &str = include_str!("../../../docker/compose.yaml");
const EXAMPLE: &str = include_str!("../../../docker/.env.example");
const IGNORED: &str = include_str!("../../../.gitignore");

/// Returns the variables that the compose file reads.
fn variables() -> BTreeSet<&'static str> {
    COMPOSE.split("${").skip(1).filter_map(|rest| rest.split([':', '}']).next()).collect()
}

#[test]
fn files_with_secrets_are_ignored_by_git() {
    let ignored: BTreeSet<&str> = IGNORED.lines().collect();
    for path in ["/.postrider", "/postrider.toml", "/docker/.env", "/docker/secrets.local/"] {
        assert!(ignored.contains(path), "{path}");
    }
    // Each variable that compose reads from docker/.env is described in the example and has a default.
    for name in variables().into_iter().filter(|name| *name != "POSTRIDER_IMAGE") {
        assert!(EXAMPLE.contains(&format!("\n#{name}=")), "{name}");
        assert!(COMPOSE.contains(&format!("${{{name}:-")), "{name} has no default");
    }
    assert!(EXAMPLE.lines().all(|line| line.is_empty() || line.starts_with('#')), "{EXAMPLE}");
}

#[test]
fn build_ignores_an_exported_database_url() {
    let config: toml::Table = include_str!("../../../.cargo/config.toml").parse().unwrap();
    assert_eq!(config["env"]["SQLX_OFFLINE"].as_str(), Some("true"));
}

#[test]
fn image_has_no_debug_information() {
    assert!(
        include_str!("../../../docker/Dockerfile").contains("&& strip --strip-debug /layout/usr/local/bin/postrider\n")
    );
}
