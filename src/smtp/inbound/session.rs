//! One client's session (RFC 5321 §4.3.2): it executes commands in order, and receives one message after the other.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

mod auth;

use super::client_limits::ClientConnection;
use super::command::{self, Command, MailCommand};
use super::data::{DataFault, DataReader};
use super::line::{LineFault, LineReader};
use super::session_eviction::ActiveSession;
use super::wire::Wire;
use super::{Handler, ReceivedMessage, Settings, SmtpRefusal};

/// Bytes of an oversized message that are read beyond twice the maximum size, so that the client gets the refusal.
const MAX_OVERRUN: usize = 1 << 20;
/// Time limit for sending the last reply of a session.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A session over any stream.
pub(super) struct Session<'a, S, H> {
    wire: Wire<S>,
    lines: LineReader,
    handler: &'a H,
    settings: &'a Settings,
    peer: SocketAddr,
    client: &'a ClientConnection,
    active: &'a ActiveSession,
    stop: CancellationToken,
    /// Whether the stream uses TLS.
    is_secure: bool,
    /// Name of the client in EHLO or HELO.
    helo: Option<String>,
    is_authenticated: bool,
    /// The open transaction: MAIL and the accepted recipients.
    mail: Option<(MailCommand, Vec<String>)>,
    /// Refused commands since the last accepted message.
    errors: u32,
    /// Commands since the last accepted recipient.
    commands: u32,
    /// Deadline for the next message.
    message_deadline: Instant,
}

/// What to do after a command.
#[derive(PartialEq, Eq)]
enum Next {
    Continue,
    Quit,
    /// Start the TLS handshake.
    StartTls,
}

/// Result of a wait for a command.
enum Input {
    Line(Result<Vec<u8>, LineFault>),
    /// The session has to end; the text says why.
    End(&'static str),
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin, H: Handler> Session<'a, S, H> {
    pub(super) fn new(
        stream: S,
        peer: SocketAddr,
        (client, active): (&'a ClientConnection, &'a ActiveSession),
        handler: &'a H,
        settings: &'a Settings,
        stop: CancellationToken,
    ) -> Self {
        let (wire, lines) = (Wire::new(stream), LineReader::default());
        Self {
            wire,
            lines,
            handler,
            settings,
            peer,
            client,
            active,
            stop,
            is_secure: false,
            helo: None,
            is_authenticated: false,
            mail: None,
            errors: 0,
            commands: 0,
            message_deadline: Instant::now() + settings.idle_timeout,
        }
    }

    /// Sends the greeting, and runs until the client disconnects, exceeds a limit, or the server stops. Also ends at
    /// STARTTLS: returns the stream, and discards all other state of the session.
    pub(super) async fn run(mut self) -> Option<S> {
        self.wire.reply(220, &format!("{} ESMTP Postrider", self.settings.hostname));
        self.run_to_end().await
    }

    /// Runs over TLS: the client was greeted before, and has to send EHLO again (RFC 3207 §4.2).
    pub(super) async fn run_secure(mut self) {
        self.is_secure = true;
        self.run_to_end().await;
    }

    async fn run_to_end(mut self) -> Option<S> {
        match self.run_commands().await {
            Ok(Next::StartTls) => return Some(self.wire.into_stream()),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => self.wire.reply(421, "4.4.2 Timeout"),
            // The client disconnected.
            Err(_) | Ok(_) => {}
        }
        self.wire.close(Instant::now() + CLOSE_TIMEOUT).await;
        None
    }

    async fn run_commands(&mut self) -> io::Result<Next> {
        loop {
            let next = match self.next_line().await? {
                Input::End(why) => {
                    self.wire.reply(421, why);
                    return Ok(Next::Quit);
                }
                Input::Line(Ok(line)) => self.execute(&line).await?,
                Input::Line(Err(LineFault::TooLong)) => self.refuse(500, "5.5.2 The line is too long"),
                Input::Line(Err(LineFault::BareLineFeed)) => self.refuse(500, "5.5.2 Lines must end with CRLF"),
                Input::Line(Err(LineFault::Endless)) => return Ok(self.end_after_endless_line()),
            };
            if next == Next::StartTls {
                self.wire.flush(Instant::now() + self.settings.command_timeout).await?;
            }
            if next != Next::Continue {
                return Ok(next);
            }
            self.commands += 1;
            if self.commands > self.settings.max_commands {
                self.wire.reply(421, "4.7.0 Too many commands without a message");
                return Ok(Next::Quit);
            }
            if self.errors > self.settings.max_errors {
                self.wire.reply(421, "4.7.0 Too many errors");
                return Ok(Next::Quit);
            }
        }
    }

    /// Waits for a whole line. Buffered replies are sent only here, when no more commands are buffered, and before a
    /// message is read. The replies to a pipelined group are therefore sent in one write.
    async fn next_line(&mut self) -> io::Result<Input> {
        let deadline = (Instant::now() + self.settings.command_timeout).min(self.message_deadline);
        loop {
            if let Some(line) = self.lines.take(&mut self.wire.input) {
                return Ok(Input::Line(line));
            }
            self.wire.flush(deadline).await?;
            let is_busy = self.mail.as_ref().is_some_and(|(_, to)| !to.is_empty());
            self.active.set_busy(is_busy, Instant::now());
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(Input::End("4.3.2 The server is stopping")),
                () = self.active.evicted.cancelled() => {
                    return Ok(Input::End("4.3.2 Server busy and this session is idle, try again later"));
                }
                filled = self.wire.fill(deadline) => filled?,
            }
        }
    }

