//! `POST /v1/domains/{name}/verify`.

use axum::Json;
use axum::extract::State;

use super::view::DomainView;
use super::{DomainName, NO_DOMAIN, shown};
use crate::db::domains::{self, KeyRow};
use crate::dns;
use crate::domain::dns_records::{PublishedKey, Verdict, records};
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::{Api, ApiError, Problem};

/// Check a domain's records
///
/// Asks the DNS for each record, and says what was found and what would mend it. Pending keys whose records are seen
/// sign from now on; those before them are `retiring`. Workers check by themselves: every five minutes while something
/// is missing, else every six hours.
#[utoipa::path(
    post, path = "/v1/domains/{name}/verify", tag = "domains", operation_id = "verify_domain",
    params(("name" = String, Path, description = "The domain's name")),
    responses(
        (status = 200, description = "The domain with what was found", body = DomainView),
        (status = 401, description = "No key, or none that works", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The key does not allow it", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such domain", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = [])),
)]
pub async fn verify(
    State(api): State<Api>,
    caller: Caller,
    DomainName(name): DomainName,
) -> Result<Json<DomainView>, ApiError> {
    caller.may(Scope::Admin)?;
    let tenant = caller.tenant();
    domains::get(&api.db, tenant, &name).await?.ok_or(NO_DOMAIN)?;
    let rows = domains::keys(&api.db, tenant, std::slice::from_ref(&name)).await?;
    let keys: Vec<PublishedKey> = rows.iter().filter_map(KeyRow::published).collect();
    let terms = &api.domains.terms;
    let findings = dns::check(&api.domains.dns, records(terms, &name, &keys)).await;
    let verdict = Verdict::new(terms, &name, &keys, findings);
    let now = api.clock.now();
    domains::checked(&api.db, tenant, &name, &verdict, &keys, now, now + verdict.next_check(terms, &keys)).await?;
    api.domains.senders.forget();
    shown(&api, tenant, &name).await.map(Json)
}
