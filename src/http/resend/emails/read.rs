//! `GET /emails` and `GET /emails/{id}`.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use uuid::Uuid;

use super::view::{EmailContent, EmailView, Words};
use crate::db::events::bounces;
use crate::db::messages::stored::{Bodies, StoredMessageError};
use crate::db::messages::{self, Filter, MessageRow, paging};
use crate::domain::id::MessageId;
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::messages::read;
use crate::http::messages::read::list as native;
use crate::http::request::params::Params;
use crate::http::resend::ids::ResendId;
use crate::http::resend::list::{List, PageRequest, Start};
use crate::http::{Api, ApiError};

const NO_EMAIL: ApiError = ApiError::NotFound("No email has this id.");

/// Returns a page of messages, without their content.
pub(in crate::http::resend) async fn list(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    params: Params,
) -> Result<Json<List<EmailView>>, ApiError> {
    caller.require(Scope::Read)?;
    let request = PageRequest::read(params)?;
    let _permit = api.slow_queries.acquire(caller.requester()).await?;
    let (rows, has_more) = rows(&api, &caller, request).await?;
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let complained = bounces::complained(&api.db, caller.tenant(), &ids).await?;
    let words = Words::new(&api, &headers);
    let views = native::with_recipients(&api, &caller, rows).await?;
    let views = views.into_iter().map(|message| {
        let has_complained = complained.contains(&message.id.0);
        EmailView::new(message, has_complained, None, words)
    });
    Ok(Json(List::new(views.collect(), has_more)))
}

async fn rows(
    api: &Api,
    caller: &Caller,
    PageRequest { limit, start }: PageRequest<MessageId>,
) -> Result<(Vec<MessageRow>, bool), ApiError> {
    let (tenant, now) = (caller.tenant(), api.clock.now());
    let mut filter = Filter { sender_domains: caller.sender_domains().map(<[String]>::to_vec), ..Filter::default() };
    let size = usize::try_from(limit).unwrap_or(usize::MAX);
    match start {
        Start::Newest => {}
        Start::After(id) => filter.after = Some(id),
        Start::Before(id) => {
            let mut ids = paging::newer_ids(&api.db, tenant, id, caller.sender_domains(), limit + 1).await?;
            let has_more = ids.len() > size;
            ids.truncate(size);
            filter.ids = Some(ids);
            return Ok((messages::page(&api.db, tenant, &filter, limit, now).await?, has_more));
        }
    }
    let filter = messages::narrow(&api.db, tenant, filter).await?;
    let mut rows = messages::page(&api.db, tenant, &filter, limit + 1, now).await?;
    let has_more = rows.len() > size;
    rows.truncate(size);
    Ok((rows, has_more))
}

/// Returns a message with its bodies.
pub(in crate::http::resend) async fn get(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    ResendId(id): ResendId<MessageId>,
) -> Result<Json<EmailView>, ApiError> {
    caller.require(Scope::Read)?;
    let message = read::load_view(&api, &caller, id).await?;
    let complained = bounces::complained(&api.db, caller.tenant(), &[id.0]).await?;
    let mut stored =
        messages::stored::load(&api.db, &(caller.tenant(), id.0).into(), |_| true).await?.pop().ok_or(NO_EMAIL)?;
    // The bodies and their JSON are in memory at the same time.
    let need = u64::try_from(stored.row.size).unwrap_or(0).saturating_mul(2);
    let _reservation =
        if stored.has_content() { None } else { Some(api.responses.reserve(Some(caller.requester()), need).await?) };
    let bodies = match stored.bodies(&api.db, &*api.renderer).await {
        // Resend returns no bodies either, once it has deleted them.
        Err(StoredMessageError::ContentDeleted) => Bodies::default(),
        bodies => bodies?,
    };
    let content = EmailContent { html: bodies.html, text: bodies.text, tags: message.tags.clone() };
    let words = Words::new(&api, &headers);
    Ok(Json(EmailView::new(message, !complained.is_empty(), Some(content), words)))
}

impl Words {
    /// Returns the words that the client of a request knows.
    fn new(api: &Api, headers: &HeaderMap) -> Self {
        let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        // The enum of states in this client is closed, and has no `suppressed`.
        let has_suppressed = !agent.is_some_and(|agent| agent.starts_with("resend-rs/"));
        Self { has_suppressed, relayed_as_delivered: api.relayed_as_delivered }
    }
}
