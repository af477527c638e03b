//! Whether Postgres keeps what it says it has committed. With `fsync` or `full_page_writes` off it may not, and 202
//! would be a lie.

use super::{Db, DbError};

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
