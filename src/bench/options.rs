//! The command's options, which are also part of the JSON report.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::BenchError;
use super::client::dkim::Dkim;
use crate::config;

/// The largest number of messages of one run, and of a backlog.
const MAX_MESSAGES: u64 = 50_000_000;
/// The largest `--size` of a template: its HTML may have up to 512 KiB.
const MAX_TEMPLATE_SIZE: u32 = 500_000;
/// Bytes of each recipient in the request for a bulk, with its variables, rounded up.
const RECIPIENT_BYTES: u64 = 150;

/// What to measure, and how.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct Options {
    /// Messages to send [default: 50000]; with --duration, the maximum
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=MAX_MESSAGES))]
    pub messages: Option<u64>,
    /// Send for this time, such as 90s or 1h
    #[arg(long, value_parser = duration, value_name = "TIME")]
    #[serde(serialize_with = "seconds")]
    pub duration: Option<Duration>,
    /// Send at most this many messages per second; by default, as fast as responses come
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
    /// Bytes of each message's text
    #[arg(long, default_value_t = 2_048, value_parser = clap::value_parser!(u32).range(1..=4 << 20))]
    pub size: u32,
    /// Recipients of each message
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=50))]
    pub recipients: u16,
    /// Send batches of this many messages (POST /v1/messages/batch). The number of messages is rounded up to whole
    /// batches; the latencies in the results are per request, everything else is per message
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub batch: Option<u16>,
    /// Send bulks to this many recipients (POST /v1/messages/bulk), each of which gets a message of its own. The number
    /// of messages is rounded up to whole bulks; the latencies in the results are per request, everything else is per
    /// message
    #[arg(long, value_name = "N", conflicts_with = "batch", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub bulk: Option<u16>,
    /// Send with a published template instead of a text: --size is about the size of its HTML, and each message has its
    /// own variables
    #[arg(long)]
    pub template: bool,
    /// Submit the messages over SMTP instead of POST /v1/messages. Each connection signs in once, with the next API key; the
    /// latencies in the results are from MAIL to the reply to the content. The first messages, while the service is idle, are
    /// still sent over HTTP
    #[arg(long, conflicts_with_all = ["batch", "bulk", "template"])]
    pub submission: bool,
    /// HTTP connections, each with one request at a time; with --submission, SMTP connections
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub connections: u16,
    /// Sign with DKIM
    #[arg(long, value_enum, default_value_t = Dkim::None)]
    pub dkim: Dkim,
    /// Attach a file of this many bytes, a different one to each message
    #[arg(long, default_value_t = 0, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(..=28 << 20))]
    pub attachment: u32,
    /// Attach the same file to every message; the service stores it once
    #[arg(long)]
    pub same_attachment: bool,
    /// Distribute the recipients over this many domains
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub domains: u32,
    /// Send direct to MX instead of through a relay, so that each domain has its own lane. The sink is the mail server
    /// of every domain, and the DNS server
    #[arg(long, conflicts_with = "relay")]
    pub direct: bool,
    /// Keep this many messages waiting in the queue during the run. They are inserted by the same transaction as
    /// accepted messages, without HTTP, and have a short text
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=MAX_MESSAGES))]
    pub backlog: u64,
    /// What the backlog waits for
    #[arg(long, value_enum, default_value_t = Backlog::Paused)]
    pub backlog_kind: Backlog,
    /// Processes of the service, each with API and worker; the connections are distributed over them
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub replicas: u16,
    /// Send with this many API keys in turn
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub keys: u32,
    /// Distribute the API keys over this many tenants besides the default one; at least one key each
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(..=10_000))]
    pub tenants: u32,
    /// Hold a separate transaction open during the run, as a backup does
    #[arg(long)]
    pub held_transaction: bool,
    /// Measure the API alone: no worker runs, nothing is sent
    #[arg(long)]
    pub accept_only: bool,
    /// Count missing messages as lost once none has arrived for this time
    #[arg(long, value_parser = duration, value_name = "TIME", default_value = "15s")]
    #[serde(serialize_with = "seconds_of")]
    pub patience: Duration,
    /// Send to this SMTP server, as HOST:PORT or a relay URL, instead of the bench's sink. Lost and duplicated messages
    /// are then not counted
    #[arg(long, value_name = "ADDRESS")]
    #[serde(skip)]
    pub relay: Option<String>,
    /// Use this database instead of starting a Postgres. All data stays in it
    #[arg(long, value_name = "URL")]
    #[serde(skip)]
    pub database_url: Option<String>,
    /// Run even if the given database contains messages. The bench never runs if some of them still wait to be sent
    #[arg(long)]
    #[serde(skip)]
    pub yes: bool,
    /// Directory for the database during the run, on a disk like that of production. Default: the system's temporary
    /// directory
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    pub dir: Option<PathBuf>,
    /// Print one JSON object to standard output, and the table to standard error
    #[arg(long)]
    #[serde(skip)]
    pub json: bool,
    /// Make the sink refuse every Nth recipient permanently, to test that losses are counted
    #[arg(long, hide = true, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub sink_refuses: Option<u64>,
    /// Make the sink accept every Nth message and disconnect without a reply, to test that duplicates are counted
    #[arg(long, hide = true, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub sink_hangs_up: Option<u64>,
}

