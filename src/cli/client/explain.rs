//! `postrider explain MSG`: where each recipient is, why, and what would help.

use serde::Deserialize;

use super::api::target::{DevKey, Target};
use super::api::{Api, segment};
use super::output::terminal::Output;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The message's id
    #[arg(value_name = "MSG")]
    message: String,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Deserialize)]
struct Message {
    id: String,
    status: String,
    stream: String,
    recipients: Vec<Recipient>,
}

#[derive(Debug, Deserialize)]
struct Recipient {
    address: String,
    kind: String,
    status: String,
    attempts: i64,
    summary: String,
    blocker: Blocker,
    estimate: Option<Estimate>,
    #[serde(default)]
    unblock: Vec<Remedy>,
    lane: Option<Lane>,
    ahead: Option<Count>,
    gives_up_at: Option<String>,
    mx: Option<String>,
    tls: Option<String>,
    bounce: Option<Bounce>,
}

#[derive(Debug, Deserialize)]
struct Blocker {
    kind: String,
    since: Option<String>,
    until: Option<String>,
    rule: Option<String>,
    reply: Option<SmtpReply>,
}

/// A reply of a mail server.
#[derive(Debug, Deserialize)]
pub(super) struct SmtpReply {
    code: Option<i64>,
    enhanced: Option<String>,
    text: String,
}

#[derive(Debug, Deserialize)]
struct Estimate {
    at: Option<String>,
    explanation: String,
}

#[derive(Debug, Deserialize)]
struct Remedy {
    action: String,
    call: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Lane {
    id: Option<String>,
    stream: String,
    route: String,
    domain: String,
    state: String,
}

/// A number that is a lower bound if there are more.
#[derive(Debug, Deserialize)]
pub(super) struct Count {
    number: i64,
    is_more: bool,
}

#[derive(Debug, Deserialize)]
struct Bounce {
    r#type: String,
    category: String,
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.number, if self.is_more { "+" } else { "" })
    }
}

impl std::fmt::Display for SmtpReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(code) = self.code {
            write!(f, "{code} ")?;
        }
        if let Some(enhanced) = &self.enhanced {
            write!(f, "{enhanced} ")?;
        }
        f.write_str(&self.text)
    }
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let api = Api::new(args.target.endpoint(DevKey::SendAndRead)?)?;
    let reply = api.get(&format!("/v1/messages/{}/explain", segment(&args.message))).await?;
    let mut output = Output::new();
    if args.target.json {
        output.json(reply.json()?)?;
    } else {
        let message: Message = reply.parse()?;
        output.line(&format!("{}  {}  stream {}", message.id, message.status, message.stream))?;
        for recipient in &message.recipients {
            output.line("")?;
            lines(recipient).iter().try_for_each(|line| output.line(line))?;
        }
    }
    output.flush()?;
    Ok(())
}

/// Formats the explanation of a recipient.
fn lines(recipient: &Recipient) -> Vec<String> {
    let attempts = match recipient.attempts {
        1 => "1 attempt".to_owned(),
        attempts => format!("{attempts} attempts"),
    };
    let mut lines = vec![
        format!("{} ({})  {}  {attempts}", recipient.address, recipient.kind, recipient.status),
        format!("  {}", recipient.summary),
    ];
    let mut field = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            lines.push(format!("  {:<10}{value}", format!("{name}:")));
        }
    };
    let blocker = &recipient.blocker;
    let since = blocker.since.as_ref().map(|at| format!(" since {at}")).unwrap_or_default();
    let until = blocker.until.as_ref().map(|at| format!(" until {at}")).unwrap_or_default();
    field("reason", Some(format!("{}{since}{until}", blocker.kind)));
    field("rule", blocker.rule.clone());
    field("reply", blocker.reply.as_ref().map(ToString::to_string));
    field("bounce", recipient.bounce.as_ref().map(|bounce| format!("{}, {}", bounce.r#type, bounce.category)));
    field("server", server(recipient));
    field("lane", recipient.lane.as_ref().map(lane));
    field("ahead", recipient.ahead.as_ref().map(ToString::to_string));
    field("next", recipient.estimate.as_ref().map(estimate));
    field("gives up", recipient.gives_up_at.clone());
    for remedy in &recipient.unblock {
        let call = remedy.call.as_ref().map(|call| format!("  [{call}]")).unwrap_or_default();
        field("fix", Some(format!("{}{call}", remedy.action)));
    }
    lines
}

fn server(recipient: &Recipient) -> Option<String> {
    let tls = recipient.tls.as_deref().unwrap_or("no TLS");
    recipient.mx.as_ref().map(|mx| format!("{mx} ({tls})"))
}

fn lane(lane: &Lane) -> String {
    let id = lane.id.as_deref().unwrap_or("not created yet");
    format!("{} / {} / {} ({})  {id}", lane.stream, lane.route, lane.domain, lane.state)
}

fn estimate(estimate: &Estimate) -> String {
    estimate.at.as_ref().map_or_else(String::new, |at| format!("{at}  ")) + &estimate.explanation
}
