//! Records the conversation of each message, in case it fails. The buffers belong to the connection and are reused, so
//! that recording a message costs a few short copies and no allocation; the transcript of a successful message is
//! overwritten by the next one.
//!
//! The message and credentials are never recorded: [`super::wire::Wire::write`] records nothing, and its callers record
//! what may be shown.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::reply::RawReply;
use crate::domain::delivery::conversation::{Conversation, Direction, Line, MAX_BYTES, MAX_LINE, MAX_LINES};

/// The transcript of a connection. Shared, so that it remains if the future that uses the connection is dropped.
#[derive(Debug, Clone)]
pub(in crate::smtp) struct Transcript(Arc<Mutex<Recording>>);

#[derive(Debug)]
struct Recording {
    started: Instant,
    /// The texts of the first lines, one after the other.
    text: String,
    /// The first lines, up to half of the limits.
    first: Vec<Entry>,
    /// The last lines. Empty, unless a conversation is very long.
    last: VecDeque<(Entry, String)>,
    omitted: u32,
}

/// A recorded line.
#[derive(Debug, Clone, Copy)]
struct Entry {
    at_ms: u32,
    direction: Direction,
    /// Length of the text in bytes.
    length: usize,
}

impl Default for Transcript {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Recording {
            started: Instant::now(),
            text: String::new(),
            first: Vec::new(),
            last: VecDeque::new(),
            omitted: 0,
        })))
    }
}

impl Transcript {
    /// Forgets the conversation, and starts the next one.
    pub fn restart(&self) {
        let mut recording = self.0.lock();
        recording.started = Instant::now();
        recording.clear();
    }

    /// Records a note.
    pub fn note(&self, text: impl fmt::Display) {
        self.0.lock().record(Direction::Note, format_args!("{text}"));
    }

    /// Records commands, each ending with CRLF.
    pub fn sent(&self, commands: &str) {
        let mut recording = self.0.lock();
        for command in commands.lines() {
            recording.record(Direction::Sent, format_args!("{command}"));
        }
    }

    /// Records that a message of this many bytes was sent, without its text.
    pub fn sent_message(&self, bytes: usize) {
        self.0.lock().record(Direction::Sent, format_args!("(message of {bytes} bytes)"));
    }

    /// Records a reply.
    pub fn received(&self, reply: &RawReply) {
        fn unchanged(line: &str) -> Cow<'_, str> {
            Cow::Borrowed(line)
        }
        self.received_as(reply, unchanged);
    }

    /// Records a reply whose lines are changed by `shown`.
    pub fn received_as(&self, reply: &RawReply, shown: impl Fn(&str) -> Cow<'_, str>) {
        let mut recording = self.0.lock();
        let mut lines = reply.lines().peekable();
        while let Some(line) = lines.next() {
            let separator = if lines.peek().is_some() { '-' } else { ' ' };
            recording.record(Direction::Received, format_args!("{}{separator}{}", reply.code, shown(line)));
        }
    }

    /// Returns the conversation, and forgets it.
    pub fn take(&self) -> Conversation {
        let mut recording = self.0.lock();
        let mut start = 0;
        let mut lines = Vec::with_capacity(recording.first.len() + recording.last.len());
        for entry in &recording.first {
            lines.push(Line::new(entry.at_ms, entry.direction, &recording.text[start..start + entry.length]));
            start += entry.length;
        }
        lines.extend(recording.last.iter().map(|(entry, text)| Line::new(entry.at_ms, entry.direction, text)));
        let conversation = Conversation::new(lines, recording.omitted, recording.first.len());
        recording.clear();
        conversation
    }
}

impl Recording {
    fn clear(&mut self) {
        self.text.clear();
        self.first.clear();
        self.last.clear();
        self.omitted = 0;
    }

    fn record(&mut self, direction: Direction, text: fmt::Arguments<'_>) {
        let at_ms = u32::try_from(self.started.elapsed().as_millis()).unwrap_or(u32::MAX);
        let (start, is_full) = (self.text.len(), !self.last.is_empty());
        // Writing to a string cannot fail.
        let _ = self.text.write_fmt(text);
        let length = self.text[start..].floor_char_boundary(MAX_LINE);
        let entry = Entry { at_ms, direction, length };
        if !is_full && self.first.len() < MAX_LINES / 2 && start + length <= MAX_BYTES / 2 {
            self.text.truncate(start + length);
            self.first.push(entry);
            return;
        }
        self.last.push_back((entry, self.text[start..start + length].to_owned()));
        self.text.truncate(start);
        if self.last.len() > MAX_LINES / 2 {
            self.last.pop_front();
            self.omitted += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(conversation: &Conversation) -> Vec<String> {
        conversation.lines.iter().map(|line| format!("{} {}", line.1.as_str(), line.2)).collect()
    }

    #[test]
    fn commands_and_replies_are_recorded_line_by_line() {
        let transcript = Transcript::default();
        transcript.note("connected");
        transcript.sent("MAIL FROM:<a@b.test>\r\nDATA\r\n");
        transcript.received(&RawReply { code: 250, first_code: 250, text: "first\nsecond".into() });
        let taken = transcript.take();
        assert_eq!(texts(&taken), ["* connected", "> MAIL FROM:<a@b.test>", "> DATA", "< 250-first", "< 250 second"]);
        assert_eq!(transcript.take(), Conversation::default());
    }

    #[test]
    fn next_message_starts_with_an_empty_transcript() {
        let transcript = Transcript::default();
        transcript.sent(&"RCPT TO:<x@y.test>\r\n".repeat(80));
        transcript.restart();
        transcript.sent("NOOP\r\n");
        assert_eq!(texts(&transcript.take()), ["> NOOP"]);
    }

    #[test]
    fn long_conversation_keeps_its_ends() {
        let transcript = Transcript::default();
        (0..500).for_each(|n| transcript.note(format_args!("{n} {}", "x".repeat(n))));
        let taken = transcript.take();
        assert!(taken.lines.len() <= MAX_LINES);
        assert_eq!(taken.lines.len() + taken.omitted as usize, 500);
        assert!(taken.lines[0].2.starts_with("0 ") && taken.lines.last().unwrap().2.starts_with("499 "));
    }
}
