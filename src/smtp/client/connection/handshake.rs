//! Opens a session: TCP, greeting, EHLO, STARTTLS and EHLO again, AUTH (RFC 5321 §3.1, RFC 3207, RFC 4954).
//!
//! Every failure here is temporary and concerns the server, never a recipient: a 5xx greeting leads to the next server,
//! and refused credentials are a configuration error.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use lettre::transport::smtp::commands::{Ehlo, Quit, Starttls};
use lettre::transport::smtp::extension::ClientId;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::auth::{AuthError, log_in};
use super::ehlo::Capabilities;
use super::session::Session;
use super::tls::{self, Tls};
use super::transcript::Transcript;
use super::wire::{Link, Wire, WireError};
use super::words;
use crate::domain::network::Allowed;
use crate::domain::outcome::{Peer, Reply, Stage};
use crate::domain::provider::Provider;
use crate::domain::routing::relay::{Login, TlsMode};
use crate::metrics::METRICS;
use crate::metrics::labels::{ConnectResult, TlsPolicy, TlsVersion};
use crate::smtp::client::mx::mx_guard::MxGuard;
use crate::smtp::client::settings::Timeouts;
use crate::telemetry::traces;

/// How sessions to one kind of destination are opened and reused.
pub(in crate::smtp) struct Policy {
    /// Identifies the policy: only deliveries with the same policy share sessions.
    pub id: u32,
    pub client: ClientId,
    pub mode: TlsMode,
    pub implicit_tls: bool,
    pub tls: Tls,
    pub credentials: Option<Login>,
    /// Whether the servers are the recipient domain's own.
    pub is_final: bool,
    /// Resolver for the server's name; `None` for the system's.
    pub dns: Option<TokioResolver>,
    /// The addresses that may be connected to; `None` (any) for servers named in the configuration.
    pub guard: Option<Arc<MxGuard>>,
    /// The addresses, in addition to public ones, at which a relay may be; `None` (any) for relays in the configuration.
    pub allowed: Option<Allowed>,
    /// Maximum connections to one destination.
    pub connections: usize,
    /// Maximum messages over one connection.
    pub max_messages: u32,
    /// Maximum age of a connection.
    pub age: Duration,
    /// Maximum idle time of a connection.
    pub idle: Duration,
    pub timeouts: Timeouts,
}

/// A session that could not be opened.
#[derive(Debug)]
pub(in crate::smtp) struct Refusal {
    pub peer: Peer,
    pub stage: Stage,
    pub reply: Reply,
}

impl Refusal {
    /// Returns the refusal for an empty list of servers.
    pub fn no_server() -> Self {
        let reply = Reply::local_error_with(4, 4, 4, "there is no server to try");
        Self { peer: Peer::default(), stage: Stage::Connect, reply }
    }
}

/// Why a session could not be opened.
enum Failure {
    /// STARTTLS or the TLS handshake failed: opportunistic TLS continues in plain text.
    Tls(Reply),
    /// The TCP connection failed.
    Connect(Reply),
    Other(Reply),
}

impl Failure {
    /// Returns whether the server waits for a command, which can be QUIT: it refused with a reply, or the client
    /// refused to continue for a reason of security (`X.7.X`).
    fn may_quit(&self) -> bool {
        matches!(self, Self::Other(reply) if reply.code.is_some_and(|code| code != 421) || reply.enhanced.is_some_and(|code| code.subject == 7))
    }

    fn wire(stage: &str, error: &WireError) -> Self {
        Self::Other(Reply::local_error_with(4, 4, 2, format!("at {stage}: {error}")))
    }
}

/// Opens a session with [`open`], and counts it.
pub(in crate::smtp) async fn open_counted(
    host: &str,
    address: SocketAddr,
    policy: &Policy,
    deadline: Instant,
    transcript: &Transcript,
) -> Result<Session, Refusal> {
    let provider = if policy.is_final { Provider::from_mx(host) } else { Provider::Other };
    let started = Instant::now();
    let opened = open(host, address, policy, deadline, transcript).await;
    let result = match &opened {
        Ok(_) => ConnectResult::Ok,
        Err(refusal) if refusal.stage == Stage::Connect => ConnectResult::Unreachable,
        Err(_) => ConnectResult::Refused,
    };
    METRICS.smtp_connects.get((provider, result)).increment(1);
    METRICS.smtp_connect.get((provider,)).record(started.elapsed());
    if let Ok(session) = &opened {
        METRICS.tls_sessions.get((tls_policy(policy.mode), tls_version(&session.peer))).increment(1);
    }
    opened
}

fn tls_policy(mode: TlsMode) -> TlsPolicy {
    match mode {
        TlsMode::None => TlsPolicy::None,
        TlsMode::Opportunistic => TlsPolicy::Opportunistic,
        TlsMode::Required => TlsPolicy::Required,
        TlsMode::Verified => TlsPolicy::Verified,
    }
}

/// Returns the version at the start of [`Peer::tls`].
fn tls_version(peer: &Peer) -> TlsVersion {
    match peer.tls.as_deref() {
        None => TlsVersion::Plain,
        Some(tls) if tls.starts_with("TLSv1.2") => TlsVersion::Tls12,
        Some(_) => TlsVersion::Tls13,
    }
}

