//! `postrider send`: sends a message, and can wait until every recipient has an end state.

mod args;
mod body;
mod plan;
mod wait;

use std::time::Duration;

use hyper::Method;
use hyper::header::HeaderValue;
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::api::backoff::Backoff;
use super::api::form::{FormFile, form};
use super::api::target::DevKey;
use super::api::{self, Api, LIMIT, Reply};
use super::error::ClientError;
use super::output::table::Table;
use super::output::terminal::{Output, note};
pub(in crate::cli) use args::Args;

/// Maximum number of times that a request is sent if the connection breaks or the API is unavailable. The idempotency
/// key makes this safe.
const TRIES: usize = 4;
/// The first and the longest wait between two tries.
const BACKOFF: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(5)];
/// Minimum speed of an upload in bytes per second, from which its time limit is calculated.
const SLOWEST_UPLOAD: u64 = 64 << 10;

#[derive(Debug, Deserialize)]
struct Accepted {
    id: String,
    status: String,
    recipients: Vec<AcceptedRecipient>,
    #[serde(default)]
    warnings: Vec<Warning>,
}

#[derive(Debug, Deserialize)]
struct AcceptedRecipient {
    address: String,
    kind: String,
    status: String,
}

/// A problem that may affect delivery.
#[derive(Debug, Deserialize)]
struct Warning {
    message: String,
}

/// A request, which can be sent several times.
#[derive(Debug)]
struct Request {
    message: Value,
    files: Vec<FormFile>,
    path: &'static str,
    idempotency_key: Option<HeaderValue>,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    // The options and the files are checked before anything is sent.
    let api = Api::new(args.target.endpoint(DevKey::SendAndRead)?)?;
    let mut files = Vec::new();
    for path in &args.attach {
        files.push(FormFile::check(path).await?);
    }
    let message = body::message(&args, &files).await?;
    let idempotency_key = if args.dry_run { None } else { Some(idempotency_key(args.idempotency_key.as_deref())?) };
    let path = if args.dry_run { "/v1/messages?dry_run=true" } else { "/v1/messages" };
    let reply = send(&api, &Request { message, files, path, idempotency_key }).await?;
    let mut output = Output::new();
    if args.dry_run {
        plan::write(&reply, args.target.json, &mut output)?;
        return Ok(());
    }
    let accepted: Accepted = reply.parse()?;
    if args.target.json {
        output.json(reply.text())?;
    } else {
        write(&accepted, args.wait.is_some(), &mut output)?;
    }
    output.flush()?;
    if let Some(limit) = args.wait {
        wait::until_finished(&api, &accepted.id, limit, args.target.json, &mut output).await?;
    }
    Ok(())
}

/// Returns the given key or a new one, because every request may be sent again.
fn idempotency_key(given: Option<&str>) -> Result<HeaderValue, ClientError> {
    let key = given.map_or_else(|| format!("cli-{}", Uuid::now_v7()), str::to_owned);
    // The API decodes header values as UTF-8.
    HeaderValue::from_bytes(key.as_bytes())
        .map_err(|_| ClientError::usage("--idempotency-key contains control characters", "pass a text of one line"))
}

/// Sends a request, again if the connection breaks or the API is unavailable.
async fn send(api: &Api, request: &Request) -> Result<Reply, ClientError> {
    let mut backoff = Backoff::new(BACKOFF[0], BACKOFF[1]);
    let mut is_ambiguous = false;
    for tried in 1.. {
        let error = match send_once(api, request).await {
            Ok(reply) => return Ok(reply),
            Err(error) => error,
        };
        is_ambiguous |= error.is_ambiguous();
        if tried >= TRIES || !error.is_transient() {
            let key = request.idempotency_key.as_ref().and_then(|key| key.to_str().ok()).filter(|_| is_ambiguous);
            return Err(match key {
                Some(key) if error.is_transient() => error.with_hint(format!(
                    "the message may have been accepted; to send it once only, repeat the command with {}",
                    repeat_options(&request.message, key)
                )),
                _ => error,
            });
        }
        let asked = error.retry_after().unwrap_or_default().min(BACKOFF[1]);
        tokio::time::sleep(backoff.next().max(asked)).await;
    }
    Err(ClientError::new(super::error::Kind::Failed, "not sent"))
}

/// Returns the options with which a repeated command sends the same request. They replace a duration in `--at` by its
/// time: the duration would now give another time, and the API would refuse the key.
fn repeat_options(message: &Value, key: &str) -> String {
    let at = message.get("scheduled_at").and_then(Value::as_str);
    let at = at.map_or_else(String::new, |at| format!("--at '{at}' "));
    format!("{at}--idempotency-key '{key}'")
}

async fn send_once(api: &Api, request: &Request) -> Result<Reply, ClientError> {
    let size: u64 = request.files.iter().map(|file| file.size).sum();
    let (mut headers, body) = if request.files.is_empty() {
        api::json(&request.message)?
    } else {
        form(request.message.to_string().as_bytes(), &request.files)?
    };
    if let Some(key) = &request.idempotency_key {
        headers.insert("idempotency-key", key.clone());
    }
    let limit = LIMIT + Duration::from_secs(size / SLOWEST_UPLOAD);
    api.call(Method::POST, request.path, headers, body, limit).await
}

/// Writes the id and the status, and the recipients if there are several. If the command waits, leaves out the
/// recipients, which are written after the wait.
fn write(accepted: &Accepted, waits: bool, output: &mut Output) -> anyhow::Result<()> {
    output.line(&format!("{} {}", accepted.id, accepted.status))?;
    for warning in &accepted.warnings {
        note("warning", &warning.message);
    }
    if accepted.recipients.len() > 1 && !waits {
        let mut table = Table::new(&["RECIPIENT", "KIND", "STATUS"]);
        for recipient in &accepted.recipients {
            table.row([&recipient.address, &recipient.kind, &recipient.status]);
        }
        table.write(output)?;
    }
    Ok(())
}
