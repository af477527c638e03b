//! What a fresh clone of the repository must contain.

use std::collections::BTreeSet;

const COMPOSE: &str = include_str!("../../../docker/compose.yaml");
const EXAMPLE: &str = include_str!("../../../docker/.env.example");
const IGNORED: &str = include_str!("../../../.gitignore");

/// The variables that the compose file reads.
fn variables() -> BTreeSet<&'static str> {
    COMPOSE.split("${").skip(1).filter_map(|rest| rest.split([':', '}']).next()).collect()
}

#[test]
fn secrets_have_places_that_git_ignores() {
    let ignored: BTreeSet<&str> = IGNORED.lines().collect();
    for path in ["/.postrider", "/postrider.toml", "/docker/.env", "/docker/secrets.local/"] {
        assert!(ignored.contains(path), "{path}");
    }
    // Each variable that compose takes from docker/.env is explained, and none is needed.
    for name in variables().into_iter().filter(|name| *name != "POSTRIDER_IMAGE") {
        assert!(EXAMPLE.contains(&format!("\n#{name}=")), "{name}");
        assert!(COMPOSE.contains(&format!("${{{name}:-")), "{name} has no default");
    }
    assert!(EXAMPLE.lines().all(|line| line.is_empty() || line.starts_with('#')), "{EXAMPLE}");
}

#[test]
fn a_build_ignores_an_exported_database_url() {
    let config: toml::Table = include_str!("../../../.cargo/config.toml").parse().unwrap();
    assert_eq!(config["env"]["SQLX_OFFLINE"].as_str(), Some("true"));
}

#[test]
fn the_image_has_no_debug_information() {
    assert!(
        include_str!("../../../docker/Dockerfile").contains("&& strip --strip-debug /layout/usr/local/bin/postrider\n")
    );
}