    async fn execute(&mut self, line: &[u8]) -> io::Result<Next> {
        Ok(match command::parse(line) {
            Err(fault) => self.refuse(fault.code, fault.text),
            Ok(Command::Ehlo(name)) => self.ehlo(name),
            Ok(Command::Helo(name)) => {
                self.greet(name);
                self.ok(&self.settings.hostname)
            }
            Ok(Command::Mail(mail)) => self.mail(mail),
            Ok(Command::Rcpt(to)) => self.rcpt(to).await,
            Ok(Command::Data) => return self.data().await,
            Ok(Command::Rset) => {
                self.mail = None;
                self.ok("2.0.0 Reset")
            }
            Ok(Command::Noop) => self.ok("2.0.0 OK"),
            Ok(Command::Vrfy) => {
                self.wire.reply(252, "2.5.0 Cannot verify, send the message");
                Next::Continue
            }
            Ok(Command::Help) => {
                self.wire.reply(
                    214,
                    "2.0.0 Commands: EHLO HELO MAIL RCPT DATA RSET NOOP VRFY HELP STARTTLS QUIT (RFC 5321)",
                );
                Next::Continue
            }
            Ok(Command::StartTls) => self.start_tls(),
            Ok(Command::Auth(auth)) => return self.auth(&auth).await,
            Ok(Command::Quit) => {
                self.wire.reply(221, "2.0.0 Bye");
                Next::Quit
            }
        })
    }

    fn greet(&mut self, name: String) {
        self.helo = Some(name);
        self.mail = None;
    }

    fn ehlo(&mut self, name: String) -> Next {
        self.greet(name);
        let size = format!("SIZE {}", self.settings.max_message);
        let mut extensions =
            vec![&*self.settings.hostname, "PIPELINING", &size, "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"];
        if self.offers_tls() {
            extensions.push("STARTTLS");
        }
        if self.settings.accepts_any_login {
            extensions.push("AUTH PLAIN LOGIN");
        }
        self.wire.reply_lines(250, &extensions);
        Next::Continue
    }

    fn offers_tls(&self) -> bool {
        self.settings.certificate.is_some() && !self.is_secure
    }

    fn start_tls(&mut self) -> Next {
        if !self.offers_tls() {
            return self.refuse(command::NOT_OFFERED.code, command::NOT_OFFERED.text);
        }
        if self.mail.is_some() {
            return self.refuse(503, "5.5.1 Not allowed during a transaction");
        }
        self.wire.reply(220, "2.0.0 Ready to start TLS");
        Next::StartTls
    }

    fn mail(&mut self, mail: MailCommand) -> Next {
        if self.helo.is_none() {
            return self.refuse(503, "5.5.1 Send EHLO first");
        }
        if self.mail.is_some() {
            return self.refuse(503, "5.5.1 A transaction is already open");
        }
        if !mail.smtputf8 && !mail.from.is_ascii() {
            return self.refuse(553, "5.6.7 This address needs SMTPUTF8");
        }
        if mail.size.is_some_and(|size| size > self.settings.max_message as u64) {
            self.client.log_refused_message(self.peer, "too big");
            return self.refuse(552, "5.3.4 The message is too big");
        }
        if !self.client.may_send(Instant::now()) {
            self.client.log_refused_message(self.peer, "too many per minute");
            return self.refuse(450, "4.7.1 Too many messages from your address, try again later");
        }
        self.mail = Some((mail, Vec::new()));
        self.ok("2.1.0 Sender OK")
    }

