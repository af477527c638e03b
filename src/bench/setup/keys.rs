//! `--keys` and `--tenants`: the API keys that the load is sent with in turn, and their tenants. They are inserted in one
//! transaction, as their requests would insert them.

use std::sync::Arc;

use crate::bench::error::Doing as _;
use crate::bench::options::Options;
use crate::bench::{BenchError, progress};
use crate::clock::{Clock as _, SystemClock};
use crate::db::Db;
use crate::db::bench::{KeyRow, insert_keys};
use crate::domain::id::{KeyId, TenantId};
use crate::domain::key::{KeyMode, Secret};

/// Creates the keys. Without `--keys` and `--tenants`, returns the `admin` key.
pub(super) async fn create(db: &Db, options: &Options, admin: &str) -> Result<Arc<[String]>, BenchError> {
    if options.key_count() == 1 && options.tenants == 0 {
        return Ok(Arc::new([admin.to_owned()]));
    }
    progress::step(&format!("creating {} API keys", options.key_count()));
    let now = SystemClock.now();
    let tenants: Vec<TenantId> = (0..options.tenants).map(|_| TenantId::new(now)).collect();
    let mut owners = tenants.iter().copied().cycle();
    let (mut secrets, mut rows) = (Vec::new(), Vec::new());
    for _ in 0..options.key_count() {
        let secret = Secret::new(KeyMode::Live, None, rand::random());
        let tenant = owners.next().unwrap_or(TenantId::DEFAULT);
        rows.push(KeyRow { id: KeyId::new(now), tenant, hash: Secret::hash(secret.expose()) });
        secrets.push(secret.expose().to_owned());
    }
    insert_keys(db, &tenants, &rows, now).await.doing("create API keys")?;
    Ok(secrets.into())
}
