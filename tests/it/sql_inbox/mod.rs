//! Messages that applications send with `postrider.send` in their own transactions.

mod accepted;
mod canceled;
mod examples;
mod kills;
mod lock_order;
mod measure;
mod not_accepted;
mod object_storage;
mod operators;
mod properties;
mod quotas;
mod refused;
mod roles;
mod transactions;

use std::time::Duration;

use serde_json::Value;
use sqlx::postgres::PgDatabaseError;
use sqlx::{Connection as _, PgConnection};

use crate::support::client::Api;
use crate::support::postgres::Database;
use crate::support::until::until;

/// Time limit of every wait.
const LIMIT: Duration = Duration::from_mins(1);

/// Creates the role of an application, lets it send, and takes its place in this session.
const BECOME_SENDER: &str = "
    DO $$
    DECLARE
        app name := 'app_' || current_database();
    BEGIN
        BEGIN
            EXECUTE format('CREATE ROLE %I', app);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
        PERFORM grant_sql_send(app);
        INSERT INTO sql_senders (role, tenant_id, created_at)
        VALUES (app, '00000000-0000-0000-0000-000000000000', now()) ON CONFLICT DO NOTHING;
        EXECUTE format('SET SESSION AUTHORIZATION %I', app);
    END $$";

/// Returns a connection of an application that may send.
async fn sender(database: &Database) -> PgConnection {
    let mut connection = database.connect().await;
    sqlx::raw_sql(BECOME_SENDER).execute(&mut connection).await.unwrap();
    connection
}

/// Calls `postrider.send`.
async fn send(connection: &mut PgConnection, message: &Value, key: Option<&str>) -> Result<String, sqlx::Error> {
    sqlx::query_scalar("SELECT postrider.send($1, idempotency_key => $2)")
        .bind(message)
        .bind(key)
        .fetch_one(connection)
        .await
}

/// Runs statements.
async fn execute(connection: &mut PgConnection, statements: &'static str) {
    sqlx::raw_sql(statements).execute(connection).await.unwrap();
}

/// Returns the SQLSTATE of an error, and the pointers and codes in its detail.
fn problem(error: &sqlx::Error) -> (String, Vec<(String, String)>) {
    let error = error.as_database_error().unwrap().downcast_ref::<PgDatabaseError>();
    let faults: Value = error.detail().map_or(Value::Null, |detail| serde_json::from_str(detail).unwrap());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let faults = faults.as_array().map(Vec::as_slice).unwrap_or_default().iter();
    (error.code().to_owned(), faults.map(|fault| (text(&fault["pointer"]), text(&fault["code"]))).collect())
}

/// Waits until the API has a message.
async fn accepted(api: &Api, id: &str) {
    let path = format!("/v1/messages/{id}");
    until("the message is not accepted", LIMIT, async || match api.get(&path).await.status {
        200 => Ok(()),
        status => Err(status),
    })
    .await;
}

/// Waits until no row waits.
async fn inbox_is_empty(database: &Database) {
    let mut connection = database.connect().await;
    until("rows wait", LIMIT, async || {
        let waiting = "SELECT count(*) FROM sql_inbox WHERE refused_at IS NULL";
        match sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut connection).await.unwrap() {
            0 => Ok(()),
            waiting => Err(waiting),
        }
    })
    .await;
    connection.close().await.unwrap();
}
