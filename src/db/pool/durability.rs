//! Checks that commits are durable. With `fsync` or `full_page_writes` off, a crash of the server may lose messages
//! that were accepted with 202.

use crate::db::{Db, DbError};

/// Returns a description and a fix for each setting that puts accepted messages at risk.
pub async fn check(db: &Db) -> Result<Vec<String>, DbError> {
    let query = sqlx::query!(
        r#"SELECT name AS "name!", setting AS "setting!" FROM pg_settings
           WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off' ORDER BY name"#
    );
    let off = db.timed("durability.check", query.fetch_all(&db.pool)).await?;
    let problem = |name: &str, setting: &str| {
        format!("Postgres runs with {name} = {setting}: a crash can lose accepted messages; set {name} = on")
    };
    Ok(off.into_iter().map(|row| problem(&row.name, &row.setting)).collect())
}

/// Number of bytes that [`write_probe`] writes.
const PROBE_BYTES: i32 = 4 << 20;

/// Checks that the disk has free space, by writing some megabytes to a temporary table.
pub async fn write_probe(db: &Db) -> Result<(), DbError> {
    db.timed("durability.write_probe", async {
        let mut tx = db.pool.begin().await?;
        sqlx::query("CREATE TEMPORARY TABLE postrider_write_probe (filler text) ON COMMIT DROP")
            .execute(&mut *tx)
            .await?;
        // Random text, which does not compress.
        sqlx::query(
            "INSERT INTO postrider_write_probe
             SELECT string_agg(md5(random()::text), '') FROM generate_series(1, $1 / 32) n GROUP BY n % 1024",
        )
        .bind(PROBE_BYTES)
        .execute(&mut *tx)
        .await?;
        tx.rollback().await
    })
    .await
}
