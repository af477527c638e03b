//! `POST /v1/suppressions/import`: imports entries, as many as a request body may contain, and writes them as they
//! arrive.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::accept::import::record_splitter::{Record, RecordSplitter};
use crate::accept::import::{Format, Read, Reader};
use crate::accept::request::Context;
use crate::db::suppressions::{self, Existing};
use crate::domain::api::binary::Binary;
use crate::domain::api::fault::Code;
use crate::domain::key::Scope;
use crate::domain::suppression::Suppression;
use crate::http::auth::Caller;
use crate::http::{Api, ApiError, AuthErrors};

/// Entries per statement.
const BATCH: usize = 1_000;
/// Maximum number of refused lines that are listed.
const MAX_REFUSED_LINES: usize = 1_000;

/// The result of an import. `lines` is the sum of the four other counts.
#[derive(Debug, Default, Serialize, utoipa::ToSchema)]
#[schema(as = SuppressionImport)]
pub struct ImportView {
    /// Non-empty lines, without the header.
    #[schema(example = 1_000)]
    pub lines: u64,
    /// New entries.
    #[schema(example = 990)]
    pub added: u64,
    /// Existing entries that were changed.
    #[schema(example = 6)]
    pub updated: u64,
    /// Entries that did not change, or are repeated in the import.
    #[schema(example = 3)]
    pub unchanged: u64,
    /// Invalid lines.
    #[schema(example = 1)]
    pub refused: u64,
    /// The first 1,000 invalid lines, each with its fault.
    pub errors: Vec<RefusedLine>,
}

/// An invalid line of an import.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct RefusedLine {
    /// The line number, from 1; for a record of several lines, the number of its first line.
    #[schema(example = 17)]
    pub line: u64,
    /// The invalid field, such as `/address`; empty for the line as a whole.
    #[schema(example = "/address")]
    pub pointer: String,
    /// The code of the fault, as in `errors` of a problem.
    #[schema(value_type = Code, example = "invalid_address")]
    pub code: &'static str,
    /// A description of the fault and its fix.
    #[schema(example = "must be an email address")]
    pub message: String,
}

/// Import suppressions
///
/// The body is NDJSON (`application/x-ndjson`), one object per line with the fields of an export, of which only
/// `address` is required; or CSV (`text/csv`) with the same columns, named in the first line or in the order of an
/// export. A CSV row has as many fields as the first line; an apostrophe before `=`, `+`, `-`, `@` or a tab, as added
/// by an export, is removed. Lines end with LF, CRLF or CR. Entries are written while the body arrives and replace
/// existing ones. Invalid lines are reported and skipped. If the connection drops, or the API key is revoked in the
/// meantime, the entries written so far remain; send the whole import again.
#[utoipa::path(
    post, path = "/v1/suppressions/import", tag = "suppressions", operation_id = "import_suppressions",
    request_body(description = "One entry per line", content(
        (inline(Binary) = "application/x-ndjson"), (inline(Binary) = "text/csv"))),
    responses(
        (status = 200, description = "The result of the import", body = ImportView),
        AuthErrors,
        (status = 400, description = "The request body ended early"),
        (status = 408, description = "The request body arrived too slowly"),
        (status = 413, description = "Request body too large; without a `Content-Length`, the part before the limit was imported"),
        (status = 415, description = "The content type is neither NDJSON nor CSV"),
        (status = 422, description = "The first line of the CSV has invalid column names; nothing was imported"),
    ),
)]
pub async fn import(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<ImportView>, ApiError> {
    caller.require(Scope::Admin)?;
    let format = format(&headers)?;
    let streams = api.acceptor.streams(caller.tenant()).await?;
    let now = api.clock.now();
    let context = Context::new(now, &api.limits, &streams);
    let mut chunks = api.bodies.chunks(&headers, body)?;
    let mut records = RecordSplitter::new(format == Format::Csv);
    let mut import = Import { reader: Reader::new(format), entries: Vec::new(), view: ImportView::default() };
    while let Some(chunk) = chunks.next().await? {
        let mut complete = Vec::new();
        records.push(&chunk, |record| complete.push(record));
        for record in complete {
            import.take(&record, &context)?;
            if import.entries.len() == BATCH {
                import.write(&api, &caller, now).await?;
            }
        }
    }
    let mut last = None;
    records.finish(|record| last = Some(record));
    if let Some(record) = last {
        import.take(&record, &context)?;
    }
    import.write(&api, &caller, now).await?;
    caller.note_result(&import.view);
    tracing::info!(event = "suppressions_imported", by = %caller.key_id(), "imported suppressions");
    Ok(Json(import.view))
}

/// An import in progress.
struct Import {
    reader: Reader,
    /// Entries read and not yet written.
    entries: Vec<Suppression>,
    view: ImportView,
}

impl Import {
    fn take(&mut self, record: &Record, context: &Context<'_>) -> Result<(), ApiError> {
        match self.reader.read(record, context) {
            Read::Columns => return Ok(()),
            Read::Entry(entry) => self.entries.push(entry),
            Read::Unreadable(fault) => return Err(ApiError::Invalid(vec![fault])),
            Read::Refused(fault) => {
                self.view.refused += 1;
                if self.view.errors.len() < MAX_REFUSED_LINES {
                    let line = record.line;
                    self.view.errors.push(RefusedLine {
                        line,
                        pointer: fault.pointer,
                        code: fault.code,
                        message: fault.message,
                    });
                }
            }
        }
        self.view.lines += 1;
        Ok(())
    }

    async fn write(&mut self, api: &Api, caller: &Caller, now: DateTime<Utc>) -> Result<(), ApiError> {
        // An import lasts as long as its body takes to arrive; the key may have been revoked in the meantime.
        caller.refresh(api).await?.require(Scope::Admin)?;
        let entries = std::mem::take(&mut self.entries);
        let done = suppressions::put(&api.db, caller.tenant(), entries, Existing::Replaced, now).await?;
        self.view.added += done.added;
        self.view.updated += done.updated;
        self.view.unchanged += done.unchanged;
        Ok(())
    }
}

fn format(headers: &HeaderMap) -> Result<Format, ApiError> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Ok(Format::Ndjson),
        "text/csv" => Ok(Format::Csv),
        _ => Err(ApiError::UnsupportedMediaType("application/x-ndjson or text/csv")),
    }
}
