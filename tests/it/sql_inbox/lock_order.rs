//! Statements that change several rows lock them in the order of their ids, so that two processes never wait for each other.

use chrono::{DateTime, Utc};
use postrider::clock::Clock as _;
use postrider::db::DbError;
use postrider::db::group_commit::{self, LockTimeout};
use postrider::db::messages::insert::batch::{BatchCommitted, BatchInsert, BatchSource};
use postrider::db::messages::sql_inbox::rejected::{self, Refusal};
use postrider::db::messages::sql_inbox::{self, EnqueuedPart};
use postrider::domain::id::{MessageId, TenantId};
use uuid::Uuid;

use super::execute;
use crate::support::app::TestApp;
use crate::support::postgres::until_waiting_for_lock;

/// The end of the claim of the rows, so that the process of the test leaves them alone.
const CLAIMED_UNTIL: &str = "2100-01-01T00:00:00Z";

/// Inserts two claimed rows, and returns their ids, the larger one first.
async fn two_rows(app: &TestApp) -> [Uuid; 2] {
    let insert = "INSERT INTO sql_inbox (tenant_id, id, payload, size, role, created_at, claimed_until)
                  SELECT '00000000-0000-0000-0000-000000000000', gen_random_uuid(), '{}', 2, 'x', now(), '2100-01-01T00:00:00Z'
                  FROM generate_series(1, 2) RETURNING id";
    let mut ids: Vec<Uuid> = sqlx::query_scalar(insert).fetch_all(&mut app.database.connect().await).await.unwrap();
    ids.sort();
    [ids[1], ids[0]]
}

/// Runs a statement for the rows while another transaction has locked the larger one. Checks that it has then locked the smaller one.
async fn locks_the_smaller_first(
    app: &TestApp,
    [larger, smaller]: [Uuid; 2],
    statement: impl Future<Output = Result<(), DbError>>,
) {
    let (mut other, mut observer) = (app.database.connect().await, app.database.connect().await);
    execute(&mut other, "BEGIN").await;
    sqlx::query("SELECT FROM sql_inbox WHERE id = $1 FOR UPDATE").bind(larger).execute(&mut other).await.unwrap();
    let check = async {
        until_waiting_for_lock(&mut observer, "sql_inbox").await;
        let locked =
            sqlx::query("SELECT FROM sql_inbox WHERE id = $1 FOR UPDATE NOWAIT").bind(smaller).execute(&mut observer);
        let error = locked.await.expect_err("the smaller row is locked");
        assert_eq!(error.as_database_error().unwrap().code().unwrap(), "55P03", "{error}");
        execute(&mut other, "ROLLBACK").await;
    };
    let (done, ()) = tokio::join!(statement, check);
    done.unwrap();
}

#[tokio::test]
async fn rows_are_locked_in_the_order_of_their_ids() {
    let app = TestApp::start().await;
    let (tenant, now) = (TenantId::DEFAULT, app.clock.now());
    let claimed_until: DateTime<Utc> = CLAIMED_UNTIL.parse().unwrap();
    let part = |rows: [Uuid; 2]| EnqueuedPart { tenant, messages: rows.to_vec(), claimed_until };

    let rows = two_rows(&app).await;
    locks_the_smaller_first(&app, rows, sql_inbox::wait_for_quota(&app.db, &part(rows), &[1, 1])).await;
    let rows = two_rows(&app).await;
    locks_the_smaller_first(&app, rows, sql_inbox::wait_for_tenant(&app.db, &part(rows))).await;
    let rows = two_rows(&app).await;
    let refusals = rows.map(|id| Refusal { message: MessageId(id), faults: Vec::new() });
    let refuse = async { rejected::refuse(&app.db, tenant, claimed_until, &refusals, now).await.map(drop) };
    locks_the_smaller_first(&app, rows, refuse).await;
}

#[tokio::test]
async fn batches_of_a_group_lock_their_rows_in_order() {
    let app = TestApp::start().await;
    let (tenant, now) = (TenantId::DEFAULT, app.clock.now());
    let claimed_until: DateTime<Utc> = CLAIMED_UNTIL.parse().unwrap();
    let rows = two_rows(&app).await;
    // Only the rows matter, so the batches have no messages.
    let batch = |row: Uuid| {
        let part = EnqueuedPart { tenant, messages: vec![row], claimed_until };
        BatchInsert { messages: Vec::new(), call: None, source: Some(BatchSource::Enqueued(part)) }
    };
    let batches = rows.map(batch);
    let commit = async {
        let committed = group_commit::commit_batches(&app.db, &batches, now, LockTimeout::Long).await;
        let committed = committed.map_err(DbError::from)?;
        assert_eq!(committed, vec![BatchCommitted::Inserted(Vec::new()); 2]);
        Ok(())
    };
    locks_the_smaller_first(&app, rows, commit).await;
}
