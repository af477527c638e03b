//! One client's session (RFC 5321 §4.3.2): it executes commands in order, and receives one message after the other.

use std::future;
use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

mod auth;
mod transfer;

use super::chunk::ChunkReader;
use super::command::{self, Command, MailCommand, RcptCommand};
use super::data::DataFault;
use super::limits::clients::ClientConnection;
use super::limits::eviction::ActiveSession;
use super::limits::memory::ReservedMemory;
use super::line::{LineFault, LineReader};
use super::wire::Wire;
use super::{Authentication, Handler, Settings, SmtpRefusal};

/// Time limit for sending the last reply of a session.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a session ends for another one.
const EVICTED: &str = "4.3.2 Server busy and this session is idle, try again later";

/// A session over any stream.
pub(super) struct Session<'a, S, H: Handler> {
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
    /// Whether AUTH has succeeded.
    is_authenticated: bool,
    /// What the client has signed in as, if the handler checks that.
    identity: Option<H::Identity>,
    /// The open transaction.
    mail: Option<Transaction>,
    /// Refused commands since the last accepted message.
    errors: u32,
    /// Commands since the last accepted recipient.
    commands: u32,
    /// Deadline for the next message.
    message_deadline: Instant,
}

/// A message that has begun.
struct Transaction {
    mail: MailCommand,
    /// The accepted recipients.
    to: Vec<String>,
    /// The chunks of the message that have arrived, and the memory that they take.
    chunks: Option<(ChunkReader, ReservedMemory)>,
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
            identity: None,
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

