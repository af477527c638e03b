//! `GET /v1/domains` and `GET /v1/domains/{name}`.

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;

use super::view::DomainView;
use super::{DomainName, NO_DOMAIN, load_view};
use crate::db::domains::{self, KeyRow};
use crate::domain::key::Scope;
use crate::domain::sender_domain::dns_records::with_parents;
use crate::http::auth::Caller;
use crate::http::page::{Page, PageParams};
use crate::http::request::params::Params;
use crate::http::{Api, ApiError, AuthErrors, InvalidParameter, NotFound};

/// List domains
///
/// Returns domains ordered by name, with their keys, the records to publish, and the results of the last check.
#[utoipa::path(
    get, path = "/v1/domains", tag = "domains", operation_id = "list_domains",
    params(PageParams),
    responses((status = 200, description = "A page of domains", body = Page<DomainView>), AuthErrors, InvalidParameter),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    mut params: Params,
) -> Result<Json<Page<DomainView>>, ApiError> {
    caller.require(Scope::Metadata)?;
    let limit = params.limit();
    let after = params.text("after");
    params.finish()?;
    let only = visible(&caller);
    let rows = domains::page(&api.db, caller.live_tenant(), only.as_deref(), after.as_deref(), limit + 1).await?;
    let names: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
    let mut keys = HashMap::<String, Vec<KeyRow>>::new();
    for key in domains::keys(&api.db, caller.live_tenant(), &names).await? {
        keys.entry(key.domain.clone()).or_default().push(key);
    }
    let show = |row: domains::DomainRow| {
        let keys = keys.get(&row.name).cloned().unwrap_or_default();
        DomainView::from_row(row, keys, &api.domains.dns_settings)
    };
    Ok(Json(Page::new(rows, limit, |row| row.name.clone(), show)))
}

/// Get a domain
///
/// Returns the domain's keys, the records to publish, and the results of the last check. Does not query the DNS; use
/// `POST /v1/domains/{name}/verify` for that.
#[utoipa::path(
    get, path = "/v1/domains/{name}", tag = "domains", operation_id = "get_domain",
    params(("name" = String, Path, description = "The name of the domain")),
    responses((status = 200, description = "The domain", body = DomainView), AuthErrors, NotFound),
)]
pub async fn get(
    State(api): State<Api>,
    caller: Caller,
    DomainName(name): DomainName,
) -> Result<Json<DomainView>, ApiError> {
    caller.require(Scope::Metadata)?;
    if visible(&caller).is_some_and(|only| !only.contains(&name)) {
        return Err(NO_DOMAIN);
    }
    load_view(&api, caller.live_tenant(), &name).await.map(Json)
}

/// Returns the domains that the caller may see: its sender domains and their parent domains, which may sign for them.
/// `None` means all domains.
pub(in crate::http) fn visible(caller: &Caller) -> Option<Vec<String>> {
    Some(caller.sender_domains()?.iter().flat_map(|domain| with_parents(domain)).collect())
}
