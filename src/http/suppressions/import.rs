//! `POST /v1/suppressions/import`: as many entries as a body holds, written as they arrive.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::accept::import::{Format, Read, Reader};
use crate::accept::record_splitter::{Record, RecordSplitter};
use crate::accept::request::Context;
use crate::db::suppressions::{self, Existing};
use crate::domain::binary::Binary;
use crate::domain::fault::Code;
use crate::domain::key::Scope;
use crate::domain::suppression::Suppression;
use crate::http::auth::Caller;
use crate::http::{Api, ApiError, Problem};

/// Entries a statement.
const BATCH: usize = 1_000;
/// Refused lines that are told of one by one.
const TOLD: usize = 1_000;

/// What an import came to: `lines` is the sum of the four.
#[derive(Debug, Default, Serialize, utoipa::ToSchema)]
#[schema(as = SuppressionImport)]
pub struct ImportView {
    /// Lines with something in them, without that of the columns' names.
    pub lines: u64,
    /// Entries that were not there.
    pub added: u64,
    /// Entries that were there and are other now.
    pub updated: u64,
    /// Entries that stay as they were, or stand in the import more than once.
    pub unchanged: u64,
    /// Lines that are no entry.
    pub refused: u64,
    /// Why, line by line: the first 1,000.
    pub errors: Vec<RefusedLine>,
}

/// A line that is no entry.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct RefusedLine {
    /// Which one, from 1; of a record of several lines the first.
    pub line: u64,
    /// The field at fault, such as `/address`; empty where it is the line as a whole.
    #[schema(example = "/address")]
    pub pointer: String,
    /// As in `errors` of a problem.
    #[schema(value_type = Code, example = "invalid_address")]
    pub code: &'static str,
    /// What is wrong and what would mend it, for a person.
    pub message: String,
}

/// Import suppressions
///
/// NDJSON (`application/x-ndjson`), an object a line with the fields of an export, of which only `address` must be there; or
/// CSV (`text/csv`) with those columns, named in its first line or in the order of an export. A CSV row has as many fields as
/// the first line; an apostrophe before `=`, `+`, `-`, `@` or a tab is removed, as an export adds it. Lines end with LF, CRLF
/// or CR. Entries are written while the body arrives and take the place of what is there. Lines that are no entry are told of
/// and passed over. Should the import
/// break off, what came before stays, and it can be sent again as a whole.
#[utoipa::path(
    post, path = "/v1/suppressions/import", tag = "suppressions", operation_id = "import_suppressions",
    request_body(description = "An entry a line", content(
        (inline(Binary) = "application/x-ndjson"), (inline(Binary) = "text/csv"))),
    responses(
        (status = 200, description = "What became of the lines", body = ImportView),
        (status = 400, description = "The body ended early", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "Missing or invalid API key", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "Insufficient scope", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not go on arriving", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large; of one without a Content-Length the beginning was imported", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is neither NDJSON nor CSV", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The first line of a CSV names columns that cannot be read; nothing was imported", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = [])),
)]
pub async fn import(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<ImportView>, ApiError> {
    caller.may(Scope::Admin)?;
    let format = format(&headers)?;
    let streams = api.acceptor.streams(caller.tenant()).await?;
    let now = api.clock.now();
    let context = Context { now, limits: &api.limits, streams: &streams };
    let mut pieces = api.bodies.pieces(&headers, body)?;
    let mut records = RecordSplitter::new(format == Format::Csv);
    let mut import = Import { reader: Reader::new(format), entries: Vec::new(), view: ImportView::default() };
    while let Some(piece) = pieces.next().await? {
        let mut complete = Vec::new();
        records.push(&piece, |record| complete.push(record));
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
    tracing::info!(event = "suppressions_imported", by = %caller.key_id(), "imported suppressions");
    Ok(Json(import.view))
}

/// An import under way.
struct Import {
    reader: Reader,
    /// Read, and not yet written.
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
                if self.view.errors.len() < TOLD {
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
        // An import lasts as long as its body takes: a key that was revoked meanwhile changes nothing more.
        caller.again(api).await?.may(Scope::Admin)?;
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
