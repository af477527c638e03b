//! The listener: one task a session, so many at once, and a stop that lets mails in transfer finish.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::peers::{Guest, Peers};
use super::session::Session;
use super::{Handler, Settings};

/// How long to leave the listener alone after an error such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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

    /// Serves until `stop`. Then idle sessions get a 421 at once, those in the middle of a mail may end it within
    /// [`Settings::grace`].
    pub async fn run(self, stop: CancellationToken) {
        let (mut sessions, peers) = (JoinSet::new(), Peers::new(&self.settings));
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = sessions.join_next(), if !sessions.is_empty() => report(ended),
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) if sessions.len() >= self.settings.max_connections => {
                        turn_away(stream, peer, &peers, "Too many connections, try again later");
                    }
                    Ok((stream, peer)) => match peers.enter(peer.ip(), Instant::now()) {
                        Some(guest) => {
                            let (settings, handler) = (self.settings.clone(), self.handler.clone());
                            sessions.spawn(serve(stream, peer, guest, settings, handler, stop.clone()));
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

async fn serve<H: Handler>(
    stream: TcpStream,
    peer: SocketAddr,
    guest: Guest,
    settings: Arc<Settings>,
    handler: Arc<H>,
    stop: CancellationToken,
) {
    // A short reply must not wait for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let plain = Session::new(stream, peer, &guest, &*handler, &settings, stop.clone());
    let (Some(stream), Some(certificate)) = (plain.run().await, &settings.certificate) else { return };
    match tokio::time::timeout(HANDSHAKE, certificate.accept(stream)).await {
        Ok(Ok(stream)) => Session::new(stream, peer, &guest, &*handler, &settings, stop).run_secure().await,
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