/// What the backlog waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backlog {
    /// An operator: the stream of the backlog is paused
    Paused,
    /// Its time: it is scheduled for 30 days later, in the lane of the measured messages
    Scheduled,
    /// Nothing: it is due in the less urgent stream `bulk`, and is sent during the run
    Due,
}

/// The form of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A single message.
    Single,
    /// A batch of this many messages.
    Batch(u16),
    /// A bulk to this many recipients.
    Bulk(u16),
}

impl Form {
    /// Returns the number of messages of a request.
    pub(super) fn messages(self) -> u16 {
        match self {
            Self::Single => 1,
            Self::Batch(messages) | Self::Bulk(messages) => messages,
        }
    }
}

impl Options {
    /// Checks combinations of options.
    pub(super) fn check(&self) -> Result<(), BenchError> {
        self.check_request()?;
        if self.direct && self.backlog > 0 && self.backlog_kind == Backlog::Due && self.domains > 10_000 {
            return BenchError::refused("--backlog-kind due allows up to 10000 domains", None);
        }
        if self.relay.is_some() && self.backlog > 0 && self.backlog_kind == Backlog::Due {
            return BenchError::refused(
                "--backlog-kind due needs the bench's sink, which counts the backlog",
                "leave out --relay",
            );
        }
        Ok(())
    }

    /// Checks the options that determine the form and the size of a request.
    fn check_request(&self) -> Result<(), BenchError> {
        if self.bulk.is_some() && self.recipients > 1 {
            let hint = "leave out --recipients, or use --batch";
            return BenchError::refused("each message of --bulk has one recipient", hint);
        }
        if self.bulk.is_some() && self.attachment > 0 && !self.same_attachment {
            return BenchError::refused("all messages of --bulk have the same attachment", "add --same-attachment");
        }
        if self.submission && self.attachment > 0 {
            return BenchError::refused("the messages of --submission have no attachment", "leave out --attachment");
        }
        if self.submission && self.key_count() > u32::from(self.connections) {
            let hint = "add --connections, or use fewer keys and tenants";
            return BenchError::refused("each connection of --submission signs in with one key", hint);
        }
        if self.tenants > 0 && (self.template || self.dkim != Dkim::None) {
            let hint = "leave out --template and --dkim, or use --keys alone";
            return BenchError::refused("the template and the DKIM keys are those of the default tenant", hint);
        }
        if self.template && self.size > MAX_TEMPLATE_SIZE {
            return BenchError::refused(format!("--template allows --size up to {MAX_TEMPLATE_SIZE}"), None);
        }
        // A larger request would be refused with 413. Attachments are base64; a template is not part of the request.
        let text = if self.template { 0 } else { u64::from(self.size) };
        let content = u64::from(self.attachment) * 4 / 3 + text;
        let (body, options) = match self.form() {
            Form::Bulk(recipients) => {
                (content + u64::from(recipients) * RECIPIENT_BYTES, "--attachment, --size and --bulk")
            }
            form => (content * u64::from(form.messages()), "--attachment, --size and --batch"),
        };
        if body > 39 << 20 {
            return BenchError::refused(format!("{options} together exceed the size of a request (40 MiB)"), None);
        }
        Ok(())
    }

