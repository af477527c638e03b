//! The outcome of one attempt for one recipient: the verdict, the reply, the server, and the stage at which it was
//! decided. A reply is parsed here, with its enhanced code (RFC 3463), and [`Outcome::signal`] returns what an outcome
//! shows about the destination.
//!
//! Verdicts are not decided here. Whether a refusal is temporary is decided in
//! [`domain::bounce::verdict`](super::bounce::verdict). Without a valid reply, the SMTP client decides: a failure to
//! reach the remote server is temporary, unless the DNS shows that the domain accepts no messages. So is an invalid
//! reply, except the one to the final dot, after which the outcome is uncertain.

pub mod retry_hint;

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use super::provider::Provider;

/// What to do with a recipient if the connection drops between the final dot and its reply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnUncertain {
    /// Send again with the same `Message-ID`: a duplicate is possible, a loss is not.
    #[default]
    Retry,
    /// Hold the recipient until an operator retries it with `POST …/retry`.
    Hold,
    /// Never send again: a loss is possible, a duplicate is not.
    Fail,
}

impl OnUncertain {
    /// Returns the value's name in SQL, JSON and documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Hold => "hold",
            Self::Fail => "fail",
        }
    }
}

impl FromStr for OnUncertain {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        [Self::Retry, Self::Hold, Self::Fail].into_iter().find(|o| o.as_str() == word).ok_or(())
    }
}

/// An enhanced status code, `class.subject.detail` (RFC 3463 §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnhancedCode {
    /// The class: 2, 4 or 5.
    pub class: u8,
    /// The subject: 0–999.
    pub subject: u16,
    /// The detail: 0–999.
    pub detail: u16,
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

impl FromStr for EnhancedCode {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let number = |part: &str| {
            let plain = (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| part.parse::<u16>().ok()).flatten().ok_or(())
        };
        let mut parts = text.split('.');
        let (class, subject, detail) = (parts.next(), parts.next(), parts.next());
        if parts.next().is_some() {
            return Err(());
        }
        let class = match class {
            Some("2") => 2,
            Some("4") => 4,
            Some("5") => 5,
            _ => return Err(()),
        };
        Ok(Self { class, subject: number(subject.ok_or(())?)?, detail: number(detail.ok_or(())?)? })
    }
}

/// The remote server's reply to a command, or a description of the local error if there was none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The reply code, 200–599. `None` if there was no reply, such as after a refused connection or a timeout; then
    /// `text` describes the error.
    pub code: Option<u16>,
    /// The enhanced code, if the text begins with one of the reply code's class.
    pub enhanced: Option<EnhancedCode>,
    /// The text of all lines without their enhanced codes, joined by `\n`; at most [`Reply::TEXT_LIMIT`] bytes.
    pub text: String,
}

impl Reply {
    /// The maximum length of `text` in bytes; longer texts are truncated.
    pub const TEXT_LIMIT: usize = 2_000;

    /// Creates a reply that describes a local error, without a code.
    pub fn local_error(text: impl Into<String>) -> Self {
        Self { code: None, enhanced: None, text: text.into() }.limited()
    }

    /// Creates a reply that describes a local error, with an enhanced code such as 5.1.10 for a null MX.
    pub fn local_error_with(class: u8, subject: u16, detail: u16, text: impl Into<String>) -> Self {
        Self { code: None, enhanced: Some(EnhancedCode { class, subject, detail }), text: text.into() }.limited()
    }

