//! The sink: an SMTP server that accepts and counts every message and stores none, in a separate process (the hidden
//! command `bench-sink`), so that its CPU is not counted as the service's. For direct delivery it is also the DNS
//! server.
//!
//! It reports on standard output, in JSON lines (`SinkReport`). A line on standard input requests the numbers that have
//! arrived. The sink ends at the end of standard input, so that it never outlives the bench. One thread serves all
//! connections; a second thread only reads standard input.

mod dns;
mod session;
mod tally;

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use tally::Tally;

/// Interval between two reported counts.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);

/// The options of the sink.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Recipients of each message
    #[arg(long, default_value_t = 1)]
    pub recipients: u16,
    /// Report each message with a number below this as soon as it arrives
    #[arg(long, default_value_t = 0)]
    pub announce: u64,
    /// Count messages as misdelivered unless their subject has the number too
    #[arg(long)]
    pub template: bool,
    /// Run a DNS server too
    #[arg(long)]
    pub dns: bool,
    /// Refuse every Nth recipient permanently
    #[arg(long)]
    pub refuse: Option<u64>,
    /// Accept every Nth message and disconnect without a reply
    #[arg(long)]
    pub hang_up: Option<u64>,
}

/// A report of the sink.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SinkReport {
    /// The sink's addresses for SMTP and DNS.
    Ready { smtp: SocketAddr, dns: Option<SocketAddr> },
    /// A message with a number below `announce` has arrived. `first_byte` is the time of its first byte, since boot.
    Arrived { number: u64, first_byte: Duration },
    /// The counts so far.
    Count(Count),
    /// The numbers of the recipients that have arrived, as `NumberSet` writes them: the message's number times the
    /// recipients per message, plus the recipient's position.
    Numbers { count: Count, numbers: String },
}

/// Counts of the recipients that have arrived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Count {
    /// Numbered recipients, each counted once.
    pub arrived: u64,
    /// Numbered recipients that arrived again.
    pub duplicates: u64,
    /// Recipients of the backlog.
    pub backlog: u64,
    /// Unknown recipients, and recipients that got a message for another.
    pub misdelivered: u64,
    /// Messages that begin with a DKIM signature, which is not verified.
    pub signed: u64,
    /// When the last numbered recipient arrived, since boot.
    pub last: Duration,
}

/// Runs the sink until the end of its input.
pub fn run(args: Args) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(args))
}

async fn serve(args: Args) -> std::io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let dns = if args.dns { Some(dns::start(listener.local_addr()?.ip()).await?) } else { None };
    print_report(&SinkReport::Ready { smtp: listener.local_addr()?, dns })?;
    let tally = Rc::new(Tally::new(args));
    tokio::task::spawn_local(accept(listener, tally.clone()));
    let mut requests = requests();
    let (mut ticks, mut reported) = (tokio::time::interval(REPORT_INTERVAL), Count::default());
    loop {
        tokio::select! {
            request = requests.recv() => match request {
                Some(()) => print_report(&tally.numbers())?,
                None => return Ok(()),
            },
            _ = ticks.tick() => {
                let count = tally.count();
                if count != reported {
                    reported = count;
                    print_report(&SinkReport::Count(count))?;
                }
            }
        }
    }
}

async fn accept(listener: TcpListener, tally: Rc<Tally>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let tally = tally.clone();
                // An error of one connection is ignored: the client retries.
                tokio::task::spawn_local(async move { session::Session::new(stream, &tally).run().await });
            }
            // A temporary error, such as too few file descriptors.
            Err(_) => tokio::time::sleep(REPORT_INTERVAL).await,
        }
    }
}

/// Returns a channel with an item for each line of standard input. It closes at the end of the input.
fn requests() -> mpsc::UnboundedReceiver<()> {
    let (sender, requests) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for _ in std::io::stdin().lines().map_while(Result::ok) {
            let _ = sender.send(());
        }
    });
    requests
}

fn print_report(report: &SinkReport) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, report)?;
    out.write_all(b"\n")?;
    out.flush()
}
