//! Checks the records of senders' domains in the DNS: those of new keys every few minutes until they are seen and sign,
//! all others a few times a day. Keys that have served their time are deleted.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use crate::db::DbError;
use crate::db::domains;
use crate::dns;
use crate::domain::id::TenantId;
use crate::domain::publish::{PublishedKey, UNSETTLED, Verdict, records};
use crate::worker::Parts;

/// Between two looks whose turn it is.
const EVERY: Duration = Duration::from_secs(30);
/// Domains checked at one time.
const AT_ONCE: i64 = 8;

pub(crate) async fn run(parts: Arc<Parts>) {
    loop {
        tokio::time::sleep(EVERY).await;
        if let Err(error) = once(&parts).await {
            tracing::warn!(%error, "could not check senders' domains; trying again");
        }
    }
}

/// Checks all whose turn it is.
pub(crate) async fn once(parts: &Parts) -> Result<(), DbError> {
    domains::retire(&parts.db, parts.clock.now()).await?;
    loop {
        let now = parts.clock.now();
        let due = domains::take_due(&parts.db, now, now + UNSETTLED, AT_ONCE).await?;
        if due.is_empty() {
            return Ok(());
        }
        let checks = join_all(due.iter().map(|(tenant, name)| check(parts, *tenant, name))).await;
        checks.into_iter().collect::<Result<(), DbError>>()?;
    }
}

async fn check(parts: &Parts, tenant: TenantId, name: &str) -> Result<(), DbError> {
    let rows = domains::keys(&parts.db, tenant, &[name.to_owned()]).await?;
    let keys: Vec<PublishedKey> = rows.iter().filter_map(domains::KeyRow::published).collect();
    let terms = &parts.settings.publish;
    let findings = dns::check(&parts.dns, records(terms, name, &keys)).await;
    let verdict = Verdict::of(terms, name, &keys, findings);
    for selector in &verdict.seen {
        tracing::info!(domain = name, selector, "the record of a new DKIM key is seen; it signs from now on");
    }
    let now = parts.clock.now();
    domains::checked(&parts.db, tenant, name, &verdict, &keys, now, now + verdict.next_check(terms, &keys)).await
}
