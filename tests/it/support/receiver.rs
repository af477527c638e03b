//! An HTTP server that receives webhooks. Each path is a separate receiver with scripted responses.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode, Uri};
use serde_json::Value;
use standardwebhooks::Webhook;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::smtp::Gate;

/// The response to a post.
#[derive(Debug, Clone)]
pub enum Reply {
    Status(u16),
    /// A status with a header.
    With(u16, &'static str, String),
    /// A status with a body.
    Text(u16, &'static str),
    /// No response.
    Silence,
    /// 200 with a body of this many bytes.
    Long(usize),
    /// 200 once the gate opens.
    Held(Gate),
}

/// A received post.
#[derive(Debug, Clone)]
pub struct Received {
    pub id: String,
    pub headers: HeaderMap,
    pub body: Value,
    text: String,
}

#[derive(Default)]
struct Path {
    received: Vec<Received>,
    script: VecDeque<Reply>,
    /// The response when the script has ended; 200 by default.
    rest: Option<Reply>,
}

struct Shared {
    paths: Mutex<HashMap<String, Path>>,
    changed: watch::Sender<()>,
}

/// The server; it stops when it is dropped.
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { paths: Mutex::default(), changed: watch::Sender::new(()) });
        let router = Router::new().fallback(receive).with_state(shared.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, shared, task }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Scripts the responses to the next posts.
    pub fn script<const N: usize>(&self, path: &str, replies: [Reply; N]) {
        self.change(path, |path| path.script.extend(replies));
    }

    /// Sets the response for when the script has ended.
    pub fn always(&self, path: &str, reply: Reply) {
        self.change(path, |path| path.rest = Some(reply));
    }

    /// Returns the posts received at a path.
    pub fn posts(&self, path: &str) -> Vec<Received> {
        self.change(path, |path| path.received.clone())
    }

    /// Returns the `seq` of each event received at a path.
    pub fn seqs(&self, path: &str) -> Vec<i64> {
        self.posts(path).iter().map(|post| post.body["seq"].as_i64().unwrap()).collect()
    }

    /// Waits until this many posts were received.
    pub async fn received(&self, path: &str, count: usize) -> Vec<Received> {
        let mut changed = self.shared.changed.subscribe();
        loop {
            let posts = self.posts(path);
            if posts.len() >= count {
                return posts;
            }
            changed.changed().await.unwrap();
        }
    }

    fn change<T>(&self, path: &str, change: impl FnOnce(&mut Path) -> T) -> T {
        change(self.shared.paths.lock().unwrap().entry(path.into()).or_default())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Received {
    /// Returns whether one of the signatures is the one that the Standard Webhooks library makes with this secret.
    pub fn is_signed_with(&self, secret: &[u8]) -> bool {
        let header = |name: &str| self.headers[name].to_str().unwrap();
        let time = header("webhook-timestamp").parse().unwrap();
        let signed = Webhook::from_bytes(secret.into()).unwrap().sign(&self.id, time, self.text.as_bytes()).unwrap();
        header("webhook-signature").split(' ').any(|signature| signature == signed)
    }

    /// Returns the body as it was sent.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the size of the body in bytes.
    pub fn size(&self) -> usize {
        self.text.len()
    }
}

async fn receive(State(shared): State<Arc<Shared>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let text = String::from_utf8(body.to_vec()).unwrap();
    let received = Received {
        id: headers["webhook-id"].to_str().unwrap().to_owned(),
        body: serde_json::from_str(&text).unwrap(),
        headers,
        text,
    };
    let reply = {
        let mut paths = shared.paths.lock().unwrap();
        let path = paths.entry(uri.path().into()).or_default();
        path.received.push(received);
        path.script.pop_front().or_else(|| path.rest.clone()).unwrap_or(Reply::Status(200))
    };
    shared.changed.send_replace(());
    let status = |code: u16| Response::builder().status(StatusCode::from_u16(code).unwrap());
    match reply {
        Reply::Status(code) => status(code).body("answer".into()),
        Reply::With(code, name, value) => status(code).header(name, value).body(Body::empty()),
        Reply::Text(code, body) => status(code).body(body.into()),
        Reply::Silence => std::future::pending().await,
        Reply::Long(size) => status(200).body(vec![b'x'; size].into()),
        Reply::Held(gate) => {
            gate.pass().await;
            status(200).body(Body::empty())
        }
    }
    .unwrap()
}