    /// Returns the maximum number of messages that the run may send.
    pub(super) fn max_messages(&self) -> u64 {
        let messages = self.messages.unwrap_or(if self.duration.is_some() { MAX_MESSAGES } else { 50_000 });
        messages.next_multiple_of(self.messages_per_request())
    }

    /// Returns the number of API keys that the load is sent with.
    pub(super) fn key_count(&self) -> u32 {
        self.keys.max(self.tenants)
    }

    /// Returns the form of the requests.
    pub(super) fn form(&self) -> Form {
        match (self.bulk, self.batch) {
            (Some(recipients), _) => Form::Bulk(recipients),
            (None, Some(messages)) => Form::Batch(messages),
            (None, None) => Form::Single,
        }
    }

    /// Returns the number of messages of each request.
    pub(super) fn messages_per_request(&self) -> u64 {
        self.form().messages().into()
    }

    /// Returns whether the bench's sink receives the messages.
    pub(super) fn uses_sink(&self) -> bool {
        self.relay.is_none() && !self.accept_only
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    config::duration(text)
        .filter(|time| (Duration::from_secs(1)..=Duration::from_hours(48)).contains(time))
        .ok_or_else(|| "give a time from 1s to 48h, such as 90s, 5m or 1h".to_owned())
}

#[allow(clippy::ref_option, reason = "serde passes a reference to the field")]
fn seconds<S: serde::Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs()).serialize(serializer)
}

fn seconds_of<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    time.as_secs().serialize(serializer)
}

#[cfg(test)]
pub(in crate::bench) mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    /// Returns the options of a command line.
    pub(in crate::bench) fn options(line: &str) -> Options {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        Line::try_parse_from(words).unwrap().options
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        for (line, expected) in [
            ("--bulk 10 --recipients 2", "one recipient"),
            ("--bulk 10 --attachment 1", "the same attachment"),
            ("--bulk 10 --attachment 29000000 --same-attachment --size 4000000", "40 MiB"),
            ("--template --size 500001", "up to 500000"),
            ("--template --tenants 2", "the default tenant"),
            ("--submission --attachment 1", "no attachment"),
            ("--submission --keys 65", "one key"),
            ("--submission --tenants 9 --connections 8", "one key"),
        ] {
            let error = options(line).check().unwrap_err();
            assert!(error.to_string().contains(expected), "{line}: {error}");
        }
        for line in ["--bulk 10000 --size 4000000", "--bulk 10 --attachment 1 --same-attachment", "--template"] {
            assert!(options(line).check().is_ok(), "{line}");
        }
        for line in ["--bulk 2 --batch 2", "--submission --batch 2", "--submission --template"] {
            assert!(Line::try_parse_from(format!("bench {line}").split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn each_tenant_has_a_key() {
        let counts = ["", "--keys 10", "--tenants 3", "--tenants 3 --keys 10"].map(|line| options(line).key_count());
        assert_eq!(counts, [1, 10, 3, 10]);
    }

    #[test]
    fn messages_are_rounded_up_to_whole_bulks() {
        let bulks = options("--bulk 100 --messages 250");
        assert_eq!((bulks.form(), bulks.max_messages()), (Form::Bulk(100), 300));
        assert_eq!((options("--batch 3").form(), options("").form()), (Form::Batch(3), Form::Single));
    }
}
