//! `--submission`: a minimal SMTP client that submits messages over a connection that has signed in with an API key. It sends
//! the commands of a message in one write (RFC 2920), and its content in another one.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::memmem;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::mail::{DIGITS, DOMAIN, HEADER, NUMBER, SENDER_DOMAIN, address, text};
use crate::bench::options::Options;

/// Time limit of a message.
const LIMIT: Duration = Duration::from_mins(1);
/// Size limit of the replies to the commands of a message.
const REPLIES_LIMIT: usize = 64 << 10;

/// A message to submit, which gets the number of each message in turn.
#[derive(Debug, Clone)]
pub(in crate::bench) struct Mail {
    /// The commands, up to DATA.
    commands: Vec<u8>,
    /// The content, with the final dot.
    content: Vec<u8>,
    recipients: usize,
    domain_count: u64,
}

impl Mail {
    /// Builds the message.
    pub(in crate::bench) fn new(options: &Options) -> Self {
        let to: Vec<String> = (0..options.recipients).map(address).collect();
        let rcpt: Vec<String> = to.iter().map(|address| format!("RCPT TO:<{address}>\r\n")).collect();
        let text = text(options.size as usize).replace('\n', "\r\n");
        Self {
            commands: format!("MAIL FROM:<bench@{SENDER_DOMAIN}>\r\n{}DATA\r\n", rcpt.concat()).into_bytes(),
            content: format!(
                "From: Bench <bench@{SENDER_DOMAIN}>\r\nTo: {}\r\nSubject: Bench {NUMBER}\r\n{HEADER}: {NUMBER}\r\n\r\n{text}\r\n.\r\n",
                to.join(",\r\n ")
            )
            .into_bytes(),
            recipients: to.len(),
            domain_count: options.domains.into(),
        }
    }

    /// Returns the message with this number.
    pub(in crate::bench) fn numbered(&self, number: u64) -> Self {
        let (digits, domain) = (format!("{number:010}"), format!("d{:05}", number % self.domain_count));
        let mut mail = self.clone();
        for part in [&mut mail.commands, &mut mail.content] {
            replace(part, NUMBER, &digits);
            replace(part, DOMAIN, &domain);
        }
        mail
    }
}

/// Replaces a placeholder by a text of the same length.
fn replace(part: &mut [u8], placeholder: &str, text: &str) {
    debug_assert!(placeholder.len() == text.len() && NUMBER.len() == DIGITS, "each text is as long as its placeholder");
    let places: Vec<usize> = memmem::find_iter(part, placeholder).collect();
    for at in places {
        part[at..at + text.len()].copy_from_slice(text.as_bytes());
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
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut session = Self { stream, received: Vec::with_capacity(4_096), reply: String::new() };
        let login = STANDARD.encode(format!("\0bench\0{key}"));
        for (command, expected) in
            [(String::new(), 220), ("EHLO bench.test\r\n".to_owned(), 250), (format!("AUTH PLAIN {login}\r\n"), 235)]
        {
            session.stream.write_all(command.as_bytes()).await?;
            let code = session.next_reply().await?;
            if code != expected {
                return Err(io::Error::other(format!("the server replied {}", session.reply.trim_end())));
            }
        }
        Ok(session)
    }

    /// Submits a message, and returns the code of the reply that decides: the one to the content, or the first that refuses a
    /// command. After an error, and after any other code than 250, the caller must drop the connection.
    pub(in crate::bench) async fn submit(&mut self, mail: &Mail) -> io::Result<u16> {
        tokio::time::timeout(LIMIT, async {
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
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
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
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn each_mail_has_its_own_number_in_all_places() {
        let options = Line::try_parse_from("bench --submission --recipients 2 --domains 3".split(' ')).unwrap().options;
        let mail = Mail::new(&options).numbered(7);
        let commands = String::from_utf8(mail.commands).unwrap();
        let expected = "MAIL FROM:<bench@sender.bench.test>\r\nRCPT TO:<n0000000007.000@d00001.bench.test>\r\n\
                        RCPT TO:<n0000000007.001@d00001.bench.test>\r\nDATA\r\n";
        assert_eq!(commands, expected);
        let content = String::from_utf8(mail.content).unwrap();
        assert!(
            content.contains("\r\nX-Bench-Id: 0000000007\r\n") && content.contains("Subject: Bench 0000000007\r\n")
        );
        assert!(content.ends_with("\r\n.\r\n") && !content.contains("@@"), "{content}");
        assert!(!content.replace("\r\n", "").contains('\n'), "each line ends with CRLF");
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
