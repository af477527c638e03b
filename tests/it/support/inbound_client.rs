//! An inbound server that records messages, and a client for it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use postrider::smtp::inbound::{Handler, ReceivedMessage, Server, Settings, SmtpRefusal};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

/// A handler that records every accepted message.
#[derive(Default)]
pub struct RecordedMessages(Mutex<Vec<ReceivedMessage>>);

impl RecordedMessages {
    /// The recipient that is refused, with a reply text that contains a line break.
    pub const REFUSED: &str = "refused@d.test";

    pub fn messages(&self) -> Vec<ReceivedMessage> {
        self.0.lock().unwrap().clone()
    }
}

impl Handler for RecordedMessages {
    async fn rcpt(&self, _from: &str, to: &str) -> Result<(), SmtpRefusal> {
        if to == Self::REFUSED { Err(SmtpRefusal::permanent(1, 1, "nobody\r\n250 here")) } else { Ok(()) }
    }

    async fn message(&self, mail: ReceivedMessage) -> Result<String, SmtpRefusal> {
        self.0.lock().unwrap().push(mail);
        Ok("kept".into())
    }
}

/// A running server under test.
pub struct Running {
    pub address: SocketAddr,
    pub stop: CancellationToken,
    pub task: JoinHandle<()>,
}

pub async fn serve(settings: Settings) -> (Arc<RecordedMessages>, Running) {
    let recorded = Arc::new(RecordedMessages::default());
    let server = Server::bind("127.0.0.1:0", settings, recorded.clone()).await.expect("a port");
    let (address, stop) = (server.local_addr(), CancellationToken::new());
    let task = tokio::spawn(server.run(stop.clone()));
    (recorded, Running { address, stop, task })
}

/// A socket, or TLS over one.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

pub struct Client {
    stream: Box<dyn Stream>,
    read: Vec<u8>,
}

impl Client {
    /// Connects and reads the greeting.
    pub async fn connect(address: SocketAddr) -> Self {
        let mut client = Self::connect_only(address).await;
        assert_eq!(client.codes(1).await, [220]);
        client
    }

    pub async fn connect_only(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("an option");
        Self { stream: Box::new(stream), read: Vec::new() }
    }

    /// Starts TLS, after the server has replied to STARTTLS.
    pub async fn secured(self, connector: &TlsConnector, name: ServerName<'static>) -> Self {
        assert!(self.read.is_empty(), "an earlier reply was not read");
        let stream = connector.connect(name, self.stream).await.expect("TLS");
        Self { stream: Box::new(stream), read: Vec::new() }
    }

    /// Sends everything in one write.
    pub async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.expect("sent");
    }

    /// Sends bytes without a line end until the server closes the connection.
    pub async fn flood(&mut self) {
        let piece = vec![b'x'; 64 << 10];
        while self.stream.write_all(&piece).await.is_ok() {}
    }

    /// Reads once from the socket. Returns an empty text if the server has closed the connection.
    pub async fn read_once(&mut self) -> String {
        assert!(self.read.is_empty(), "an earlier reply was not read");
        let mut bytes = vec![0; 64 << 10];
        let count = self.stream.read(&mut bytes).await.unwrap_or(0);
        String::from_utf8(bytes[..count].to_vec()).expect("text")
    }

    /// Reads all lines of the next reply.
    pub async fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line = String::from_utf8(self.read.drain(..=end).collect()).expect("text");
                reply.push_str(&line);
                if line.as_bytes().get(3) == Some(&b' ') {
                    return reply;
                }
            } else {
                let count = self.stream.read_buf(&mut self.read).await.expect("a reply");
                assert!(count > 0, "the server closed after {reply:?}");
            }
        }
    }

    /// Reads the next `count` replies, and returns their codes.
    pub async fn codes(&mut self, count: usize) -> Vec<u16> {
        let mut codes = Vec::new();
        for _ in 0..count {
            codes.push(self.reply().await[..3].parse().expect("a code"));
        }
        codes
    }

    /// Sends a text, and returns the reply.
    pub async fn say(&mut self, text: &str) -> String {
        self.send(text).await;
        self.reply().await
    }

    /// Sends a message as a server sends a bounce, and returns the first refusal or the final reply.
    pub async fn deliver(&mut self, to: &str, mime: &str) -> String {
        self.send("EHLO mx.example.test\r\nMAIL FROM:<>\r\n").await;
        assert_eq!(self.codes(2).await, [250, 250]);
        let reply = self.say(&format!("RCPT TO:<{to}>\r\n")).await;
        if !reply.starts_with("250") {
            return reply;
        }
        assert_eq!(self.code("DATA\r\n").await, 354);
        self.say(&format!("{mime}.\r\n")).await
    }

    /// Sends a text, and returns the code of the reply.
    pub async fn code(&mut self, text: &str) -> u16 {
        self.send(text).await;
        self.codes(1).await[0]
    }
}
