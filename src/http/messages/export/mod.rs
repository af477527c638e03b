//! `GET /v1/messages/export`: streams all messages that match the filters of the list, page by page, without an open
//! transaction and with at most one page in memory.

mod line;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;

use super::read::list::{self, ListQuery};
use crate::accept::import::Format;
use crate::db::messages::Filter;
use crate::domain::delivery::MessageStatus;
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::limits::concurrency_limit::ConcurrencyPermit;
use crate::http::request::params::Params;
use crate::http::suppressions::export::accepted_format;
use crate::http::{Api, ApiError, AuthErrors, InvalidParameter};

/// Messages per query.
const PAGE_SIZE: i64 = 200;

/// Export messages
///
/// Returns all messages that match the filters, which are those of `GET /v1/messages`, newest first. NDJSON has one message
/// per line, as in the list; CSV has one recipient per line, with the columns in the first line. A cell that a spreadsheet
/// would run as a formula begins with an apostrophe.
///
/// The states are those of the moment at which a message is read; messages that are accepted during the export are not
/// included. If the server fails during the export, or the API key is revoked, the connection is closed before the end of
/// the response body, which HTTP clients report as an error; pass the id of the last message as `after` to continue.
#[utoipa::path(
    get, path = "/v1/messages/export", tag = "messages", operation_id = "export_messages",
    params(
        ("format" = Option<String>, Query, pattern = "^(ndjson|csv)$", description = "`ndjson` (the default) or `csv`; overrides the `Accept` header"),
        ("Accept" = Option<String>, Header, description = "`application/x-ndjson` (the default) or `text/csv`"),
        ("status" = Option<MessageStatus>, Query, description = "Only messages with this status"),
        ("to" = Option<String>, Query, description = "Only messages to this address"),
        ("to_domain" = Option<String>, Query, description = "Only messages to this domain"),
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
        ("after" = Option<String>, Query, description = "The id of a message: only older ones"),
    ),
    responses(
        (status = 200, description = "One message or recipient per line", content(
            (String = "application/x-ndjson"), (String = "text/csv"))),
        AuthErrors, InvalidParameter,
        (status = 503, description = "Too many concurrent exports, event streams and long polls"),
    ),
)]
pub async fn export(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    mut params: Params,
) -> Result<Response, ApiError> {
    caller.require(Scope::Metadata)?;
    let format = params.read("format", "Pass `ndjson` or `csv`.", |name| match name {
        "ndjson" => Some(Format::Ndjson),
        "csv" => Some(Format::Csv),
        _ => None,
    });
    let query = ListQuery::read(&caller, &mut params);
    params.finish()?;
    let format = format.unwrap_or_else(|| accepted_format(&headers));
    let permit = api.long_requests.acquire(caller.requester()).await?;
    let filter = query.resolve(&api, &caller).await?;
    let mut export = Export { _permit: permit, api, caller, filter, format, is_complete: false };
    // Reads the first page before the response starts, so that an unavailable database or a search that is too broad
    // returns an error.
    let mut first = export.page().await?;
    tracing::info!(event = "messages_exported", by = %export.caller.key_id(), "exporting messages");
    if format == Format::Csv {
        first.insert_str(0, &line::header());
    }
    let rest = stream::try_unfold(export, async |mut export| {
        let is_complete = export.is_complete;
        Ok::<_, ExportError>(if is_complete { None } else { Some((export.following().await?, export)) })
    });
    let body = futures_util::StreamExt::chain(stream::iter([Ok(first)]), rest);
    let (kind, name) = match format {
        Format::Ndjson => ("application/x-ndjson", "attachment; filename=\"messages.ndjson\""),
        Format::Csv => ("text/csv; charset=utf-8; header=present", "attachment; filename=\"messages.csv\""),
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CONTENT_DISPOSITION, HeaderValue::from_static(name)),
    ];
    Ok((headers, Body::from_stream(body)).into_response())
}

/// Why an export ended before its end: the connection is closed.
#[derive(Debug, thiserror::Error)]
#[error("the export ended early: {0:?}")]
struct ExportError(ApiError);

/// An export in progress.
struct Export {
    /// Limits concurrent exports, which last as long as their clients read.
    _permit: ConcurrencyPermit,
    api: Api,
    caller: Caller,
    /// The messages that have not been exported yet.
    filter: Filter,
    format: Format,
    is_complete: bool,
}

impl Export {
    /// Returns the next lines after the response has begun.
    async fn following(&mut self) -> Result<String, ExportError> {
        let read = async {
            // An export lasts as long as its client reads; the key may have been revoked in the meantime.
            self.caller = self.caller.refresh(&self.api).await?;
            self.caller.require(Scope::Metadata)?;
            self.page().await
        };
        read.await.map_err(|error| {
            tracing::warn!(
                event = "message_export_interrupted",
                by = %self.caller.key_id(),
                ?error,
                "an export of messages failed; closing the connection"
            );
            ExportError(error)
        })
    }

    /// Returns the lines of the next page.
    async fn page(&mut self) -> Result<String, ApiError> {
        let page = list::page(&self.api, &self.caller, &self.filter, PAGE_SIZE).await?;
        match page.next.map(|next| next.parse()) {
            Some(Ok(next)) => self.filter.after = Some(next),
            Some(Err(_)) | None => self.is_complete = true,
        }
        let lines = page.data.iter().map(|message| match self.format {
            Format::Ndjson => line::json(message),
            Format::Csv => line::csv(message),
        });
        Ok(lines.collect())
    }
}
