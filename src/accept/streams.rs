//! Which streams there are, asked for at most every few seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::db::{self, Db, DbError};
use crate::domain::id::TenantId;

/// How old an answer may be.
const FRESH: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
struct Known {
    asked: Instant,
    /// The most urgent first.
    names: Arc<[String]>,
    /// Those whose mail is to carry a link to unsubscribe by.
    linking: Arc<[String]>,
}

#[derive(Debug)]
pub(super) struct Streams {
    db: Db,
    known: Mutex<HashMap<TenantId, Known>>,
}

impl Streams {
    pub(super) fn new(db: Db) -> Self {
        Self { db, known: Mutex::default() }
    }

    /// Forgets what is known.
    pub(super) fn forget(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The names of a tenant's streams, the most urgent first.
    pub(super) async fn names(&self, tenant: TenantId) -> Result<Arc<[String]>, DbError> {
        Ok(self.of(tenant).await?.names)
    }

    /// Whether the mail of a stream is to carry a link to unsubscribe by.
    pub(super) async fn asks_for_links(&self, tenant: TenantId, name: &str) -> Result<bool, DbError> {
        Ok(self.of(tenant).await?.linking.iter().any(|linking| linking == name))
    }

    async fn of(&self, tenant: TenantId) -> Result<Known, DbError> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&tenant).cloned();
        if let Some(known) = known
            && known.asked.elapsed() < FRESH
        {
            return Ok(known);
        }
        let rows = db::streams::all(&self.db, tenant).await?;
        let linking = rows.iter().filter(|row| row.unsubscribe).map(|row| row.name.clone()).collect();
        let names = rows.into_iter().map(|row| row.name).collect();
        let answer = Known { asked: Instant::now(), names, linking };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(tenant, answer.clone());
        Ok(answer)
    }
}
