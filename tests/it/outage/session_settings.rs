//! A connection pooler drops session settings. No message is accepted with 202 that a crash of the server can lose.

use std::sync::Arc;

use postrider::app::{App, Roles};
use postrider::clock::SystemClock;
use postrider::config::Config;
use postrider::db::pool::session::SessionError;
use serde_json::json;
use sqlx::AssertSqlSafe;

use crate::support::app::TestApp;
use crate::support::pooler::pooler_without_settings;
use crate::support::postgres::Database;

fn config(url: String, direct_url: Option<String>) -> Config {
    let mut config = Config { listen: "127.0.0.1:0".parse().unwrap(), ..Config::default() };
    config.database.url = Some(url.into());
    config.database.direct_url = direct_url.map(Into::into);
    config
}

/// Returns the error and the hint of a start that is refused.
async fn refused(config: &Config) -> (String, String) {
    let error = start(config).await.unwrap_err();
    let hint = error.downcast_ref::<SessionError>().and_then(SessionError::hint).expect("a fix");
    (error.to_string(), hint)
}

async fn start(config: &Config) -> anyhow::Result<App> {
    App::start(config, Roles::All, Arc::new(SystemClock), None).await
}

#[tokio::test]
async fn start_is_refused_if_a_pooler_drops_settings() {
    let database = Database::new();
    let (error, hint) = refused(&config(pooler_without_settings(&database.url).await, None)).await;
    assert!(error.contains("synchronous_commit is off and must be on"), "{error}");
    assert!(hint.contains("database.url must name the Postgres server itself"), "{hint}");
}

#[tokio::test]
async fn pooled_connections_take_their_settings_from_the_role() {
    let database = Database::new();
    let config = config(pooler_without_settings(&database.url).await, Some(database.url.clone()));
    let (_, hint) = refused(&config).await;
    let (_, statements) = hint.split_once("reconnect the pooler: ").expect("the statements that fix it");
    // All tests share the role; the database belongs to this test.
    let mut connection = database.connect().await;
    let (role, name): (String, String) =
        sqlx::query_as("SELECT current_user::text, current_database()::text").fetch_one(&mut connection).await.unwrap();
    let role = format!("ALTER ROLE \"{role}\"");
    assert!(statements.starts_with(&role), "{statements}");
    let statements = statements.replace(&role, &format!("ALTER DATABASE {name}"));
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut connection).await.unwrap();
    start(&config).await.expect("a start with the role's settings").stop().await;
}

#[tokio::test]
async fn each_commit_sets_synchronous_commit() {
    let app = TestApp::start().await;
    // A session that has lost its setting after its first transaction.
    app.sql(
        "CREATE TABLE seen (setting text);
         CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO seen VALUES (current_setting('synchronous_commit'));
             PERFORM set_config('synchronous_commit', 'off', false);
             RETURN NULL;
         END $$;
         CREATE TRIGGER see AFTER INSERT ON messages FOR EACH STATEMENT EXECUTE FUNCTION see();
         CREATE TRIGGER see AFTER INSERT ON suppressions FOR EACH STATEMENT EXECUTE FUNCTION see()",
    )
    .await;
    for n in 0..6 {
        app.send(json!({"subject": n.to_string()})).await;
    }
    let seen: Vec<String> =
        sqlx::query_scalar("SELECT setting FROM seen").fetch_all(&mut app.database.connect().await).await.unwrap();
    assert_eq!(seen, ["on"; 6]);
}
