//! The load: a number of connections, each of which sends the next message as soon as it has the response to the last
//! one. It runs in a separate thread with a single-threaded runtime, which costs less CPU than a shared runtime.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::histogram::Histogram;
use crate::bench::BenchError;
use crate::bench::client::http::Connection;
use crate::bench::client::mail::Request;
use crate::bench::client::submission::{Mail, Session};
use crate::bench::error::Doing as _;
use crate::bench::options::Options;
use crate::bench::seen::NumberSet;
use crate::clock::Uptime;

/// Failures in a row after which a connection gives up.
const MAX_FAILURES: u32 = 20;
/// Pause between a failure and the next connection.
const PAUSE: Duration = Duration::from_millis(100);

/// The result of the load.
#[derive(Debug, Default)]
pub(in crate::bench) struct LoadResult {
    /// The numbers of the messages that were accepted, with 202 or 250.
    pub accepted: NumberSet,
    /// The number of messages that were accepted.
    pub count: u64,
    /// Times from the first byte sent to the complete response, of accepted requests and submitted messages.
    pub latency: Histogram,
    /// When the load started, since boot.
    pub started: Duration,
    /// When the last message was accepted, since boot.
    pub last: Duration,
    /// The number of other responses.
    pub refused: u64,
    /// The number of requests without a response, which may or may not have been accepted.
    pub unanswered: u64,
    /// The first of the other responses, or the first connection error.
    pub first_error: Option<String>,
}

/// A running load.
#[derive(Debug)]
pub(in crate::bench) struct Load {
    accepted: Arc<AtomicU64>,
    stop: CancellationToken,
    done: oneshot::Receiver<LoadResult>,
}

struct Shared {
    next: AtomicU64,
    end: u64,
    first: u64,
    /// Messages per request.
    messages_per_request: u64,
    started: Uptime,
    duration: Option<Duration>,
    rate: Option<f64>,
    accepted: Arc<AtomicU64>,
    stop: CancellationToken,
    result: Mutex<LoadResult>,
}

impl Load {
    /// Starts the load: sends messages numbered from `first` on to these APIs, or with `--submission` to these SMTP servers, with these
    /// keys in turn.
    pub(in crate::bench) fn start(
        options: &Options,
        first: u64,
        addresses: &[SocketAddr],
        keys: &Arc<[String]>,
    ) -> Result<Self, BenchError> {
        let (send_result, done) = oneshot::channel();
        let (accepted, stop) = (Arc::<AtomicU64>::default(), CancellationToken::new());
        let shared = Arc::new(Shared {
            next: AtomicU64::new(first),
            end: first + options.max_messages(),
            first,
            messages_per_request: options.messages_per_request(),
            started: Uptime::now(),
            duration: options.duration,
            rate: options.rate.map(f64::from),
            accepted: accepted.clone(),
            stop: stop.clone(),
            result: Mutex::default(),
        });
        let clients: Vec<Client> = addresses
            .iter()
            .cycle()
            .zip(keys.iter().cycle())
            .take(options.connections.into())
            .map(|(address, key)| Client::new(options, *address, key, keys))
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.doing("create a runtime")?;
        let thread = std::thread::Builder::new().name("bench-load".into()).spawn(move || {
            let _ = send_result.send(runtime.block_on(run(shared, clients)));
        });
        thread.doing("start a thread")?;
        Ok(Self { accepted, stop, done })
    }

