//! A scriptable HTTPS server that publishes MTA-STS policies.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::certificate::Certificate;

#[derive(Default)]
struct State {
    /// The response to every request; with `None`, the server does not respond.
    response: Option<Vec<u8>>,
    /// Whether the response is repeated endlessly.
    is_endless: bool,
    /// The `Host` of each request.
    requested: Vec<String>,
    changed: watch::Sender<()>,
}

/// The server; it stops when it is dropped.
pub struct PolicyServer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl PolicyServer {
    pub async fn start(certificate: &Certificate) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, state) = (listener.local_addr().unwrap(), Arc::<Mutex<State>>::default());
        let task = tokio::spawn(accept(listener, certificate.acceptor(), state.clone()));
        Self { address, state, task }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Publishes this policy.
    pub fn publishes(&self, text: &str) {
        self.respond("200 OK", "Content-Type: text/plain", text);
    }

    /// Sets the response to every request.
    pub fn respond(&self, status: &str, header: &str, body: &str) {
        let length = body.len();
        let response =
            format!("HTTP/1.1 {status}\r\n{header}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
        self.state.lock().unwrap().response = Some(response.into_bytes());
    }

    /// Responds with an endless series of informational responses.
    pub fn respond_informational_endlessly(&self) {
        let mut state = self.state.lock().unwrap();
        (state.response, state.is_endless) = (Some(b"HTTP/1.1 102 Processing\r\n\r\n".to_vec()), true);
    }

    /// Reads requests without responding.
    pub fn stop_responding(&self) {
        self.state.lock().unwrap().response = None;
    }

    /// Waits until there have been this many requests.
    pub async fn wait_for_requests(&self, count: usize) {
        let mut changes = self.state.lock().unwrap().changed.subscribe();
        while self.requested_hosts().len() < count {
            changes.changed().await.unwrap();
        }
    }

    /// Returns the `Host` of each request so far, without the port.
    pub fn requested_hosts(&self) -> Vec<String> {
        self.state.lock().unwrap().requested.clone()
    }
}

impl Drop for PolicyServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, state: Arc<Mutex<State>>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, acceptor.clone(), state.clone()));
    }
}

/// Serves one request. A client that rejects the certificate closes the connection before it sends a request.
async fn serve(stream: TcpStream, acceptor: TlsAcceptor, state: Arc<Mutex<State>>) -> std::io::Result<()> {
    let mut stream = BufReader::new(acceptor.accept(stream).await?);
    let (mut line, mut request) = (String::new(), Vec::new());
    while stream.read_line(&mut line).await? > 2 {
        request.push(std::mem::take(&mut line).trim().to_ascii_lowercase());
    }
    assert_eq!(request[0], "get /.well-known/mta-sts.txt http/1.1");
    let host = request.iter().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let (response, is_endless) = {
        let mut state = state.lock().unwrap();
        state.requested.push(host.split(':').next().unwrap().to_owned());
        state.changed.send_replace(());
        (state.response.clone(), state.is_endless)
    };
    match response {
        Some(response) => loop {
            stream.write_all(&response).await?;
            if !is_endless {
                return stream.shutdown().await;
            }
        },
        None => std::future::pending().await,
    }
}
