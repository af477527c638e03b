//! `[retention]`: data is deleted once its period has passed, and nothing that has not ended.

mod after_deletion;
mod command;
mod erase;
mod partitions;
mod protection;
mod redact;
mod streams;
mod tables;
mod weeks;

use postrider::db::schema::partitions::ensure;
use postrider::worker::Deleted;
use sqlx::Row as _;

use crate::support::app::TestApp;
use crate::support::clock::hours;

/// Advances the clock, and creates the partitions of the new weeks, as every process does each hour.
async fn advance(app: &TestApp, days: i64) {
    app.clock.advance(hours(24 * days));
    ensure(&app.db, postrider::clock::Clock::now(&*app.clock)).await.unwrap();
}

/// Deletes everything whose period has passed.
async fn delete_old_data(app: &TestApp) -> Deleted {
    app.worker.delete_old_data().await.unwrap().expect("no other process deletes")
}

/// Returns a number from the database.
async fn number(app: &TestApp, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(&mut app.database.connect().await).await.unwrap()
}

/// Returns why weeks of a class are kept.
async fn reasons(app: &TestApp, class: &str) -> String {
    let query =
        "SELECT coalesce(string_agg(DISTINCT r, ' '), '') FROM retention_weeks, unnest(protected) r WHERE class = $1";
    sqlx::query_scalar(query).bind(class).fetch_one(&mut app.database.connect().await).await.unwrap()
}

/// Returns the tables in which a text is stored, in any column.
async fn tables_with(app: &TestApp, text: &str) -> Vec<String> {
    let mut connection = app.database.connect().await;
    let tables = "SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace =
                  (SELECT relnamespace FROM pg_class WHERE oid = 'messages'::regclass) ORDER BY 1";
    let tables = sqlx::query(tables).fetch_all(&mut connection).await.unwrap();
    assert!(tables.len() > 40);
    let hex = text.bytes().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    let mut found = Vec::new();
    for table in tables.iter().map(|row| row.get::<String, _>(0)) {
        let count = sqlx::AssertSqlSafe(format!(
            "SELECT count(*) FROM \"{table}\" t WHERE position($1 IN lower(t::text)) > 0 OR position($2 IN t::text) > 0"
        ));
        let count: i64 = sqlx::query_scalar(count).bind(text).bind(&hex).fetch_one(&mut connection).await.unwrap();
        if count > 0 {
            found.push(table);
        }
    }
    found
}
