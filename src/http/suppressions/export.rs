//! `GET /v1/suppressions/export`: streams the whole list with keyset pagination, without an open transaction and with
//! at most one page in memory.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, SecondsFormat, Utc};
use futures_util::stream;

use super::view::SuppressionView;
use crate::accept::import::{Format, csv_cell};
use crate::accept::request::resources::suppression::COLUMNS;
use crate::db::{Db, DbError, suppressions};
use crate::domain::id::TenantId;
use crate::domain::key::Scope;
use crate::domain::suppression::Suppression;
use crate::http::auth::Caller;
use crate::http::limits::concurrency_limit::ConcurrencyPermit;
use crate::http::{Api, ApiError, AuthErrors};

/// Entries per query.
const PAGE_SIZE: i64 = 1_000;

/// Export suppressions
///
/// Returns every unexpired entry, ordered by address, as NDJSON, or as CSV if the `Accept` header is `text/csv`. The
/// result can be imported unchanged. If the connection drops, the export is incomplete.
#[utoipa::path(
    get, path = "/v1/suppressions/export", tag = "suppressions", operation_id = "export_suppressions",
    params(("Accept" = Option<String>, Header, description = "`application/x-ndjson` (the default) or `text/csv`")),
    responses(
        (status = 200, description = "One entry per line", content(
            (String = "application/x-ndjson"), (String = "text/csv"))),
        AuthErrors,
        (status = 503, description = "Too many concurrent exports, event streams and long polls"),
    ),
)]
pub async fn export(State(api): State<Api>, caller: Caller, headers: HeaderMap) -> Result<Response, ApiError> {
    caller.require(Scope::Metadata)?;
    caller.require_all_domains("The suppression list applies to all sender domains.")?;
    let format = accepted_format(&headers);
    let permit = api.long_requests.acquire(caller.requester()).await?;
    let mut export = Export {
        _permit: permit,
        db: api.db.clone(),
        tenant: caller.tenant(),
        now: api.clock.now(),
        format,
        last: Some(ExportCursor::default()),
    };
    // Reads the first page before the response starts, so that an unavailable database returns an error.
    let first = export.page().await?;
    tracing::info!(event = "suppressions_exported", by = %caller.key_id(), "exported the suppression list");
    let head = if format == Format::Csv { format!("{}\r\n", COLUMNS.join(",")) } else { String::new() };
    let rest = stream::try_unfold(export, async |mut export| {
        let has_ended = export.last.is_none();
        Ok::<_, DbError>(if has_ended { None } else { Some((export.page().await?, export)) })
    });
    let start = stream::iter([Ok(head + &first)]);
    let (kind, name) = match format {
        Format::Ndjson => ("application/x-ndjson", "attachment; filename=\"suppressions.ndjson\""),
        Format::Csv => ("text/csv; charset=utf-8; header=present", "attachment; filename=\"suppressions.csv\""),
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CONTENT_DISPOSITION, HeaderValue::from_static(name)),
    ];
    Ok((headers, Body::from_stream(futures_util::StreamExt::chain(start, rest))).into_response())
}

/// Returns the first format in the `Accept` header that is supported; NDJSON if there is none.
pub(in crate::http) fn accepted_format(headers: &HeaderMap) -> Format {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types =
        accepted.flat_map(|value| value.split(',')).map(|one| one.split(';').next().unwrap_or_default().trim());
    let named = types.find_map(|one| match one.to_ascii_lowercase().as_str() {
        "text/csv" => Some(Format::Csv),
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Some(Format::Ndjson),
        _ => None,
    });
    named.unwrap_or(Format::Ndjson)
}

/// The position in an export: an address and a stream, as stored.
type ExportCursor = (String, String);

/// An export in progress.
struct Export {
    /// Limits concurrent exports, which last as long as their clients read.
    _permit: ConcurrencyPermit,
    db: Db,
    tenant: TenantId,
    now: DateTime<Utc>,
    format: Format,
    /// The position of the last exported entry; `None` at the end.
    last: Option<ExportCursor>,
}

