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
    /// The response to every request; `None` sends none.
    answer: Option<Vec<u8>>,
    /// Whether the response is repeated endlessly.
    is_endless: bool,
    /// The `Host` of each request.
    asked: Vec<String>,
    news: watch::Sender<()>,
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
        self.answers("200 OK", "Content-Type: text/plain", text);
    }

    pub fn answers(&self, status: &str, header: &str, body: &str) {
        let length = body.len();
        let answer =
            format!("HTTP/1.1 {status}\r\n{header}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
        self.state.lock().unwrap().answer = Some(answer.into_bytes());
    }

    /// Answers with informational responses and nothing else.
    pub fn stays_informational(&self) {
        let mut state = self.state.lock().unwrap();
        (state.answer, state.is_endless) = (Some(b"HTTP/1.1 102 Processing\r\n\r\n".to_vec()), true);
    }

    /// Reads requests without responding.
    pub fn falls_silent(&self) {
        self.state.lock().unwrap().answer = None;
    }

    /// Waits until there were this many requests.
    pub async fn was_asked(&self, count: usize) {
        let mut news = self.state.lock().unwrap().news.subscribe();
        while self.asked().len() < count {
            news.changed().await.unwrap();
        }
    }

    /// The `Host` of each request so far, without the port.
    pub fn asked(&self) -> Vec<String> {
        self.state.lock().unwrap().asked.clone()
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

/// Serves one request; a client that rejects the certificate is gone before.
async fn serve(stream: TcpStream, acceptor: TlsAcceptor, state: Arc<Mutex<State>>) -> std::io::Result<()> {
    let mut stream = BufReader::new(acceptor.accept(stream).await?);
    let (mut line, mut request) = (String::new(), Vec::new());
    while stream.read_line(&mut line).await? > 2 {
        request.push(std::mem::take(&mut line).trim().to_ascii_lowercase());
    }
    assert_eq!(request[0], "get /.well-known/mta-sts.txt http/1.1");
    let host = request.iter().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let (answer, is_endless) = {
        let mut state = state.lock().unwrap();
        state.asked.push(host.split(':').next().unwrap().to_owned());
        state.news.send_replace(());
        (state.answer.clone(), state.is_endless)
    };
    match answer {
        Some(answer) => loop {
            stream.write_all(&answer).await?;
            if !is_endless {
                return stream.shutdown().await;
            }
        },
        None => std::future::pending().await,
    }
}
