//! `postrider events`: what happened, in the order of `seq`.
//!
//! The position is the cursor of the last page that arrived completely, so that no event is lost or repeated when a
//! connection breaks: an incomplete page is requested again, and its events have not been printed.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::api::backoff::Backoff;
use super::api::target::{DevKey, Target};
use super::api::{Api, LIMIT, Reply, invalid, with_query};
use super::error::ClientError;
use super::explain::SmtpReply;
use super::output::terminal::{Output, note};
use crate::cli::signals::Signals;

/// Maximum number of events of a page.
const PAGE: usize = 500;
/// Seconds that the API waits for an event.
const WAIT: &str = "25";
/// Time limit of a request that waits.
const WAIT_LIMIT: Duration = Duration::from_secs(40);
/// The first and the longest wait between tries.
const BACKOFF: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(10)];

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Wait for further events until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// Only events after this `seq`, or `latest`: only events from now on [default: latest with --follow and without --message, otherwise 0]
    #[arg(long, value_name = "SEQ")]
    after: Option<String>,
    /// Only events of this type, such as `message.bounced`; may be repeated
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Only events of the message with this id
    #[arg(long, value_name = "MSG")]
    message: Option<String>,
    /// Stop after this many events
    #[arg(long, value_name = "N", value_parser = super::list::limit)]
    limit: Option<usize>,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
    has_more: bool,
    next: String,
}

/// The parts of an event that are printed.
#[derive(Debug, Deserialize)]
struct Event {
    seq: i64,
    r#type: String,
    timestamp: String,
    data: EventData,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EventData {
    message_id: Option<String>,
    recipient: Option<String>,
    recipients: Option<Vec<EventRecipient>>,
    response: Option<SmtpReply>,
    next_attempt_at: Option<String>,
    endpoint_id: Option<String>,
}

#[derive(Debug, Deserialize)]
struct EventRecipient {
    address: String,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let api = Api::new(args.target.endpoint(DevKey::SendAndRead)?)?;
    let stop = stop_at_signal()?;
    let start = args
        .after
        .clone()
        .unwrap_or_else(|| if args.follow && args.message.is_none() { "latest".into() } else { "0".into() });
    let mut reader = Reader { api, after: start, types: args.types.join(","), args: &args, output: Output::new() };
    reader.read(&stop).await
}

/// Returns a token that the first signal cancels. The second signal ends the process, even if it waits for a reader of
/// its output.
fn stop_at_signal() -> anyhow::Result<CancellationToken> {
    let mut signals = Signals::listen()?;
    let stop = CancellationToken::new();
    tokio::spawn({
        let stop = stop.clone();
        async move {
            signals.next().await;
            stop.cancel();
            signals.next().await;
            std::process::exit(130);
        }
    });
    Ok(stop)
}

/// Reads events from a position on.
struct Reader<'a> {
    api: Api,
    /// The cursor of the next page.
    after: String,
    types: String,
    args: &'a Args,
    output: Output,
}

impl Reader<'_> {
    /// Prints events until there are no more, or until it is stopped.
    async fn read(&mut self, stop: &CancellationToken) -> anyhow::Result<()> {
        let mut left = self.args.limit.unwrap_or(usize::MAX);
        // The first request does not wait, so that it replaces `latest` with a number at once: a reconnect with
        // `latest` would skip events.
        let (mut waits, mut retries) = (false, false);
        while left > 0 {
            let size = if self.after == "latest" { 1 } else { left.min(PAGE) };
            let page = self.page(size, waits, retries);
            let Some(reply) = stop.run_until_cancelled(page).await else { return Ok(()) };
            let reply = reply?;
            let page: Page<'_> = serde_json::from_str(reply.text()).map_err(|error| invalid(&error.to_string()))?;
            for event in page.data.iter().take(left) {
                self.print(event)?;
            }
            self.output.flush()?;
            left = left.saturating_sub(page.data.len());
            self.after = page.next;
            if !page.has_more && !self.args.follow {
                return Ok(());
            }
            (waits, retries) = (!page.has_more, self.args.follow);
        }
        Ok(())
    }

    /// Requests the next page. With `retries`, it repeats the request after temporary errors until the page arrives.
    /// `retries` is false for the first page, so that a wrong address is reported at once.
    async fn page(&self, size: usize, waits: bool, retries: bool) -> Result<Reply, ClientError> {
        let size = size.to_string();
        let query = [
            ("after", Some(self.after.as_str())),
            ("limit", Some(size.as_str())),
            ("wait", waits.then_some(WAIT)),
            ("type", Some(self.types.as_str()).filter(|types| !types.is_empty())),
            ("message_id", self.args.message.as_deref()),
        ];
        let path = with_query("/v1/events", query);
        let limit = if waits { WAIT_LIMIT } else { LIMIT };
        let mut backoff = Backoff::new(BACKOFF[0], BACKOFF[1]);
        let mut is_warned = false;
        loop {
            match self.api.get_within(&path, limit).await {
                Err(error) if retries && error.is_transient() => {
                    if !is_warned {
                        note("warning", &format!("{error}; trying again"));
                        is_warned = true;
                    }
                    let wait = backoff.next().max(error.retry_after().unwrap_or_default().min(BACKOFF[1]));
                    tokio::time::sleep(wait).await;
                }
                Ok(reply) => {
                    if is_warned {
                        note("note", "connected again");
                    }
                    return Ok(reply);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn print(&mut self, event: &RawValue) -> anyhow::Result<()> {
        if self.args.target.json {
            self.output.json(event.get())?;
            return Ok(());
        }
        let event: Event = serde_json::from_str(event.get()).map_err(|error| invalid(&error.to_string()))?;
        self.output.line(&line(&event))?;
        Ok(())
    }
}

/// Formats an event: `seq`, time, type, message, recipient, and the reply and the time of the next attempt, if there
/// are any.
fn line(event: &Event) -> String {
    let Event { seq, r#type, timestamp, data } = event;
    let addresses = data.recipients.iter().flatten().map(|recipient| recipient.address.as_str());
    let recipient = data.recipient.clone().unwrap_or_else(|| addresses.collect::<Vec<_>>().join(","));
    let subject = data.message_id.as_ref().or(data.endpoint_id.as_ref()).map_or("-", String::as_str);
    let mut line = format!(
        "{seq:<8} {timestamp:<27} {type:<20} {subject} {}",
        if recipient.is_empty() { "-" } else { &recipient }
    );
    if let Some(response) = &data.response {
        let _ = write!(line, "  {response}");
    }
    if let Some(at) = &data.next_attempt_at {
        let _ = write!(line, "  next attempt {at}");
    }
    line
}
