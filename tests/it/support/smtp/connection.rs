//! One connection of the scriptable server, from greeting to QUIT.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::script::{Action, Stage};
use super::{Line, ReceivedMessage, Shared};

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// An error ends the connection. QUIT is reported as an error.
type Flow = io::Result<()>;

fn hang_up<T>() -> io::Result<T> {
    Err(io::ErrorKind::ConnectionAborted.into())
}

pub(super) async fn serve(stream: TcpStream, number: usize, shared: &Shared) {
    let _ = stream.set_nodelay(true);
    let (acceptor, implicit) = {
        let state = shared.state();
        (state.acceptor.clone(), state.implicit_tls)
    };
    let stream: Box<dyn Stream> = match acceptor.filter(|_| implicit) {
        None => Box::new(stream),
        Some(acceptor) => match acceptor.accept(stream).await {
            Ok(stream) => Box::new(stream),
            Err(_) => return,
        },
    };
    let mut connection =
        Connection { stream: BufReader::with_capacity(1 << 16, stream), number, shared, tls: implicit, mail: None };
    let _ = connection.run().await;
}

struct Connection<'a> {
    stream: BufReader<Box<dyn Stream>>,
    number: usize,
    shared: &'a Shared,
    tls: bool,
    mail: Option<ReceivedMessage>,
}

