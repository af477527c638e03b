//! The sink's process, and its reports.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{mpsc, watch};

use super::program;
use crate::bench::BenchError;
use crate::bench::error::Doing as _;
use crate::bench::options::Options;
use crate::bench::seen::NumberSet;
use crate::bench::sink::{Count, SinkReport};

/// Time limit of a response of the sink.
const LIMIT: Duration = Duration::from_secs(30);

/// The sink, which ends with this process, because this process holds its standard input.
#[derive(Debug)]
pub(in crate::bench) struct Sink {
    child: Child,
    /// Its SMTP address.
    pub smtp: SocketAddr,
    /// The address of its DNS server, if it has one.
    pub dns: Option<SocketAddr>,
    /// The process id.
    pub pid: u32,
    count: watch::Receiver<Count>,
    arrived: mpsc::UnboundedReceiver<(u64, Duration)>,
    numbers: mpsc::UnboundedReceiver<(Count, String)>,
}

impl Sink {
    /// Starts the sink. It reports messages with a number below `announce` as soon as they arrive.
    pub(in crate::bench) async fn start(options: &Options, announce: u64) -> Result<Self, BenchError> {
        let doing = "start the sink";
        let mut command = Command::new(program()?);
        command.arg("bench-sink").args(["--recipients", &options.recipients.to_string()]);
        command.args(["--announce", &announce.to_string()]);
        for (flag, is_set) in [("--dns", options.direct), ("--template", options.template)] {
            command.args(is_set.then_some(flag));
        }
        for (name, nth) in [("--refuse", options.sink_refuses), ("--hang-up", options.sink_hangs_up)] {
            command.args(nth.iter().flat_map(|nth| [name.to_owned(), nth.to_string()]));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).process_group(0);
        let mut child = command.spawn().doing(doing)?;
        let stdout = child.stdout.take().ok_or("it has no output").doing(doing)?;
        let (send_ready, mut ready) = mpsc::unbounded_channel();
        let (send_count, count) = watch::channel(Count::default());
        let (send_arrived, arrived) = mpsc::unbounded_channel();
        let (send_numbers, numbers) = mpsc::unbounded_channel();
        tokio::spawn(listen(stdout, move |report| {
            // A dropped receiver is not an error.
            let _ = match report {
                SinkReport::Ready { smtp, dns } => send_ready.send((smtp, dns)).is_ok(),
                SinkReport::Arrived { number, first_byte } => send_arrived.send((number, first_byte)).is_ok(),
                SinkReport::Count(count) => send_count.send(count).is_ok(),
                SinkReport::Numbers { count, numbers } => send_numbers.send((count, numbers)).is_ok(),
            };
        }));
        let ready = tokio::time::timeout(LIMIT, ready.recv()).await.ok().flatten();
        let (smtp, dns) = ready.ok_or("it did not report its address").doing(doing)?;
        Ok(Self { pid: child.id().unwrap_or_default(), child, smtp, dns, count, arrived, numbers })
    }

    /// Returns the counts so far, which are at most a tenth of a second old.
    pub(in crate::bench) fn count(&self) -> Count {
        *self.count.borrow()
    }

    /// Waits for the message with this number. Returns when its first byte arrived, since boot.
    pub(in crate::bench) async fn arrived(&mut self, number: u64) -> Option<Duration> {
        while let Some((arrived, first_byte)) = self.arrived.recv().await {
            if arrived == number {
                return Some(first_byte);
            }
        }
        None
    }

    /// Returns the counts and the numbers of everything that has arrived so far.
    pub(in crate::bench) async fn arrived_numbers(&mut self) -> Result<(Count, NumberSet), BenchError> {
        let doing = "read the numbers from the sink";
        let input = self.child.stdin.as_mut().ok_or("it has ended").doing(doing)?;
        input.write_all(b"\n").await.doing(doing)?;
        let reported = tokio::time::timeout(LIMIT, self.numbers.recv()).await.ok().flatten();
        let (count, numbers) = reported.ok_or("it did not respond").doing(doing)?;
        let numbers = NumberSet::from_text(&numbers).ok_or("its response is invalid").doing(doing)?;
        Ok((count, numbers))
    }

    /// Stops the sink.
    pub(in crate::bench) async fn stop(mut self) {
        drop(self.child.stdin.take());
        if tokio::time::timeout(Duration::from_secs(5), self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

async fn listen(stdout: ChildStdout, on_report: impl Fn(SinkReport)) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Ok(report) = serde_json::from_str(&line) {
            on_report(report);
        }
    }
}
