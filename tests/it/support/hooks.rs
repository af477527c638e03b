//! Webhook endpoints, inserted into the database as the API does.

use chrono::{DateTime, Utc};
use postrider::clock::Clock as _;
use postrider::domain::id::{EndpointId, TenantId};
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use super::app::{TestApp, TestAppBuilder};
use super::clock::seconds;

pub const SECRET: [u8; 32] = [7; 32];

/// An endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Hook {
    pub id: EndpointId,
}

/// The state of an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    pub cursor: i64,
    pub failures: i32,
    pub last_error: Option<String>,
    pub disabled: Option<String>,
    pub is_leased: bool,
    pub retries: i64,
    pub open_at: Option<DateTime<Utc>>,
}

/// Returns a builder that allows webhook endpoints on this machine.
pub fn builder() -> TestAppBuilder {
    TestApp::builder().config(|config| config.webhooks.allow_private = true)
}

pub async fn start() -> TestApp {
    builder().start().await
}

impl Hook {
    /// Inserts an endpoint that receives all events, starting with the first one. `settings` are columns such as
    /// `batch = 10`.
    pub async fn add(app: &TestApp, url: &str, settings: &str) -> Self {
        let hook = Self::insert(&mut app.database.connect().await, app.clock.now(), url).await;
        if !settings.is_empty() {
            hook.set(app, settings).await;
        }
        hook
    }

    /// Inserts an endpoint into any database.
    pub async fn insert(connection: &mut PgConnection, now: DateTime<Utc>, url: &str) -> Self {
        let id = EndpointId::new(now);
        sqlx::query(
            "INSERT INTO webhook_endpoints (id, tenant_id, created_at, url, secret, cursor) VALUES ($1, $2, $3, $4, $5, 0)",
        )
        .bind(id.0)
        .bind(TenantId::DEFAULT.0)
        .bind(now)
        .bind(url)
        .bind(&SECRET[..])
        .execute(connection)
        .await
        .unwrap();
        Self { id }
    }

    pub async fn set(self, app: &TestApp, settings: &str) {
        let update = format!("UPDATE webhook_endpoints SET {settings} WHERE id = $1");
        sqlx::query(AssertSqlSafe(update)).bind(self.id.0).execute(&mut app.database.connect().await).await.unwrap();
    }

    pub async fn state(self, app: &TestApp) -> State {
        let row = sqlx::query(
            "SELECT cursor, failures, last_error, disabled_reason, lease IS NOT NULL, nullif(open_at, '-infinity'),
                    (SELECT count(*) FROM webhook_retries WHERE endpoint_id = e.id)
             FROM webhook_endpoints e WHERE id = $1",
        );
        let row = row.bind(self.id.0).fetch_one(&mut app.database.connect().await).await.unwrap();
        State {
            cursor: row.get(0),
            failures: row.get(1),
            last_error: row.get(2),
            disabled: row.get(3),
            is_leased: row.get(4),
            open_at: row.get(5),
            retries: row.get(6),
        }
    }

    /// Returns status, error and attempt number of each delivery attempt, first attempts first.
    pub async fn log(self, app: &TestApp) -> Vec<(Option<i16>, Option<String>, i16)> {
        let rows = sqlx::query_as(
            "SELECT status, error, attempt FROM webhook_attempts WHERE endpoint_id = $1 ORDER BY attempt, seq",
        );
        rows.bind(self.id.0).fetch_all(&mut app.database.connect().await).await.unwrap()
    }

    /// Inserts an event about this endpoint.
    pub async fn insert_event(self, app: &TestApp, kind: &str) {
        sqlx::query(
            "INSERT INTO events (tenant_id, seq, recorded_at, type, endpoint_id)
             SELECT $1, take_event_numbers($1, 1) + 1, $2, $3, $4",
        )
        .bind(TenantId::DEFAULT.0)
        .bind(app.clock.now())
        .bind(kind)
        .bind(self.id.0)
        .execute(&mut app.database.connect().await)
        .await
        .unwrap();
    }
}

impl TestApp {
    /// Runs the worker until all due events are posted.
    pub async fn notify(&self) {
        self.worker.notify().await.unwrap();
    }

    /// Advances the clock by this many seconds, and runs the worker until all due events are posted.
    pub async fn notify_after(&self, count: i64) {
        self.clock.advance(seconds(count));
        self.notify().await;
    }
}
