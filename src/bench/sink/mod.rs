//! The sink: an SMTP server that accepts and counts every message and stores none, in a separate process (the hidden
//! command `bench-sink`), so that its CPU is not counted as the service's. For direct delivery it is also the DNS
//! server.
//!
//! It reports on standard output, in JSON lines (`Told`). A line on standard input requests the numbers that it has
//! seen; the end of the input ends it, so that it never outlives the bench. It has one thread.

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
const TELL: Duration = Duration::from_millis(100);

/// The options of the sink.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Recipients of each message
    #[arg(long, default_value_t = 1)]
    pub recipients: u16,
    /// Report at once when a message with a number below this arrives
    #[arg(long, default_value_t = 0)]
    pub announce: u64,
    /// Answer DNS queries too
    #[arg(long)]
    pub dns: bool,
    /// Refuse every Nth recipient permanently
    #[arg(long)]
    pub refuse: Option<u64>,
    /// Accept every Nth message and hang up without a reply
    #[arg(long)]
    pub hang_up: Option<u64>,
}

/// A report of the sink.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Told {
    /// Its addresses for SMTP and DNS.
    Ready { smtp: SocketAddr, dns: Option<SocketAddr> },
    /// A message that was to be reported at once has arrived: when its first byte came, since the machine started.
    Arrived { number: u64, first_octet: Duration },
    /// The counts so far.
    Count(Count),
    /// The numbers that were seen, as `Seen` writes them: a recipient's number is the message's number times the
    /// recipients per message, plus its position.
    Seen { count: Count, numbers: String },
}

/// Counts of what has arrived, in recipients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Count {
    /// Numbered recipients, each counted once.
    pub arrived: u64,
    /// Numbered recipients that came again.
    pub duplicates: u64,
    /// Recipients of the backlog.
    pub waiting: u64,
    /// Unknown recipients, and recipients that got a message for another.
    pub strangers: u64,
    /// Messages that begin with a DKIM signature, which is not verified.
    pub signed: u64,
    /// When the last numbered recipient came, since the machine started.
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
    tell(&Told::Ready { smtp: listener.local_addr()?, dns })?;
    let tally = Rc::new(Tally::new(args));
    tokio::task::spawn_local(accept(listener, tally.clone()));
    let mut asked = questions();
    let (mut ticks, mut told) = (tokio::time::interval(TELL), Count::default());
    loop {
        tokio::select! {
            question = asked.recv() => match question {
                Some(()) => tell(&tally.seen())?,
                None => return Ok(()),
            },
            _ = ticks.tick() => {
                let count = tally.count();
                if count != told {
                    told = count;
                    tell(&Told::Count(count))?;
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
                // A broken connection is the client's problem.
                tokio::task::spawn_local(async move { session::Session::new(stream, &tally).run().await });
            }
            // A temporary error, such as too few file descriptors.
            Err(_) => tokio::time::sleep(TELL).await,
        }
    }
}

/// The lines of standard input, until its end.
fn questions() -> mpsc::UnboundedReceiver<()> {
    let (tell, asked) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for _ in std::io::stdin().lines().map_while(Result::ok) {
            let _ = tell.send(());
        }
    });
    asked
}

fn tell(what: &Told) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, what)?;
    out.write_all(b"\n")?;
    out.flush()
}
