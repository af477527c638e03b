//! `postrider tenants`: the tenants of a service. Needs a key with the scope `operator`.

use serde::Deserialize;
use serde_json::json;

use super::api::target::{DevKey, Target};
use super::api::{Api, Reply, segment};
use super::list::List;
use super::output::table::Table;
use super::output::terminal::Output;

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(in crate::cli) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Only tenants in this state: `active`, `suspended`, `deleting` or `deleted`
    #[arg(long)]
    status: Option<String>,
    /// Maximum number of tenants
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = super::list::limit)]
    limit: usize,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Create a tenant and print its id
    Create {
        /// The tenant's name
        name: String,
        /// Share of the workers' capacity relative to other tenants, 1 to 1000 [default: 100]
        #[arg(long)]
        weight: Option<u16>,
        /// The most urgent priority of its streams, 0 to 100
        #[arg(long, value_name = "PRIORITY")]
        min_priority: Option<u16>,
        /// Maximum recipients per day
        #[arg(long, value_name = "RECIPIENTS")]
        daily: Option<u32>,
    },
    /// Suspend a tenant: nothing is accepted or sent for it, and everything is kept
    Suspend {
        /// The tenant's id, as `tenants` prints it
        tenant: String,
        /// The reason, which the tenant's users see
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Resume a suspended tenant
    Resume {
        /// The tenant's id
        tenant: String,
    },
}

#[derive(Debug, Deserialize)]
struct Tenant {
    id: String,
    name: String,
    status: String,
    weight: i64,
    quota: Option<Quota>,
    suspension: Option<Suspension>,
    created_at: String,
}

#[derive(Debug, Deserialize)]
struct Quota {
    recipients_per_day: u64,
}

#[derive(Debug, Deserialize)]
struct Suspension {
    reason: Option<String>,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let Args { command, status, limit, target } = args;
    let api = Api::new(target.endpoint(DevKey::Admin)?)?;
    let mut output = Output::new();
    let Some(command) = command else {
        let query = vec![("status", status.as_deref())];
        let list = List { path: "/v1/tenants", query, limit, is_json: target.json };
        print(&list.read(&api, &mut output).await?, target.json, &mut output)?;
        output.flush()?;
        return Ok(());
    };
    let reply = change(&api, &command).await?;
    if target.json {
        output.json(reply.json()?)?;
    } else {
        let tenant: Tenant = reply.parse()?;
        match command {
            Command::Create { .. } => output.line(&tenant.id)?,
            Command::Suspend { .. } | Command::Resume { .. } => {
                output.line(&format!("{} is {}", tenant.id, tenant.status))?;
            }
        }
    }
    output.flush()?;
    Ok(())
}

/// Changes the tenant. The API returns the changed tenant.
async fn change(api: &Api, command: &Command) -> anyhow::Result<Reply> {
    let action = |tenant: &str, action: &str| format!("/v1/tenants/{}/{action}", segment(tenant));
    let reply = match command {
        Command::Create { name, weight, min_priority, daily } => {
            let quota = daily.map(|recipients_per_day| json!({"recipients_per_day": recipients_per_day}));
            let tenant = json!({"name": name, "weight": weight, "min_priority": min_priority, "quota": quota});
            api.post("/v1/tenants", &tenant).await
        }
        Command::Suspend { tenant, reason } => {
            let body = reason.as_ref().map_or_else(|| json!({}), |reason| json!({ "reason": reason }));
            api.post(&action(tenant, "suspend"), &body).await
        }
        Command::Resume { tenant } => api.post_empty(&action(tenant, "resume")).await,
    };
    Ok(reply?)
}

fn print(tenants: &[Tenant], is_json: bool, output: &mut Output) -> anyhow::Result<()> {
    if is_json {
        return Ok(());
    }
    let mut table = Table::new(&["TENANT", "NAME", "STATUS", "WEIGHT", "DAILY", "CREATED", "REASON"]);
    for tenant in tenants {
        table.row([
            tenant.id.clone(),
            tenant.name.clone(),
            tenant.status.clone(),
            tenant.weight.to_string(),
            tenant.quota.as_ref().map(|quota| quota.recipients_per_day.to_string()).unwrap_or_default(),
            tenant.created_at.clone(),
            tenant.suspension.as_ref().and_then(|suspension| suspension.reason.clone()).unwrap_or_default(),
        ]);
    }
    table.write(output)?;
    Ok(())
}
