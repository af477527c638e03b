//! Waits until every recipient of a message has an end state.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use crate::cli::client::api::{Api, LIMIT, Reply, segment};
use crate::cli::client::error::{ClientError, Kind};
use crate::cli::client::explain::SmtpReply;
use crate::cli::client::output::table::Table;
use crate::cli::client::output::terminal::Output;
use crate::config;

/// Time between two requests: at first, and at most.
const INTERVAL: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(2)];
/// Shortest time limit of a request.
const SHORTEST_LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug, Deserialize)]
struct Message {
    recipients: Vec<Recipient>,
}

#[derive(Debug, Deserialize)]
struct Recipient {
    address: String,
    status: String,
    attempts: i64,
    response: Option<SmtpReply>,
}

impl Recipient {
    fn is_pending(&self) -> bool {
        ["scheduled", "queued", "sending", "deferred"].contains(&self.status.as_str())
    }

    fn is_sent(&self) -> bool {
        ["relayed", "delivered"].contains(&self.status.as_str())
    }
}

/// Waits until no recipient is pending, but at most for `limit`, and prints the recipients. Fails if a recipient has
/// another end state than `relayed` or `delivered`, or is still pending.
pub(super) async fn until_finished(
    api: &Api,
    id: &str,
    limit: Duration,
    is_json: bool,
    output: &mut Output,
) -> anyhow::Result<()> {
    let (reply, message) = last(api, id, limit).await?;
    if is_json {
        output.json(reply.text())?;
    } else {
        let mut table = Table::new(&["RECIPIENT", "STATUS", "ATTEMPTS", "RESPONSE"]);
        for recipient in &message.recipients {
            let response = recipient.response.as_ref().map(ToString::to_string).unwrap_or_default();
            table.row([&recipient.address, &recipient.status, &recipient.attempts.to_string(), &response]);
        }
        table.write(output)?;
    }
    output.flush()?;
    outcome(&message, id, limit)
}

/// Returns the message once no recipient is pending, or when the time limit passes. Until then, transient errors are
/// ignored.
async fn last(api: &Api, id: &str, limit: Duration) -> anyhow::Result<(Reply, Message)> {
    let deadline = Instant::now() + limit;
    let path = format!("/v1/messages/{}", segment(id));
    let mut interval = INTERVAL[0];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let result = api.get_within(&path, left.clamp(SHORTEST_LIMIT, LIMIT)).await;
        let is_last = Instant::now() + interval > deadline;
        match result {
            Ok(reply) => {
                let message: Message = reply.parse()?;
                if is_last || !message.recipients.iter().any(Recipient::is_pending) {
                    return Ok((reply, message));
                }
            }
            Err(error) if is_last || !error.is_transient() => {
                return Err(error
                    .with_hint(format!("the message is accepted; `postrider explain {id}` shows where it is"))
                    .into());
            }
            Err(_) => {}
        }
        tokio::time::sleep(interval).await;
        interval = (interval * 3 / 2).min(INTERVAL[1]);
    }
}

fn outcome(message: &Message, id: &str, limit: Duration) -> anyhow::Result<()> {
    let all = message.recipients.len();
    let pending = message.recipients.iter().filter(|recipient| recipient.is_pending()).count();
    let failed = message.recipients.iter().filter(|recipient| !recipient.is_pending() && !recipient.is_sent()).count();
    let error = if failed > 0 {
        ClientError::new(Kind::Undelivered, format!("not delivered to {failed} of {all} recipients"))
    } else if pending > 0 {
        let limit = config::duration_text(limit);
        ClientError::new(Kind::Unfinished, format!("{pending} of {all} recipients are still pending after {limit}"))
    } else {
        return Ok(());
    };
    Err(error.with_hint(format!("`postrider explain {id}` says why")).into())
}
