//! A database of the version that landed before, with mail in it, goes on with this one.

use std::time::Duration;

use postrider::db::{Db, schema};
use sqlx::migrate::Migrator;

use crate::support::postgres::Database;

static MIGRATOR: Migrator = sqlx::migrate!();

/// The last migration before routes and limits came.
const BEFORE: i64 = 11;

const MAIL_THAT_WAITS: &str = "
    INSERT INTO messages (id, tenant_id, created_at, content_id, stream, from_address, reply_to, subject, tags, metadata,
                          expires_at, on_uncertain, size)
    SELECT ('00000000-0000-0000-0000-00000000000' || n)::uuid, '00000000-0000-0000-0000-000000000000', now(),
           '00000000-0000-0000-0000-000000000000', 'transactional', 'a@sender.test', '[]', '', '[]', '{}',
           CASE n WHEN 1 THEN timestamptz '2030-01-01' END, 'retry', 1
    FROM generate_series(1, 2) n;
    INSERT INTO queue (message_id, recipient_id, tenant_id, lane_id, due_at, first_due_at)
    SELECT id, id, tenant_id, 1, now(), now() FROM messages";

#[tokio::test]
async fn mail_that_waited_keeps_its_expiry() {
    let database = Database::empty();
    let mut connection = database.connect().await;
    MIGRATOR.run_to(BEFORE, &mut connection).await.unwrap();
    sqlx::raw_sql(MAIL_THAT_WAITS).execute(&mut connection).await.unwrap();

    let db = Db::new(&database.url, 1, Duration::from_mins(1)).unwrap();
    let ran = schema::migrate(&db).await.unwrap();
    assert_eq!(ran, MIGRATOR.iter().filter(|migration| migration.version > BEFORE).count());
    schema::check(&db).await.unwrap();

    let years = "SELECT extract(year FROM expires_at AT TIME ZONE 'UTC')::int4 FROM queue ORDER BY message_id";
    let years: Vec<Option<i32>> = sqlx::query_scalar(years).fetch_all(&mut connection).await.unwrap();
    assert_eq!(years, [Some(2030), None]);
}
