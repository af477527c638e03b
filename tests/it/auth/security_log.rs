//! The log of refused requests and of changes.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::client::{Api, ApiResponse, message};
use crate::support::postgres::Database;
use crate::support::process::{self, Service};
use crate::support::smtp::SmtpServer;

#[tokio::test]
async fn refusals_and_changes_are_logged_with_the_key() {
    let (smtp, database) = (SmtpServer::start().await, Database::new());
    process::run(process::on(&database.url, &["migrate"])).await;
    let created =
        process::run(process::on(&database.url, &["keys", "create", "--name", "ops", "--scope", "admin"])).await;
    let admin = String::from_utf8(created.stdout).unwrap().trim().to_owned();
    let mut service = Service::start(process::serve(&database.url, smtp.address(), &["--only", "api"])).await;
    let api = Api::new(service.address.clone().unwrap(), admin.clone());

    for _ in 0..20 {
        assert_eq!(api.with_key("pr_guessed_secret").get("/v1/messages").await.status, 401);
    }
    let shop = api.post("/v1/keys", &json!({"name": "shop", "scopes": ["read"]})).await.body;
    let (id, secret) = (shop["id"].as_str().unwrap(), shop["secret"].as_str().unwrap().to_owned());
    for _ in 0..20 {
        let refused =
            ApiResponse::to(api.with_key(&secret).request(Method::POST, "/v1/messages").json(&message(json!({}))))
                .await;
        assert_eq!(refused.status, 403);
    }
    assert_eq!(api.post("/v1/suppressions", &json!("secret@example.test")).await.status, 200);
    assert_eq!(api.delete(&format!("/v1/keys/{id}")).await.status, 204);
    assert_eq!(api.with_key(&secret).get("/v1/messages").await.status, 401);

    service.logged("refused a revoked API key").await;
    let lines = service.lines();
    let lines_of = |event: &str| lines.iter().filter(|line| line["event"] == event).collect::<Vec<&Value>>();
    for event in ["api_key_unknown", "api_key_forbidden", "api_key_created", "suppressions_added", "api_key_revoked"] {
        assert_eq!(lines_of(event).len(), 1, "{event} is logged once: {lines:?}");
    }
    assert_eq!(lines_of("api_key_forbidden")[0]["by"], id);
    assert_eq!(lines_of("api_key_revoked_used")[0]["by"], id);
    let by = lines_of("api_key_created")[0]["by"].clone();
    assert!(by.as_str().unwrap().starts_with("key_"));
    assert_eq!([&lines_of("api_key_revoked")[0]["by"], &lines_of("suppressions_added")[0]["by"]], [&by, &by]);
    let text = format!("{lines:?}");
    for hidden in [&*admin, &*secret, "pr_guessed_secret", "secret@example.test"] {
        assert!(!text.contains(hidden), "{hidden} in the log");
    }
    service.kill().await;
}

#[tokio::test]
async fn keys_are_listed_and_revoked_on_the_command_line() {
    let database = Database::new();
    process::run(process::on(&database.url, &["migrate"])).await;
    let secret = process::key(&database.url).await;
    let listed = process::run(process::on(&database.url, &["keys", "list"])).await;
    let text = String::from_utf8(listed.stdout).unwrap();
    let line = text.lines().nth(1).unwrap_or_else(|| panic!("{text}"));
    let columns: Vec<&str> = line.split('\t').collect();
    assert_eq!([columns[1], columns[3], columns[5], columns[6]], ["test", "all", "never", "active"], "{text}");
    assert!(columns[0].starts_with("key_") && !text.contains(&secret), "{text}");

    let revoked = process::run(process::on(&database.url, &["keys", "revoke", columns[0]])).await;
    assert!(revoked.status.success(), "{}", process::stderr_of(&revoked));
    let listed = process::run(process::on(&database.url, &["keys", "list"])).await;
    assert!(String::from_utf8(listed.stdout).unwrap().contains("\trevoked 20"));
    let none = "key_00000000000070008000000000000000";
    let missing = process::run(process::on(&database.url, &["keys", "revoke", none])).await;
    assert!(!missing.status.success() && process::stderr_of(&missing).contains("keys list"));
}
