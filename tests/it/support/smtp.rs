//! A scriptable SMTP server.
//!
//! It accepts every message unless scripted otherwise: `smtp.rcpt("ann@example.test").replies(["451 4.7.1 later", "250
//! ok"])`. A script is consumed one reply at a time; then the server accepts again. Tests wait for what the server has
//! received, and never for time to pass.

mod connection;
mod script;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

pub use script::{Action, Gate, Script};
use script::{Scripts, Stage};

use super::certificate::Certificate;

/// A message that the server accepted with 2xx.
#[derive(Debug, Clone)]
pub struct ReceivedMessage {
    /// The address in MAIL.
    pub from: String,
    /// The addresses in the RCPT commands that got a 2xx reply.
    pub to: Vec<String>,
    /// The whole MAIL command.
    pub mail_command: String,
    /// The message, with dots unstuffed, without the terminator.
    pub raw: Vec<u8>,
    /// The number of the connection, from 1.
    pub connection: usize,
    pub tls: bool,
}

/// A line that the server has read: a command or the final dot, but not a line of a message.
#[derive(Debug, Clone)]
pub struct Line {
    pub connection: usize,
    pub text: String,
    /// Whether the client sent more bytes without waiting for the reply to this line.
    pub is_pipelined: bool,
}

/// What the connections share with the test.
struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    scripts: Scripts,
    extensions: Vec<String>,
    acceptor: Option<TlsAcceptor>,
    implicit_tls: bool,
    messages: Vec<ReceivedMessage>,
    lines: Vec<Line>,
    connections: usize,
    open: usize,
    max_open: usize,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.send_replace(());
    }
}

/// The server; it stops when it is dropped.
pub struct SmtpServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl SmtpServer {
    /// Starts on a free port, with the usual extensions except STARTTLS.
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1:0").await
    }

    pub async fn start_at(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.expect("an address to listen at");
        let address = listener.local_addr().unwrap();
        let extensions = ["PIPELINING", "SIZE 52428800", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"];
        let state = State { extensions: extensions.map(str::to_owned).to_vec(), ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: watch::Sender::new(()) });
        let task = tokio::spawn(accept(listener, shared.clone()));
        Self { address, shared, task }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces the extensions in the reply to EHLO.
    pub fn offers<const N: usize>(&self, extensions: [&str; N]) {
        self.shared.state().extensions = extensions.map(str::to_owned).to_vec();
    }

    /// Offers STARTTLS with this certificate.
    pub fn starttls_with(&self, certificate: &Certificate) {
        let mut state = self.shared.state();
        state.acceptor = Some(certificate.acceptor());
        state.extensions.push("STARTTLS".into());
    }

    /// Uses TLS from the first byte.
    pub fn implicit_tls_with(&self, certificate: &Certificate) {
        let mut state = self.shared.state();
        state.acceptor = Some(certificate.acceptor());
        state.implicit_tls = true;
    }

    pub fn greeting(&self) -> Script<'_> {
        self.script(Stage::Greeting)
    }

    pub fn ehlo(&self) -> Script<'_> {
        self.script(Stage::Ehlo)
    }

    pub fn starttls(&self) -> Script<'_> {
        self.script(Stage::Starttls)
    }

    pub fn auth(&self) -> Script<'_> {
        self.script(Stage::Auth)
    }

    /// The reply to the response to a challenge after AUTH.
    pub fn after_auth(&self) -> Script<'_> {
        self.script(Stage::AfterAuth)
    }

    pub fn mail(&self) -> Script<'_> {
        self.script(Stage::Mail)
    }

    /// The reply to RCPT for this address.
    pub fn rcpt(&self, address: &str) -> Script<'_> {
        self.script(Stage::Rcpt(address.into()))
    }

    pub fn data(&self) -> Script<'_> {
        self.script(Stage::Data)
    }

    /// The reply to the final dot.
    pub fn dot(&self) -> Script<'_> {
        self.script(Stage::FinalDot)
    }

    /// Returns the script of the stage with this name; `address` is the recipient of RCPT.
    pub fn stage(&self, name: &str, address: &str) -> Script<'_> {
        match name {
            "greeting" => self.greeting(),
            "ehlo" => self.ehlo(),
            "mail" => self.mail(),
            "rcpt" => self.rcpt(address),
            "data" => self.data(),
            "dot" => self.dot(),
            _ => panic!("no stage is called {name}"),
        }
    }

    fn script(&self, stage: Stage) -> Script<'_> {
        Script { shared: &self.shared, stage }
    }

    /// Returns every message so far.
    pub fn messages(&self) -> Vec<ReceivedMessage> {
        self.shared.state().messages.clone()
    }

    /// Waits until there are `count` messages, and returns them all.
    pub async fn received(&self, count: usize) -> Vec<ReceivedMessage> {
        self.until("messages", |state| state.messages.len() >= count).await;
        self.messages()
    }

    /// Returns every line so far.
    pub fn lines(&self) -> Vec<Line> {
        self.shared.state().lines.clone()
    }

    /// Returns the number of lines with this prefix.
    pub fn count(&self, prefix: &str) -> usize {
        self.lines().iter().filter(|line| line.text.starts_with(prefix)).count()
    }

    /// Waits until `count` lines with this prefix were read.
    pub async fn wait_for_lines(&self, prefix: &str, count: usize) {
        self.until(prefix, |state| state.lines.iter().filter(|line| line.text.starts_with(prefix)).count() >= count)
            .await;
    }

    /// Returns the number of connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.state().connections
    }

    /// Returns the number of open connections.
    pub fn open_connections(&self) -> usize {
        self.shared.state().open
    }

    /// Returns the largest number of connections that were open at the same time.
    pub fn max_open(&self) -> usize {
        self.shared.state().max_open
    }

    /// Waits until no connection is open.
    pub async fn all_connections_closed(&self) {
        self.until("no open connection", |state| state.connections > 0 && state.open == 0).await;
    }

    async fn until(&self, what: &str, reached: impl Fn(&State) -> bool) {
        let mut changes = self.shared.changed.subscribe();
        let waiting = changes.wait_for(|()| reached(&self.shared.state()));
        let reached = tokio::time::timeout(Duration::from_secs(20), waiting).await;
        assert!(reached.is_ok(), "still waiting for {what}; so far: {:#?}", self.lines());
    }
}

/// Starts three servers at the same port of 127.0.0.1, 127.0.0.2 and 127.0.0.3.
pub async fn three() -> [SmtpServer; 3] {
    loop {
        let first = SmtpServer::start().await;
        let port = first.address().port();
        let free = |ip: &str| std::net::TcpListener::bind((ip, port)).is_ok();
        if free("127.0.0.2") && free("127.0.0.3") {
            let second = SmtpServer::start_at(&format!("127.0.0.2:{port}")).await;
            let third = SmtpServer::start_at(&format!("127.0.0.3:{port}")).await;
            return [first, second, third];
        }
    }
}

impl Drop for SmtpServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // When this task ends, the set is dropped and closes every connection.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        shared.update(|state| {
            state.connections += 1;
            state.open += 1;
            state.max_open = state.max_open.max(state.open);
        });
        let (number, shared) = (shared.state().connections, shared.clone());
        connections.spawn(async move {
            connection::serve(stream, number, &shared).await;
            shared.update(|state| state.open -= 1);
        });
    }
}
