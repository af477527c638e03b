//! The listener. It runs one task per session, up to a limit, and lets messages in transfer finish when it stops.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::limits::clients::{ClientConnection, ClientLimits, EXCESS_DIVISOR};
use super::limits::eviction::{ActiveSession, Sessions};
use super::session::Session;
use super::{Handler, Settings};

/// Pause after an accept error such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long an evicted session has to end.
const EVICTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum duration of a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// A bound listener; [`run`](Server::run) serves it.
pub struct Server<H> {
    listener: TcpListener,
    address: SocketAddr,
    settings: Arc<Settings>,
    handler: Arc<H>,
}

impl<H: Handler> Server<H> {
    /// Binds to `address`; port 0 selects a free port. Returns an error if the port is in use.
    pub async fn bind(address: impl ToSocketAddrs, settings: Settings, handler: Arc<H>) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, settings: Arc::new(settings), handler })
    }

    /// Returns the local address.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`. Idle sessions then get a 421 at once; those in the middle of a message may finish it within
    /// [`Settings::grace`].
    pub async fn run(self, stop: CancellationToken) {
        let (mut tasks, limits) = (JoinSet::new(), ClientLimits::new(&self.settings));
        let (sessions, mut number) = (Arc::new(Sessions::default()), 0_u64);
        let (limit, grace) = (self.settings.max_connections, self.settings.idle_grace);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => report(ended),
                accepted = self.listener.accept() => match accepted {
                    // An evicted session takes a moment to close, so the limit may be exceeded for a short time.
                    Ok((stream, peer))
                        if tasks.len() >= limit
                            && (tasks.len() > limit + limit / EXCESS_DIVISOR
                                || !sessions.evict_idle(None, grace, Instant::now())) =>
                    {
                        reject(stream, peer, &limits, "Too many connections, try again later");
                    }
                    Ok((stream, peer)) => match enter(&limits, &sessions, peer, grace) {
                        Some(client) => {
                            number += 1;
                            let active = sessions.register(number, client.network(), Instant::now());
                            let (settings, handler) = (self.settings.clone(), self.handler.clone());
                            tasks.spawn(serve(stream, peer, (client, active), settings, handler, stop.clone()));
                        }
                        None => {
                            reject(stream, peer, &limits, "Too many connections from your address, try again later");
                        }
                    },
                    Err(error) => {
                        tracing::warn!(
                            event = "smtp_accept_failed",
                            %error,
                            "cannot accept an SMTP connection; trying again"
                        );
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(self.listener);
        let all = async { while tasks.join_next().await.map(report).is_some() {} };
        if tokio::time::timeout(self.settings.grace, all).await.is_err() {
            tasks.shutdown().await;
        }
    }
}

/// Counts a session for the peer's network; at the limit, evicts an idle session of that network.
fn enter(
    limits: &Arc<ClientLimits>,
    sessions: &Sessions,
    peer: SocketAddr,
    grace: Duration,
) -> Option<ClientConnection> {
    limits.enter(peer.ip(), |network| sessions.evict_idle(Some(network), grace, Instant::now()))
}

async fn serve<H: Handler>(
    stream: TcpStream,
    peer: SocketAddr,
    (client, active): (ClientConnection, ActiveSession),
    settings: Arc<Settings>,
    handler: Arc<H>,
    stop: CancellationToken,
) {
    // A short reply must not wait for the acknowledgement of the previous one (Nagle).
    let _ = stream.set_nodelay(true);
    let eviction_timed_out = async {
        active.evicted.cancelled().await;
        tokio::time::sleep(EVICTION_TIMEOUT).await;
    };
    tokio::select! {
        () = run_session(stream, peer, (&client, &active), &settings, &*handler, stop) => {}
        // The client does not even read the 421.
        () = eviction_timed_out => {}
    }
}

async fn run_session<H: Handler>(
    stream: TcpStream,
    peer: SocketAddr,
    (client, active): (&ClientConnection, &ActiveSession),
    settings: &Settings,
    handler: &H,
    stop: CancellationToken,
) {
    if settings.implicit_tls {
        if let Some(stream) = secured(stream, peer, active, settings).await {
            Session::new(stream, peer, (client, active), handler, settings, stop).run_with_implicit_tls().await;
        }
        return;
    }
    let plain = Session::new(stream, peer, (client, active), handler, settings, stop.clone());
    let Some(stream) = plain.run().await else { return };
    if let Some(stream) = secured(stream, peer, active, settings).await {
        Session::new(stream, peer, (client, active), handler, settings, stop).run_secure().await;
    }
}

/// Performs the TLS handshake. `None` if it fails, or if the session has to end for another one.
async fn secured(
    stream: TcpStream,
    peer: SocketAddr,
    active: &ActiveSession,
    settings: &Settings,
) -> Option<TlsStream<TcpStream>> {
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, settings.certificate.as_ref()?.accept(stream));
    match active.evicted.run_until_cancelled(handshake).await? {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake with an SMTP client failed"),
        Err(_) => tracing::debug!(%peer, "TLS handshake with an SMTP client timed out"),
    }
    None
}

/// Refuses a client without waiting: the buffer of a new socket has space for one line.
fn reject(stream: TcpStream, peer: SocketAddr, limits: &ClientLimits, why: &str) {
    limits.log_rejected_client(peer, why);
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write(format!("421 4.7.0 {why}\r\n").as_bytes());
    }
}

/// Logs the panic of a session. Other sessions are not affected.
fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(event = "smtp_session_panicked", "an SMTP session panicked; other sessions continue");
    }
}