    /// Sends the greeting over TLS, and runs (RFC 8314 §3.3).
    pub(super) async fn run_with_implicit_tls(mut self) {
        self.is_secure = true;
        self.run().await;
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
                Input::Line(Err(LineFault::BadChunk)) => return Ok(self.end_at_bad_chunk()),
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
            // Before buffered commands: a message that begins now could be cut off after its commit and before its reply, and
            // the client would send it again.
            if self.active.evicted.is_cancelled() {
                return Ok(Input::End(EVICTED));
            }
            if let Some(line) = self.lines.take(&mut self.wire.input) {
                return Ok(Input::Line(line));
            }
            self.wire.flush(deadline).await?;
            let is_busy = self.mail.as_ref().is_some_and(|open| !open.to.is_empty());
            self.active.set_busy(is_busy, Instant::now());
            let chunks = self.mail.as_ref().and_then(|open| open.chunks.as_ref());
            let reclaimed = async {
                match chunks {
                    Some((_, memory)) => memory.reclaimed().await,
                    None => future::pending().await,
                }
            };
            let is_reclaimed = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(Input::End("4.3.2 The server is stopping")),
                () = self.active.evicted.cancelled() => return Ok(Input::End(EVICTED)),
                () = reclaimed => true,
                filled = self.wire.fill(deadline) => filled.map(|()| false)?,
            };
            if let Some(chunks) = self.mail.as_mut().and_then(|open| open.chunks.as_mut()).filter(|_| is_reclaimed) {
                chunks.0.refuse(DataFault::NoMemory);
                chunks.1.release();
            }
        }
    }

    async fn execute(&mut self, line: &[u8]) -> io::Result<Next> {
        Ok(match command::parse(line) {
            Err(command::BAD_CHUNK) => self.end_at_bad_chunk(),
            Err(fault) => self.refuse(fault.code, fault.text),
            Ok(Command::Ehlo(name)) => self.ehlo(name),
            Ok(Command::Helo(name)) => {
                self.greet(name);
                self.ok(&self.settings.hostname)
            }
            Ok(Command::Mail(mail)) => return self.mail(mail).await,
            Ok(Command::Rcpt(rcpt)) => self.rcpt(rcpt).await,
            Ok(Command::Data) => return self.data().await,
            Ok(Command::Bdat(chunk)) => return self.bdat(chunk).await,
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
                    "2.0.0 Commands: EHLO HELO AUTH MAIL RCPT DATA BDAT RSET NOOP VRFY HELP STARTTLS QUIT (RFC 5321)",
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
        let mut extensions = vec![
            &*self.settings.hostname,
            "PIPELINING",
            &size,
            "8BITMIME",
            "SMTPUTF8",
            "CHUNKING",
            "ENHANCEDSTATUSCODES",
        ];
        if self.settings.accepts_dsn {
            extensions.push("DSN");
        }
        if self.offers_tls() {
            extensions.push("STARTTLS");
        }
        if self.offers_auth() {
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

    async fn mail(&mut self, mail: MailCommand) -> io::Result<Next> {
        if self.helo.is_none() {
            return Ok(self.refuse(503, "5.5.1 Send EHLO first"));
        }
        if self.settings.authentication == Authentication::Required && self.identity.is_none() {
            return Ok(self.refuse(530, self.sign_in_hint()));
        }
        if self.mail.is_some() {
            return Ok(self.refuse(503, "5.5.1 A transaction is already open"));
        }
        if mail.has_dsn && !self.settings.accepts_dsn {
            return Ok(self.refuse(command::UNKNOWN_PARAMETER.code, command::UNKNOWN_PARAMETER.text));
        }
        if !mail.smtputf8 && !mail.from.is_ascii() {
            return Ok(self.refuse(553, "5.6.7 This address needs SMTPUTF8"));
        }
        if mail.size.is_some_and(|size| size > self.settings.max_message as u64) {
            self.client.log_refused_message(self.peer, "too big");
            return Ok(self.refuse(552, "5.3.4 The message is too big"));
        }
        if !self.client.may_send(Instant::now()) {
            self.client.log_refused_message(self.peer, "too many per minute");
            return Ok(self.refuse(450, "4.7.1 Too many messages from your address, try again later"));
        }
        if let Err(refusal) = self.handler.mail(self.identity.as_ref(), &mail.from).await {
            if refusal.code == 530 {
                self.identity = None;
                self.is_authenticated = false;
            }
            return Ok(self.refuse_with(&refusal));
        }
        self.mail = Some(Transaction { mail, to: Vec::new(), chunks: None });
        Ok(self.ok("2.1.0 Sender OK"))
    }

    async fn rcpt(&mut self, RcptCommand { to, has_dsn }: RcptCommand) -> Next {
        let Some(open) = self.mail.as_mut().filter(|open| open.chunks.is_none()) else {
            return self.refuse(503, "5.5.1 Send MAIL first");
        };
        if has_dsn && !self.settings.accepts_dsn {
            return self.refuse(command::UNKNOWN_PARAMETER.code, command::UNKNOWN_PARAMETER.text);
        }
        if !open.mail.smtputf8 && !to.is_ascii() {
            return self.refuse(553, "5.6.7 This address needs SMTPUTF8");
        }
        if open.to.len() >= self.settings.max_recipients {
            return self.refuse(452, "4.5.3 Too many recipients in one message");
        }
        let max_message = self.handler.max_message(&to) as u64;
        match self.handler.rcpt(self.identity.as_ref(), &open.mail.from, &to).await {
            Ok(()) if open.mail.size.is_some_and(|size| size > max_message) => {
                self.client.log_refused_message(self.peer, "too big for the recipient");
                self.refuse(
                    552,
                    &format!("5.3.4 The message is too big: at most {max_message} bytes to this recipient"),
                )
            }
            Ok(()) => {
                open.to.push(to);
                self.commands = 0;
                // Set here too, and not only before a wait, because DATA may have arrived together with this command.
                self.active.set_busy(true, Instant::now());
                self.ok("2.1.5 Recipient OK")
            }
            Err(refusal) => self.refuse_with(&refusal),
        }
    }

    fn end_after_endless_line(&mut self) -> Next {
        self.wire.reply(421, "4.7.0 The line is too long");
        Next::Quit
    }

    /// Ends the session: the chunk that follows must not be read as commands.
    fn end_at_bad_chunk(&mut self) -> Next {
        self.refuse(command::BAD_CHUNK.code, command::BAD_CHUNK.text);
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

    /// Sends a refusal of the handler. After 421 the session ends (RFC 5321 §3.8).
    fn refuse_with(&mut self, refusal: &SmtpRefusal) -> Next {
        let next = self.refuse(refusal.code, &format!("{} {}", refusal.enhanced, refusal.text));
        if refusal.code == 421 { Next::Quit } else { next }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::limits::clients::ClientLimits;
    use super::super::limits::eviction::Sessions;
    use super::super::{MessageMemory, ReceivedMessage};
    use super::*;

    /// Accepts every message.
    struct Everything;

    impl Handler for Everything {
        type Identity = ();

        async fn rcpt(&self, _: Option<&()>, _: &str, _: &str) -> Result<(), SmtpRefusal> {
            Ok(())
        }

        async fn message(&self, _: Option<&()>, _: ReceivedMessage) -> Result<String, SmtpRefusal> {
            Ok("kept".into())
        }
    }

    #[tokio::test]
    async fn evicted_session_begins_no_buffered_message() {
        let (settings, now) = (Settings::default(), Instant::now());
        let peer: SocketAddr = "192.0.2.1:1".parse().unwrap();
        let client = ClientLimits::new(&settings).enter(peer.ip(), |_| false).unwrap();
        let sessions = Arc::new(Sessions::default());
        let active = sessions.register(1, client.network(), now);
        assert!(sessions.evict_idle(None, Duration::ZERO, now));
        let (mut near, far) = tokio::io::duplex(64 << 10);
        let commands = b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.test>\r\nBDAT 2 LAST\r\n\r\n";
        near.write_all(commands).await.unwrap();
        let mut session = Session::new(far, peer, (&client, &active), &Everything, &settings, CancellationToken::new());
        session.wire.fill(now + CLOSE_TIMEOUT).await.unwrap();
        session.run().await;
        let mut replies = String::new();
        near.read_to_string(&mut replies).await.unwrap();
        let codes: Vec<&str> = replies.lines().filter_map(|line| line.get(..4)).collect();
        assert_eq!(codes, ["220 ", "421 "], "{replies}");
    }

    /// Runs a session that gets one part of its input at once, and the other after `wait`. Returns the codes of the replies.
    async fn codes(settings: &Settings, peer: &str, parts: [&str; 2], wait: impl Future<Output = ()>) -> Vec<String> {
        let peer: SocketAddr = peer.parse().unwrap();
        let client = ClientLimits::new(settings).enter(peer.ip(), |_| false).unwrap();
        let active = Arc::new(Sessions::default()).register(1, client.network(), Instant::now());
        let (mut near, far) = tokio::io::duplex(4 << 20);
        let session = Session::new(far, peer, (&client, &active), &Everything, settings, CancellationToken::new());
        let talk = async {
            near.write_all(parts[0].as_bytes()).await.unwrap();
            wait.await;
            near.write_all(parts[1].as_bytes()).await.unwrap();
            let mut replies = String::new();
            near.read_to_string(&mut replies).await.unwrap();
            let last = |line: &str| (line.get(3..4) == Some(" ")).then(|| line.get(..3).unwrap().to_owned());
            replies.lines().filter_map(last).collect()
        };
        tokio::join!(session.run(), talk).1
    }

    #[tokio::test]
    async fn slow_message_gives_its_memory_to_another_client() {
        let envelope = "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.test>\r\n";
        let large = format!("{}\r\n", "x".repeat(998)).repeat(150);
        let small = format!("{envelope}DATA\r\n{}.\r\nQUIT\r\n", "x\r\n".repeat(30_000));
        for (slow, end) in [
            (format!("{envelope}DATA\r\n{large}"), "x\r\n.\r\nQUIT\r\n"),
            (format!("{envelope}BDAT {}\r\n{large}", large.len()), "BDAT 0\r\nQUIT\r\n"),
            (format!("{envelope}BDAT 900000\r\n{large}"), &*format!("{}QUIT\r\n", "x".repeat(900_000 - large.len()))),
        ] {
            // Three units, all of which the first message takes.
            let memory = MessageMemory::impatient(3 << 16);
            let settings = Settings { memory: Some(memory.clone()), ..Settings::default() };
            let (done, other_done) = tokio::sync::oneshot::channel();
            let other = async {
                let mut looks = 0;
                while memory.has_free_units() {
                    looks += 1;
                    assert!(looks < 10_000, "the first message takes no memory");
                    tokio::task::yield_now().await;
                }
                let codes = codes(&settings, "192.0.2.2:1", [&small, ""], async {}).await;
                done.send(()).unwrap();
                codes
            };
            let wait = async { other_done.await.unwrap() };
            let (first, second) = tokio::join!(codes(&settings, "192.0.2.1:1", [&slow, end], wait), other);
            assert_eq!(second, ["220", "250", "250", "250", "354", "250", "221"]);
            assert_eq!(first.get(first.len() - 2..).unwrap(), ["452", "221"], "{first:?}");
        }
    }
}
