//! The results, calculated from the measured values, as JSON and as a table. A value that was not measured is `null` in
//! JSON and `-` in the table. `mail` in a JSON key means a message with any number of recipients.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::machine::Machine;
use super::{Measured, Sample};
use crate::bench::options::Options;
use crate::bench::progress::{Second, grouped};

/// The results of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Messages accepted per second (with 202; with `--submission`, 250), from the first request to the last response.
    accept_per_s: f64,
    /// Time from the first byte of a request to the last byte of its response, in ms: the median.
    accept_p50_ms: Option<f64>,
    /// The 99th percentile.
    accept_p99_ms: Option<f64>,
    /// The maximum.
    accept_max_ms: Option<f64>,
    /// Messages per second from the first request until the last message arrived at the sink; with an external relay,
    /// until all outcomes were recorded.
    end_to_end_per_s: Option<f64>,
    /// CPU time of the service and Postgres per message, in µs. The number of messages includes those of the backlog
    /// that were sent during the run.
    cpu_us_per_message: Option<f64>,
    cpu_us_service: Option<f64>,
    cpu_us_postgres: Option<f64>,
    cpu_us_sink: Option<f64>,
    cpu_us_generator: Option<f64>,
    wal_bytes_per_message: f64,
    disk_bytes_per_message: f64,
    /// Maximum resident memory of the largest process of the service, in MiB.
    service_rss_mib: Option<f64>,
    /// Resident memory of the largest process of the service before the load, in MiB.
    service_rss_idle_mib: Option<f64>,
    /// Time from the 202 to the first byte at the sink, for messages sent one at a time over HTTP, in ms: the median.
    idle_first_byte_p50_ms: Option<f64>,
    idle_first_byte_max_ms: Option<f64>,
    /// Accepted messages.
    accepted: u64,
    /// Recipients whose message arrived.
    arrived: Option<u64>,
    /// Recipients of accepted messages whose message did not arrive.
    lost: Option<u64>,
    /// Messages that arrived again, counted by recipients.
    duplicates: Option<u64>,
    /// Messages that arrived at a wrong recipient.
    misdelivered: Option<u64>,
    /// Messages that arrived with a DKIM signature.
    signed: Option<u64>,
    /// Whether every outcome was recorded in the end.
    settled: bool,
    /// Other responses.
    refused: u64,
    /// Requests without a response.
    unanswered: u64,
    /// The first of the other responses, or the first connection error.
    complaint: Option<String>,
    /// Messages of the backlog.
    backlog: u64,
    /// Messages of the backlog that were sent during the run.
    backlog_sent: u64,
    /// Seconds from the first request until all outcomes were recorded.
    seconds: f64,
    each_second: Vec<Second>,
    options: Options,
    version: &'static str,
    debug_build: bool,
    machine: Machine,
}

impl Report {
    /// Calculates the results.
    pub(in crate::bench) fn new(options: &Options, measured: Measured) -> Self {
        let Measured { load, before, after, .. } = &measured;
        let (accepted, recipients) = (load.count, u64::from(options.recipients));
        let arrived = after.count.arrived - before.count.arrived;
        let backlog_sent = after.count.backlog - before.count.backlog;
        let all = accepted + backlog_sent;
        let end = if measured.seen.is_some() { after.count.last } else { measured.ended };
        let messages = if measured.seen.is_some() { figure(arrived) / figure(recipients) } else { figure(accepted) };
        let used = |time: fn(&Sample) -> Option<Duration>| used(time(before)?, time(after)?, all);
        let (service, postgres) = (used(|sample| sample.service), used(|sample| sample.postgres));
        let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
        Self {
            accept_per_s: figure(accepted) / seconds(load.started, load.last),
            accept_p50_ms: load.latency.percentile(500),
            accept_p99_ms: load.latency.percentile(990),
            accept_max_ms: load.latency.percentile(1_000),
            end_to_end_per_s: (!options.accept_only).then(|| messages / seconds(load.started, end)),
            cpu_us_per_message: service.zip(postgres).map(|(service, postgres)| service + postgres),
            cpu_us_service: service,
            cpu_us_postgres: postgres,
            cpu_us_sink: used(|sample| sample.sink),
            cpu_us_generator: used(|sample| sample.generator),
            wal_bytes_per_message: growth(before.server.wal, after.server.wal) / figure(all),
            disk_bytes_per_message: growth(before.server.size, after.server.size) / figure(all),
            service_rss_mib: measured.memory.1,
            service_rss_idle_mib: measured.memory.0,
            idle_first_byte_p50_ms: measured.idle.get(measured.idle.len() / 2).copied().map(ms),
            idle_first_byte_max_ms: measured.idle.last().copied().map(ms),
            accepted,
            arrived: measured.seen.is_some().then_some(arrived),
            lost: measured.lost(recipients),
            duplicates: measured.seen.is_some().then(|| after.count.duplicates - before.count.duplicates),
            misdelivered: measured.seen.is_some().then(|| after.count.misdelivered - before.count.misdelivered),
            signed: measured.seen.is_some().then(|| after.count.signed - before.count.signed),
            settled: measured.settled,
            refused: load.refused,
            unanswered: load.unanswered,
            complaint: load.first_error.clone(),
            backlog: measured.backlog,
            backlog_sent,
            seconds: seconds(load.started, measured.ended),
            each_second: measured.seconds,
            options: options.clone(),
            version: env!("CARGO_PKG_VERSION"),
            debug_build: cfg!(debug_assertions),
            machine: measured.machine,
        }
    }

