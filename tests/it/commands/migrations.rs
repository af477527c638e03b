//! A database whose schema cannot be upgraded is refused and left unchanged.

use crate::support::postgres::Database;
use crate::support::process::{on, run, stderr_of};

/// A schema as a pre-release created it, shortened: one table, and rows in the list of migrations.
const PRE_RELEASE: &str = "
    CREATE TABLE tenants (id uuid PRIMARY KEY);
    CREATE TABLE _sqlx_migrations (
        version bigint PRIMARY KEY, description text NOT NULL, installed_on timestamptz NOT NULL DEFAULT now(),
        success boolean NOT NULL, checksum bytea NOT NULL, execution_time bigint NOT NULL);
    INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES
        (1, 'tenants', true, '\\x01', 0), (72, 'partitions race', true, '\\x02', 0)";

const OBJECTS: &str = "
    SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace)
         + (SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace)
         + (SELECT count(*) FROM _sqlx_migrations)";

#[tokio::test]
async fn migration_does_not_wait_for_long_and_can_be_repeated() {
    let database = Database::new();
    let mut connection = database.connect().await;
    let revert = "ALTER TABLE events DROP COLUMN key_id; DELETE FROM _sqlx_migrations WHERE version = 24";
    sqlx::raw_sql(revert).execute(&mut connection).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE events IN ACCESS SHARE MODE").execute(&mut connection).await.unwrap();
    let refused = run(on(&database.url, &["migrate"])).await;
    let error = stderr_of(&refused);
    assert!(!refused.status.success() && error.contains("lock timeout") && error.contains("run it again"), "{error}");

    sqlx::raw_sql("COMMIT").execute(&mut connection).await.unwrap();
    let repeated = run(on(&database.url, &["migrate"])).await;
    assert!(repeated.status.success(), "{}", stderr_of(&repeated));
    sqlx::raw_sql("SELECT key_id FROM events").execute(&mut connection).await.unwrap();
}

#[tokio::test]
async fn pre_release_database_is_refused_and_left_unchanged() {
    let database = Database::empty();
    let mut connection = database.connect().await;
    sqlx::raw_sql(PRE_RELEASE).execute(&mut connection).await.unwrap();
    let before: i64 = sqlx::query_scalar(OBJECTS).fetch_one(&mut connection).await.unwrap();

    for command in [&["migrate"][..], &["serve", "--migrate"], &["serve"], &["keys", "list"]] {
        let refused = run(on(&database.url, command)).await;
        let error = stderr_of(&refused);
        let lines: Vec<&str> = error.lines().collect();
        assert!(!refused.status.success() && lines.len() == 2, "{command:?}: {error}");
        assert!(lines[0].contains("pre-release") && lines[0].contains("nothing was changed"), "{error}");
        assert!(lines[1].starts_with("hint: create an empty database"), "{error}");
    }
    let after: i64 = sqlx::query_scalar(OBJECTS).fetch_one(&mut connection).await.unwrap();
    assert_eq!(after, before);
}
