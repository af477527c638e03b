//! The HTTP server: limits the time, connections and memory that any client can use, with or without an API key.
//!
//! - Connections are limited in total and per peer ([`connections`]). At a limit, an idle connection is closed.
//! - A request's head must arrive within [`Limits::header_timeout`] and fit into [`MAX_HEAD_BYTES`] bytes.
//! - A connection without a request is closed after [`Limits::keep_alive`].
//! - A client that does not read its response is disconnected ([`stream`]).
//!
//! Request bodies are limited separately (`http/request/body.rs`).

mod connections;
mod limits;
mod stream;
mod tracked;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::auth::Peer;
use crate::telemetry::RateLimitedLog;
use connections::{Admission, Connections, Signal, Slot};
pub use limits::Limits;
use stream::TimedStream;
use tracked::Tracked;

/// Maximum bytes of a request's line and headers; a larger head returns 431. Also the read buffer of a connection.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Send buffer of a connection in the kernel, which doubles it. Limits the memory of an unread response
/// there, and how much a client must read before the server can write again.
const SEND_BUFFER: u32 = 128 << 10;
/// Connections that the kernel queues until they are accepted.
const BACKLOG: u32 = 1_024;
/// Delay after a failed `accept`, such as with too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The response to a refused connection.
const REFUSAL_RESPONSE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// A listening HTTP server.
#[derive(Debug)]
pub struct Server {
    /// The address it listens on.
    pub address: SocketAddr,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Server {
    /// Serves `router` on `listener`.
    pub fn start(listener: TcpListener, router: Router, limits: Limits) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        // Builds the routes once, not for each request.
        let router = router.with_state(());
        let shared = Shared { router, limits, connections: Arc::new(Connections::new(limits)), stop: stop.clone() };
        Ok(Self { address, stop, running: tokio::spawn(accept(listener, Arc::new(shared))) })
    }

    /// Stops accepting connections, and waits for the requests in progress, for at most `grace`.
    pub async fn stop(self, grace: Duration) {
        self.stop.cancel();
        let abort = self.running.abort_handle();
        if tokio::time::timeout(grace, self.running).await.is_err() {
            tracing::warn!(
                event = "http_stop_timeout",
                "requests did not end within the grace period; continuing with the shutdown"
            );
            abort.abort();
        }
    }
}

/// Binds a listening socket.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart must not wait for connections of the previous process.
    socket.set_reuseaddr(true)?;
    // Accepted connections inherit this size.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The state that a server's connections share.
#[derive(Debug)]
struct Shared {
    router: Router,
    limits: Limits,
    connections: Arc<Connections>,
    stop: CancellationToken,
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let (running, full) = (TaskTracker::new(), RateLimitedLog::default());
    while let Some(accepted) = shared.stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, peer)) => match shared.connections.admit(peer.ip()) {
                Admission::Admitted(slot) => drop(running.spawn(serve((stream, peer), slot, shared.clone()))),
                Admission::Full(limit) => {
                    let _ = stream.try_write(REFUSAL_RESPONSE);
                    if let Some(count) = full.note(Instant::now()) {
                        tracing::warn!(
                            event = "http_connections_full",
                            %peer, count, limit,
                            "connection limit reached and no connection is idle; refusing HTTP connections"
                        );
                    }
                }
            },
            // The client has already closed the connection.
            Err(error) if is_client_error(&error) => {}
            Err(error) => {
                if let Some(count) = full.note(Instant::now()) {
                    tracing::error!(
                        event = "http_accept_failed",
                        %error,
                        count,
                        "cannot accept HTTP connections; retrying"
                    );
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    shared.connections.stop();
    running.close();
    running.wait().await;
}

fn is_client_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Serves the requests of one connection.
async fn serve((stream, peer): (TcpStream, SocketAddr), slot: Slot, shared: Arc<Shared>) {
    // Responses are one small write each: Nagle's algorithm would only delay them.
    let _ = stream.set_nodelay(true);
    let activity = slot.activity();
    let io = TokioIo::new(TimedStream::new(stream, activity.clone(), shared.limits));
    let service = service_fn(|request: Request<Incoming>| {
        let (router, activity) = (shared.router.clone(), activity.clone());
        async move {
            if !activity.begin() {
                // The connection was evicted: it closes without handling the request.
                return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
            }
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Peer(peer.ip()));
            let response: Result<Response<Body>, _> = router.oneshot(request).await;
            let Ok(response) = response;
            Ok(response.map(|body| Tracked::new(body, activity)))
        }
    });
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            // `TimedStream` has the timers, since they differ before and within a head.
            .header_read_timeout(None)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(io, service)
    );
    let mut is_stopping = false;
    // Polls directly: `select!` would lock and register each future whenever the connection is polled.
    let ended = poll_fn(|cx| match slot.signal(cx.waker()) {
        Signal::Evict => Poll::Ready(Ok(())),
        signal => {
            if signal == Signal::Stop && !std::mem::replace(&mut is_stopping, true) {
                connection.as_mut().graceful_shutdown();
            }
            connection.as_mut().poll(cx)
        }
    });
    if let Err(error) = ended.await {
        tracing::debug!(%error, "HTTP connection ended with an error");
    }
}