    /// Returns whether every accepted message arrived exactly once, and every outcome is recorded.
    pub fn is_whole(&self) -> bool {
        self.settled && [self.lost, self.duplicates, self.misdelivered].iter().all(|count| count.unwrap_or(0) == 0)
    }

    /// Returns the results as a table for people.
    pub fn table(&self) -> String {
        let count = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), grouped);
        let mut rows = vec![
            ("accepted", format!("{} in {:.1} s", grouped(self.accepted), self.seconds)),
            ("accept rate", format!("{}/s", whole(Some(self.accept_per_s)))),
            ("accept p50 / p99 / max", {
                let [p50, p99, max] = [self.accept_p50_ms, self.accept_p99_ms, self.accept_max_ms].map(tenths);
                format!("{p50} / {p99} / {max} ms")
            }),
            ("end to end", format!("{}/s", whole(self.end_to_end_per_s))),
            ("CPU per message", {
                let [service, postgres] = [self.cpu_us_service, self.cpu_us_postgres].map(whole);
                format!("{} µs (service {service}, Postgres {postgres})", whole(self.cpu_us_per_message))
            }),
            ("  bench itself", {
                let [sink, generator] = [self.cpu_us_sink, self.cpu_us_generator].map(whole);
                format!("sink {sink} µs, generator {generator} µs")
            }),
            ("WAL / disk per message", {
                let [wal, disk] =
                    [self.wal_bytes_per_message, self.disk_bytes_per_message].map(|bytes| whole(Some(bytes)));
                format!("{wal} / {disk} bytes")
            }),
            ("memory of the service", {
                let [idle, max] = [self.service_rss_idle_mib, self.service_rss_mib].map(whole);
                format!("at most {max} MiB, {idle} MiB before the load")
            }),
            ("202 to first byte, idle", {
                let [p50, max] = [self.idle_first_byte_p50_ms, self.idle_first_byte_max_ms].map(tenths);
                format!("p50 {p50} ms, max {max} ms")
            }),
            ("lost / duplicates", format!("{} / {}", count(self.lost), count(self.duplicates))),
        ];
        rows.extend(self.remarks());
        rows.iter().fold(String::new(), |mut text, (name, value)| {
            let _ = writeln!(text, "  {name:<26}{value}");
            text
        })
    }

    /// Returns the rows that are shown only if they apply.
    fn remarks(&self) -> Vec<(&'static str, String)> {
        let mut rows = Vec::new();
        if self.backlog > 0 {
            let (backlog, sent) = (grouped(self.backlog), grouped(self.backlog_sent));
            rows.push(("backlog", format!("{backlog}, of which {sent} were sent")));
        }
        if let Some(complaint) = &self.complaint {
            let (refused, unanswered) = (grouped(self.refused), grouped(self.unanswered));
            rows.push((
                "not accepted",
                format!("{refused} refused, {unanswered} without a response; first: {complaint}"),
            ));
        }
        if let Some(wrong @ 1..) = self.misdelivered {
            rows.push(("misdelivered", format!("{} arrived at a wrong recipient", grouped(wrong))));
        }
        if !self.settled {
            rows.push(("unsettled", "not every outcome was recorded in the end".to_owned()));
        }
        rows
    }
}

impl Measured {
    /// Returns the number of recipients of accepted messages whose message did not arrive at the sink.
    fn lost(&self, recipients: u64) -> Option<u64> {
        let seen = self.seen.as_ref()?;
        let missing =
            |number: u64| (0..recipients).filter(|position| !seen.contains(number * recipients + position)).count();
        Some(self.load.accepted.numbers().map(|number| missing(number) as u64).sum())
    }
}

/// Returns the CPU time per message, in µs.
fn used(before: Duration, after: Duration, messages: u64) -> Option<f64> {
    (messages > 0).then(|| after.saturating_sub(before).as_secs_f64() * 1_000_000.0 / figure(messages))
}

fn seconds(from: Duration, to: Duration) -> f64 {
    to.saturating_sub(from).as_secs_f64().max(0.001)
}

#[allow(clippy::cast_precision_loss, reason = "counts of far less than 2^52")]
fn figure(count: u64) -> f64 {
    count as f64
}

#[allow(clippy::cast_precision_loss, reason = "far less than 2^52 bytes")]
fn growth(before: i64, after: i64) -> f64 {
    (after - before) as f64
}

fn whole(figure: Option<f64>) -> String {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "for a reader")]
    figure.map_or_else(|| "-".to_owned(), |figure| grouped(figure.max(0.0).round() as u64))
}

fn tenths(figure: Option<f64>) -> String {
    figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.1}"))
}