    /// Parses a reply's code and lines.
    pub fn from_lines<'a>(code: u16, lines: impl Iterator<Item = &'a str>) -> Self {
        let mut enhanced = None;
        let mut text = String::new();
        for (index, line) in lines.enumerate() {
            if index > 0 {
                text.push('\n');
            }
            text.push_str(strip_enhanced(code, line, &mut enhanced));
        }
        Self { code: Some(code), enhanced, text }.limited()
    }

    /// Returns the code in the type of its column.
    pub fn stored_code(&self) -> Option<i16> {
        i16::try_from(self.code?).ok()
    }

    /// Replaces the text.
    #[must_use]
    pub fn with_text(self, text: impl Into<String>) -> Self {
        Self { text: text.into(), ..self }.limited()
    }

    /// Prepends the text of an earlier reply that caused this one.
    #[must_use]
    pub fn after(self, cause: &Self) -> Self {
        let text = format!("{}; then: {}", cause.text, self.text);
        self.with_text(text)
    }

    /// Returns whether a refusal is greylisting.
    pub fn is_greylisting(&self) -> bool {
        // rspamd uses only this text for greylisting.
        let is_rspamd = || {
            let code = Some(EnhancedCode { class: 4, subject: 7, detail: 1 });
            // Postrider appends its own notes in further lines.
            let text = self.text.lines().next().unwrap_or_default().trim().trim_end_matches('.');
            (self.code, self.enhanced) == (Some(451), code) && text.eq_ignore_ascii_case("try again later")
        };
        retry_hint::mentions_greylisting(&self.text) || is_rspamd()
    }

    fn limited(mut self) -> Self {
        // The text of a server must not make a commit fail (NUL), control a terminal (ESC) or reverse the text
        // direction.
        if !self.text.bytes().all(is_plain) && self.text.contains(is_unprintable) {
            self.text = printable(&self.text);
        }
        if self.text.len() > Self::TEXT_LIMIT {
            let mut end = Self::TEXT_LIMIT;
            while !self.text.is_char_boundary(end) {
                end -= 1;
            }
            self.text.truncate(end);
        }
        self
    }
}

/// Returns whether a byte is printable ASCII, a line end or a tab.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~' | b'\n' | b'\t')
}

/// Returns whether a character is not printable. Line ends, which separate the lines of a reply, and tabs count as
/// printable.
fn is_unprintable(letter: char) -> bool {
    let is_control = letter.is_control() && !matches!(letter, '\n' | '\t');
    is_control || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns a server's text with unprintable characters escaped, as in [`Reply::text`].
pub fn escaped(text: &str) -> Cow<'_, str> {
    if text.contains(is_unprintable) { Cow::Owned(printable(text)) } else { Cow::Borrowed(text) }
}

/// Escapes unprintable characters in the form `\x1b` or `\u{202e}`.
fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        match u32::from(letter) {
            _ if !is_unprintable(letter) => printable.push(letter),
            // Writing to a string cannot fail.
            code @ 0..=0xff => drop(write!(printable, "\\x{code:02x}")),
            code => drop(write!(printable, "\\u{{{code:x}}}")),
        }
    }
    printable
}

fn strip_enhanced<'a>(code: u16, line: &'a str, found: &mut Option<EnhancedCode>) -> &'a str {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match word.parse::<EnhancedCode>() {
        Ok(enhanced) if u16::from(enhanced.class) == code / 100 => {
            found.get_or_insert(enhanced);
            rest
        }
        _ => line,
    }
}

/// How an attempt for one recipient ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The server accepted the message: 2xx to the final dot.
    Accepted,
    /// The message was not accepted; a later attempt may succeed.
    Temporary,
    /// The server refused permanently.
    Permanent,
    /// The connection dropped after the final dot: the server may or may not have the message.
    Uncertain,
}

/// The remote server, and how the connection was secured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// The host name of the relay or MX.
    pub mx: Option<String>,
    /// The IP address of the connection.
    pub ip: Option<IpAddr>,
    /// Protocol and cipher, such as `TLSv1.3 TLS13_AES_256_GCM_SHA384`, followed by ` (MTA-STS enforce)` or another
    /// note on that policy; `None` for plain text.
    pub tls: Option<String>,
    /// Whether the server is a mail exchanger of the recipient's domain, and not a relay.
    pub is_final: bool,
}

impl Peer {
    /// Returns the mailbox provider that the server belongs to; a relay belongs to none.
    pub fn provider(&self) -> Provider {
        self.mx.as_deref().filter(|_| self.is_final).map_or(Provider::Other, Provider::from_mx)
    }
}

/// The stage of an attempt at which its outcome was decided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// DNS and TCP: no server was found or reached.
    #[default]
    Connect,
    /// Greeting, EHLO, STARTTLS and AUTH: no session was established.
    Session,
    /// MAIL: the reply is about the message as a whole.
    Mail,
    /// RCPT: the reply is about this recipient.
    Rcpt,
    /// DATA and the message body, before the final dot.
    Data,
    /// The final dot and its reply.
    FinalDot,
}

/// What an outcome shows about the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// No session could be established, so other messages would fail as well.
    Unreachable,
    /// The server throttles Postrider: it replied with 421, or with 4.7.x that is not greylisting.
    Throttled,
}