    /// Returns the number of accepted messages so far.
    pub(in crate::bench) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Waits for the end of the load.
    pub(in crate::bench) async fn end(&mut self) -> Result<LoadResult, BenchError> {
        (&mut self.done).await.doing("generate the load")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn run(shared: Arc<Shared>, clients: Vec<Client>) -> LoadResult {
    shared.record(|result| result.started = shared.started.since_boot());
    let mut tasks = JoinSet::new();
    for client in clients {
        let shared = shared.clone();
        tasks.spawn(async move {
            let stop = shared.stop.clone();
            stop.run_until_cancelled(send(&shared, client)).await
        });
    }
    while tasks.join_next().await.is_some() {}
    shared.record(std::mem::take)
}

/// What sends the messages of one connection.
enum Client {
    Http { address: SocketAddr, request: Request, connection: Option<Connection> },
    Submission { address: SocketAddr, key: String, mail: Mail, session: Option<Session> },
}

/// How a message was answered.
enum Answer {
    Accepted(Duration),
    Refused(String),
}

impl Client {
    fn new(options: &Options, address: SocketAddr, key: &str, keys: &Arc<[String]>) -> Self {
        if options.submission {
            Self::Submission { address, key: key.to_owned(), mail: Mail::new(options), session: None }
        } else {
            let request = Request::new(options, options.form(), &address.to_string(), keys);
            Self::Http { address, request, connection: None }
        }
    }

    /// Sends the message with this number, or the batch or bulk that starts with it. Opens a connection if none is open; after an
    /// error, none is.
    async fn send(&mut self, number: u64) -> io::Result<Answer> {
        match self {
            Self::Http { address, request, connection } => {
                let mut open = match connection.take() {
                    Some(open) => open,
                    None => Connection::open(*address).await?,
                };
                let started = Uptime::now();
                let status = open.exchange(request.starting_at(number)).await?;
                let time = started.elapsed();
                let open = connection.insert(open);
                Ok(if status == 202 {
                    Answer::Accepted(time)
                } else {
                    Answer::Refused(format!("the API returned {status}: {}", String::from_utf8_lossy(open.body())))
                })
            }
            Self::Submission { address, key, mail, session } => {
                let mut open = match session.take() {
                    Some(open) => open,
                    None => Session::open(*address, key).await?,
                };
                mail.set_number(number);
                let started = Uptime::now();
                let code = open.submit(mail).await?;
                if code != 250 {
                    return Ok(Answer::Refused(format!("the SMTP server replied {}", open.reply())));
                }
                *session = Some(open);
                Ok(Answer::Accepted(started.elapsed()))
            }
        }
    }
}

/// Sends messages over one connection.
async fn send(shared: &Shared, mut client: Client) {
    let mut failures = 0;
    while let Some(number) = shared.next().await {
        match client.send(number).await {
            Ok(Answer::Accepted(time)) => {
                failures = 0;
                shared.accept(number, time);
            }
            Ok(Answer::Refused(why)) => shared.refused(why),
            Err(error) => {
                failures += 1;
                shared.unanswered(&error);
                if failures >= MAX_FAILURES {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Shared {
    fn record<T>(&self, with: impl FnOnce(&mut LoadResult) -> T) -> T {
        with(&mut self.result.lock())
    }

    /// Waits until the rate allows the next request, and returns the number of its first message; `None` at the end of
    /// the load.
    async fn next(&self) -> Option<u64> {
        if self.duration.is_some_and(|duration| self.started.elapsed() >= duration) {
            return None;
        }
        let number = self.next.fetch_add(self.messages_per_request, Ordering::Relaxed);
        if number >= self.end {
            return None;
        }
        if let Some(rate) = self.rate {
            #[allow(clippy::cast_precision_loss, reason = "at most fifty million")]
            let due = Duration::from_secs_f64((number - self.first) as f64 / rate);
            tokio::time::sleep(due.saturating_sub(self.started.elapsed())).await;
        }
        Some(number)
    }

    fn accept(&self, first: u64, time: Duration) {
        self.accepted.fetch_add(self.messages_per_request, Ordering::Relaxed);
        self.record(|result| {
            for number in first..first + self.messages_per_request {
                result.accepted.add(number);
            }
            result.count += self.messages_per_request;
            result.latency.add(time);
            result.last = Uptime::now().since_boot();
        });
    }

    fn refused(&self, why: String) {
        self.record(|result| {
            result.refused += 1;
            result.first_error.get_or_insert(why);
        });
    }

    fn unanswered(&self, error: &io::Error) {
        self.record(|result| {
            result.unanswered += 1;
            result.first_error.get_or_insert_with(|| format!("a request got no response: {error}"));
        });
    }
}