/// Opens a session with `host` at `address`, and records it in the transcript. The deadline is needed because a server
/// that is slow in every step could otherwise take an hour.
pub(in crate::smtp) async fn open(
    host: &str,
    address: SocketAddr,
    policy: &Policy,
    deadline: Instant,
    transcript: &Transcript,
) -> Result<Session, Refusal> {
    let opening = Opening { host, address, policy, transcript };
    transcript.note(format_args!("connecting to {host} at {address}"));
    let opened = timeout_at(deadline, opening.with_fallback()).await.unwrap_or_else(|_| {
        Err(Failure::Other(Reply::local_error_with(
            4,
            4,
            2,
            format!("opening a session with {host} took too long in all"),
        )))
    });
    opened.map_err(|failure| {
        let (stage, reply) = match failure {
            Failure::Connect(reply) => (Stage::Connect, reply),
            Failure::Tls(reply) | Failure::Other(reply) => (Stage::Session, reply),
        };
        if reply.code.is_none() {
            transcript.note(&reply.text);
        }
        Refusal { peer: opening.peer(None), stage, reply }
    })
}

struct Opening<'a> {
    host: &'a str,
    address: SocketAddr,
    policy: &'a Policy,
    transcript: &'a Transcript,
}

impl Opening<'_> {
    fn peer(&self, tls: Option<String>) -> Peer {
        let (mx, ip) = (Some(self.host.to_owned()), Some(self.address.ip()));
        Peer { mx, ip, tls, is_final: self.policy.is_final }
    }

    async fn with_fallback(&self) -> Result<Session, Failure> {
        match self.run(self.policy.mode).await {
            Err(Failure::Tls(why))
                if self.policy.mode == TlsMode::Opportunistic && self.policy.credentials.is_none() =>
            {
                self.transcript.note(format_args!("{}; connecting again without TLS", why.text));
                match self.run(TlsMode::None).await {
                    Ok(session) => Ok(session.without_tls(why)),
                    Err(Failure::Other(reply)) => Err(Failure::Other(reply.after(&why))),
                    failed => failed,
                }
            }
            opened => opened,
        }
    }

    async fn run(&self, mode: TlsMode) -> Result<Session, Failure> {
        let mut cipher = None;
        let mut link = Link::Plain(self.connect().await?);
        if self.policy.implicit_tls {
            link = self.encrypt(link, &mut cipher).await?;
        }
        let mut wire = Wire::new(link, self.transcript.clone());
        let greeted = self.greet(&mut wire).await;
        let (mut wire, mut offer) = self.or_quit(wire, greeted)?;
        let mut encrypted = self.policy.implicit_tls;
        if !encrypted && mode != TlsMode::None {
            let accepted = self.starttls(&mut wire, &offer, mode).await;
            (wire, encrypted) = self.or_quit(wire, accepted)?;
            if encrypted {
                wire = Wire::new(self.encrypt(wire.into_link(), &mut cipher).await?, self.transcript.clone());
                // The capabilities offered in plain text may have been forged (RFC 3207 §4.2).
                let greeted = self.hello(&mut wire).await;
                (wire, offer) = self.or_quit(wire, greeted)?;
            }
        }
        if let Some(login) = &self.policy.credentials {
            let verified = encrypted && mode == TlsMode::Verified;
            let authenticated = self.authenticate(&mut wire, &offer, login, verified).await;
            (wire, ()) = self.or_quit(wire, authenticated)?;
        }
        Ok(Session::new(wire, offer, self.peer(cipher)))
    }

    /// Returns the connection and the result. On a failure, quits the session if the server waits for a command.
    fn or_quit<T>(&self, wire: Wire, result: Result<T, Failure>) -> Result<(Wire, T), Failure> {
        match result {
            Ok(value) => Ok((wire, value)),
            Err(failure) => {
                if failure.may_quit() {
                    self.quit(wire);
                }
                Err(failure)
            }
        }
    }

    /// Sends QUIT to a server that refused the session (RFC 5321 §4.1.1.10), in the background.
    fn quit(&self, mut wire: Wire) {
        let wait = self.policy.timeouts.quit;
        // The transcript continues with another server.
        wire.transcript = Transcript::default();
        tokio::spawn(async move {
            // The connection is closed whatever the reply is.
            let _ = timeout(wait, async {
                wire.command(Quit, wait).await?;
                wire.read_to_close().await
            })
            .await;
        });
    }

    async fn connect(&self) -> Result<TcpStream, Failure> {
        let failed = |reason: String| {
            Failure::Connect(Reply::local_error_with(
                4,
                4,
                1,
                format!("could not connect to {}: {reason}", self.address),
            ))
        };
        if let Some(guard) = &self.policy.guard {
            guard.check_own(self.host, self.address.ip()).map_err(failed)?;
        }
        let _span = traces::child("connect");
        let connecting = timeout(self.policy.timeouts.connect, TcpStream::connect(self.address));
        let stream = connecting
            .await
            .map_err(|_| failed("it took too long".into()))?
            .map_err(|error| failed(words::io(&error)))?;
        // Without TCP_NODELAY, every message would wait 40 ms for a delayed ACK.
        stream.set_nodelay(true).map_err(|error| failed(words::io(&error)))?;
        Ok(stream)
    }

    async fn encrypt(&self, link: Link, cipher: &mut Option<String>) -> Result<Link, Failure> {
        let Link::Plain(stream) = link else { return Ok(link) };
        let _span = traces::child("tls");
        let failed =
            |reason: String| Failure::Tls(Reply::local_error_with(4, 7, 5, format!("TLS handshake failed: {reason}")));
        let handshake = self.policy.tls.connect(self.host, self.address.ip(), stream);
        let stream = timeout(self.policy.timeouts.tls, handshake).await;
        let stream =
            stream.map_err(|_| failed("it took too long".into()))?.map_err(|error| failed(words::io(&error)))?;
        let fault = self.policy.tls.fault(self.host, self.address.ip(), &stream);
        let fault = fault.map(|fault| format!(", {fault}")).unwrap_or_default();
        let description = tls::describe(&stream) + &fault;
        self.transcript.note(format_args!("TLS: {description}"));
        *cipher = Some(description);
        Ok(Link::Tls(Box::new(stream)))
    }

    async fn greet(&self, wire: &mut Wire) -> Result<Capabilities, Failure> {
        self.greeting(wire).await?;
        self.hello(wire).await
    }

    async fn greeting(&self, wire: &mut Wire) -> Result<(), Failure> {
        let deadline = Instant::now() + self.policy.timeouts.greeting;
        let reply = wire.reply(deadline).await.map_err(|error| Failure::wire("the greeting", &error))?;
        if reply.is_positive() { Ok(()) } else { Err(Failure::Other(reply.to_reply())) }
    }

    async fn hello(&self, wire: &mut Wire) -> Result<Capabilities, Failure> {
        let (client, wait) = (&self.policy.client, self.policy.timeouts.ehlo);
        let reply =
            wire.command(Ehlo::new(client.clone()), wait).await.map_err(|error| Failure::wire("EHLO", &error))?;
        if reply.is_positive() {
            return Ok(Capabilities::parse(&reply));
        }
        if reply.code < 500 {
            return Err(Failure::Other(reply.to_reply()));
        }
        let helo = format!("HELO {client}\r\n");
        let reply = wire.command(helo, wait).await.map_err(|error| Failure::wire("HELO", &error))?;
        if reply.is_positive() { Ok(Capabilities::default()) } else { Err(Failure::Other(reply.to_reply())) }
    }

    /// Requests TLS. Returns whether the handshake follows; if not, the session continues in plain text.
    async fn starttls(&self, wire: &mut Wire, offer: &Capabilities, mode: TlsMode) -> Result<bool, Failure> {
        let required = matches!(mode, TlsMode::Required | TlsMode::Verified);
        if !offer.starttls() {
            let why = || {
                Failure::Other(Reply::local_error_with(4, 7, 10, "TLS is required and the server does not offer it"))
            };
            return if required { Err(why()) } else { Ok(false) };
        }
        let reply = wire.command(Starttls, self.policy.timeouts.ehlo).await;
        // Some servers, and firewalls in front of them, offer TLS and drop the connection on STARTTLS.
        let failed = |error: WireError| Failure::Tls(Reply::local_error_with(4, 4, 2, format!("at STARTTLS: {error}")));
        let reply = reply.map_err(failed)?;
        if !reply.is_positive() {
            return if required || reply.closes() { Err(Failure::Other(reply.to_reply())) } else { Ok(false) };
        }
        if wire.has_leftovers() {
            // An attacker may have injected this plain text, which would seem to come from inside the TLS session.
            let why = "the server sent plain text after its reply to STARTTLS";
            return Err(Failure::Other(Reply::local_error_with(4, 7, 0, why)));
        }
        Ok(true)
    }

    async fn authenticate(
        &self,
        wire: &mut Wire,
        offer: &Capabilities,
        login: &Login,
        verified: bool,
    ) -> Result<(), Failure> {
        if !verified && !self.address.ip().is_loopback() {
            let why = "credentials are not sent, because the connection does not use verified TLS";
            return Err(Failure::Other(Reply::local_error_with(4, 7, 10, why)));
        }
        log_in(wire, offer, login, self.policy.timeouts.ehlo).await.map_err(|error| match error {
            AuthError::NoMechanism(wanted) => {
                let offered = offer.mechanisms.join(" ");
                let instead = if offered.is_empty() { "no AUTH at all".into() } else { format!("AUTH {offered}") };
                let why = format!("the server does not offer AUTH {wanted}; it offers {instead}");
                Failure::Other(Reply::local_error_with(4, 7, 0, why))
            }
            AuthError::NoPassword(why) => {
                Failure::Other(Reply::local_error_with(4, 7, 0, format!("there is no token for AUTH: {why}")))
            }
            AuthError::Refused(reply) => Failure::Other(reply.to_reply()),
            AuthError::Wire(why) => Failure::Other(Reply::local_error_with(4, 4, 2, format!("at AUTH: {why}"))),
        })
    }
}
