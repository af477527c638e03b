//! The plan of `postrider send --dry-run`.

use serde::Deserialize;

use super::Warning;
use crate::cli::client::api::Reply;
use crate::cli::client::output::table::Table;
use crate::cli::client::output::terminal::{Output, note};

#[derive(Debug, Deserialize)]
struct Plan {
    stream: String,
    route: String,
    dkim: Vec<Signature>,
    #[serde(default)]
    warnings: Vec<Warning>,
    mime: Mime,
    recipients: Vec<Recipient>,
}

#[derive(Debug, Deserialize)]
struct Signature {
    domain: String,
    selector: String,
}

#[derive(Debug, Deserialize)]
struct Mime {
    size: u64,
}

#[derive(Debug, Deserialize)]
struct Recipient {
    address: String,
    kind: String,
    suppressed: bool,
    summary: String,
}

/// Writes a plan.
pub(super) fn write(reply: &Reply, is_json: bool, output: &mut Output) -> anyhow::Result<()> {
    if is_json {
        output.json(reply.json()?)?;
        output.flush()?;
        return Ok(());
    }
    let plan: Plan = reply.parse()?;
    let signatures: Vec<String> = plan.dkim.iter().map(|key| format!("{}/{}", key.domain, key.selector)).collect();
    let dkim = if signatures.is_empty() { "not signed".to_owned() } else { signatures.join(", ") };
    output.line(&format!("dry run: nothing was sent  stream {}  route {}", plan.stream, plan.route))?;
    output.line(&format!("size {} bytes  DKIM {dkim}", plan.mime.size))?;
    for warning in &plan.warnings {
        note("warning", &warning.message);
    }
    let mut table = Table::new(&["RECIPIENT", "KIND", "SUPPRESSED", "PLAN"]);
    for recipient in &plan.recipients {
        let suppressed = if recipient.suppressed { "yes" } else { "no" };
        table.row([&recipient.address, &recipient.kind, suppressed, &recipient.summary]);
    }
    table.write(output)?;
    output.flush()?;
    Ok(())
}
