//! An inbound server that records messages, and a client for it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postrider::smtp::inbound::{Handler, ReceivedMessage, Server, Settings, SmtpRefusal};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::certificate::Certificate;

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
    type Identity = ();

    async fn rcpt(&self, _identity: Option<&()>, _from: &str, to: &str) -> Result<(), SmtpRefusal> {
        if to == Self::REFUSED { Err(SmtpRefusal::permanent(1, 1, "nobody\r\n250 here")) } else { Ok(()) }
    }

    async fn message(&self, _identity: Option<&()>, mail: ReceivedMessage) -> Result<String, SmtpRefusal> {
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
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

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

    /// Connects with TLS from the start, and reads the greeting.
    pub async fn connect_secured(address: SocketAddr, certificate: &Certificate, name: &'static str) -> Self {
        let mut client = Self::connect_only(address).await.trusting(certificate, name).await;
        assert_eq!(client.codes(1).await, [220]);
        client
    }

    /// Starts TLS, trusting only this certificate.
    pub async fn trusting(self, certificate: &Certificate, name: &'static str) -> Self {
        self.try_trusting(certificate, name).await.expect("TLS")
    }

    /// Starts TLS, trusting only this certificate, or returns the error of the handshake.
    pub async fn try_trusting(self, certificate: &Certificate, name: &'static str) -> std::io::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from(name).unwrap();
        assert!(self.read.is_empty(), "an earlier reply was not read");
        let stream = TlsConnector::from(Arc::new(config)).connect(name, self.stream).await?;
        Ok(Self { stream: Box::new(stream), read: Vec::new() })
    }

    /// Signs in with an API key as the password, and returns the reply.
    pub async fn sign_in(&mut self, key: &str) -> String {
        assert_eq!(self.code("EHLO app.test\r\n").await, 250);
        self.say(&format!("AUTH PLAIN {}\r\n", STANDARD.encode(format!("\0app\0{key}")))).await
    }

    /// Sends a message of a client that has signed in, and returns the first refusal or the final reply.
    pub async fn submit(&mut self, from: &str, to: &[&str], mime: &str) -> String {
        let recipients = to.iter().map(|to| format!("RCPT TO:<{to}>\r\n"));
        let commands = [format!("MAIL FROM:<{from}>\r\n")].into_iter().chain(recipients);
        for command in commands.chain(["DATA\r\n".to_owned()]) {
            let reply = self.say(&command).await;
            if !reply.starts_with(['2', '3']) {
                return reply;
            }
        }
        let stuffed = mime.replace("\n.", "\n..");
        self.say(&format!("{stuffed}.\r\n")).await
    }

    /// Returns the stream, for a client that expects the connection to end.
    pub fn into_stream(self) -> Box<dyn Stream> {
        assert!(self.read.is_empty(), "an earlier reply was not read");
        self.stream
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