/// The outcome of one attempt for one recipient. `smtp::Sender::send` never fails: every failure is an
/// outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// How the attempt ended.
    pub verdict: Verdict,
    /// The server's reply, or the local error.
    pub reply: Reply,
    /// The remote server.
    pub peer: Peer,
    /// Duration of the attempt.
    pub duration: Duration,
    /// The stage at which the outcome was decided.
    pub stage: Stage,
}

impl Outcome {
    /// Returns what the outcome shows about the destination; `None` if it concerns only this message.
    pub fn signal(&self) -> Option<Signal> {
        if self.verdict != Verdict::Temporary {
            return None;
        }
        let is_policy = self.reply.enhanced.is_some_and(|code| (code.class, code.subject) == (4, 7));
        match self.reply.code {
            Some(421) => Some(Signal::Throttled),
            // Before MAIL, 4.7.x is about TLS and credentials.
            _ if self.stage <= Stage::Session => Some(Signal::Unreachable),
            Some(400..=499) if is_policy && !self.reply.is_greylisting() => Some(Signal::Throttled),
            _ => None,
        }
    }

    /// Returns whether the cause is local, so that no server was contacted: the message could not be prepared, or no
    /// route is configured.
    pub fn is_local(&self) -> bool {
        self.stage > Stage::Session && self.peer.mx.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reply_is_parsed() {
        let reply = Reply::from_lines(550, ["5.1.1 No such user", "5.1.1 here"].into_iter());
        assert_eq!(reply.enhanced, Some(EnhancedCode { class: 5, subject: 1, detail: 1 }));
        assert_eq!(reply.text, "No such user\nhere");
    }

    #[test]
    fn enhanced_code_of_another_class_is_text() {
        let reply = Reply::from_lines(550, ["4.7.1 odd"].into_iter());
        assert_eq!((reply.enhanced, reply.text.as_str()), (None, "4.7.1 odd"));
    }

    #[test]
    fn reply_text_is_truncated_between_characters() {
        let reply = Reply::local_error(format!("{}{}", "\0".repeat(1_000), "ä".repeat(2_000)));
        assert!(reply.text.len() <= Reply::TEXT_LIMIT);
        assert!(!reply.text.contains('\0'));
    }

    #[test]
    fn control_characters_of_a_reply_are_escaped() {
        let text = "\u{1b}]0;title\u{7}\u{1b}[31mred\rx\ty\u{9b}2J\u{202e}txt.exe\0";
        let reply = Reply::from_lines(550, [text, "second"].into_iter());
        assert_eq!(reply.text, "\\x1b]0;title\\x07\\x1b[31mred\\x0dx\ty\\x9b2J\\u{202e}txt.exe\\x00\nsecond");
    }

    fn refused(stage: Stage, code: u16, text: &str) -> Outcome {
        let peer = Peer { mx: Some("mx.test".into()), ..Peer::default() };
        let reply = Reply::from_lines(code, [text].into_iter());
        Outcome { verdict: Verdict::Temporary, reply, peer, duration: Duration::ZERO, stage }
    }

    #[test]
    fn replies_signal_throttling_or_unreachability() {
        use Signal::{Throttled, Unreachable};
        for (stage, code, text, signal) in [
            (Stage::Session, 421, "4.7.0 too many connections", Some(Throttled)),
            (Stage::Session, 454, "4.7.0 TLS not available", Some(Unreachable)),
            (Stage::Session, 535, "5.7.8 who are you?", Some(Unreachable)),
            (Stage::Mail, 450, "4.7.1 slow down", Some(Throttled)),
            (Stage::Rcpt, 421, "closing", Some(Throttled)),
            (Stage::Rcpt, 451, "4.7.1 Greylisted", None),
            (Stage::FinalDot, 451, "4.7.1 Try again later", None),
            (Stage::FinalDot, 451, "4.7.1 Try again later, you send too much", Some(Throttled)),
            (Stage::Rcpt, 450, "4.2.1 mailbox busy", None),
        ] {
            assert_eq!(refused(stage, code, text).signal(), signal, "{stage:?} {code} {text}");
        }
    }

    #[test]
    fn outcome_without_a_server_is_local() {
        let by_server = refused(Stage::Data, 451, "4.3.0 later");
        assert!(!by_server.is_local());
        assert!(Outcome { peer: Peer::default(), ..by_server.clone() }.is_local());
        let no_servers = Outcome { peer: Peer::default(), stage: Stage::Connect, ..by_server };
        assert!(!no_servers.is_local(), "a DNS failure is a failure of the destination");
    }
}
