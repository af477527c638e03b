//! The listener: one task a session, so many at once, and a stop that lets messages in transfer finish.

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

/// How long to leave the listener alone after an error such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// So long a session that leaves for another has for its farewell.
const LEAVE_WITHIN: Duration = Duration::from_secs(10);

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// A bound listener; [`run`](Server::run) serves it.
pub struct Server<H> {
    listener: TcpListener,
    address: SocketAddr,
    settings: Arc<Settings>,
    handler: Arc<H>,
}

impl<H: Handler> Server<H> {
    /// Listens on `address`; port 0 takes a free one. Fails where the port is taken.
    pub async fn bind(address: impl ToSocketAddrs, settings: Settings, handler: Arc<H>) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, settings: Arc::new(settings), handler })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`. Then idle sessions get a 421 at once, those in the middle of a message may end it within
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
                    // Whoever leaves for another takes a moment for that: so many more may be there.
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
                        tracing::warn!(%error, "cannot accept an SMTP connection");
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

/// A place among those of the peer's network; one of its own idle sessions makes way where they are taken.
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
    // A short reply must not wait for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let gone = async {
        seat.leave.cancelled().await;
        tokio::time::sleep(LEAVE_WITHIN).await;
    };
    tokio::select! {
        () = speak(stream, peer, (&guest, &seat), &settings, &*handler, stop) => {}
        // It does not even read that it is to leave.
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
        Ok(Err(error)) => tracing::debug!(%peer, %error, "a client did not come to terms about TLS"),
        Err(_) => tracing::debug!(%peer, "a client was too slow in its TLS handshake"),
    }
}

/// Says that there is no place, without waiting: a fresh socket has room for one line.
fn turn_away(stream: TcpStream, peer: SocketAddr, peers: &Peers, why: &str) {
    peers.note_turned_away(peer, why);
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write(format!("421 4.7.0 {why}\r\n").as_bytes());
    }
}

/// A panic in one session ends that session only.
fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "an SMTP session panicked");
    }
}
