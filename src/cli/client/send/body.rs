//! The request of `postrider send`. Only what the API cannot know is checked here: the API reports all other faults.

use std::io::{IsTerminal as _, Read};
use std::path::Path;

use chrono::{SecondsFormat, TimeDelta};
use serde_json::{Map, Value, json};

use super::args::Args;
use crate::cli::client::api::form::{FormFile, part_name};
use crate::cli::client::error::{ClientError, Kind};
use crate::clock::{Clock as _, SystemClock};
use crate::config;

/// Maximum bytes of text or HTML that are read; the API accepts less.
const MAX_TEXT: u64 = 64 << 20;

/// Returns the message as JSON.
pub(super) async fn message(args: &Args, files: &[FormFile]) -> Result<Value, ClientError> {
    let (text, html) = bodies(args).await?;
    let fields = [
        ("from", args.from.as_ref().map(|from| json!(from))),
        ("to", list(&args.to)),
        ("cc", list(&args.cc)),
        ("bcc", list(&args.bcc)),
        ("reply_to", list(&args.reply_to)),
        ("subject", args.subject.as_ref().map(|subject| json!(subject))),
        ("text", text.map(Value::String)),
        ("html", html.map(Value::String)),
        ("headers", map("--header", &args.header)?),
        ("metadata", map("--metadata", &args.metadata)?),
        ("tags", (!args.tag.is_empty()).then(|| tags(&args.tag))),
        ("template", template(args)?),
        ("stream", args.stream.as_ref().map(|stream| json!(stream))),
        ("scheduled_at", args.at.as_deref().map(scheduled_at).transpose()?),
        ("attachments", (!files.is_empty()).then(|| attachments(files))),
    ];
    Ok(fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect::<Map<_, _>>().into())
}

/// Returns text and HTML.
async fn bodies(args: &Args) -> Result<(Option<String>, Option<String>), ClientError> {
    let html = match &args.html_file {
        Some(path) => Some(read(path).await?),
        None => args.html.clone(),
    };
    let text = match &args.text_file {
        Some(path) => Some(read(path).await?),
        None => args.text.clone(),
    };
    // A message with attachments needs no text. Standard input is not read for it, because it may be the input of a
    // shell loop that runs the command once per line.
    if text.is_some() || html.is_some() || args.template.is_some() || !args.attach.is_empty() {
        return Ok((text, html));
    }
    let input = if std::io::stdin().is_terminal() { String::new() } else { read(Path::new("-")).await? };
    if input.is_empty() {
        let hint = "pass --text, --text-file, --html, --html-file or --template, or write the text to standard input";
        return Err(ClientError::usage("the message has no text", hint));
    }
    Ok((Some(input), None))
}

/// Reads a text file; `-` is standard input.
async fn read(path: &Path) -> Result<String, ClientError> {
    let owned = path.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let source: Box<dyn Read> =
            if owned.as_os_str() == "-" { Box::new(std::io::stdin()) } else { Box::new(std::fs::File::open(owned)?) };
        let mut bytes = Vec::new();
        source.take(MAX_TEXT + 1).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    });
    let path = if path.as_os_str() == "-" { Path::new("standard input") } else { path };
    let bytes = read.await.map_err(|error| ClientError::file(path, &error))?;
    let bytes = bytes.map_err(|error| ClientError::file(path, &error))?;
    if bytes.len() as u64 > MAX_TEXT {
        return Err(ClientError::file(path, &format!("it is longer than {} MiB", MAX_TEXT >> 20)));
    }
    String::from_utf8(bytes).map_err(|_| {
        ClientError::file(path, &"it is not UTF-8 text").with_hint("send files of other types with --attach")
    })
}

fn list(addresses: &[String]) -> Option<Value> {
    (!addresses.is_empty()).then(|| json!(addresses))
}

/// Returns the pairs as a JSON object; `None` without pairs. Fails if a name is given twice.
fn map(option: &str, pairs: &[(String, String)]) -> Result<Option<Value>, ClientError> {
    let mut map = Map::new();
    for (name, value) in pairs {
        if map.insert(name.clone(), json!(value)).is_some() {
            return Err(ClientError::new(Kind::Usage, format!("{option} is given twice for {name}")));
        }
    }
    Ok((!map.is_empty()).then(|| map.into()))
}

fn tags(tags: &[(String, String)]) -> Value {
    tags.iter().map(|(name, value)| json!({"name": name, "value": value})).collect()
}

fn attachments(files: &[FormFile]) -> Value {
    let attachment = |(index, file): (usize, &FormFile)| json!({"filename": file.name, "part": part_name(index)});
    files.iter().enumerate().map(attachment).collect()
}

/// Returns the template with its variables. `--var` takes precedence over `--vars`.
fn template(args: &Args) -> Result<Option<Value>, ClientError> {
    let Some(id) = &args.template else {
        // clap does not enforce `requires = "template"` if an option that conflicts with `--template` is given, such as
        // `--text`.
        if args.variables.is_empty() && args.variables_json.is_none() {
            return Ok(None);
        }
        return Err(ClientError::usage("--var and --vars are variables of a template", "also pass --template"));
    };
    let mut variables = args.variables_json.clone().unwrap_or_default();
    if let Some(Value::Object(texts)) = map("--var", &args.variables)? {
        variables.extend(texts);
    }
    Ok(Some(json!({"id": id, "variables": variables})))
}

/// Returns the time of `--at`: a duration from now, or a time that the API checks.
fn scheduled_at(text: &str) -> Result<Value, ClientError> {
    let Some(wait) = config::duration(text) else { return Ok(json!(text)) };
    let at = TimeDelta::from_std(wait).ok().and_then(|wait| SystemClock.now().checked_add_signed(wait));
    let at = at.ok_or_else(|| ClientError::new(Kind::Usage, "--at is too far in the future"))?;
    Ok(json!(at.to_rfc3339_opts(SecondsFormat::Millis, true)))
}
