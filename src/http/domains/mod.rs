//! `/v1/domains`: what mail is sent from, the keys that sign it, and the records to publish for them.

pub mod control;
pub mod read;
pub mod rotate;
pub mod verify;
mod view;

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;

use super::{Api, ApiError, ProblemCode};
use crate::db::domains::cache::SenderCache;
use crate::db::domains::{self, NewKey};
use crate::dns::Asker;
use crate::domain::dkim::{self, Algorithm};
use crate::domain::dns_records::Terms;
use crate::domain::id::TenantId;
use crate::domain::keyring::Keyring;
use view::DomainView;

const NO_DOMAIN: ApiError = ApiError::NotFound("There is no domain with this name.");

/// What the API knows of senders' domains, brought by the application.
#[derive(Debug, Clone)]
pub struct Domains {
    /// How they stand, and what signs.
    pub senders: Arc<SenderCache>,
    /// Asks for what is published.
    pub dns: Asker,
    /// What goes into records.
    pub terms: Terms,
    /// Seals private keys; none without `secret_key`.
    pub keyring: Option<Keyring>,
    /// Whether mail from domains that are not verified is refused.
    pub refuses_unverified: bool,
}

/// A domain's name in the path, in any spelling. What cannot be a domain names nothing.
#[derive(Debug)]
pub struct DomainName(String);

impl<S: Send + Sync> FromRequestParts<S> for DomainName {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Ok(Path(name)) = Path::<String>::from_request_parts(parts, state).await else { return Err(NO_DOMAIN) };
        let address = format!("postmaster@{name}").parse::<crate::domain::address::Address>();
        address.map(|address| Self(address.domain().to_owned())).map_err(|_| NO_DOMAIN)
    }
}

/// A domain as it stands now.
async fn shown(api: &Api, tenant: TenantId, name: &str) -> Result<DomainView, ApiError> {
    let row = domains::get(&api.db, tenant, name).await?.ok_or(NO_DOMAIN)?;
    let keys = domains::keys(&api.db, tenant, &[name.to_owned()]).await?;
    Ok(DomainView::of(row, keys, &api.domains.terms))
}

/// A new pair of keys, sealed.
async fn new_keys(api: &Api, tenant: TenantId, domain: &str) -> Result<Vec<NewKey>, ApiError> {
    let ring = api.domains.keyring.clone().ok_or_else(no_secret)?;
    let (domain, random) = (domain.to_owned(), rand::random());
    let work = move || -> Result<Vec<NewKey>, dkim::KeyError> {
        let make = |algorithm| {
            let (key, selector) = (dkim::NewKey::make(algorithm)?, dkim::selector(random, algorithm));
            let sealed = key.seal(&ring, tenant, &domain, &selector)?;
            Ok(NewKey { selector, algorithm, public: key.public, sealed })
        };
        Algorithm::ALL.into_iter().map(make).collect()
    };
    let made = tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::Internal)?;
    made.map_err(|error| {
        tracing::error!(%error, "could not make DKIM keys");
        ApiError::Internal
    })
}

fn no_secret() -> ApiError {
    ApiError::Conflict {
        code: ProblemCode::NoSecretKey,
        detail: "DKIM keys are stored encrypted, and there is nothing to encrypt them with: set secret_key \
                 (POSTRIDER_SECRET_KEY or POSTRIDER_SECRET_KEY_FILE) to the output of `openssl rand -base64 33`, the same in \
                 every replica, and start again."
            .into(),
        retry_after: None,
    }
}
