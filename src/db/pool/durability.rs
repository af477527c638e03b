//! Whether Postgres keeps what it says it has committed. With `fsync` or `full_page_writes` off it may not, and 202
//! would be a lie.

use crate::db::{Db, DbError};

/// Each setting that risks accepted mail, in words with the mend.
pub async fn check(db: &Db) -> Result<Vec<String>, DbError> {
    let query = sqlx::query!(
        r#"SELECT name AS "name!", setting AS "setting!" FROM pg_settings
           WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off' ORDER BY name"#
    );
    let off = db.timed("durability.check", query.fetch_all(&db.pool)).await?;
    let problem = |name: &str, setting: &str| {
        format!("Postgres runs with {name} = {setting}: a crash can lose mail that was accepted; set {name} = on")
    };
    Ok(off.into_iter().map(|row| problem(&row.name, &row.setting)).collect())
}

/// Bytes that [`write_probe`] writes.
const PROBE: i32 = 4 << 20;

/// Whether the database has room: writes some megabytes into a table that vanishes with its transaction.
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
        .bind(PROBE)
        .execute(&mut *tx)
        .await?;
        tx.rollback().await
    })
    .await
}
