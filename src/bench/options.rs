//! What can be chosen: the command's options, which are also told beside the figures.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::BenchError;
use super::dkim::Dkim;
use crate::config;

/// The largest number of mails of one run, and of a backlog.
const MOST: u64 = 50_000_000;

/// What is measured, and with what.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct Options {
    /// Mails to send [default: 50000]; with --duration, the most
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=MOST))]
    pub messages: Option<u64>,
    /// Send for so long, such as 90s or 1h
    #[arg(long, value_parser = duration, value_name = "TIME")]
    #[serde(serialize_with = "seconds")]
    pub duration: Option<Duration>,
    /// At most so many mails a second; without it, as fast as answers come
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
    /// Octets of each mail's text
    #[arg(long, default_value_t = 2_048, value_parser = clap::value_parser!(u32).range(1..=4 << 20))]
    pub size: u32,
    /// Recipients of each mail
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=50))]
    pub recipients: u16,
    /// HTTP connections, each with one request at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub connections: u16,
    /// Sign with DKIM
    #[arg(long, value_enum, default_value_t = Dkim::None)]
    pub dkim: Dkim,
    /// Attach a file of so many octets, a different one to each mail
    #[arg(long, default_value_t = 0, value_name = "OCTETS", value_parser = clap::value_parser!(u32).range(..=28 << 20))]
    pub attachment: u32,
    /// Attach the same file to every mail: it is stored once
    #[arg(long)]
    pub same_attachment: bool,
    /// Spread the recipients over so many domains
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub domains: u32,
    /// Send directly to the domains' servers, found by MX records, instead of through a relay: each domain has its own
    /// lane. The sink is every domain's server, and their DNS
    #[arg(long, conflicts_with = "relay")]
    pub direct: bool,
    /// Have so many mails wait in the queue while it measures. They are put there by the product's own commit, without
    /// HTTP, and their text is short
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=MOST))]
    pub backlog: u64,
    /// What the backlog waits for
    #[arg(long, value_enum, default_value_t = Backlog::Paused)]
    pub backlog_kind: Backlog,
    /// Processes of the service, each with API and worker; the connections are spread over them
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub replicas: u16,
    /// Hold a transaction open elsewhere while it measures, as a backup does
    #[arg(long)]
    pub held_transaction: bool,
    /// Measure the API alone: no worker runs, nothing is sent
    #[arg(long)]
    pub accept_only: bool,
    /// How long nothing may arrive before what is missing counts as lost
    #[arg(long, value_parser = duration, value_name = "TIME", default_value = "15s")]
    #[serde(serialize_with = "seconds_of")]
    pub patience: Duration,
    /// Send to this SMTP server, as HOST:PORT or a relay URL, instead of the bench's own sink. Who has got what is then
    /// known only as far as the database tells
    #[arg(long, value_name = "ADDRESS")]
    #[serde(skip)]
    pub relay: Option<String>,
    /// Use this database instead of a Postgres of the bench's own. Everything stays in it
    #[arg(long, value_name = "URL")]
    #[serde(skip)]
    pub database_url: Option<String>,
    /// Run although the database given has messages in it. Where some still wait to be sent, it refuses all the same
    #[arg(long)]
    #[serde(skip)]
    pub yes: bool,
    /// Where to keep the database meanwhile; a disk as the real one's. Default: the system's temporary directory
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    pub dir: Option<PathBuf>,
    /// Print one JSON object on standard output, and the table on standard error
    #[arg(long)]
    #[serde(skip)]
    pub json: bool,
    /// Have the sink refuse every Nth recipient for good, to see that losses are counted
    #[arg(long, hide = true, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub sink_refuses: Option<u64>,
    /// Have the sink take every Nth mail and hang up without a word, to see that copies are counted
    #[arg(long, hide = true, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub sink_hangs_up: Option<u64>,
}

/// What a backlog waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backlog {
    /// Its stream is paused.
    Paused,
    /// It is scheduled for 30 days later, in the lane of the mail that is measured
    Scheduled,
    /// Nothing: it is due, in the less urgent stream `bulk`, and is sent meanwhile
    Due,
}

impl Options {
    /// What the parser cannot know.
    pub(super) fn check(&self) -> Result<(), BenchError> {
        // A mail beyond this would be answered 413: the body is base64.
        let body = u64::from(self.attachment) * 4 / 3 + u64::from(self.size);
        if body > 39 << 20 {
            return BenchError::refused("--attachment and --size together are more than a request may hold (40 MiB)");
        }
        if self.direct && self.backlog > 0 && self.backlog_kind == Backlog::Due && self.domains > 10_000 {
            return BenchError::refused("a backlog that is due goes with up to 10000 domains");
        }
        if self.relay.is_some() && self.backlog > 0 && self.backlog_kind == Backlog::Due {
            return BenchError::refused(
                "--backlog-kind due needs the bench's own sink, which counts it: leave out --relay",
            );
        }
        Ok(())
    }

    /// The most mails that the run may send.
    pub(super) fn most(&self) -> u64 {
        self.messages.unwrap_or(if self.duration.is_some() { MOST } else { 50_000 })
    }

    /// Whether the bench's own sink takes the mail.
    pub(super) fn counts(&self) -> bool {
        self.relay.is_none() && !self.accept_only
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    config::duration(text)
        .filter(|time| (Duration::from_secs(1)..=Duration::from_hours(48)).contains(time))
        .ok_or_else(|| "give a time from 1s to 48h, such as 90s, 5m or 1h".to_owned())
}

#[allow(clippy::ref_option, reason = "as serde wants it")]
fn seconds<S: serde::Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs()).serialize(serializer)
}

fn seconds_of<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    time.as_secs().serialize(serializer)
}
