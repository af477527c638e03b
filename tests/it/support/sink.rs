//! A mail server that only counts how often each subject arrives. It can simulate faults, and the test can kill it.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// The behavior of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behavior {
    /// Accepts everything.
    Friendly,
    /// Replies 421 to every MAIL.
    Busy,
    /// Replies 451 to every third RCPT.
    Later,
    /// Closes the connection at every fifth final dot, without a reply; the message is not accepted.
    Disconnects,
    /// Closes the connection at every fifth final dot, without a reply; the message is accepted.
    AcceptsAndDisconnects,
    /// Replies to the final dot after a second.
    Slow,
}

struct Shared {
    behavior: Mutex<Behavior>,
    copies: Mutex<HashMap<String, usize>>,
    counter: AtomicUsize,
}

pub struct Sink {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

impl Sink {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("an address to listen at");
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            behavior: Mutex::new(Behavior::Friendly),
            copies: Mutex::default(),
            counter: AtomicUsize::new(0),
        });
        let listening = Some(tokio::spawn(accept(listener, shared.clone())));
        Self { address, shared, listening }
    }

    pub fn set_behavior(&self, behavior: Behavior) {
        *self.shared.behavior.lock().unwrap() = behavior;
    }

    /// Closes every connection and the listener, as SIGKILL would.
    pub async fn kill(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
            let _ = listening.await;
        }
    }

    /// Starts again at the same address.
    pub async fn start_again(&mut self) {
        if self.listening.is_none() {
            let listener = TcpListener::bind(self.address).await.expect("the same address again");
            self.listening = Some(tokio::spawn(accept(listener, self.shared.clone())));
        }
    }

    /// Returns how often each subject has arrived since the last call.
    pub fn take(&self) -> HashMap<String, usize> {
        std::mem::take(&mut self.shared.copies.lock().unwrap())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Some(listening) = &self.listening {
            listening.abort();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task, and every connection with it.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        connections.spawn(async move { drop(Connection::new(stream, &shared).run().await) });
        while connections.try_join_next().is_some() {}
    }
}

struct Connection<'a> {
    stream: BufReader<TcpStream>,
    /// Replies that are sent once all pipelined commands are read.
    replies: Vec<u8>,
    shared: &'a Shared,
    /// Whether the message has a recipient.
    has_recipient: bool,
}

impl<'a> Connection<'a> {
    fn new(stream: TcpStream, shared: &'a Shared) -> Self {
        let _ = stream.set_nodelay(true);
        Self { stream: BufReader::with_capacity(1 << 16, stream), replies: Vec::new(), shared, has_recipient: false }
    }

    fn behavior(&self) -> Behavior {
        *self.shared.behavior.lock().unwrap()
    }

    /// Returns true for every `n`th call.
    fn is_nth(&self, n: usize) -> bool {
        self.shared.counter.fetch_add(1, Ordering::Relaxed).is_multiple_of(n)
    }

    async fn run(&mut self) -> io::Result<()> {
        self.replies.extend(b"220 sink ESMTP\r\n");
        let mut line = Vec::new();
        loop {
            if self.stream.buffer().is_empty() {
                self.flush().await?;
            }
            line.clear();
            if self.stream.read_until(b'\n', &mut line).await? == 0 {
                return Ok(());
            }
            let behavior = self.behavior();
            let verb = line.get(..4).unwrap_or_default();
            let reply: &[u8] = match verb {
                b"EHLO" => b"250-sink\r\n250-PIPELINING\r\n250-ENHANCEDSTATUSCODES\r\n250 8BITMIME\r\n",
                b"MAIL" if behavior == Behavior::Busy => {
                    self.replies.extend(b"421 4.3.2 too busy\r\n");
                    return self.flush().await;
                }
                b"RCPT" if behavior == Behavior::Later && self.is_nth(3) => b"451 4.3.0 later\r\n",
                b"RCPT" => {
                    self.has_recipient = true;
                    b"250 2.1.5 ok\r\n"
                }
                b"DATA" if !self.has_recipient => b"554 5.5.1 no valid recipients\r\n",
                b"DATA" => {
                    self.replies.extend(b"354 go ahead\r\n");
                    self.flush().await?;
                    self.text().await?;
                    self.has_recipient = false;
                    b"250 2.0.0 accepted\r\n"
                }
                b"QUIT" => {
                    self.replies.extend(b"221 2.0.0 bye\r\n");
                    return self.flush().await;
                }
                b"MAIL" | b"RSET" => {
                    self.has_recipient = false;
                    b"250 2.0.0 ok\r\n"
                }
                _ => b"250 2.0.0 ok\r\n",
            };
            self.replies.extend(reply);
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.replies).await?;
        self.replies.clear();
        Ok(())
    }

    /// Reads a message, and counts it if it is accepted. An error closes the connection.
    async fn text(&mut self) -> io::Result<()> {
        let (mut subject, mut line) = (None, Vec::new());
        loop {
            line.clear();
            if self.stream.read_until(b'\n', &mut line).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if line == b".\r\n" {
                break;
            }
            if subject.is_none() && line.starts_with(b"Subject: ") {
                subject = Some(String::from_utf8_lossy(&line[9..]).trim_end().to_owned());
            }
        }
        let (behavior, closed) = (self.behavior(), Err(io::ErrorKind::ConnectionAborted.into()));
        let disconnects = matches!(behavior, Behavior::Disconnects | Behavior::AcceptsAndDisconnects) && self.is_nth(5);
        if disconnects && behavior == Behavior::Disconnects {
            return closed;
        }
        if behavior == Behavior::Slow {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        *self.shared.copies.lock().unwrap().entry(subject.unwrap_or_default()).or_default() += 1;
        if disconnects { closed } else { Ok(()) }
    }
}
