//! `postrider doctor` reports problems that stop messages, and commands print clear error messages.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::message;
use crate::support::postgres::Database;
use crate::support::process::{on, run, stderr_of};

/// Returns the lines of `doctor` about one of these subjects.
async fn doctor(url: &str, subjects: &[&str]) -> Vec<String> {
    let output = run(on(url, &["doctor"])).await;
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter(|line| subjects.iter().any(|subject| line[6..].starts_with(subject)))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn doctor_reports_what_stops_messages() {
    let app = TestApp::start().await;
    let subjects =
        ["server", "clock", "disk", "workers", "stream", "lane_", "held", "backlog", "webhook", "secret_key"];
    let lines = doctor(&app.database.url, &subjects).await;
    assert!(lines.iter().all(|line| !line.starts_with("BAD")), "{lines:#?}");
    assert!(lines.iter().any(|line| line.starts_with("ok    server: PostgreSQL ")), "{lines:#?}");
    assert!(lines.contains(&"ok    disk: the database accepts writes".to_owned()), "{lines:#?}");

    app.send(json!({})).await;
    app.sql(
        "UPDATE streams SET paused_at = now(), pause_reason = 'a test' WHERE name = 'bulk';
         UPDATE lanes SET blocked_since = now() - interval '1 hour', block_failures = 3, block_reply = 'connection refused',
                open_at = now() + interval '5 minutes';
         UPDATE queue SET held = 'held: 3 workers died', due_at = 'infinity';
         INSERT INTO webhook_endpoints (id, tenant_id, created_at, url, secret, cursor, disabled_at, disabled_reason)
         SELECT gen_random_uuid(), id, now(), 'https://shop.test/hook', decode(repeat('00', 32), 'hex'), 0, now(), 'It answered 410.'
         FROM tenants",
    )
    .await;
    let lines = doctor(&app.database.url, &subjects).await;
    for expected in [
        "WARN  secret_key: it is not set, so the secrets of webhooks are not encrypted",
        "WARN  stream bulk: paused since ",
        "BAD   lane_1 (transactional, relay, *): destination unreachable since ",
        "BAD   held messages: 1 recipients wait",
        "BAD   webhook https://shop.test/hook: disabled since ",
    ] {
        assert!(lines.iter().any(|line| line.starts_with(expected)), "{expected} in {lines:#?}");
    }
    assert!(lines.iter().any(|line| line.contains("(connection refused)")), "{lines:#?}");
}

#[tokio::test]
async fn doctor_says_who_can_sign_in_to_submission() {
    let database = Database::new();
    let submission = async |settings: &[(&str, &str)]| {
        let mut command = on(&database.url, &["doctor"]);
        command.envs(settings.iter().copied());
        let text = String::from_utf8(run(command).await.stdout).unwrap();
        text.lines().find(|line| line[6..].starts_with("submission")).map(str::to_owned)
    };
    assert_eq!(submission(&[]).await, None);
    let listen = "POSTRIDER_SUBMISSION__LISTEN";
    let open = submission(&[(listen, "0.0.0.0:587")]).await.unwrap();
    assert!(open.starts_with("WARN  submission: listens on 0.0.0.0:587 without a certificate"), "{open}");
    let local = submission(&[(listen, "127.0.0.1:1587")]).await;
    assert_eq!(local.as_deref(), Some("ok    submission: accepts API keys from this machine only"));
    let files =
        [("POSTRIDER_SUBMISSION__CERT_FILE", "/tmp/chain.pem"), ("POSTRIDER_SUBMISSION__KEY_FILE", "/tmp/key.pem")];
    let secure = submission(&[(listen, "0.0.0.0:587"), files[0], files[1]]).await;
    assert_eq!(secure.as_deref(), Some("ok    submission: accepts API keys over TLS"));
}

#[tokio::test]
async fn migrate_refuses_a_database_with_other_tables() {
    let database = Database::empty();
    let mut connection = database.connect().await;
    sqlx::raw_sql("CREATE TABLE orders (id int); CREATE TABLE messages (id int)")
        .execute(&mut connection)
        .await
        .unwrap();
    let refused = run(on(&database.url, &["migrate"])).await;
    let error = stderr_of(&refused);
    assert!(!refused.status.success() && error.contains("(messages, orders)"), "{error}");
    assert!(error.contains("nothing was changed\nhint: give Postrider a separate database"), "{error}");
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(tables, 2);
}

#[tokio::test]
async fn database_errors_name_the_host_once() {
    let unreachable = "postgres://u:secret@127.0.0.1:1/mail";
    // `serve` would wait for it.
    for command in [&["migrate"][..], &["keys", "create", "--name", "x"]] {
        let error = stderr_of(&run(on(unreachable, command)).await);
        assert!(error.contains("127.0.0.1:1/mail") && !error.contains("secret"), "{error}");
        assert_eq!(error.matches("onnection refused").count(), 1, "{error}");
        assert!(!error.contains(" at line "), "{error}");
    }
}

#[tokio::test]
async fn full_disk_is_named_in_503_and_readyz() {
    let app = TestApp::start().await;
    app.sql(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$;
         CREATE TRIGGER full_disk BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION full_disk()",
    )
    .await;
    assert_eq!(status_and_detail(app.request(Method::POST, "/v1/messages").json(&message(json!({})))).await, FULL);
    assert_eq!(status_and_detail(app.request(Method::GET, "/readyz")).await, FULL);
}

const FULL: (u16, &str) = (503, "The database's disk is full.");

/// Returns the status, and the first sentence of `detail` if it is the sentence in [`FULL`].
async fn status_and_detail(request: RequestBuilder) -> (u16, &'static str) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    let is_full = body["detail"].as_str().is_some_and(|detail| detail.starts_with(FULL.1));
    (status, if is_full { FULL.1 } else { "another detail" })
}
