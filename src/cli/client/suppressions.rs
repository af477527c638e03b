//! `postrider suppressions`: addresses that are not sent to.

use serde::Deserialize;
use serde_json::{Value, json};

use super::api::target::{DevKey, Target};
use super::api::{Api, segment};
use super::error::{ClientError, Kind};
use super::list::List;
use super::output::table::Table;
use super::output::terminal::Output;

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(in crate::cli) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List entries, newest first
    List(Filter),
    /// Add addresses
    Add {
        #[arg(required = true, value_name = "ADDRESS")]
        addresses: Vec<String>,
        /// Only for this stream [default: for all streams]
        #[arg(long)]
        stream: Option<String>,
        /// A note of one line
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
        /// The reason: `manual`, `unsubscribe`, `complaint` or `hard_bounce` [default: manual]
        #[arg(long)]
        reason: Option<String>,
        /// When the entries expire, as an RFC 3339 time [default: never]
        #[arg(long, value_name = "TIME")]
        expires_at: Option<String>,
    },
    /// Remove all entries of addresses
    Remove {
        #[arg(required = true, value_name = "ADDRESS")]
        addresses: Vec<String>,
        /// Only the entries for this stream; `*` for those that apply to all streams
        #[arg(long)]
        stream: Option<String>,
    },
    /// Print the entries of an address; exits with 3 if there are none
    Check {
        #[arg(value_name = "ADDRESS")]
        address: String,
    },
}

#[derive(Debug, clap::Args)]
struct Filter {
    /// Only entries for this stream; `*` for those that apply to all streams
    #[arg(long)]
    stream: Option<String>,
    /// Only entries with this reason: `hard_bounce`, `complaint`, `unsubscribe` or `manual`
    #[arg(long)]
    reason: Option<String>,
    /// Maximum number of entries
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = super::list::limit)]
    limit: usize,
}

#[derive(Debug, Deserialize)]
struct Entry {
    address: String,
    reason: String,
    stream: Option<String>,
    note: Option<String>,
    created_at: String,
    expires_at: Option<String>,
    message_id: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Address {
    data: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Stored {
    added: u64,
    updated: u64,
    unchanged: u64,
}

#[derive(Debug, Deserialize)]
struct Removed {
    removed: u64,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let Args { command, filter, target } = args;
    let command = command.unwrap_or(Command::List(filter));
    let key = if matches!(command, Command::Remove { .. }) { DevKey::Admin } else { DevKey::SendAndRead };
    let api = Api::new(target.endpoint(key)?)?;
    let mut output = Output::new();
    let result = run_command(&api, command, target.json, &mut output).await;
    output.flush()?;
    result
}

async fn run_command(api: &Api, command: Command, is_json: bool, output: &mut Output) -> anyhow::Result<()> {
    match command {
        Command::List(filter) => list(api, &filter, is_json, output).await,
        Command::Check { address } => check(api, &address, is_json, output).await,
        Command::Add { addresses, stream, note, reason, expires_at } => {
            let fields = [("stream", stream), ("note", note), ("reason", reason), ("expires_at", expires_at)];
            add(api, &entries(&addresses, &fields), is_json, output).await
        }
        Command::Remove { addresses, stream } => {
            remove(api, &entries(&addresses, &[("stream", stream)]), is_json, output).await
        }
    }
}

/// Returns an object for each address, with the fields that are given.
fn entries(addresses: &[String], fields: &[(&str, Option<String>)]) -> Value {
    let entry = |address: &String| {
        let given = fields.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?)));
        let all = given.chain([("address", address.as_str())]);
        all.map(|(name, value)| (name.to_owned(), json!(value))).collect::<serde_json::Map<_, _>>()
    };
    addresses.iter().map(entry).collect()
}

async fn add(api: &Api, entries: &Value, is_json: bool, output: &mut Output) -> anyhow::Result<()> {
    let reply = api.post("/v1/suppressions", entries).await?;
    if is_json {
        output.json(reply.json()?)?;
        return Ok(());
    }
    let Stored { added, updated, unchanged } = reply.parse()?;
    output.line(&format!("{added} added, {updated} updated, {unchanged} unchanged"))?;
    Ok(())
}

async fn remove(api: &Api, entries: &Value, is_json: bool, output: &mut Output) -> anyhow::Result<()> {
    let reply = api.post("/v1/suppressions/remove", entries).await?;
    let Removed { removed } = reply.parse()?;
    if is_json {
        output.json(reply.text())?;
    } else {
        output.line(&format!("{removed} removed"))?;
    }
    if removed == 0 {
        return Err(ClientError::new(Kind::NotFound, "no such suppression").into());
    }
    Ok(())
}

async fn check(api: &Api, address: &str, is_json: bool, output: &mut Output) -> anyhow::Result<()> {
    let reply = api.get(&format!("/v1/suppressions/{}", segment(address))).await?;
    if is_json {
        output.json(reply.json()?)?;
        return Ok(());
    }
    let address: Address = reply.parse()?;
    write_table(&address.data, output)
}

async fn list(api: &Api, filter: &Filter, is_json: bool, output: &mut Output) -> anyhow::Result<()> {
    let query = vec![("stream", filter.stream.as_deref()), ("reason", filter.reason.as_deref())];
    let list = List { path: "/v1/suppressions", query, limit: filter.limit, is_json };
    let entries: Vec<Entry> = list.read(api, output).await?;
    if is_json { Ok(()) } else { write_table(&entries, output) }
}

fn write_table(entries: &[Entry], output: &mut Output) -> anyhow::Result<()> {
    let mut table = Table::new(&["ADDRESS", "STREAM", "REASON", "CREATED", "EXPIRES", "MESSAGE", "NOTE"]);
    for entry in entries {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        table.row([
            entry.address.clone(),
            entry.stream.clone().unwrap_or_else(|| "*".into()),
            entry.reason.clone(),
            entry.created_at.clone(),
            entry.expires_at.clone().unwrap_or_else(|| "never".into()),
            text(&entry.message_id),
            text(&entry.note),
        ]);
    }
    table.write(output)?;
    Ok(())
}
