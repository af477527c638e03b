//! HTTP/1.1 client for untrusted servers: webhook endpoints, publishers of MTA-STS policies, and servers of files to
//! attach. Also used for the object store of attachments, and for traces.
//!
//! It follows no redirects and uses no proxies; the caller's lookup resolves names. At most
//! [`response_limit`](Settings::response_limit) bytes are read in response to a request, which also bounds
//! informational responses (RFC 9110 §15.2), of which HTTP allows any number. The caller sets the time limit.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _, TryFutureExt as _};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, HeaderValue, USER_AGENT};
use hyper::{Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tower::Service;

/// The [`Settings::response_limit`] of clients that need only short responses.
pub const RESPONSE_LIMIT: usize = 256 << 10;
/// Maximum length of a response's head in bytes.
const HEAD_LIMIT: usize = 64 << 10;
/// TCP keepalive interval, as in `reqwest` and browsers; it detects dead connections.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Any error that can cross threads.
pub type BoxError = Box<dyn Error + Send + Sync>;
/// Resolves a host name to the addresses that may be connected to.
pub type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, Result<Vec<IpAddr>, BoxError>> + Send + Sync>;

/// Settings of a client's connections.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Whether URLs must begin with `https://`.
    pub https_only: bool,
    /// Maximum idle connections for each host.
    pub idle_per_host: usize,
    /// Maximum idle time of a connection.
    pub idle_timeout: Duration,
    /// Maximum bytes read between two writes: TLS handshake messages, informational responses, the response's head and
    /// the part of its body that has been read.
    pub response_limit: usize,
}

/// An HTTP/1.1 client with bounded responses.
pub struct HttpClient(Client<HttpsConnector<Limiter>, Full<Bytes>>);

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").finish_non_exhaustive()
    }
}

/// Why a response is missing or incomplete.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The URL cannot be put into an HTTP request.
    #[error("the URL is not valid: {0}")]
    Url(#[from] hyper::http::Error),
    /// The connection failed, or the response is not valid.
    #[error("{}", causes(.0))]
    Request(#[from] hyper_util::client::legacy::Error),
    /// The response ended early.
    #[error("{}", causes(.0))]
    Body(#[from] hyper::Error),
    /// The server sent informational responses up to the limit.
    #[error("too many informational responses")]
    Informational,
}

impl HttpClient {
    /// Creates a client that verifies certificates with `tls` and resolves names with `lookup`. IP addresses in URLs
    /// are used without a lookup: the caller has to check them.
    pub fn new(tls: ClientConfig, lookup: Lookup, settings: Settings) -> Self {
        let mut http = HttpConnector::new_with_resolver(Resolver(lookup));
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_keepalive(Some(KEEPALIVE));
        http.set_keepalive_interval(Some(KEEPALIVE));
        http.set_keepalive_retries(Some(3));
        let https = HttpsConnectorBuilder::new().with_tls_config(tls);
        let https = if settings.https_only { https.https_only() } else { https.https_or_http() };
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(settings.idle_per_host)
            .pool_idle_timeout(settings.idle_timeout)
            .http1_max_buf_size(HEAD_LIMIT)
            .build(https.enable_http1().wrap_connector(Limiter(http, settings.response_limit)));
        Self(client)
    }

    /// Sends a request and returns the response once its head has arrived.
    pub async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, HttpError> {
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("Postrider/", env!("CARGO_PKG_VERSION"))));
        self.0.request(request).await.map_err(|error| {
            // Only the head has been read, and its own limit is lower: informational responses exceeded the limit.
            if is_limit(&error) { HttpError::Informational } else { error.into() }
        })
    }
}

/// Returns a TLS configuration that trusts the certificates of the system.
pub fn system_tls() -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let builder = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into());
    Ok(builder.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth())
}

/// Returns the next bytes of a response's body; `None` at its end.
pub async fn chunk(response: &mut Response<Incoming>) -> Result<Option<Bytes>, HttpError> {
    while let Some(frame) = response.body_mut().frame().await {
        if let Ok(data) = frame?.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// Formats an error with its causes, which hyper's own `Display` omits.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Returns whether the error was caused by [`Settings::response_limit`].
fn is_limit(error: &(dyn Error + 'static)) -> bool {
    let io = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    io.is_some_and(|inner| inner.is::<ResponseTooLong>() || is_limit(inner)) || error.source().is_some_and(is_limit)
}

/// Adapts a [`Lookup`] to hyper.
#[derive(Clone)]
struct Resolver(Lookup);

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let found = (self.0)(name.as_str().trim_end_matches('.').to_ascii_lowercase());
        Box::pin(async move {
            let addresses: Vec<_> = found.await?.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect();
            Ok(addresses.into_iter())
        })
    }
}

/// Opens TCP connections that are [`Limited`] to this many bytes.
#[derive(Clone)]
struct Limiter(HttpConnector<Resolver>, usize);

impl Service<Uri> for Limiter {
    type Response = TokioIo<Limited>;
    type Error = <HttpConnector<Resolver> as Service<Uri>>::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, limit) = (self.0.call(uri), self.1);
        let limited =
            move |stream: TokioIo<TcpStream>| TokioIo::new(Limited { stream: stream.into_inner(), received: 0, limit });
        connecting.map_ok(limited).boxed()
    }
}

/// A connection on which the peer may send `limit` bytes between two writes of the client.
struct Limited {
    stream: TcpStream,
    /// Bytes read since the last write.
    received: usize,
    limit: usize,
}

/// The peer has sent this many bytes.
#[derive(Debug, thiserror::Error)]
#[error("more than {0} bytes in response to one request")]
struct ResponseTooLong(usize);

impl Connection for Limited {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}

impl AsyncRead for Limited {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.received >= self.limit {
            return Poll::Ready(Err(io::Error::other(ResponseTooLong(self.limit))));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.received += buffer.filled().len() - before;
        read
    }
}

impl Limited {
    /// Resets the count after a write.
    fn after_write(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.received = 0;
        }
        written
    }
}

impl AsyncWrite for Limited {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.after_write(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.after_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