impl Connection<'_> {
    async fn run(&mut self) -> Flow {
        self.reply(Stage::Greeting, "220 mx.test ESMTP").await?;
        loop {
            let line = self.line().await?;
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" => self.ehlo().await?,
                "HELO" => drop(self.reply(Stage::Other, "250 mx.test").await?),
                "STARTTLS" => self.starttls().await?,
                "AUTH" => self.auth(&line).await?,
                "MAIL" => self.begin(&line).await?,
                "RCPT" => self.recipient(&line).await?,
                "DATA" => self.data().await?,
                "RSET" => {
                    self.mail = None;
                    self.reply(Stage::Other, "250 2.0.0 ok").await?;
                }
                "QUIT" => {
                    self.reply(Stage::Other, "221 2.0.0 bye").await?;
                    return hang_up();
                }
                _ => drop(self.reply(Stage::Other, "500 5.5.1 what?").await?),
            }
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut bytes = Vec::new();
        if self.stream.read_until(b'\n', &mut bytes).await? == 0 {
            return hang_up();
        }
        let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        self.note(&text);
        Ok(text)
    }

    fn note(&self, text: &str) {
        let is_pipelined = !self.stream.buffer().is_empty();
        let line = Line { connection: self.number, text: text.to_owned(), is_pipelined };
        self.shared.update(|state| state.lines.push(line));
    }

    async fn write(&mut self, bytes: &[u8]) -> Flow {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Sends the scripted reply, or else the usual one. Returns the first digit of the reply.
    async fn reply(&mut self, stage: Stage, usual: &str) -> io::Result<u8> {
        let action = self.shared.state().scripts.get_mut(&stage).and_then(std::collections::VecDeque::pop_front);
        let bytes = match action {
            None => format!("{usual}\r\n").into_bytes(),
            Some(Action::Reply(reply)) => format!("{reply}\r\n").into_bytes(),
            Some(Action::ReplyAfter(reply, wait)) => {
                tokio::time::sleep(wait).await;
                format!("{reply}\r\n").into_bytes()
            }
            Some(Action::Bytes(bytes)) => bytes,
            Some(Action::BytesThenDrop(bytes)) => {
                self.write(&bytes).await?;
                return hang_up();
            }
            Some(Action::Pieces(pieces)) => {
                for piece in pieces {
                    self.write(piece.as_bytes()).await?;
                    tokio::task::yield_now().await;
                }
                return Ok(pieces[0].as_bytes()[0]);
            }
            Some(Action::Drop) => return hang_up(),
            Some(Action::ReplyThenDrop(reply)) => {
                self.write(format!("{reply}\r\n").as_bytes()).await?;
                return hang_up();
            }
            Some(Action::Endless(bytes)) => loop {
                self.write(bytes).await?;
            },
            Some(Action::Trickle(bytes, period)) => self.trickle(bytes, period).await?,
            Some(Action::DropAfterReading(count, reply)) => {
                self.write(b"354 go ahead\r\n").await?;
                self.stream.read_exact(&mut vec![0; count]).await?;
                self.write(reply.as_bytes()).await?;
                return hang_up();
            }
            Some(Action::StopReading) => {
                self.write(b"354 go ahead\r\n").await?;
                std::future::pending().await
            }
            Some(Action::Stall(gate)) => {
                gate.pass().await;
                format!("{usual}\r\n").into_bytes()
            }
        };
        self.write(&bytes).await?;
        Ok(bytes.first().copied().unwrap_or_default())
    }

    async fn trickle<T>(&mut self, bytes: &[u8], period: Duration) -> io::Result<T> {
        let mut ticks = tokio::time::interval(period);
        for byte in bytes.iter().cycle() {
            ticks.tick().await;
            self.write(&[*byte]).await?;
        }
        hang_up()
    }

    async fn ehlo(&mut self) -> Flow {
        let mut extensions = self.shared.state().extensions.clone();
        extensions.retain(|extension| !(self.tls && extension == "STARTTLS"));
        let mut usual = String::new();
        for (index, line) in std::iter::once("mx.test").chain(extensions.iter().map(String::as_str)).enumerate() {
            let last = index == extensions.len();
            usual += if last { "250 " } else { "250-" };
            usual += line;
            usual += if last { "" } else { "\r\n" };
        }
        self.reply(Stage::Ehlo, &usual).await.map(drop)
    }

    async fn starttls(&mut self) -> Flow {
        if self.reply(Stage::Starttls, "220 2.0.0 go ahead").await? != b'2' {
            return Ok(());
        }
        let Some(acceptor) = self.shared.state().acceptor.clone() else { return hang_up() };
        let plain = std::mem::replace(&mut self.stream, BufReader::new(Box::new(tokio::io::empty())));
        let stream: Box<dyn Stream> = Box::new(acceptor.accept(plain.into_inner()).await?);
        self.stream = BufReader::with_capacity(1 << 16, stream);
        self.tls = true;
        Ok(())
    }

    async fn auth(&mut self, line: &str) -> Flow {
        if line.eq_ignore_ascii_case("AUTH LOGIN") {
            for prompt in ["334 VXNlcm5hbWU6\r\n", "334 UGFzc3dvcmQ6\r\n"] {
                self.write(prompt.as_bytes()).await?;
                self.line().await?;
            }
        }
        if self.reply(Stage::Auth, "235 2.7.0 welcome").await? == b'3' {
            self.line().await?;
            self.reply(Stage::AfterAuth, "235 2.7.0 welcome").await?;
        }
        Ok(())
    }

    async fn begin(&mut self, line: &str) -> Flow {
        let usual = if self.mail.is_some() { "503 5.5.1 nested MAIL" } else { "250 2.1.0 ok" };
        if self.reply(Stage::Mail, usual).await? == b'2' {
            self.mail = Some(ReceivedMessage {
                from: bracketed(line),
                to: Vec::new(),
                mail_command: line.to_owned(),
                raw: Vec::new(),
                connection: self.number,
                tls: self.tls,
            });
        }
        Ok(())
    }

    async fn recipient(&mut self, line: &str) -> Flow {
        let address = bracketed(line);
        let usual = if self.mail.is_some() { "250 2.1.5 ok" } else { "503 5.5.1 MAIL first" };
        let is_accepted = self.reply(Stage::Rcpt(address.clone()), usual).await? == b'2';
        if let Some(mail) = self.mail.as_mut().filter(|_| is_accepted) {
            mail.to.push(address);
        }
        Ok(())
    }

    async fn data(&mut self) -> Flow {
        let has_recipient = self.mail.as_ref().is_some_and(|mail| !mail.to.is_empty());
        let usual = if has_recipient { "354 go ahead" } else { "554 5.5.1 no valid recipients" };
        if self.reply(Stage::Data, usual).await? != b'3' {
            return Ok(());
        }
        let raw = self.text().await?;
        self.note(".");
        let is_accepted = self.reply(Stage::FinalDot, "250 2.0.0 queued").await? == b'2';
        if let Some(mail) = self.mail.take().filter(|mail| is_accepted && !mail.to.is_empty()) {
            self.shared.update(|state| state.messages.push(ReceivedMessage { raw, ..mail }));
        }
        Ok(())
    }

    /// Reads the message up to CRLF, dot, CRLF.
    async fn text(&mut self) -> io::Result<Vec<u8>> {
        let mut raw = Vec::new();
        loop {
            let start = raw.len();
            if self.stream.read_until(b'\n', &mut raw).await? == 0 {
                return hang_up();
            }
            let after_crlf = start == 0 || raw[..start].ends_with(b"\r\n");
            if after_crlf && &raw[start..] == b".\r\n" {
                raw.truncate(start);
                return Ok(raw);
            }
            if after_crlf && raw[start] == b'.' {
                raw.remove(start);
            }
        }
    }
}

fn bracketed(line: &str) -> String {
    let start = line.find('<').map_or(0, |at| at + 1);
    let end = line.rfind('>').unwrap_or(line.len());
    line.get(start..end).unwrap_or_default().to_owned()
}
