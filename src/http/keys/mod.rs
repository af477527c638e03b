//! `/v1/keys`: creates, lists, changes and revokes API keys: those of the caller's tenant with the scope `admin`, and those
//! of any tenant with the scope `operator`.

pub(super) mod control;
pub(super) mod read;
pub(in crate::http) mod view;

use super::ApiError;
use super::auth::Caller;
use super::request::params::Params;
use crate::domain::id::TenantId;
use crate::domain::key::Scope;

/// The error if no key has the id.
const NO_KEY: ApiError = ApiError::NotFound("No API key has this id.");

/// Parameters that select the tenant of keys, for `params(…)` in an annotation.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only annotations use it")]
pub(super) struct TenantParam {
    /// The id of the keys' tenant, for callers with the scope `operator`; defaults to the caller's
    tenant: Option<String>,
}

/// Reads the parameter `tenant`, which is the id of a live tenant.
fn tenant_param(params: &mut Params) -> Option<TenantId> {
    params.read("tenant", "Pass the id of a tenant, such as ten_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b.", |text| {
        text.parse().ok().filter(|tenant: &TenantId| !tenant.is_test())
    })
}

/// Returns the tenant whose keys the caller manages: the named one with the scope `operator`, otherwise its own with the scope
/// `admin`. Test keys belong to the live tenant, too, and test tenants cannot be named.
fn managed_tenant(caller: &Caller, named: Option<TenantId>) -> Result<TenantId, ApiError> {
    match named {
        Some(tenant) if tenant != caller.live_tenant() || caller.has_scope(Scope::Operator) => {
            caller.require(Scope::Operator)?;
            Ok(tenant)
        }
        _ => {
            caller.require(Scope::Admin)?;
            Ok(caller.live_tenant())
        }
    }
}

/// Returns the tenant whose keys the caller changes, as [`managed_tenant`] does. Test keys only read keys.
fn changed_tenant(caller: &Caller, named: Option<TenantId>) -> Result<TenantId, ApiError> {
    let tenant = managed_tenant(caller, named)?;
    caller.require_live_key("API keys")?;
    Ok(tenant)
}
