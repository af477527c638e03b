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
use crate::bench::seen::Seen;
use crate::bench::sink::{Count, Told};

/// Time limit of a response of the sink.
const LIMIT: Duration = Duration::from_secs(30);

/// The sink, which ends with this process, because this process holds its standard input.
#[derive(Debug)]
pub(in crate::bench) struct Sink {
    child: Child,
    /// Its SMTP address.
    pub smtp: SocketAddr,
    /// Its DNS address, if it answers DNS queries.
    pub dns: Option<SocketAddr>,
    /// The process id.
    pub pid: u32,
    count: watch::Receiver<Count>,
    arrived: mpsc::UnboundedReceiver<(u64, Duration)>,
    seen: mpsc::UnboundedReceiver<(Count, String)>,
}

impl Sink {
    /// Starts it. It reports messages with a number below `announce` at once.
    pub(in crate::bench) async fn start(options: &Options, announce: u64) -> Result<Self, BenchError> {
        let doing = "start the sink";
        let mut command = Command::new(program()?);
        command.arg("bench-sink").args(["--recipients", &options.recipients.to_string()]);
        command.args(["--announce", &announce.to_string()]);
        if options.direct {
            command.arg("--dns");
        }
        for (name, nth) in [("--refuse", options.sink_refuses), ("--hang-up", options.sink_hangs_up)] {
            command.args(nth.iter().flat_map(|nth| [name.to_owned(), nth.to_string()]));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).process_group(0);
        let mut child = command.spawn().doing(doing)?;
        let stdout = child.stdout.take().ok_or("it has no output").doing(doing)?;
        let (tell_ready, mut ready) = mpsc::unbounded_channel();
        let (tell_count, count) = watch::channel(Count::default());
        let (tell_arrived, arrived) = mpsc::unbounded_channel();
        let (tell_seen, seen) = mpsc::unbounded_channel();
        tokio::spawn(listen(stdout, move |told| {
            // The receiver may be gone, which is not an error.
            let _ = match told {
                Told::Ready { smtp, dns } => tell_ready.send((smtp, dns)).is_ok(),
                Told::Arrived { number, first_octet } => tell_arrived.send((number, first_octet)).is_ok(),
                Told::Count(count) => tell_count.send(count).is_ok(),
                Told::Seen { count, numbers } => tell_seen.send((count, numbers)).is_ok(),
            };
        }));
        let ready = tokio::time::timeout(LIMIT, ready.recv()).await.ok().flatten();
        let (smtp, dns) = ready.ok_or("it does not report its address").doing(doing)?;
        Ok(Self { pid: child.id().unwrap_or_default(), child, smtp, dns, count, arrived, seen })
    }

    /// Returns what has arrived so far; at most a tenth of a second old.
    pub(in crate::bench) fn count(&self) -> Count {
        *self.count.borrow()
    }

    /// Waits for the message with this number. Returns when its first byte arrived, since the machine started.
    pub(in crate::bench) async fn arrived(&mut self, number: u64) -> Option<Duration> {
        while let Some((arrived, first_octet)) = self.arrived.recv().await {
            if arrived == number {
                return Some(first_octet);
            }
        }
        None
    }

    /// Returns everything that has arrived until now.
    pub(in crate::bench) async fn seen(&mut self) -> Result<(Count, Seen), BenchError> {
        let doing = "read from the sink what has arrived";
        let input = self.child.stdin.as_mut().ok_or("it has ended").doing(doing)?;
        input.write_all(b"\n").await.doing(doing)?;
        let told = tokio::time::timeout(LIMIT, self.seen.recv()).await.ok().flatten();
        let (count, numbers) = told.ok_or("it does not answer").doing(doing)?;
        let seen = Seen::from_text(&numbers).ok_or("its response is invalid").doing(doing)?;
        Ok((count, seen))
    }

    /// Stops it.
    pub(in crate::bench) async fn stop(mut self) {
        drop(self.child.stdin.take());
        if tokio::time::timeout(Duration::from_secs(5), self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

async fn listen(stdout: ChildStdout, hear: impl Fn(Told)) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Ok(told) = serde_json::from_str(&line) {
            hear(told);
        }
    }
}
