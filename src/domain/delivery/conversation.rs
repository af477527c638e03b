//! The SMTP conversation of an attempt: commands, replies and notes, bounded, without the message and credentials.

use serde::{Deserialize, Serialize};

use crate::domain::outcome::escaped;

/// Maximum number of lines. Half of them are the first lines, the others the last ones.
pub const MAX_LINES: usize = 100;
/// Maximum number of bytes of all lines. Half of them are for the first lines.
pub const MAX_BYTES: usize = 8 << 10;
/// Maximum number of bytes of a line; longer ones are truncated.
pub const MAX_LINE: usize = 512;

/// Replacement for a secret.
const REMOVED: &str = "[removed]";
/// Minimum length of a part of a secret that is removed: one more than that of its replacement, so that no line gets
/// longer.
const MIN_PART: usize = 10;

/// Who a line is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// Sent by Postrider.
    #[serde(rename = ">")]
    Sent,
    /// Sent by the server.
    #[serde(rename = "<")]
    Received,
    /// A note of Postrider, such as the address that it connected to, or an error.
    #[serde(rename = "*")]
    Note,
}

impl Direction {
    /// Returns the direction as a sign.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sent => ">",
            Self::Received => "<",
            Self::Note => "*",
        }
    }
}

/// A line of a conversation: milliseconds since the start of the attempt at a server, direction, and text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line(pub u32, pub Direction, pub String);

impl Line {
    /// Creates a line. Truncates the text, and escapes its unprintable characters.
    pub fn new(at_ms: u32, direction: Direction, text: &str) -> Self {
        let text = escaped(text);
        Self(at_ms, direction, text[..text.floor_char_boundary(MAX_LINE)].to_owned())
    }
}

/// A conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversation {
    /// The first and the last lines.
    pub lines: Vec<Line>,
    /// The number of lines between them that were left out.
    pub omitted: u32,
    /// The number of first lines, if any were left out.
    pub omitted_after: usize,
}

impl Conversation {
    /// Creates a conversation from lines, of which `omitted` were left out after the first `omitted_after`.
    pub fn new(lines: Vec<Line>, omitted: u32, omitted_after: usize) -> Self {
        let mut conversation = Self { lines, omitted, omitted_after: if omitted > 0 { omitted_after } else { 0 } };
        conversation.limit();
        conversation
    }

    /// Adds the conversation with another server, or a further one with the same server.
    pub fn append(&mut self, next: Self) {
        if self.omitted == 0 && next.omitted > 0 {
            self.omitted_after = self.lines.len() + next.omitted_after;
        }
        self.lines.extend(next.lines);
        self.omitted += next.omitted;
        self.limit();
    }

    /// Removes a secret of letters and digits, in upper or lower case, and long parts of it, because lines may have been
    /// truncated.
    pub fn remove(&mut self, secret: &str) {
        let secret = secret.to_ascii_lowercase();
        if secret.len() >= MIN_PART {
            self.lines.iter_mut().for_each(|line| line.2 = without(&line.2, &secret));
        }
    }

    /// Leaves out the lines in the middle that exceed the limits.
    fn limit(&mut self) {
        let size = |line: &Line| line.2.len();
        if self.lines.len() <= MAX_LINES && self.lines.iter().map(size).sum::<usize>() <= MAX_BYTES {
            return;
        }
        let fitting = |lines: &mut dyn Iterator<Item = &Line>| {
            let mut bytes = 0;
            lines
                .take(MAX_LINES / 2)
                .take_while(|line| {
                    bytes += size(line);
                    bytes <= MAX_BYTES / 2
                })
                .count()
        };
        let most = if self.omitted > 0 { self.omitted_after } else { self.lines.len() };
        let first = fitting(&mut self.lines.iter().take(most));
        let last = fitting(&mut self.lines[first..].iter().rev());
        let removed = self.lines.drain(first..self.lines.len() - last).count();
        self.omitted += u32::try_from(removed).unwrap_or(u32::MAX);
        self.omitted_after = first;
    }
}