impl Export {
    /// Returns the next entries as text.
    async fn page(&mut self) -> Result<String, DbError> {
        let Some((address, stream)) = self.last.take() else { return Ok(String::new()) };
        let entries =
            suppressions::list::following(&self.db, self.tenant, (&address, &stream), PAGE_SIZE, self.now).await?;
        let is_full = i64::try_from(entries.len()).is_ok_and(|count| count == PAGE_SIZE);
        self.last = entries.last().filter(|_| is_full).map(cursor);
        Ok(entries.into_iter().map(|entry| line(entry, self.format)).collect())
    }
}

fn cursor(entry: &Suppression) -> ExportCursor {
    (entry.address.to_string(), entry.stream.clone().unwrap_or_default())
}

fn line(entry: Suppression, format: Format) -> String {
    let view = SuppressionView::from(entry);
    if format == Format::Ndjson {
        // Cannot fail: every map key is a string.
        return serde_json::to_string(&view).unwrap_or_default() + "\n";
    }
    let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    let fields = [
        view.address,
        view.stream.unwrap_or_default(),
        view.reason.as_str().to_owned(),
        view.note.unwrap_or_default(),
        time(view.created_at),
        view.expires_at.map_or_else(String::new, time),
        view.message_id.map_or_else(String::new, |id| id.to_string()),
        view.recipient_id.map_or_else(String::new, |id| id.to_string()),
    ];
    fields.map(csv_cell::field).join(",") + "\r\n"
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::accept::import::record_splitter::{Record, RecordSplitter};
    use crate::accept::import::{Read, Reader};
    use crate::accept::request::{Context, Limits};
    use crate::domain::address::Address;
    use crate::domain::suppression::{AddressKey, Reason};

    const NOW: &str = "2026-11-23T12:00:00Z";

    fn imported(text: &str, format: Format) -> Vec<String> {
        let (limits, streams) = (Limits::default(), ["news".to_owned()]);
        let context = Context::new(NOW.parse().unwrap(), &limits, &streams);
        let (mut reader, mut records, mut list) =
            (Reader::new(format), RecordSplitter::new(format == Format::Csv), Vec::new());
        let mut take = |record: &Record| match reader.read(record, &context) {
            Read::Columns => {}
            Read::Entry(entry) => list.push(format!("{entry:?}")),
            refused => panic!("{refused:?} of {text:?}"),
        };
        records.push(text.as_bytes(), |record| take(&record));
        records.finish(|record| take(&record));
        list
    }

    proptest! {
        #[test]
        fn every_export_is_imported_to_the_same_entries(
            parts in prop::collection::vec(("'{0,2}[=+-]?[a-z'+=-]{1,6}", "['=+@\"\\-a-z, ä\t]{0,12}", any::<bool>()), 1..4),
        ) {
            let entry = |(local, note, is_news): (String, String, bool)| {
                let address = format!("{local}@example.test").parse::<Address>().ok()?;
                // Notes with control characters are refused.
                let note = Some(note.replace('\t', " ")).filter(|note| !note.is_empty());
                Some(Suppression {
                    address: AddressKey::from(&address),
                    stream: is_news.then(|| "news".to_owned()),
                    reason: Reason::Complaint,
                    message_id: None,
                    recipient_id: None,
                    note,
                    created_at: NOW.parse().unwrap(),
                    expires_at: None,
                })
            };
            let entries: Vec<Suppression> = parts.into_iter().filter_map(entry).collect();
            let expected: Vec<String> = entries.iter().map(|entry| format!("{entry:?}")).collect();
            for format in [Format::Csv, Format::Ndjson] {
                let mut text = if format == Format::Csv { COLUMNS.join(",") + "\r\n" } else { String::new() };
                text.extend(entries.iter().map(|entry| line(entry.clone(), format)));
                prop_assert_eq!(&imported(&text, format), &expected, "{}", text);
            }
        }
    }
}
