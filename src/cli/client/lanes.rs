//! `postrider lanes`: the queues of a service, and the actions of an operator on one of them.

use serde::Deserialize;
use serde_json::json;

use super::api::target::{DevKey, Target};
use super::api::{Api, Reply, segment, with_query};
use super::explain::Count;
use super::list::List;
use super::output::table::Table;
use super::output::terminal::{Output, note};

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
    /// Pause a lane: its messages wait, and are still accepted
    Pause {
        /// The lane's id, as `lanes` prints it
        lane: String,
        /// The reason, which `lanes` and `explain` show
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Resume a paused lane
    Resume {
        /// The lane's id
        lane: String,
    },
    /// Make all deferred recipients of a lane due now
    Retry {
        /// The lane's id
        lane: String,
        /// Only recipients at this domain
        #[arg(long)]
        domain: Option<String>,
    },
    /// Probe an unreachable destination now, and forget the learned rate
    Reset {
        /// The lane's id
        lane: String,
    },
}

#[derive(Debug, clap::Args)]
struct Filter {
    /// Only lanes of this stream
    #[arg(long)]
    stream: Option<String>,
    /// Only lanes of this route: `mx`, `relay` or `relay:NAME`
    #[arg(long)]
    route: Option<String>,
    /// Only lanes of this destination domain
    #[arg(long)]
    domain: Option<String>,
    /// Only lanes in this state: `open`, `throttled`, `blocked` or `paused`
    #[arg(long)]
    state: Option<String>,
    /// Only lanes with waiting recipients
    #[arg(long)]
    waiting: bool,
    /// Maximum number of lanes
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = super::list::limit)]
    limit: usize,
}

#[derive(Debug, Deserialize)]
struct Lane {
    #[serde(flatten)]
    terms: Terms,
    waiting: Count,
    due: Count,
    held: Count,
    in_flight: Option<i64>,
    oldest_due_at: Option<String>,
}

/// The part of a lane that calls return without counting its recipients.
#[derive(Debug, Deserialize)]
struct Terms {
    id: String,
    stream: String,
    route: String,
    domain: String,
    state: String,
    reason: String,
    limits: Limits,
}

#[derive(Debug, Deserialize)]
struct Limits {
    connections: Connections,
    rate: Rate,
}

#[derive(Debug, Deserialize)]
struct Connections {
    effective: i64,
}

#[derive(Debug, Deserialize)]
struct Rate {
    effective: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Retried {
    retried: u64,
    has_more: bool,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let Args { command, filter, target } = args;
    let key = if command.is_some() { DevKey::Admin } else { DevKey::SendAndRead };
    let api = Api::new(target.endpoint(key)?)?;
    let mut output = Output::new();
    match command {
        None => list(&api, &filter, target.json, &mut output).await?,
        Some(Command::Retry { lane, domain }) => {
            let path = with_query(&action(&lane, "retry"), [("domain", domain.as_deref())]);
            retried(&api.post_empty(&path).await?, target.json, &mut output)?;
        }
        Some(command) => {
            let reply = change(&api, &command).await?;
            if target.json {
                output.json(reply.json()?)?;
            } else {
                let lane: Terms = reply.parse()?;
                output.line(&format!("{} is {}: {}", lane.id, lane.state, lane.reason))?;
            }
        }
    }
    output.flush()?;
    Ok(())
}

fn action(lane: &str, action: &str) -> String {
    format!("/v1/lanes/{}/{action}", segment(lane))
}

/// Changes the lane. The API returns the changed lane.
async fn change(api: &Api, command: &Command) -> anyhow::Result<Reply> {
    let reply = match command {
        Command::Pause { lane, reason } => {
            let body = reason.as_ref().map_or_else(|| json!({}), |reason| json!({ "reason": reason }));
            api.post(&action(lane, "pause"), &body).await
        }
        Command::Resume { lane } => api.post_empty(&action(lane, "resume")).await,
        Command::Reset { lane } => api.post_empty(&action(lane, "reset")).await,
        Command::Retry { lane, .. } => api.post_empty(&action(lane, "retry")).await,
    };
    Ok(reply?)
}

fn retried(reply: &Reply, is_json: bool, output: &mut Output) -> anyhow::Result<()> {
    if is_json {
        output.json(reply.json()?)?;
        return Ok(());
    }
    let retried: Retried = reply.parse()?;
    output.line(&format!("recipients due now: {}", retried.retried))?;
    if retried.has_more {
        note("note", "there are more; run the command again");
    }
    Ok(())
}

async fn list(api: &Api, filter: &Filter, is_json: bool, output: &mut Output) -> anyhow::Result<()> {
    let query = vec![
        ("stream", filter.stream.as_deref()),
        ("route", filter.route.as_deref()),
        ("domain", filter.domain.as_deref()),
        ("state", filter.state.as_deref()),
        ("waiting", filter.waiting.then_some("true")),
    ];
    let list = List { path: "/v1/lanes", query, limit: filter.limit, is_json };
    let lanes: Vec<Lane> = list.read(api, output).await?;
    if is_json {
        return Ok(());
    }
    let mut table = Table::new(&[
        "STREAM",
        "ROUTE",
        "DESTINATION",
        "STATE",
        "WAITING",
        "DUE",
        "IN FLIGHT",
        "HELD",
        "OLDEST DUE",
        "LIMIT",
        "LANE",
        "REASON",
    ]);
    for lane in &lanes {
        table.row(cells(lane));
    }
    table.write(output)?;
    Ok(())
}

fn cells(lane: &Lane) -> [String; 12] {
    let Terms { id, stream, route, domain, state, reason, limits } = &lane.terms;
    let connections = format!("{} conn", limits.connections.effective);
    let limit = limits.rate.effective.map_or_else(|| connections.clone(), |rate| format!("{rate}/s, {connections}"));
    [
        stream.clone(),
        route.clone(),
        domain.clone(),
        state.clone(),
        lane.waiting.to_string(),
        lane.due.to_string(),
        lane.in_flight.map(|count| count.to_string()).unwrap_or_default(),
        lane.held.to_string(),
        lane.oldest_due_at.clone().unwrap_or_default(),
        limit,
        id.clone(),
        reason.clone(),
    ]
}
