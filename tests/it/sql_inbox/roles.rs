//! Which roles may send, for which tenant, and from which domains.

use serde_json::json;
use sqlx::PgConnection;

use super::{accepted, execute, problem, send, sender};
use crate::support::app::TestApp;
use crate::support::client::message;
use crate::support::postgres::Database;
use crate::support::process::{on, run, stderr_of};
use crate::tenants::{act, tenant};

/// Creates a role, named after the database, and returns its name.
async fn role(connection: &mut PgConnection, suffix: &str) -> String {
    let name: String = sqlx::query_scalar("SELECT current_database() || '_' || $1")
        .bind(suffix)
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    let create = format!("CREATE ROLE \"{name}\"");
    sqlx::raw_sql(sqlx::AssertSqlSafe(create)).execute(connection).await.unwrap();
    name
}

/// Takes the place of a role in this session.
async fn become_role(connection: &mut PgConnection, role: &str) {
    let statement = format!("RESET SESSION AUTHORIZATION; SET SESSION AUTHORIZATION \"{role}\"");
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(connection).await.unwrap();
}

#[tokio::test]
async fn role_without_rights_is_refused() {
    let app = TestApp::start().await;
    let mut sql = app.database.connect().await;
    let stranger = role(&mut sql, "stranger").await;
    become_role(&mut sql, &stranger).await;
    let error = send(&mut sql, &message(json!({})), None).await.unwrap_err();
    assert_eq!(problem(&error).0, "42501", "{error}");
    // The right to call the function is not enough.
    execute(&mut sql, "RESET SESSION AUTHORIZATION").await;
    sqlx::query("SELECT FROM grant_sql_send($1::text::name)").bind(&stranger).execute(&mut sql).await.unwrap();
    become_role(&mut sql, &stranger).await;
    let error = send(&mut sql, &message(json!({})), None).await.unwrap_err();
    assert!(problem(&error).0 == "42501" && error.to_string().contains("may not send messages"), "{error}");

    let mut sql = sender(&app.database).await;
    for statement in [
        "SELECT * FROM sql_inbox",
        "SELECT * FROM messages",
        "INSERT INTO sql_senders SELECT current_user, id, NULL, now() FROM tenants",
        "SELECT grant_sql_send(current_user)",
    ] {
        let error = sqlx::raw_sql(statement).execute(&mut sql).await.unwrap_err();
        assert_eq!(problem(&error).0, "42501", "{statement}: {error}");
    }
}

#[tokio::test]
async fn grant_names_the_tenant_and_the_domains() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({})).await;
    let mut sql = app.database.connect().await;
    let (group, member) = (role(&mut sql, "group").await, role(&mut sql, "member").await);
    let join = format!("GRANT \"{group}\" TO \"{member}\"");
    sqlx::raw_sql(sqlx::AssertSqlSafe(join)).execute(&mut sql).await.unwrap();
    let url = &app.database.url;
    let granted = run(on(url, &["sql-grant", &group, "--tenant", "Acme", "--sender-domain", "Acme.test"])).await;
    assert!(granted.status.success(), "{}", stderr_of(&granted));
    let listed = String::from_utf8(run(on(url, &["sql-grant"])).await.stdout).unwrap();
    assert!(listed.contains(&format!("{group}\t{}\tacme.test", acme.id)), "{listed}");

    become_role(&mut sql, &member).await;
    let id = send(&mut sql, &message(json!({})), None).await.unwrap();
    accepted(&acme.api, &id).await;
    assert_eq!(app.get(&format!("/v1/messages/{id}")).await.status, 404);
    let error = send(&mut sql, &message(json!({"from": "x@other.test"})), None).await.unwrap_err();
    assert_eq!(problem(&error), ("PR422".to_owned(), vec![("/from".to_owned(), "forbidden".to_owned())]));

    act(&app, &acme.id, "suspend").await;
    let error = send(&mut sql, &message(json!({})), None).await.unwrap_err();
    assert!(problem(&error).0 == "42501" && error.to_string().contains("suspended"), "{error}");
    act(&app, &acme.id, "resume").await;
    let revoked = run(on(url, &["sql-grant", &group, "--revoke"])).await;
    assert!(revoked.status.success(), "{}", stderr_of(&revoked));
    assert_eq!(problem(&send(&mut sql, &message(json!({})), None).await.unwrap_err()).0, "42501");
    let unknown = run(on(url, &["sql-grant", "no_such_role"])).await;
    assert!(!unknown.status.success() && stderr_of(&unknown).contains("no_such_role"), "{}", stderr_of(&unknown));
}

#[tokio::test]
async fn messages_of_a_suspended_tenant_wait_in_the_inbox() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({})).await;
    let mut sql = app.database.connect().await;
    let shop = role(&mut sql, "shop").await;
    let granted = run(on(&app.database.url, &["sql-grant", &shop, "--tenant", "Acme"])).await;
    assert!(granted.status.success(), "{}", stderr_of(&granted));
    become_role(&mut sql, &shop).await;
    execute(&mut sql, "BEGIN").await;
    let id = send(&mut sql, &message(json!({})), None).await.unwrap();
    act(&app, &acme.id, "suspend").await;
    execute(&mut sql, "COMMIT").await;
    // The first turn that accepts one of these messages has seen the row; the second one begins after its end.
    let mut other = sender(&app.database).await;
    for _ in 0..2 {
        let later = send(&mut other, &message(json!({})), None).await.unwrap();
        accepted(&app, &later).await;
    }
    let waiting = "SELECT count(*) FROM sql_inbox WHERE refused_at IS NULL AND waits_for = 'tenant'";
    let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&mut app.database.connect().await).await.unwrap();
    let response = acme.api.get(&format!("/v1/messages/{id}")).await;
    assert_eq!((waiting, response.problem()), (1, (409, "not_accepted")));
    assert!(response.body["detail"].as_str().unwrap().contains("the tenant is suspended"), "{}", response.body);
    act(&app, &acme.id, "resume").await;
    accepted(&acme.api, &id).await;
}

