//! `/domains`. A domain has no id of its own in `/v1`; here it is derived from the name. A name is accepted as an id too.

use std::borrow::Cow;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::ids::{UuidId, derived};
use super::list::{List, PageRequest, page};
use super::object::{Deleted, Object};
use super::request::{one_fault, read_object};
use super::times::time;
use crate::accept::request as native;
use crate::db::domains as rows;
use crate::domain::api::fault::Code;
use crate::domain::id::TenantId;
use crate::domain::key::Scope;
use crate::domain::sender_domain::dns_records::{DomainStatus, Finding, Purpose, RecordStatus};
use crate::http::auth::Caller;
use crate::http::domains::view::DomainView;
use crate::http::domains::{self, control, verify};
use crate::http::request::params::Params;
use crate::http::{Api, ApiError};

const NO_DOMAIN: ApiError = ApiError::NotFound("No domain has this id.");
/// Maximum number of domains that are searched for an id.
const MAX_DOMAINS: i64 = 10_000;
/// Postrider has no regions, and some SDKs accept only those of Resend.
const REGION: &str = "us-east-1";

/// The id of a domain in the list.
#[derive(Debug, Clone, Copy)]
pub(super) struct DomainId(Uuid);

impl std::str::FromStr for DomainId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(Self)
    }
}

impl UuidId for DomainId {
    fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

/// Returns the id of a domain.
fn id(tenant: TenantId, name: &str) -> Uuid {
    derived(tenant.0, name)
}

/// Returns the name of the domain with this id or name.
pub(super) async fn find_name(api: &Api, tenant: TenantId, text: &str) -> Result<String, ApiError> {
    let wanted: Option<Uuid> = text.parse().ok();
    let names = rows::page(&api.db, tenant, None, None, MAX_DOMAINS).await?.into_iter().map(|row| row.name);
    let is_wanted = |name: &String| match wanted {
        Some(wanted) => id(tenant, name) == wanted,
        None => name.eq_ignore_ascii_case(text),
    };
    names.into_iter().find(is_wanted).ok_or(NO_DOMAIN)
}

#[derive(Debug, Deserialize)]
struct Settings<'a> {
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(default)]
    open_tracking: Option<bool>,
    #[serde(default)]
    click_tracking: Option<bool>,
    #[serde(borrow, default)]
    tls: Option<Cow<'a, str>>,
    #[serde(default)]
    capabilities: Option<Capabilities>,
}

#[derive(Debug, Deserialize)]
struct Capabilities {
    #[serde(default)]
    receiving: Option<Value>,
}

impl Settings<'_> {
    /// Fails if the request asks for something that Postrider does not do.
    fn check(&self) -> Result<(), ApiError> {
        let refused = [
            (self.open_tracking == Some(true), "/open_tracking", "Postrider does not track opens; pass false"),
            (self.click_tracking == Some(true), "/click_tracking", "Postrider does not track clicks; pass false"),
            (
                self.tls.as_deref() == Some("enforced"),
                "/tls",
                "TLS is configured for all domains, in `delivery.tls`; pass `opportunistic`",
            ),
            (
                self.capabilities.as_ref().is_some_and(|all| all.receiving == Some(json!("enabled"))),
                "/capabilities/receiving",
                "Postrider does not receive emails for a domain; pass `disabled`",
            ),
        ];
        match refused.into_iter().find(|(is_asked, ..)| *is_asked) {
            Some((_, pointer, message)) => Err(one_fault(pointer, Code::NotAvailable, message).into()),
            None => Ok(()),
        }
    }
}

/// A domain.
#[derive(Debug, Serialize)]
pub(super) struct ResendDomain {
    object: &'static str,
    id: Uuid,
    name: String,
    status: &'static str,
    #[serde(serialize_with = "time")]
    created_at: DateTime<Utc>,
    region: &'static str,
    open_tracking: bool,
    click_tracking: bool,
    tracking_subdomain: Option<String>,
    tls: &'static str,
    capabilities: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    records: Option<Vec<Record>>,
}

/// A DNS record to publish.
#[derive(Debug, Serialize)]
struct Record {
    #[serde(rename = "record")]
    purpose: &'static str,
    name: String,
    #[serde(rename = "type")]
    kind: Value,
    ttl: &'static str,
    status: &'static str,
    value: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u16>,
}

impl ResendDomain {
    fn new(tenant: TenantId, domain: DomainView, has_records: bool) -> Self {
        Self {
            object: "domain",
            id: id(tenant, &domain.name),
            status: match domain.status {
                DomainStatus::Pending if domain.checked_at.is_none() => "not_started",
                DomainStatus::Pending => "pending",
                // A failing domain still counts as verified for a while.
                DomainStatus::Verified | DomainStatus::Failing => "verified",
                DomainStatus::Unverified => "failed",
            },
            name: domain.name,
            created_at: domain.created_at,
            region: REGION,
            open_tracking: false,
            click_tracking: false,
            tracking_subdomain: None,
            tls: "opportunistic",
            capabilities: json!({"sending": "enabled", "receiving": "disabled"}),
            records: has_records.then(|| domain.records.into_iter().filter_map(Record::new).collect()),
        }
    }
}

