//! Which streams there are, asked for at most every few seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::db::{self, Db, DbError};
use crate::domain::id::TenantId;

/// How old an answer may be.
const FRESH: Duration = Duration::from_secs(5);

type Known = (Instant, Arc<[String]>);

#[derive(Debug)]
pub(super) struct Streams {
    db: Db,
    /// With the time they were asked for.
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
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&tenant).cloned();
        if let Some((asked, names)) = known
            && asked.elapsed() < FRESH
        {
            return Ok(names);
        }
        let rows = db::streams::all(&self.db, tenant).await?;
        let names: Arc<[String]> = rows.into_iter().map(|row| row.name).collect();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(tenant, (Instant::now(), names.clone()));
        Ok(names)
    }
}
