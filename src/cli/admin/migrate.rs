//! `postrider migrate`: brings the schema up to date.

use std::process::ExitCode;

use crate::app;
use crate::config::Config;
use crate::db::pool::{server, session};
use crate::db::schema::{self, partitions};

pub(in crate::cli) async fn run(config: &Config) -> anyhow::Result<ExitCode> {
    let db = app::database(config)?;
    // The lock that keeps two processes from migrating at the same time does not work behind a pooler in transaction mode.
    session::check_direct(&db).await?;
    let ran = schema::migrate(&db).await?;
    partitions::ensure(&db, server::time(&db).await?).await?;
    match ran {
        0 => println!("The schema is up to date."),
        ran => println!("The schema is up to date: {ran} migration(s) ran."),
    }
    db.close().await;
    Ok(ExitCode::SUCCESS)
}
