//! The listener: one task per session, up to a limit, and a stop that lets messages in transfer finish.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::peers::{Guest, LEAVING, Peers};
use super::seats::{Seat, Seats};
use super::session::Session;
use super::{Handler, Settings};

/// How long to wait after an accept error such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a session that must end has to do so.
const LEAVE_WITHIN: Duration = Duration::from_secs(10);

/// Maximum duration of a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(30);

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
        let (mut sessions, peers) = (JoinSet::new(), Peers::new(&self.settings));
        let (seats, mut number) = (Arc::new(Seats::default()), 0_u64);
        let (most, grace) = (self.settings.max_connections, self.settings.idle_grace);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = sessions.join_next(), if !sessions.is_empty() => report(ended),
                accepted = self.listener.accept() => match accepted {
                    // A session that ends for another needs a moment, so the limit may be exceeded meanwhile.
                    Ok((stream, peer))
                        if sessions.len() >= most
                            && (sessions.len() > most + most / LEAVING || !seats.make_room(None, grace, Instant::now())) =>
                    {
                        turn_away(stream, peer, &peers, "Too many connections, try again later");
                    }
                    Ok((stream, peer)) => match enter(&peers, &seats, peer, grace) {
                        Some(guest) => {
                            number += 1;
                            let seat = seats.take(number, guest.network(), Instant::now());
                            let place = (guest, seat);
                            let (settings, handler) = (self.settings.clone(), self.handler.clone());
                            sessions.spawn(serve(stream, peer, place, settings, handler, stop.clone()));
                        }
                        None => turn_away(stream, peer, &peers, "Too many connections from your address, try again later"),
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
        let all = async { while sessions.join_next().await.map(report).is_some() {} };
        if tokio::time::timeout(self.settings.grace, all).await.is_err() {
            sessions.shutdown().await;
        }
    }
}

/// Counts a session for the peer's network; at the limit, ends an idle session of that network.
fn enter(peers: &Arc<Peers>, seats: &Seats, peer: SocketAddr, grace: Duration) -> Option<Guest> {
    let now = Instant::now();
    peers.enter(peer.ip(), |network| seats.make_room(Some(network), grace, now), now)
}

async fn serve<H: Handler>(
    stream: TcpStream,
    peer: SocketAddr,
    (guest, seat): (Guest, Seat),
    settings: Arc<Settings>,
    handler: Arc<H>,
    stop: CancellationToken,
) {
    // A short reply must not wait for the acknowledgement of the previous one (Nagle).
    let _ = stream.set_nodelay(true);
    let gone = async {
        seat.leave.cancelled().await;
        tokio::time::sleep(LEAVE_WITHIN).await;
    };
    tokio::select! {
        () = speak(stream, peer, (&guest, &seat), &settings, &*handler, stop) => {}
        // The client does not even read the 421.
        () = gone => {}
    }
}

async fn speak<H: Handler>(
    stream: TcpStream,
    peer: SocketAddr,
    (guest, seat): (&Guest, &Seat),
    settings: &Settings,
    handler: &H,
    stop: CancellationToken,
) {
    let plain = Session::new(stream, peer, (guest, seat), handler, settings, stop.clone());
    let (Some(stream), Some(certificate)) = (plain.run().await, &settings.certificate) else { return };
    let handshake = tokio::time::timeout(HANDSHAKE, certificate.accept(stream));
    let Some(handshake) = seat.leave.run_until_cancelled(handshake).await else { return };
    match handshake {
        Ok(Ok(stream)) => Session::new(stream, peer, (guest, seat), handler, settings, stop).run_secure().await,
        Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake with an SMTP client failed"),
        Err(_) => tracing::debug!(%peer, "TLS handshake with an SMTP client timed out"),
    }
}

/// Refuses a client without waiting: the buffer of a new socket has space for one line.
fn turn_away(stream: TcpStream, peer: SocketAddr, peers: &Peers, why: &str) {
    peers.note_turned_away(peer, why);
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write(format!("421 4.7.0 {why}\r\n").as_bytes());
    }
}

/// Logs the panic of a session, which ends that session only.
fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(event = "smtp_session_panicked", %error, "an SMTP session panicked; other sessions continue");
    }
}
