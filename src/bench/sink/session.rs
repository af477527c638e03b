//! One SMTP session of the sink (RFC 5321), with PIPELINING (RFC 2920): replies are written once all complete
//! commands have been processed. Only the beginning of a message is stored, to read its number.

use std::io;
use std::time::Duration;

use memchr::memmem::Finder;
use memchr::{memchr, memmem};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::tally::Tally;
use crate::bench::client::mail::{self, Recipient};
use crate::clock::Uptime;

/// Maximum stored bytes of a message: enough for its header with the signatures.
const HEAD: usize = 8 << 10;
/// Maximum length of a command.
const LINE: usize = 4 << 10;
/// Maximum size of one read.
const READ: usize = 64 << 10;
const END: &[u8] = b"\r\n.\r\n";

pub(super) struct Session<'a> {
    stream: TcpStream,
    tally: &'a Tally,
    /// Bytes that were read.
    input: Vec<u8>,
    /// The number of bytes of `input` that have been processed.
    used: usize,
    replies: Vec<u8>,
    recipients: Vec<Recipient>,
    /// The beginning of the message that is being read; `None` between messages.
    head: Option<Vec<u8>>,
    /// When the first byte after the last message arrived.
    first_byte: Option<Duration>,
    end: Finder<'static>,
}

/// The action that follows the processing of the input.
enum Step {
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
            first_byte: None,
            end: memmem::Finder::new(END),
        }
    }

    /// Serves the session until it ends.
    pub(super) async fn run(mut self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        loop {
            let step = self.process_input();
            if !self.replies.is_empty() {
                self.stream.write_all(&self.replies).await?;
                self.replies.clear();
            }
            if let Step::Close = step {
                return Ok(());
            }
            self.input.drain(..self.used);
            self.used = 0;
            self.input.reserve(READ);
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Ok(());
            }
            self.first_byte.get_or_insert_with(|| Uptime::now().since_boot());
        }
    }

    /// Processes the complete commands and message bytes in the input.
    fn process_input(&mut self) -> Step {
        loop {
            if self.head.is_some() {
                if !self.read_body() {
                    return Step::Read;
                }
                if self.finish_message() {
                    return Step::Close;
                }
                continue;
            }
            let rest = &self.input[self.used..];
            let Some(end) = memchr(b'\n', rest) else {
                return if rest.len() > LINE { Step::Close } else { Step::Read };
            };
            let (line, after) = (self.used..self.used + end, self.used + end + 1);
            self.used = after;
            if let Step::Close = self.command(line) {
                return Step::Close;
            }
        }
    }

    /// Replies to a command.
    fn command(&mut self, line: std::ops::Range<usize>) -> Step {
        let line = &self.input[line];
        let is = |verb: &[u8]| line.get(..4).is_some_and(|word| word.eq_ignore_ascii_case(verb));
        let reply: &[u8] = if is(b"RCPT") {
            let recipient = mail::recipient(path(line));
            if self.tally.must_refuse(recipient) {
                b"550 5.1.1 no such user\r\n"
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
        let step = if is(b"QUIT") { Step::Close } else { Step::Read };
        self.replies.extend_from_slice(reply);
        step
    }

    /// Reads more of the message. Returns whether its end was found.
    fn read_body(&mut self) -> bool {
        let rest = &self.input[self.used..];
        let found = self.end.find(rest);
        // Leaves bytes that may be the start of the end marker.
        let used = found.unwrap_or_else(|| rest.len().saturating_sub(END.len() - 1));
        if let Some(head) = &mut self.head {
            let stored = HEAD.saturating_sub(head.len()).min(used);
            head.extend_from_slice(&rest[..stored]);
        }
        self.used += used + found.map_or(0, |_| END.len());
        found.is_some()
    }

    /// Counts the message. Returns whether the session ends without a reply.
    fn finish_message(&mut self) -> bool {
        let head = self.head.take().unwrap_or_default();
        let first_byte = self.first_byte.take().unwrap_or_default();
        self.tally.record(&head, &self.recipients, first_byte);
        self.recipients.clear();
        if self.tally.must_disconnect() {
            self.replies.clear();
            return true;
        }
        self.replies.extend_from_slice(b"250 2.0.0 accepted\r\n");
        false
    }
}

/// Returns the text between the angle brackets.
fn path(line: &[u8]) -> &[u8] {
    let start = memchr(b'<', line).map_or(line.len(), |at| at + 1);
    let rest = &line[start..];
    &rest[..memchr(b'>', rest).unwrap_or(rest.len())]
}
