//! The API key of the request that the current task handles.
//!
//! When the body of a request has arrived, [`super::KeyCache::recheck`] loads the key again. The functions that read
//! bodies have only the headers, so `recheck` gets the client's address from this module, and stores the loaded key in
//! it. From then on, the caller uses this key.

use std::cell::OnceCell;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use super::CachedKey;
use crate::http::ApiError;
use crate::http::audit::AuditRecord;

tokio::task_local! {
    static CURRENT: OnceCell<Arc<RequestKey>>;
}

/// What a request does, as far as a suspended tenant is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// It reads, is an operator's, or records a report of another mail server: also keys of suspended tenants may do it.
    WhileSuspended,
    /// It may change something.
    WhileActive,
}

impl Access {
    /// Fails if the key's tenant is suspended and therefore may not make the request.
    pub(super) fn check(self, key: &CachedKey) -> Result<(), ApiError> {
        match (self, &key.tenant.suspension) {
            (Self::WhileActive, Some(suspension)) => Err(ApiError::TenantSuspended(suspension.sentence())),
            _ => Ok(()),
        }
    }
}

/// The API key of a request.
#[derive(Debug)]
pub(super) struct RequestKey {
    /// The client's address; `None` if it is unknown.
    pub client: Option<IpAddr>,
    pub access: Access,
    /// The row of the request in the audit log; `None` if the request is not audited.
    pub audit: Option<Arc<AuditRecord>>,
    /// The key as it was when the headers had arrived.
    admitted: Arc<CachedKey>,
    /// The key as it was when the body had arrived.
    rechecked: OnceLock<Arc<CachedKey>>,
}

impl RequestKey {
    pub(super) fn new(
        key: Arc<CachedKey>,
        client: Option<IpAddr>,
        access: Access,
        audit: Option<Arc<AuditRecord>>,
    ) -> Self {
        Self { client, access, audit, admitted: key, rechecked: OnceLock::new() }
    }

    /// Returns the key as it was last loaded.
    pub(super) fn key(&self) -> &CachedKey {
        self.rechecked.get().unwrap_or(&self.admitted)
    }

    /// Sets the key as it was when the body had arrived.
    pub(super) fn set_rechecked(&self, key: Arc<CachedKey>) {
        let _ = self.rechecked.set(key);
    }
}

/// Handles a request, during which [`current`] returns its key.
pub(in crate::http) fn with_request_key<F: Future>(work: F) -> impl Future<Output = F::Output> {
    CURRENT.scope(OnceCell::new(), work)
}

/// Sets the key of the current request.
pub(super) fn set(request: Arc<RequestKey>) {
    let _ = CURRENT.try_with(|current| current.set(request));
}

/// Returns the key of the current request; `None` outside of a request, and before a key was accepted.
pub(super) fn current() -> Option<Arc<RequestKey>> {
    CURRENT.try_with(|current| current.get().cloned()).ok().flatten()
}

/// Returns the row of the current request in the audit log.
pub(in crate::http) fn current_audit() -> Option<Arc<AuditRecord>> {
    current().and_then(|request| request.audit.clone())
}
