//! `/v1/domains`: sender domains, their DKIM keys, and the DNS records to publish.

pub mod control;
pub mod read;
pub mod rotate;
pub mod verify;
pub(super) mod view;

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;

use super::{Api, ApiError, ProblemCode};
use crate::db::domains::cache::SenderCache;
use crate::db::domains::{self, NewKey};
use crate::dns::UncachedResolver;
use crate::domain::id::TenantId;
use crate::domain::installation::keyring::Keyring;
use crate::domain::sender_domain::dkim::{self, Algorithm};
use crate::domain::sender_domain::dns_records::DnsSettings;
use view::DomainView;

const NO_DOMAIN: ApiError = ApiError::NotFound("No domain has this name.");

/// Sender domains, as the application provides them to the API.
#[derive(Debug, Clone)]
pub struct Domains {
    /// Caches the domains' verification states and signing keys.
    pub senders: Arc<SenderCache>,
    /// Looks up published records.
    pub dns: UncachedResolver,
    /// The configuration that the records depend on.
    pub dns_settings: DnsSettings,
    /// Encrypts private keys; `None` without `secret_key`.
    pub keyring: Option<Keyring>,
    /// Whether messages from unverified domains are refused.
    pub refuses_unverified: bool,
}

/// A domain name in the path, in any spelling. The response to an invalid name is 404.
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

/// Reads a domain with its keys.
pub(super) async fn load_view(api: &Api, tenant: TenantId, name: &str) -> Result<DomainView, ApiError> {
    let row = domains::get(&api.db, tenant, name).await?.ok_or(NO_DOMAIN)?;
    let keys = domains::keys(&api.db, tenant, &[name.to_owned()]).await?;
    Ok(DomainView::from_row(row, keys, &api.domains.dns_settings))
}

/// Creates a pair of encrypted DKIM keys.
async fn new_keys(api: &Api, tenant: TenantId, domain: &str) -> Result<Vec<NewKey>, ApiError> {
    let ring = api.domains.keyring.clone().ok_or_else(no_secret_key_error)?;
    let (domain, random) = (domain.to_owned(), rand::random());
    let work = move || -> Result<Vec<NewKey>, dkim::KeyError> {
        let make = |algorithm| {
            let (key, selector) = (dkim::NewKey::generate(algorithm)?, dkim::selector(random, algorithm));
            let sealed = key.seal(&ring, tenant, &domain, &selector)?;
            Ok(NewKey { selector, algorithm, public: key.public, sealed })
        };
        Algorithm::ALL.into_iter().map(make).collect()
    };
    let keys = tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::Internal)?;
    keys.map_err(|error| {
        tracing::error!(event = "dkim_key_generation_failed", %error, "failed to generate DKIM keys; returned 500");
        ApiError::Internal
    })
}

fn no_secret_key_error() -> ApiError {
    ApiError::Conflict {
        code: ProblemCode::NoSecretKey,
        detail: "DKIM keys are stored encrypted, and no encryption key is configured: set `secret_key` \
                 (POSTRIDER_SECRET_KEY or POSTRIDER_SECRET_KEY_FILE) to the output of `openssl rand -base64 33`, \
                 the same in every replica, and restart."
            .into(),
        retry_after: None,
    }
}