/// Returns the text without the words that contain the secret, in lower case, or are a part of it.
fn without(text: &str, secret: &str) -> String {
    let is_secret = |word: &str| {
        let word = word.to_ascii_lowercase();
        word.len() >= MIN_PART && (word.contains(secret) || secret.contains(&word))
    };
    let is_separator = |c: char| !c.is_ascii_alphanumeric();
    let mut kept = String::with_capacity(text.len());
    for piece in text.split_inclusive(is_separator) {
        let word = piece.trim_end_matches(is_separator);
        kept.push_str(if is_secret(word) { REMOVED } else { word });
        kept.push_str(&piece[word.len()..]);
    }
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn middle_of_a_long_conversation_is_left_out() {
        let line = |n: u32| Line::new(n, Direction::Sent, &format!("RCPT {n}"));
        let conversation = Conversation::new((0..150).map(line).collect(), 0, 0);
        let Conversation { lines, omitted, omitted_after } = &conversation;
        assert_eq!((lines.len(), *omitted, *omitted_after), (MAX_LINES, 50, 50));
        assert_eq!((conversation.lines[49].0, conversation.lines[50].0, conversation.lines[99].0), (49, 100, 149));
    }

    #[test]
    fn lines_are_printable_and_truncated() {
        assert_eq!(Line::new(1, Direction::Received, "550 \u{1b}[31mno\0").2, "550 \\x1b[31mno\\x00");
        assert_eq!(Line::new(1, Direction::Received, &"ä".repeat(400)).2.len(), MAX_LINE);
    }

    #[test]
    fn secret_is_removed_from_all_lines() {
        const SECRET: &str = "agn3yk7rqj5hx2mzvt4c6wbd";
        let texts = [
            format!("MAIL FROM:<b+{SECRET}@bounces.test> SIZE=512 ENVID={SECRET}"),
            format!("<B+{}@bounces.test>: sender refused", SECRET.to_uppercase()),
            format!("truncated <b+{}", &SECRET[..20]),
            "550 5.1.1 unknown".to_owned(),
        ];
        let lines = texts.iter().map(|text| Line::new(0, Direction::Sent, text)).collect();
        let mut conversation = Conversation::new(lines, 0, 0);
        conversation.remove(SECRET);
        let texts: Vec<&str> = conversation.lines.iter().map(|line| line.2.as_str()).collect();
        assert_eq!(
            texts,
            [
                "MAIL FROM:<b+[removed]@bounces.test> SIZE=512 ENVID=[removed]",
                "<B+[removed]@bounces.test>: sender refused",
                "truncated <b+[removed]",
                "550 5.1.1 unknown",
            ]
        );
    }

    #[test]
    fn conversation_is_stored_as_short_json() {
        let conversation = Conversation::new(vec![Line::new(12, Direction::Sent, "QUIT")], 0, 0);
        let json = serde_json::to_value(&conversation).unwrap();
        assert_eq!(json, serde_json::json!({"lines": [[12, ">", "QUIT"]], "omitted": 0, "omitted_after": 0}));
        assert_eq!(serde_json::from_value::<Conversation>(json).unwrap(), conversation);
    }

    proptest! {
        #[test]
        fn conversation_is_bounded_and_keeps_both_ends(parts in prop::collection::vec(prop::collection::vec(".{0,600}", 0..80), 0..4)) {
            let count = parts.iter().map(Vec::len).sum::<usize>();
            let mut conversation = Conversation::default();
            for part in &parts {
                let lines = part.iter().map(|text| Line::new(0, Direction::Note, text)).collect();
                conversation.append(Conversation::new(lines, 0, 0));
            }
            prop_assert!(conversation.lines.len() <= MAX_LINES);
            prop_assert!(conversation.lines.iter().map(|line| line.2.len()).sum::<usize>() <= MAX_BYTES);
            prop_assert_eq!(conversation.lines.len() + conversation.omitted as usize, count);
            if let Some(last) = parts.iter().flatten().last() {
                prop_assert_eq!(&conversation.lines.last().unwrap().2, &Line::new(0, Direction::Note, last).2);
            }
        }
    }
}
