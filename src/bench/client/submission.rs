//! `--submission`: a minimal SMTP client that submits messages over a connection that has signed in with an API key. It sends
//! the commands of a message in one write (RFC 2920), and its content in another one.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::mail::{HEADER, NUMBER, Places, SENDER_DOMAIN, address, text};
use crate::bench::options::Options;

/// Time limit of a message, and of signing in.
const LIMIT: Duration = Duration::from_mins(1);
/// Size limit of the replies to the commands of a message.
const REPLIES_LIMIT: usize = 64 << 10;

/// A message to submit, which gets the number of each message in turn.
#[derive(Debug)]
pub(in crate::bench) struct Mail {
    /// The commands, up to DATA.
    commands: Vec<u8>,
    places_in_commands: Places,
    /// The content, with the final dot.
    content: Vec<u8>,
    places_in_content: Places,
    recipients: usize,
    domain_count: u64,
}

impl Mail {
    /// Builds the message.
    pub(in crate::bench) fn new(options: &Options) -> Self {
        let to: Vec<String> = (0..options.recipients).map(address).collect();
        let rcpt: Vec<String> = to.iter().map(|address| format!("RCPT TO:<{address}>\r\n")).collect();
        let commands = format!("MAIL FROM:<bench@{SENDER_DOMAIN}>\r\n{}DATA\r\n", rcpt.concat()).into_bytes();
        let header = format!(
            "From: Bench <bench@{SENDER_DOMAIN}>\r\nTo: {}\r\nSubject: Bench {NUMBER}\r\n{HEADER}: {NUMBER}\r\n\r\n",
            to.join(",\r\n ")
        );
        let text = text(options.size as usize).replace('\n', "\r\n");
        let content = [&header, &text, "\r\n.\r\n"].concat().into_bytes();
        Self {
            places_in_commands: Places::find(&commands),
            commands,
            places_in_content: Places::find(&content),
            content,
            recipients: to.len(),
            domain_count: options.domains.into(),
        }
    }

    /// Makes it the message with this number.
    pub(in crate::bench) fn set_number(&mut self, number: u64) {
        self.places_in_commands.write(&mut self.commands, number, self.domain_count);
        self.places_in_content.write(&mut self.content, number, self.domain_count);
    }
}

/// A connection that has signed in.
#[derive(Debug)]
pub(in crate::bench) struct Session {
    stream: TcpStream,
    /// What was received and not returned yet.
    received: Vec<u8>,
    /// The lines of the last reply.
    reply: String,
}

impl Session {
    /// Connects and signs in.
    pub(in crate::bench) async fn open(address: SocketAddr, key: &str) -> io::Result<Self> {
        let login = STANDARD.encode(format!("\0bench\0{key}"));
        limited(async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let mut session = Self { stream, received: Vec::with_capacity(4_096), reply: String::new() };
            session.exchange("", 220).await?;
            session.exchange("EHLO bench.test\r\n", 250).await?;
            session.exchange(&format!("AUTH PLAIN {login}\r\n"), 235).await?;
            Ok(session)
        })
        .await
    }

    /// Sends a command, and reads the reply. Fails unless the reply has this code.
    async fn exchange(&mut self, command: &str, expected: u16) -> io::Result<()> {
        self.stream.write_all(command.as_bytes()).await?;
        let code = self.next_reply().await?;
        if code == expected { Ok(()) } else { Err(io::Error::other(format!("the server replied {}", self.reply()))) }
    }

    /// Submits a message, and returns the code of the reply that decides: the one to the content, or the first that refuses a
    /// command. After an error, and after any other code than 250, the caller must drop the connection.
    pub(in crate::bench) async fn submit(&mut self, mail: &Mail) -> io::Result<u16> {
        limited(async {
            self.stream.write_all(&mail.commands).await?;
            for expected in std::iter::repeat_n(250, 1 + mail.recipients).chain([354]) {
                let code = self.next_reply().await?;
                if code != expected {
                    return Ok(code);
                }
            }
            self.stream.write_all(&mail.content).await?;
            self.next_reply().await
        })
        .await
    }

    /// Returns the last reply.
    pub(in crate::bench) fn reply(&self) -> &str {
        self.reply.trim_end()
    }

    /// Receives the next reply, and returns its code.
    async fn next_reply(&mut self) -> io::Result<u16> {
        loop {
            if let Some((code, length)) = complete(&self.received)? {
                self.reply = String::from_utf8_lossy(&self.received[..length]).into_owned();
                self.received.drain(..length);
                return Ok(code);
            }
            if self.received.len() > REPLIES_LIMIT {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the reply is too long"));
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

async fn limited<T>(exchange: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(LIMIT, exchange).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Returns the code and the length of the first reply, once it is complete (RFC 5321 §4.2).
fn complete(received: &[u8]) -> io::Result<Option<(u16, usize)>> {
    let mut length = 0;
    for line in received.split_inclusive(|byte| *byte == b'\n') {
        length += line.len();
        if !line.ends_with(b"\n") {
            break;
        }
        if line.get(3) == Some(&b'-') {
            continue;
        }
        let code = line.get(..3).and_then(|code| std::str::from_utf8(code).ok()?.parse().ok());
        return match code {
            Some(code) => Ok(Some((code, length))),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "not a reply")),
        };
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::options::tests::options;

    #[test]
    fn each_mail_has_its_own_number_in_all_places() {
        let mut mail = Mail::new(&options("--submission --recipients 2 --domains 3"));
        for (number, domain) in [(7, 1), (4_000_000_008, 0)] {
            mail.set_number(number);
            let commands = String::from_utf8(mail.commands.clone()).unwrap();
            let rcpt = |n| format!("RCPT TO:<n{number:010}.00{n}@d0000{domain}.bench.test>\r\n");
            let expected = format!("MAIL FROM:<bench@sender.bench.test>\r\n{}{}DATA\r\n", rcpt(0), rcpt(1));
            assert_eq!(commands, expected);
            let content = String::from_utf8(mail.content.clone()).unwrap();
            for line in [format!("X-Bench-Id: {number:010}"), format!("Subject: Bench {number:010}")] {
                assert!(content.contains(&format!("\r\n{line}\r\n")), "{content}");
            }
            assert!(content.ends_with("\r\n.\r\n") && !content.contains("@@"), "{content}");
            assert!(!content.replace("\r\n", "").contains('\n'), "each line ends with CRLF");
        }
    }

    #[test]
    fn reply_is_complete_with_its_last_line() {
        let replies = b"250-bench\r\n250 PIPELINING\r\n354 go\r\n";
        assert_eq!(complete(replies).unwrap(), Some((250, 27)));
        assert_eq!(complete(&replies[27..]).unwrap(), Some((354, 8)));
        assert_eq!(complete(&replies[..26]).unwrap(), None);
        assert!(complete(b"nonsense\r\n").is_err());
    }
}
