//! The other side: an SMTP server that takes every mail, counts it and keeps nothing, in a process of its own (the hidden
//! command `bench-sink`) so that its CPU is not the product's; and where mail goes directly, the DNS that leads to it.
//!
//! It tells on standard output, a JSON line each (`Told`), and is asked on standard input: a line asks which numbers it
//! has seen, the end of the input ends it, so that it never outlives the bench. One thread does it all.

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

/// Between two counts that are told.
const TELL: Duration = Duration::from_millis(100);

/// How it behaves.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Recipients of each mail
    #[arg(long, default_value_t = 1)]
    pub recipients: u16,
    /// Tell at once when a mail with a number below this arrives
    #[arg(long, default_value_t = 0)]
    pub announce: u64,
    /// Answer DNS questions too
    #[arg(long)]
    pub dns: bool,
    /// Refuse every Nth recipient for good
    #[arg(long)]
    pub refuse: Option<u64>,
    /// Take every Nth mail and hang up without a word
    #[arg(long)]
    pub hang_up: Option<u64>,
}

/// What it tells.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Told {
    /// It takes mail here, and answers DNS questions there.
    Ready { smtp: SocketAddr, dns: Option<SocketAddr> },
    /// A mail that was to be told of has come: when the first octet of its session's turn did, since the machine started.
    Arrived { number: u64, first_octet: Duration },
    /// What there has been so far.
    Count(Count),
    /// The numbers that were seen, as `Seen` writes them: a recipient's is the mail's times the recipients of each, and its
    /// place.
    Seen { count: Count, numbers: String },
}

/// What has arrived, in recipients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Count {
    /// Numbered ones, each once.
    pub arrived: u64,
    /// Numbered ones that came again.
    pub duplicates: u64,
    /// Of the backlog.
    pub waiting: u64,
    /// Who is nobody's, or got another one's mail.
    pub strangers: u64,
    /// Mails that began with a DKIM signature, of whatever worth.
    pub signed: u64,
    /// When the last numbered one came, since the machine started.
    pub last: Duration,
}

/// Runs it to the end of its input.
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
                // What breaks off is the client's to see.
                tokio::task::spawn_local(async move { session::Session::new(stream, &tally).run().await });
            }
            // Out of descriptors, for example: it passes.
            Err(_) => tokio::time::sleep(TELL).await,
        }
    }
}

/// The lines of standard input; they end with it.
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
