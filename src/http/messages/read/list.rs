//! `GET /v1/messages`.

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::load_bounces;
use super::view::Message;
use crate::db::messages::{self, Filter, MessageRow, RecipientRow, message_ids, paging};
use crate::db::{DbError, templates};
use crate::domain::api::fault::{Code, Fault};
use crate::domain::delivery::MessageStatus;
use crate::domain::id::{LaneId, MessageId, TemplateId};
use crate::domain::key::Scope;
use crate::domain::message::template::TemplateName;
use crate::http::auth::Caller;
use crate::http::page::{Page, PageParams};
use crate::http::request::params::Params;
use crate::http::{Api, ApiError, AuthErrors, InvalidParameter};

/// List messages
///
/// Returns messages, newest first. A message must match all filters. A key with `sender_domains` gets only messages
/// from those domains. A request scans a bounded number of messages: a page may contain fewer than `limit` messages, or
/// none, while `has_more` is true. Continue with `next` until it is null.
#[utoipa::path(
    get, path = "/v1/messages", tag = "messages", operation_id = "list_messages",
    params(
        ("status" = Option<MessageStatus>, Query, description = "Only messages with this status"),
        ("to" = Option<String>, Query, description = "Only messages to this address"),
        ("to_domain" = Option<String>, Query, description = "Only messages to this domain; scans the newest messages, so narrow it with `created_after` or `lane`"),
        ("lane" = Option<String>, Query, description = "A lane's id: only messages with a recipient that waits in this lane and is not in flight"),
        ("held" = Option<bool>, Query, description = "`true`: only messages with a recipient held for an operator; `false`: only the others"),
        ("from" = Option<String>, Query, description = "Only messages from this address"),
        ("subject" = Option<String>, Query, description = "Only messages whose subject contains this text; case-insensitive"),
        ("tag" = Option<String>, Query, pattern = "^.+:.*$", description = "Only messages with this tag, as `name:value`"),
        ("message_id" = Option<String>, Query, description = "Only messages whose `Message-ID` header has this value, with or without angle brackets"),
        ("stream" = Option<String>, Query, description = "The name of the stream"),
        ("template" = Option<String>, Query, description = "A template's id or alias: only messages that were rendered from it"),
        ("bulk" = Option<String>, Query, description = "A bulk's id: only its messages"),
        ("key" = Option<String>, Query, description = "An API key's id: only messages sent with it"),
        ("created_after" = Option<chrono::DateTime<chrono::Utc>>, Query, description = "Accepted at or after this time (RFC 3339)"),
        ("created_before" = Option<chrono::DateTime<chrono::Utc>>, Query, description = "Accepted before this time (RFC 3339)"),
        PageParams,
    ),
    responses((status = 200, description = "A page of messages", body = Page<Message>), AuthErrors, InvalidParameter),
)]
pub async fn list(State(api): State<Api>, caller: Caller, mut params: Params) -> Result<Json<Page<Message>>, ApiError> {
    caller.require(Scope::Metadata)?;
    let limit = params.limit();
    let query = ListQuery::read(&caller, &mut params);
    params.finish()?;
    let filter = query.resolve(&api, &caller).await?;
    page(&api, &caller, &filter, limit).await.map(Json)
}

/// The filters of a list, as given.
pub(in crate::http::messages) struct ListQuery {
    filter: Filter,
    message_id: Option<String>,
    template: Option<TemplateName>,
}

impl ListQuery {
    /// Reads the parameters.
    pub(in crate::http::messages) fn read(caller: &Caller, params: &mut Params) -> Self {
        let sender_domains = caller.sender_domains().map(<[String]>::to_vec);
        let filter = Filter { sender_domains, ..filter(params) };
        let message_id = params.text("message_id");
        let template =
            params.read("template", "Pass a template's id or alias.", |text| text.parse::<TemplateName>().ok());
        Self { filter, message_id, template }
    }

    /// Looks up the names in the filters.
    pub(in crate::http::messages) async fn resolve(self, api: &Api, caller: &Caller) -> Result<Filter, ApiError> {
        let Self { mut filter, message_id, template } = self;
        if let Some(name) = template {
            select_template(api, caller, &mut filter, &name).await?;
        }
        if let Some(bulk) = filter.bulk {
            filter.created_after = filter.created_after.max(Some(earliest(bulk.accepted_at())));
        }
        if let Some(key) = filter.key {
            filter.created_after = filter.created_after.max(Some(earliest(key.created_at())));
        }
        if let Some(message_id) = message_id {
            let _permit = api.slow_queries.acquire(caller.requester()).await?;
            filter.ids = Some(message_ids::find(&api.db, caller.tenant(), &message_id).await?);
        }
        Ok(filter)
    }
}