#[tokio::test]
async fn role_that_can_create_functions_is_not_granted() {
    // Its functions could be called with the rights of Postrider's role.
    let database = Database::new();
    let mut owner = database.connect().await;
    let creator = role(&mut owner, "creator").await;
    let allow = format!("GRANT CREATE ON SCHEMA public TO \"{creator}\"");
    sqlx::raw_sql(sqlx::AssertSqlSafe(allow.clone())).execute(&mut owner).await.unwrap();
    let refused = run(on(&database.url, &["sql-grant", &creator])).await;
    assert!(
        !refused.status.success() && stderr_of(&refused).contains("hint: REVOKE CREATE"),
        "{}",
        stderr_of(&refused)
    );
    let deny = format!("REVOKE CREATE ON SCHEMA public FROM \"{creator}\"");
    sqlx::raw_sql(sqlx::AssertSqlSafe(deny)).execute(&mut owner).await.unwrap();
    let granted = run(on(&database.url, &["sql-grant", &creator])).await;
    assert!(granted.status.success(), "{}", stderr_of(&granted));
    // The right may be granted later, also to a role that may not send, and for the schema of the function.
    sqlx::raw_sql(sqlx::AssertSqlSafe(allow)).execute(&mut owner).await.unwrap();
    let doctor = run(on(&database.url, &["doctor"])).await;
    let text = String::from_utf8(doctor.stdout).unwrap();
    assert!(text.contains(&format!("BAD   role {creator}: can create functions in public")), "{text}");
    let other = role(&mut owner, "other_creator").await;
    let allow = format!("GRANT CREATE ON SCHEMA postrider TO \"{other}\"");
    sqlx::raw_sql(sqlx::AssertSqlSafe(allow)).execute(&mut owner).await.unwrap();
    let text = String::from_utf8(run(on(&database.url, &["doctor"])).await.stdout).unwrap();
    assert!(text.contains(&format!("BAD   role {other}: can create functions in postrider")), "{text}");
    let third = role(&mut owner, "third").await;
    let refused = run(on(&database.url, &["sql-grant", &third])).await;
    assert!(!refused.status.success() && stderr_of(&refused).contains(&creator), "{}", stderr_of(&refused));
}

#[tokio::test]
async fn function_of_another_owner_is_reported() {
    let database = Database::new();
    let mut owner = database.connect().await;
    let shop = role(&mut owner, "shop").await;
    let granted = run(on(&database.url, &["sql-grant", &shop])).await;
    assert!(granted.status.success(), "{}", stderr_of(&granted));
    let thief = role(&mut owner, "thief").await;
    let change = format!("ALTER FUNCTION postrider.send(jsonb, text) OWNER TO \"{thief}\"");
    sqlx::raw_sql(sqlx::AssertSqlSafe(change)).execute(&mut owner).await.unwrap();
    let text = String::from_utf8(run(on(&database.url, &["doctor"])).await.stdout).unwrap();
    assert!(text.contains(&format!("BAD   role {thief}: can create functions in postrider")), "{text}");
}

#[tokio::test]
async fn settings_of_the_session_do_not_weaken_the_checks() {
    let database = Database::new();
    let mut sql = sender(&database).await;
    // Without standard strings, a backslash in a pattern would mean something else.
    execute(&mut sql, "SET escape_string_warning = off; SET standard_conforming_strings = off").await;
    let error = send(&mut sql, &message(json!({"to": "ann lee@example.test"})), None).await.unwrap_err();
    assert_eq!(problem(&error), ("PR422".to_owned(), vec![("/to".to_owned(), "invalid_address".to_owned())]));
    for level in ["off", "local", "remote_write"] {
        let begin = format!("BEGIN; SET LOCAL synchronous_commit = {level}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(begin)).execute(&mut sql).await.unwrap();
        send(&mut sql, &message(json!({})), None).await.unwrap();
        let used: String = sqlx::query_scalar("SHOW synchronous_commit").fetch_one(&mut sql).await.unwrap();
        assert_eq!(used, "on", "{level}");
        execute(&mut sql, "ROLLBACK").await;
    }
}

#[tokio::test]
async fn unverified_domain_is_refused_if_configured() {
    let app = TestApp::builder()
        .config(|config| config.domains.unverified = postrider::config::Unverified::Refuse)
        .start()
        .await;
    let mut observer = app.database.connect().await;
    // The process stores its settings soon after its start.
    crate::support::until::until("the settings are not stored", super::LIMIT, async || {
        let stored = "SELECT verified_domains_only FROM sql_settings";
        let is_stored: bool = sqlx::query_scalar(stored).fetch_one(&mut observer).await.unwrap();
        if is_stored { Ok(()) } else { Err("the default") }
    })
    .await;
    let mut sql = sender(&app.database).await;
    let error = send(&mut sql, &message(json!({})), None).await.unwrap_err();
    assert_eq!(problem(&error), ("PR422".to_owned(), vec![("/from".to_owned(), "unverified_domain".to_owned())]));
}