    async fn rcpt(&mut self, to: String) -> Next {
        let Some((mail, recipients)) = &mut self.mail else {
            return self.refuse(503, "5.5.1 Send MAIL first");
        };
        if !mail.smtputf8 && !to.is_ascii() {
            return self.refuse(553, "5.6.7 This address needs SMTPUTF8");
        }
        if recipients.len() >= self.settings.max_recipients {
            return self.refuse(452, "4.5.3 Too many recipients in one message");
        }
        match self.handler.rcpt(&mail.from, &to).await {
            Ok(()) => {
                recipients.push(to);
                self.commands = 0;
                // Set here too, and not only before a wait, because DATA may have arrived together with this command.
                self.active.set_busy(true, Instant::now());
                self.ok("2.1.5 Recipient OK")
            }
            Err(refusal) => self.refuse_with(&refusal),
        }
    }

    async fn data(&mut self) -> io::Result<Next> {
        // Until the message ends, no input may be parsed as a command, so an error must leave no open transaction.
        let Some((mail, to)) = self.mail.take() else {
            return Ok(self.refuse(503, "5.5.1 Send MAIL first"));
        };
        if to.is_empty() {
            self.mail = Some((mail, to));
            return Ok(self.refuse(554, "5.5.1 No valid recipients"));
        }
        self.wire.reply(354, "End the message with a dot alone on a line");
        let data = match self.read_message().await? {
            Ok(data) => data,
            Err(fault) => {
                // Its recipients were accepted, so the message may be a bounce.
                tracing::warn!(
                    event = "smtp_message_refused",
                    peer = %self.peer,
                    ?fault,
                    from = mail.from,
                    ?to,
                    "refused a message that is too big or has bare line breaks; a bounce may be lost"
                );
                let (code, text) = match fault {
                    DataFault::TooBig => (552, "5.3.4 The message is too big"),
                    DataFault::BareLineBreak => (550, "5.5.2 The message contains a bare CR or LF; use CRLF"),
                };
                return Ok(self.refuse(code, text));
            }
        };
        self.message_deadline = Instant::now() + self.settings.idle_timeout;
        let helo = self.helo.clone().unwrap_or_default();
        match self.handler.message(ReceivedMessage { helo, from: mail.from, to, peer: self.peer, data }).await {
            Ok(text) => {
                self.errors = 0;
                Ok(self.ok(&format!("2.0.0 {text}")))
            }
            Err(refusal) => Ok(self.refuse_with(&refusal)),
        }
    }

    async fn read_message(&mut self) -> io::Result<Result<Vec<u8>, DataFault>> {
        let deadline = Instant::now() + self.settings.data_timeout;
        let mut reader = DataReader::new(self.settings.max_message, self.settings.max_stored);
        let mut budget = self.settings.max_message.saturating_mul(2).saturating_add(MAX_OVERRUN);
        self.wire.flush(deadline).await?;
        loop {
            let (used, done) = reader.push(&self.wire.input);
            self.wire.input.drain(..used);
            if done {
                return Ok(reader.finish());
            }
            budget = budget.saturating_sub(used);
            if budget == 0 {
                self.wire.reply(552, "5.3.4 The message is too big");
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.wire.fill(deadline).await?;
        }
    }

    fn end_after_endless_line(&mut self) -> Next {
        self.wire.reply(421, "4.7.0 The line is too long");
        Next::Quit
    }

    fn ok(&mut self, text: &str) -> Next {
        self.wire.reply(250, text);
        Next::Continue
    }

    fn refuse(&mut self, code: u16, text: &str) -> Next {
        self.errors += 1;
        self.wire.reply(code, text);
        Next::Continue
    }

    fn refuse_with(&mut self, refusal: &SmtpRefusal) -> Next {
        self.refuse(refusal.code, &format!("{} {}", refusal.enhanced, refusal.text))
    }
}
