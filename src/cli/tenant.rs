//! Finds the tenant that an option names.

use anyhow::anyhow;

use crate::app::WithHint as _;
use crate::db::{Db, tenants};
use crate::domain::id::TenantId;

/// Returns the tenant with this id or name; fails if there is none, or it is being deleted.
pub(super) async fn find_tenant(db: &Db, text: &str) -> anyhow::Result<TenantId> {
    let found = match text.parse::<TenantId>() {
        Ok(id) => tenants::get(db, id).await?.filter(|row| row.deleting_at.is_none()).map(|row| TenantId(row.id)),
        Err(_) => tenants::find(db, text).await?,
    };
    found
        .ok_or_else(|| anyhow!("there is no tenant {text}"))
        .with_hint("`postrider tenants` prints all tenants (it needs a key with the scope `operator`)")
}