impl Record {
    /// Returns the record; `None` if Resend has no record for its purpose: SDKs fail on others.
    fn new(finding: Finding) -> Option<Self> {
        let kind = json!(finding.kind);
        // A value such as `10 mail.acme.test`.
        let split = finding.value.split_once(' ').filter(|_| kind == "MX");
        let priority = split.and_then(|(priority, _)| priority.parse().ok());
        let value = split.filter(|_| priority.is_some()).map(|(_, host)| host.to_owned());
        Some(Self {
            purpose: match finding.purpose {
                Purpose::Dkim => "DKIM",
                Purpose::Dmarc => return None,
                Purpose::Spf | Purpose::ReturnPath | Purpose::ReturnPathSpf | Purpose::HeloSpf => "SPF",
            },
            name: finding.name,
            kind,
            ttl: "Auto",
            status: match finding.status {
                RecordStatus::Unchecked => "not_started",
                RecordStatus::Ok => "verified",
                RecordStatus::Missing | RecordStatus::Unanswered => "pending",
                RecordStatus::Wrong => "failed",
            },
            value: value.unwrap_or(finding.value),
            priority,
        })
    }
}

/// Registers a domain.
pub(super) async fn create(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    caller.require_live_admin("domains")?;
    let body = api.bodies.json(&headers, body).await?;
    let settings: Settings<'_> = read_object(&body.bytes)?;
    settings.check()?;
    let name = native::resources::domain::parse(json!({"name": settings.name}).to_string().as_bytes())?;
    let view = Box::pin(control::register(&api, &caller, name)).await?;
    let view = ResendDomain::new(caller.live_tenant(), view, true);
    Ok((StatusCode::CREATED, Json(view)).into_response())
}

/// Returns a page of the domains, newest first, without their records.
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    params: Params,
) -> Result<Json<List<ResendDomain>>, ApiError> {
    caller.require(Scope::Read)?;
    let PageRequest { limit, start } = PageRequest::<DomainId>::read(params)?;
    let tenant = caller.live_tenant();
    let visible = domains::read::visible(&caller);
    let mut all = rows::page(&api.db, tenant, visible.as_deref(), None, MAX_DOMAINS).await?;
    all.sort_by(|one, other| (other.created_at, &other.name).cmp(&(one.created_at, &one.name)));
    let (rows, has_more) = page(all, |row| id(tenant, &row.name), limit, start.map(|id| id.0));
    let view = |row| {
        let view = DomainView::from_row(row, Vec::new(), &api.domains.dns_settings);
        ResendDomain::new(tenant, view, false)
    };
    Ok(Json(List::new(rows.into_iter().map(view).collect(), has_more)))
}

/// The id or name in a path.
type DomainPath = Result<Path<String>, PathRejection>;

async fn find(api: &Api, caller: &Caller, path: DomainPath) -> Result<String, ApiError> {
    let Path(text) = path.map_err(|_| NO_DOMAIN)?;
    let name = find_name(api, caller.live_tenant(), &text).await?;
    match domains::read::visible(caller) {
        Some(visible) if !visible.contains(&name) => Err(NO_DOMAIN),
        _ => Ok(name),
    }
}

/// Returns a domain with its records.
pub(super) async fn get(
    State(api): State<Api>,
    caller: Caller,
    path: DomainPath,
) -> Result<Json<ResendDomain>, ApiError> {
    caller.require(Scope::Read)?;
    let name = find(&api, &caller, path).await?;
    let view = domains::load_view(&api, caller.live_tenant(), &name).await?;
    Ok(Json(ResendDomain::new(caller.live_tenant(), view, true)))
}

/// Changes nothing: the settings of Resend's domains are fixed here. Fails if the request asks for other values.
pub(super) async fn change(
    State(api): State<Api>,
    caller: Caller,
    path: DomainPath,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Object>, ApiError> {
    caller.require_live_admin("domains")?;
    let name = find(&api, &caller, path).await?;
    let body = api.bodies.json(&headers, body).await?;
    read_object::<Settings<'_>>(&body.bytes)?.check()?;
    Ok(Json(Object::new("domain", id(caller.live_tenant(), &name))))
}

/// Looks up the records of a domain.
pub(super) async fn verify(State(api): State<Api>, caller: Caller, path: DomainPath) -> Result<Json<Object>, ApiError> {
    caller.require_live_admin("domains")?;
    let name = find(&api, &caller, path).await?;
    Box::pin(verify::check(&api, &caller, &name)).await?;
    Ok(Json(Object::new("domain", id(caller.live_tenant(), &name))))
}

/// Removes a domain.
pub(super) async fn remove(
    State(api): State<Api>,
    caller: Caller,
    path: DomainPath,
) -> Result<Json<Deleted>, ApiError> {
    caller.require_live_admin("domains")?;
    let name = find(&api, &caller, path).await?;
    control::unregister(&api, &caller, &name).await?;
    Ok(Json(Deleted::new("domain", id(caller.live_tenant(), &name))))
}
