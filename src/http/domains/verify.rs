//! `POST /v1/domains/{name}/verify`.

use axum::Json;
use axum::extract::State;

use super::view::DomainView;
use super::{DomainName, load_view};
use crate::db::changes::{Outdated, TenantSettings};
use crate::db::domains::{self, KeyRow};
use crate::dns;
use crate::domain::sender_domain::dns_records::{PublishedKey, Verdict, records};
use crate::http::auth::Caller;
use crate::http::{Api, ApiError, AuthErrors, NotFound};

/// Verify a domain
///
/// Looks up each DNS record and returns what was found and how to fix it. Pending keys whose records are found start to
/// sign, and the keys before them become `retiring`. Workers also check on their own: every five minutes while a record
/// is missing, otherwise every six hours.
#[utoipa::path(
    post, path = "/v1/domains/{name}/verify", tag = "domains", operation_id = "verify_domain",
    params(("name" = String, Path, description = "The name of the domain")),
    responses(
        (status = 200, description = "The domain with the results of the check", body = DomainView),
        AuthErrors, NotFound,
    ),
)]
pub async fn verify(
    State(api): State<Api>,
    caller: Caller,
    DomainName(name): DomainName,
) -> Result<Json<DomainView>, ApiError> {
    caller.require_live_admin("domains")?;
    check(&api, &caller, &name).await.map(Json)
}

/// Looks up the records of a domain, and stores the result.
pub(in crate::http) async fn check(api: &Api, caller: &Caller, name: &str) -> Result<DomainView, ApiError> {
    let tenant = caller.live_tenant();
    let before = load_view(api, tenant, name).await?;
    let rows = domains::keys(&api.db, tenant, &[name.to_owned()]).await?;
    let keys: Vec<PublishedKey> = rows.iter().filter_map(KeyRow::published).collect();
    let dns_settings = &api.domains.dns_settings;
    let findings = dns::check(&api.domains.dns, records(dns_settings, name, &keys)).await;
    let verdict = Verdict::new(dns_settings, name, &keys, findings);
    let now = api.clock.now();
    domains::checked(&api.db, tenant, name, &verdict, &keys, now, now + verdict.next_check(dns_settings, &keys))
        .await?;
    api.forget(Outdated::Settings(tenant, TenantSettings::Domains));
    let after = load_view(api, tenant, name).await?;
    caller.note_change(&name, &before, &after);
    Ok(after)
}