/// Returns a page of messages.
pub(in crate::http::messages) async fn page(
    api: &Api,
    caller: &Caller,
    filter: &Filter,
    limit: i64,
) -> Result<Page<Message>, ApiError> {
    let _permit = api.slow_queries.acquire(caller.requester()).await?;
    let filter = messages::narrow(&api.db, caller.tenant(), filter.clone()).await.map_err(too_broad)?;
    let horizon = paging::horizon(&api.db, caller.tenant(), &filter).await.map_err(too_broad)?;
    let filter = Filter { created_after: horizon.or(filter.created_after), ..filter };
    let now = api.clock.now();
    let rows = messages::page(&api.db, caller.tenant(), &filter, limit + 1, now).await.map_err(too_broad)?;
    let cursor = |message: &Message| message.id.to_string();
    let mut page = Page::new(with_recipients(api, caller, rows).await?, limit, cursor, |message| message);
    if let (None, Some(horizon)) = (&page.next, horizon) {
        // There are older messages, which this request did not scan.
        (page.has_more, page.next) = (true, Some(MessageId::first_at(horizon).to_string()));
    }
    Ok(page)
}

/// Returns messages with their recipients, in the order of the rows.
pub(in crate::http) async fn with_recipients(
    api: &Api,
    caller: &Caller,
    rows: Vec<MessageRow>,
) -> Result<Vec<Message>, ApiError> {
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let mut recipients = HashMap::<Uuid, Vec<RecipientRow>>::new();
    let all_recipients = messages::recipients(&api.db, caller.tenant(), &ids, api.clock.now()).await?;
    let bounces = load_bounces(api, caller.tenant(), &all_recipients).await?;
    for row in all_recipients {
        recipients.entry(row.message_id).or_default().push(row);
    }
    let view = |row: MessageRow| {
        let message_recipients = recipients.remove(&row.id).unwrap_or_default();
        Message::from_row(row, message_recipients, &bounces)
    };
    Ok(rows.into_iter().map(view).collect())
}

fn filter(params: &mut Params) -> Filter {
    Filter {
        status: params.read("status", "Pass a status such as `deferred` or `partial`.", |text| text.parse().ok()),
        to: params.text("to"),
        from: params.text("from"),
        subject: params.text("subject"),
        tag: params.read("tag", "Pass a tag as `name:value`.", |text| {
            text.split_once(':').map(|(name, value)| (name.to_owned(), value.to_owned()))
        }),
        stream: params.text("stream"),
        created_after: params.timestamp("created_after"),
        created_before: params.timestamp("created_before"),
        lane: params
            .read("lane", "Pass a lane id such as `lane_42`.", |text| text.parse::<LaneId>().ok())
            .map(|lane| lane.0),
        held: params.read("held", "Pass `true` or `false`.", |text| text.parse().ok()),
        to_domain: params.text("to_domain"),
        after: params.read("after", "Pass the `next` value of the previous page.", |text| text.parse().ok()),
        sender_domains: None,
        ids: None,
        template: None,
        bulk: params.read("bulk", "Pass a bulk's id such as `blk_…`.", |text| text.parse().ok()),
        key: params.read("key", "Pass an API key's id such as `key_…`.", |text| text.parse().ok()),
    }
}

/// Returns the earliest time at which a message of a template, bulk or API key that was created at `created_at` can
/// have been accepted. Allows clock differences between replicas of up to a day.
fn earliest(created_at: DateTime<Utc>) -> DateTime<Utc> {
    (created_at - TimeDelta::days(1)).max(DateTime::UNIX_EPOCH)
}

/// Sets the filter for messages of a template. Messages of a template are not older than the template.
async fn select_template(api: &Api, caller: &Caller, filter: &mut Filter, name: &TemplateName) -> Result<(), ApiError> {
    let id = template_id(api, caller, name, "template").await?;
    filter.created_after = filter.created_after.max(Some(earliest(id.created_at())));
    filter.template = Some(id);
    Ok(())
}

/// Returns the id of the template that a filter names. `pointer` leads to the name.
pub(in crate::http::messages) async fn template_id(
    api: &Api,
    caller: &Caller,
    name: &TemplateName,
    pointer: &str,
) -> Result<TemplateId, ApiError> {
    match name {
        // The id is not looked up, because the template may have been deleted.
        TemplateName::Id(id) => Ok(*id),
        TemplateName::Alias(_) => templates::find(&api.db, caller.live_tenant(), name).await?.ok_or_else(|| {
            ApiError::Invalid(vec![Fault {
                pointer: pointer.into(),
                code: Code::UnknownTemplate.as_str(),
                message: "No template has this alias. Pass the id of a template that was deleted.".into(),
            }])
        }),
    }
}

fn too_broad(error: DbError) -> ApiError {
    let advice = "The search took too long. Narrow it with `created_after` and `created_before`, or with `to`.";
    ApiError::search(error, "created_after", advice)
}
