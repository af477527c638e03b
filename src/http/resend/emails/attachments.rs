//! `GET /emails/{id}/attachments`: the attachments of a message, with links to download them. A link works without an API
//! key, because applications pass it to an HTTP client; it is signed and expires.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::Response;
use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use serde::Serialize;
use uuid::Uuid;

use crate::db::messages;
use crate::domain::id::{MessageId, TenantId};
use crate::domain::installation::keyring::Keyring;
use crate::domain::key::Scope;
use crate::domain::message::Attachment;
use crate::domain::message::attachment_link::AttachmentLink;
use crate::http::auth::Caller;
use crate::http::messages::{raw, read};
use crate::http::request::params::Params;
use crate::http::resend::ids::{self, ResendId};
use crate::http::resend::list::{List, PageRequest, page};
use crate::http::resend::times::time;
use crate::http::{Api, ApiError, ProblemCode};

const NO_ATTACHMENT: ApiError = ApiError::NotFound("The email has no attachment with this id.");
/// How long a link works.
const LINK_TTL: TimeDelta = TimeDelta::hours(1);

/// An attachment of a message.
#[derive(Debug, Serialize)]
pub(in crate::http::resend) struct AttachmentView {
    object: &'static str,
    id: Uuid,
    filename: String,
    size: u64,
    content_type: String,
    content_disposition: &'static str,
    content_id: Option<String>,
    download_url: String,
    #[serde(serialize_with = "time")]
    expires_at: DateTime<Utc>,
}

/// Returns the attachments of a message.
pub(in crate::http::resend) async fn list(
    State(api): State<Api>,
    caller: Caller,
    ResendId(id): ResendId<MessageId>,
    headers: HeaderMap,
    params: Params,
) -> Result<Json<List<AttachmentView>>, ApiError> {
    caller.require(Scope::Read)?;
    // Attachment ids are UUIDs too, so they can be parsed as message ids.
    let PageRequest { limit, start } = PageRequest::<MessageId>::read(params)?;
    let views = views(&api, &caller, id, &headers).await?;
    let (views, has_more) = page(views, |view| view.id, limit, start.map(|id| id.0));
    Ok(Json(List::new(views, has_more)))
}

/// Returns an attachment of a message.
pub(in crate::http::resend) async fn get(
    State(api): State<Api>,
    caller: Caller,
    path: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
) -> Result<Json<AttachmentView>, ApiError> {
    caller.require(Scope::Read)?;
    let Path((id, attachment)) = path.map_err(|_| NO_ATTACHMENT)?;
    let id = ids::parse(&id).ok_or(NO_ATTACHMENT)?;
    let attachment = Uuid::try_parse(&attachment).map_err(|_| NO_ATTACHMENT)?;
    let views = views(&api, &caller, id, &headers).await?;
    views.into_iter().find(|view| view.id == attachment).map(Json).ok_or(NO_ATTACHMENT)
}

async fn views(
    api: &Api,
    caller: &Caller,
    id: MessageId,
    headers: &HeaderMap,
) -> Result<Vec<AttachmentView>, ApiError> {
    read::load_row(api, caller, id).await?;
    let stored = messages::attachments(&api.db, caller.tenant(), id).await?.unwrap_or_default();
    // Returns no attachments if this version cannot parse them.
    let attachments: Vec<Attachment> = serde_json::from_value(stored).unwrap_or_default();
    let listed: Vec<_> = attachments.into_iter().enumerate().filter(|(_, file)| file.is_listed()).collect();
    if listed.is_empty() {
        // Without a link, no key is needed.
        return Ok(Vec::new());
    }
    let links = Links {
        ring: api.domains.keyring.as_ref().ok_or_else(no_secret_key)?,
        base: base(headers),
        tenant: caller.tenant(),
        message: id,
        expires_at: api.clock.now().trunc_subsecs(0) + LINK_TTL,
    };
    Ok(listed.into_iter().filter_map(|(index, file)| links.view(index, file)).collect())
}

/// Creates the links to the attachments of a message.
struct Links<'a> {
    ring: &'a Keyring,
    base: String,
    tenant: TenantId,
    message: MessageId,
    expires_at: DateTime<Utc>,
}

impl Links<'_> {
    fn view(&self, index: usize, file: Attachment) -> Option<AttachmentView> {
        let &Self { ring, tenant, message, expires_at, .. } = self;
        let link = AttachmentLink { tenant, message, index: u16::try_from(index).ok()?, expires_at };
        let id = ids::derived(message.0, &index.to_string());
        let token = link.token(ring);
        Some(AttachmentView {
            object: "attachment",
            id,
            filename: file.filename,
            size: file.size,
            content_type: file.content_type,
            content_disposition: if file.content_id.is_some() { "inline" } else { "attachment" },
            content_id: file.content_id,
            download_url: format!("{}/emails/{}/attachments/{id}/download?token={token}", self.base, message.0),
            expires_at,
        })
    }
}

/// Returns the URL by which the client has reached the API, up to the path. A proxy that terminates TLS says so in
/// `X-Forwarded-Proto`.
fn base(headers: &HeaderMap) -> String {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let scheme = header("x-forwarded-proto").filter(|scheme| scheme.eq_ignore_ascii_case("https"));
    let host = header(header::HOST.as_str()).unwrap_or("localhost");
    format!("{}://{host}", if scheme.is_some() { "https" } else { "http" })
}

fn no_secret_key() -> ApiError {
    ApiError::Conflict {
        code: ProblemCode::NoSecretKey,
        detail: "Links to attachments are signed, and no `secret_key` is configured: set it and restart, or read the \
                 attachment with GET /v1/messages/{id}/attachments/{n}."
            .into(),
        retry_after: None,
    }
}

/// Returns an attachment to a client that has the link.
pub(in crate::http::resend) async fn download(
    State(api): State<Api>,
    mut params: Params,
) -> Result<Response, ApiError> {
    const NO_LINK: ApiError = ApiError::NotFound("This link is not valid, or has expired.");
    let token = params.text("token").ok_or(NO_LINK)?;
    let ring = api.domains.keyring.as_ref().ok_or(NO_LINK)?;
    let link = AttachmentLink::verify(&token, ring, api.clock.now()).ok_or(NO_LINK)?;
    raw::download(&api, link.tenant, None, link.message, link.index.into()).await
}
