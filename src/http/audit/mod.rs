//! The audit log: who changed what.
//!
//! [`operation`] decides by method and route whether a request is audited. The row is inserted once the API key is known and
//! before the handler runs ([`AuditRecord::begin`]): if that fails, the request fails, so there is no change without a row.
//! Handlers note the object and its state before and after the change (`Caller::note_…`). When the handler has returned,
//! the row is completed ([`AuditRecord::complete`]).

mod operations;
pub mod read;

use std::fmt::Display;
use std::net::IpAddr;

use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;

use super::Api;
use super::auth::{CachedKey, Caller};
use super::in_process::KnownKey;
use crate::db::audit::{self, Actor, Outcome};
use crate::db::{Db, DbError};
use crate::domain::id::{AuditId, KeyId, TenantId};
use crate::domain::records::audit::{AuditResult, AuditSource, recordable};

pub use operations::NOT_AUDITED;
pub(super) use operations::prepare;

/// Maximum length of the recorded `User-Agent`, in characters.
const MAX_USER_AGENT: usize = 256;
/// Maximum length of the recorded id, name or address of an object, in characters.
const MAX_OBJECT: usize = 512;

/// The operation of an audited request.
#[derive(Debug, Clone)]
pub(super) struct AuditedOperation {
    action: &'static str,
    source: AuditSource,
    object: Option<String>,
    request_id: String,
}

/// Returns the operation of a request; `None` if the request is not audited.
pub(super) fn operation(request: &Request, route: &str, request_id: &HeaderValue) -> Option<AuditedOperation> {
    let (action, source) = operations::find(request.method(), route)?;
    // Only the calls of the dashboard have this extension.
    let is_dashboard = request.extensions().get::<KnownKey>().is_some();
    let source = if is_dashboard { AuditSource::Dashboard } else { source };
    let object = operations::object(route, request.uri().path()).map(|object| shortened(&object, MAX_OBJECT));
    let request_id = request_id.to_str().unwrap_or_default().to_owned();
    Some(AuditedOperation { action, source, object, request_id })
}

fn shortened(text: &str, max: usize) -> String {
    // Postgres cannot store NUL.
    text.chars().filter(|c| *c != '\0').take(max).collect()
}

/// The row of an audited request.
#[derive(Debug)]
pub(super) struct AuditRecord {
    db: Db,
    tenant: TenantId,
    id: AuditId,
    noted: Mutex<Outcome>,
}

impl AuditRecord {
    /// Inserts the row.
    pub(super) async fn begin(
        api: &Api,
        operation: &AuditedOperation,
        key: &CachedKey,
        client: Option<IpAddr>,
        parts: &Parts,
    ) -> Result<Self, DbError> {
        let now = api.clock.now();
        let user_agent = parts.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
        let user_agent = user_agent.map(|text| shortened(text, MAX_USER_AGENT));
        let remote_address = client.map(|client| client.to_string());
        let (tenant, id) = (TenantId(key.row.tenant_id), AuditId::new(now));
        let actor = Actor {
            tenant,
            mode: key.row.mode(),
            source: operation.source,
            key: Some(KeyId(key.row.id)),
            name: Some(&key.row.name),
            remote_address: remote_address.as_deref(),
            user_agent: user_agent.as_deref(),
            request_id: Some(&operation.request_id),
        };
        audit::begin(&api.db, id, &actor, (operation.action, operation.object.as_deref()), now).await?;
        Ok(Self { db: api.db.clone(), tenant, id, noted: Mutex::default() })
    }

    /// Completes the row with what handlers have noted, and the status of the response.
    pub(super) async fn complete(&self, status: StatusCode) {
        let noted = std::mem::take(&mut *self.noted.lock());
        let (status, key) = (status.as_u16(), (self.tenant, self.id));
        let result = AuditResult::from_status(status);
        if let Err(error) = audit::complete(&self.db, key, &noted, result, Some(status)).await {
            tracing::warn!(
                event = "audit_entry_incomplete",
                entry = %self.id,
                %error,
                "failed to record the outcome of a change; its entry in the audit log stays `started`"
            );
        }
    }
}

/// Methods by which handlers note a change. They do nothing if the request is not audited.
impl Caller {
    /// Notes an object whose earlier state is not recorded, such as a new one.
    pub(super) fn note_after(&self, object: &dyn Display, after: &impl Serialize) {
        self.note(Some(object), None, Some(after));
    }

    /// Notes a changed object.
    pub(super) fn note_change(&self, object: &dyn Display, before: &impl Serialize, after: &impl Serialize) {
        self.note(Some(object), state(before), Some(after));
    }

    /// Notes a deleted object.
    pub(super) fn note_removed(&self, object: &dyn Display, before: &impl Serialize) {
        self.note(Some(object), state(before), None::<&()>);
    }

    /// Notes the result of a change of several objects, or of the object that the path names.
    pub(super) fn note_result(&self, after: &impl Serialize) {
        self.note(None, None, Some(after));
    }

    /// Notes the tenant of the object. The row of a change of another tenant's object is in the audit log of the operator's
    /// tenant.
    pub(super) fn note_tenant(&self, tenant: TenantId) {
        if let Some(record) = self.audit() {
            record.noted.lock().tenant = Some(tenant).filter(|tenant| *tenant != record.tenant);
        }
    }

    fn note(&self, object: Option<&dyn Display>, before: Option<Value>, after: Option<&impl Serialize>) {
        let Some(record) = self.audit() else { return };
        let mut noted = record.noted.lock();
        noted.object = object.map(|object| shortened(&object.to_string(), MAX_OBJECT));
        noted.before = before;
        noted.after = after.and_then(state);
    }
}

fn state(object: &impl Serialize) -> Option<Value> {
    serde_json::to_value(object).ok().map(recordable)
}
