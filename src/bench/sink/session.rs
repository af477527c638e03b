//! One SMTP session of the sink (RFC 5321), with PIPELINING (RFC 2920): replies are written once no complete command is
//! left to read. Only the beginning of a message is kept, for its number.

use std::io;
use std::time::Duration;

use memchr::memmem::Finder;
use memchr::{memchr, memmem};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::tally::Tally;
use crate::bench::mail::{self, Recipient};
use crate::clock::Uptime;

/// How many bytes of a message are kept: the fields of a signature and the message's own header.
const HEAD: usize = 8 << 10;
/// Maximum length of a command.
const LINE: usize = 4 << 10;
/// Maximum size of one read.
const READ: usize = 64 << 10;
const END: &[u8] = b"\r\n.\r\n";

pub(super) struct Session<'a> {
    stream: TcpStream,
    tally: &'a Tally,
    /// What was read, and how much of it is processed.
    input: Vec<u8>,
    used: usize,
    replies: Vec<u8>,
    recipients: Vec<Recipient>,
    /// The beginning of the message that is being read; `None` between messages.
    head: Option<Vec<u8>>,
    /// When the first byte after the last message came.
    first_octet: Option<Duration>,
    end: Finder<'static>,
}

/// What to do next.
enum Next {
    Read,
    Close,
}

impl<'a> Session<'a> {
    pub(super) fn new(stream: TcpStream, tally: &'a Tally) -> Self {
        Self {
            stream,
            tally,
            input: Vec::with_capacity(READ),
            used: 0,
            replies: b"220 sink.bench.test ESMTP\r\n".to_vec(),
            recipients: Vec::new(),
            head: None,
            first_octet: None,
            end: memmem::Finder::new(END),
        }
    }

    /// Serves the session until it ends.
    pub(super) async fn run(mut self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        loop {
            let next = self.work();
            if !self.replies.is_empty() {
                self.stream.write_all(&self.replies).await?;
                self.replies.clear();
            }
            if let Next::Close = next {
                return Ok(());
            }
            self.input.drain(..self.used);
            self.used = 0;
            self.input.reserve(READ);
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Ok(());
            }
            self.first_octet.get_or_insert_with(|| Uptime::now().since_boot());
        }
    }

    /// Processes what was read.
    fn work(&mut self) -> Next {
        loop {
            if self.head.is_some() {
                if !self.text() {
                    return Next::Read;
                }
                if self.taken() {
                    return Next::Close;
                }
                continue;
            }
            let rest = &self.input[self.used..];
            let Some(end) = memchr(b'\n', rest) else {
                return if rest.len() > LINE { Next::Close } else { Next::Read };
            };
            let (line, after) = (self.used..self.used + end, self.used + end + 1);
            self.used = after;
            if let Next::Close = self.command(line) {
                return Next::Close;
            }
        }
    }

    /// Replies to a command.
    fn command(&mut self, line: std::ops::Range<usize>) -> Next {
        let line = &self.input[line];
        let is = |verb: &[u8]| line.get(..4).is_some_and(|word| word.eq_ignore_ascii_case(verb));
        let reply: &[u8] = if is(b"RCPT") {
            let recipient = mail::recipient(path(line));
            if self.tally.refuses(recipient) {
                b"550 5.1.1 nobody of this name\r\n"
            } else {
                self.recipients.push(recipient);
                b"250 2.1.5 ok\r\n"
            }
        } else if is(b"MAIL") || is(b"RSET") {
            self.recipients.clear();
            b"250 2.1.0 ok\r\n"
        } else if is(b"DATA") && self.recipients.is_empty() {
            b"554 5.5.1 no valid recipients\r\n"
        } else if is(b"DATA") {
            self.head = Some(Vec::new());
            b"354 go ahead\r\n"
        } else if is(b"EHLO") {
            b"250-sink.bench.test\r\n250-PIPELINING\r\n250-ENHANCEDSTATUSCODES\r\n250-SMTPUTF8\r\n250 8BITMIME\r\n"
        } else if is(b"QUIT") {
            b"221 2.0.0 bye\r\n"
        } else if is(b"NOOP") || is(b"HELO") {
            b"250 2.0.0 ok\r\n"
        } else {
            b"500 5.5.1 no such command\r\n"
        };
        let next = if is(b"QUIT") { Next::Close } else { Next::Read };
        self.replies.extend_from_slice(reply);
        next
    }

    /// Reads more of the message. Returns whether its end was found.
    fn text(&mut self) -> bool {
        let rest = &self.input[self.used..];
        let found = self.end.find(rest);
        // Keeps bytes that may be the start of the end marker.
        let taken = found.unwrap_or_else(|| rest.len().saturating_sub(END.len() - 1));
        if let Some(head) = &mut self.head {
            let room = HEAD.saturating_sub(head.len()).min(taken);
            head.extend_from_slice(&rest[..room]);
        }
        self.used += taken + found.map_or(0, |_| END.len());
        found.is_some()
    }

    /// Counts the message. Returns whether the session ends without a reply.
    fn taken(&mut self) -> bool {
        let head = self.head.take().unwrap_or_default();
        let first_octet = self.first_octet.take().unwrap_or_default();
        self.tally.take(&head, &self.recipients, first_octet);
        self.recipients.clear();
        if self.tally.hangs_up() {
            self.replies.clear();
            return true;
        }
        self.replies.extend_from_slice(b"250 2.0.0 accepted\r\n");
        false
    }
}

/// The text between the angle brackets.
fn path(line: &[u8]) -> &[u8] {
    let start = memchr(b'<', line).map_or(line.len(), |at| at + 1);
    let rest = &line[start..];
    &rest[..memchr(b'>', rest).unwrap_or(rest.len())]
}
