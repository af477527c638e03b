//! Parses a line into a command (RFC 5321 §4.1.1). Any bytes yield either a command or a fault, which is sent as the
//! reply.

use std::fmt;

use super::path;

mod parameters;

/// A client's command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// `EHLO name`
    Ehlo(String),
    /// `HELO name`
    Helo(String),
    /// `MAIL FROM:<from> …`
    Mail(MailCommand),
    /// `RCPT TO:<to> …`
    Rcpt(RcptCommand),
    /// `DATA`
    Data,
    /// `BDAT size [LAST]`
    Bdat(BdatCommand),
    /// `RSET`
    Rset,
    /// `NOOP`
    Noop,
    /// `QUIT`
    Quit,
    /// `VRFY …`
    Vrfy,
    /// `HELP …`
    Help,
    /// `STARTTLS`
    StartTls,
    /// `AUTH mechanism [initial response]`
    Auth(AuthCommand),
}

/// An AUTH command (RFC 4954).
#[derive(Clone, PartialEq, Eq)]
pub(super) struct AuthCommand {
    /// The mechanism, in upper case.
    pub(super) mechanism: String,
    /// The initial response in base64, if the command contained one.
    pub(super) initial_response: Option<String>,
}

impl fmt::Debug for AuthCommand {
    /// Leaves out the response, which may contain a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthCommand").field("mechanism", &self.mechanism).finish_non_exhaustive()
    }
}

/// A MAIL command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct MailCommand {
    /// The reverse path; empty for the null sender.
    pub(super) from: String,
    /// Message size in bytes that the client announced (RFC 1870).
    pub(super) size: Option<u64>,
    /// Whether addresses and headers may be UTF-8 (RFC 6531).
    pub(super) smtputf8: bool,
    /// Whether the command has parameters of DSN (RFC 3461).
    pub(super) has_dsn: bool,
}

/// An RCPT command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RcptCommand {
    /// The forward path.
    pub(super) to: String,
    /// Whether the command has parameters of DSN (RFC 3461).
    pub(super) has_dsn: bool,
}

/// A BDAT command (RFC 3030).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BdatCommand {
    /// The size of the chunk that follows the command, in bytes.
    pub(super) size: u64,
    /// Whether it is the last chunk of the message.
    pub(super) is_last: bool,
}

/// The reply to a line that is not a valid command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CommandFault {
    /// The reply code.
    pub(super) code: u16,
    /// The enhanced code and the text.
    pub(super) text: &'static str,
}

const fn fault(code: u16, text: &'static str) -> CommandFault {
    CommandFault { code, text }
}

/// The reply to a command that this server does not offer, such as STARTTLS without a certificate.
pub(super) const NOT_OFFERED: CommandFault = fault(502, "5.5.1 This command is not offered");
const NO_ARGUMENT: CommandFault = fault(501, "5.5.4 This command takes no argument");
const NO_ARGUMENT_GIVEN: CommandFault = fault(501, "5.5.4 This command needs an argument");
const NO_NAME: CommandFault = fault(501, "5.5.4 The client's name is missing");
const BAD_MAIL: CommandFault = fault(501, "5.1.7 Bad sender: write MAIL FROM:<address>");
const BAD_RCPT: CommandFault = fault(501, "5.1.3 Bad recipient: write RCPT TO:<address>");
const BAD_PARAMETER: CommandFault = fault(501, "5.5.4 A parameter is malformed or given twice");
/// The reply to a parameter of an extension that is not offered.
pub(super) const UNKNOWN_PARAMETER: CommandFault = fault(555, "5.5.4 A parameter is not supported here");
/// The reply to a BDAT command whose chunk has no known end. The session must end: the bytes of the chunk are no commands.
pub(super) const BAD_CHUNK: CommandFault = fault(501, "5.5.4 Write BDAT SIZE or BDAT SIZE LAST");

/// Parses a line, which must not include its CRLF.
pub(super) fn parse(line: &[u8]) -> Result<Command, CommandFault> {
    // A chunk follows, whatever is wrong with the line.
    let malformed = |text| if begins_with_bdat(line) { BAD_CHUNK } else { fault(500, text) };
    let Ok(line) = std::str::from_utf8(line) else {
        return Err(malformed("5.5.2 The command is not UTF-8"));
    };
    if line.chars().any(char::is_control) {
        return Err(malformed("5.5.2 The command contains a control character"));
    }
    let (verb, argument) = line.split_once(' ').unwrap_or((line, ""));
    let argument = argument.trim();
    match verb.to_ascii_uppercase().as_str() {
        "EHLO" => client_name(argument).map(Command::Ehlo),
        "HELO" => client_name(argument).map(Command::Helo),
        "MAIL" => mail(argument).map(Command::Mail),
        "RCPT" => rcpt(argument).map(Command::Rcpt),
        "DATA" => without_argument(argument, Command::Data),
        "RSET" => without_argument(argument, Command::Rset),
        "QUIT" => without_argument(argument, Command::Quit),
        "NOOP" => Ok(Command::Noop),
        "VRFY" if argument.is_empty() => Err(NO_ARGUMENT_GIVEN),
        "VRFY" => Ok(Command::Vrfy),
        "HELP" => Ok(Command::Help),
        "STARTTLS" => without_argument(argument, Command::StartTls),
        "AUTH" => auth(argument),
        "BDAT" => bdat(argument).map(Command::Bdat).ok_or(BAD_CHUNK),
        "EXPN" => Err(NOT_OFFERED),
        _ => Err(fault(500, "5.5.1 Unknown command")),
    }
}

fn without_argument(argument: &str, command: Command) -> Result<Command, CommandFault> {
    if argument.is_empty() { Ok(command) } else { Err(NO_ARGUMENT) }
}

fn client_name(argument: &str) -> Result<String, CommandFault> {
    // Some clients append other text; the first word is the name.
    argument.split(' ').next().filter(|name| !name.is_empty()).map(str::to_owned).ok_or(NO_NAME)
}

fn auth(argument: &str) -> Result<Command, CommandFault> {
    let (mechanism, response) = argument.split_once(' ').unwrap_or((argument, ""));
    if mechanism.is_empty() {
        return Err(fault(501, "5.5.4 The mechanism is missing"));
    }
    let initial_response = Some(response.trim()).filter(|response| !response.is_empty()).map(str::to_owned);
    Ok(Command::Auth(AuthCommand { mechanism: mechanism.to_ascii_uppercase(), initial_response }))
}

/// Returns whether a line is a BDAT command, which may be malformed.
pub(super) fn begins_with_bdat(line: &[u8]) -> bool {
    let Some((verb, rest)) = line.split_at_checked(4) else { return false };
    verb.eq_ignore_ascii_case(b"BDAT") && !rest.first().is_some_and(u8::is_ascii_graphic)
}

/// Parses the size of a chunk, and `LAST`.
fn bdat(argument: &str) -> Option<BdatCommand> {
    let (size, rest) = argument.split_once(' ').unwrap_or((argument, ""));
    let is_last = match rest.trim() {
        "" => false,
        last if last.eq_ignore_ascii_case("LAST") => true,
        _ => return None,
    };
    Some(BdatCommand { size: parameters::number(size)?, is_last })
}

/// Splits `KEYWORD:<path> parameters`; a space after the colon is invalid but common.
fn keyword_and_path<'a>(argument: &'a str, keyword: &str) -> Option<(&'a str, &'a str)> {
    let (head, rest) = argument.split_once(':')?;
    if !head.eq_ignore_ascii_case(keyword) {
        return None;
    }
    let (path, parameters) = path::split(rest.trim_start())?;
    (parameters.is_empty() || parameters.starts_with(' ')).then_some((path, parameters))
}

fn mail(argument: &str) -> Result<MailCommand, CommandFault> {
    let (path, parameters) = keyword_and_path(argument, "FROM").ok_or(BAD_MAIL)?;
    let from = if path.is_empty() { "" } else { path::address(path).ok_or(BAD_MAIL)? };
    let mail = MailCommand { from: from.to_owned(), ..MailCommand::default() };
    parameters::mail(mail, parameters)
}

fn rcpt(argument: &str) -> Result<RcptCommand, CommandFault> {
    let (path, parameters) = keyword_and_path(argument, "TO").ok_or(BAD_RCPT)?;
    let has_dsn = parameters::rcpt(parameters)?;
    // RFC 5321 §4.5.1: postmaster needs no domain.
    if path.eq_ignore_ascii_case("postmaster") {
        return Ok(RcptCommand { to: path.to_owned(), has_dsn });
    }
    let to = path::address(path).map(str::to_owned).ok_or(BAD_RCPT)?;
    Ok(RcptCommand { to, has_dsn })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn code(line: &str) -> u16 {
        parse(line.as_bytes()).expect_err(line).code
    }

    #[test]
    fn commands_are_case_insensitive() {
        assert_eq!(parse(b"ehlo  client.test"), Ok(Command::Ehlo("client.test".into())));
        let rcpt = |to: &str| Ok(Command::Rcpt(RcptCommand { to: to.into(), has_dsn: false }));
        assert_eq!(parse(b"rcpt to:<A@b.test>"), rcpt("A@b.test"));
        assert_eq!(parse(b"RCPT TO: <Postmaster>"), rcpt("Postmaster"));
        assert_eq!(parse(b"data "), Ok(Command::Data));
        assert_eq!(parse(b"NOOP what ever"), Ok(Command::Noop));
        assert_eq!((parse(b"help mail"), parse(b"VRFY ann")), (Ok(Command::Help), Ok(Command::Vrfy)));
        assert_eq!(parse(b"RCPT TO:<@one.test,@two.test:A@b.test>"), rcpt("A@b.test"));
        let auth = AuthCommand { mechanism: "PLAIN".into(), initial_response: Some("AGEAYg==".into()) };
        assert!(!format!("{auth:?}").contains("AGEA"));
        assert_eq!(parse(b"auth plain AGEAYg=="), Ok(Command::Auth(auth)));
    }

    #[test]
    fn chunk_sizes_are_parsed() {
        let bdat = |size, is_last| Ok(Command::Bdat(BdatCommand { size, is_last }));
        assert_eq!(parse(b"BDAT 0 LAST"), bdat(0, true));
        assert_eq!(parse(b"bdat 1000  last"), bdat(1_000, true));
        assert_eq!(parse(b"BDAT 99999999999999999999"), bdat(u64::MAX, false));
        for line in ["BDAT", "BDAT LAST", "BDAT -1", "BDAT +1", "BDAT 1 FIRST", "BDAT 1 LAST LAST", "BDAT 0x1"] {
            assert_eq!(parse(line.as_bytes()), Err(BAD_CHUNK), "{line}");
        }
        for line in [b"BDAT\t9".as_slice(), b"bdat 9\tLAST", b"BDAT 9 LAST\r", b"BDAT 9 \xff", b"BDAT\0 9"] {
            assert_eq!(parse(line), Err(BAD_CHUNK), "{line:?}");
        }
        assert_eq!(parse(b"BDATA\t9").map_err(|fault| fault.code), Err(500));
    }

    #[test]
    fn mail_parameters_are_parsed() {
        let mail = MailCommand { from: "é@b.test".into(), size: Some(12), smtputf8: true, has_dsn: false };
        assert_eq!(parse("MAIL FROM:<é@b.test> size=12 BODY=8bitmime SMTPUTF8".as_bytes()), Ok(Command::Mail(mail)));
        assert_eq!(parse(b"MAIL FROM:<>"), Ok(Command::Mail(MailCommand::default())));
        let Ok(Command::Mail(huge)) = parse(b"MAIL FROM:<> SIZE=99999999999999999999") else { panic!("a command") };
        assert_eq!(huge.size, Some(u64::MAX));
    }

    #[test]
    fn each_fault_has_its_reply_code() {
        for line in ["", "FOO", "MAILFROM:<a@b.test>", "NOOP\0", "MAIL FROM:<a@b.test>\rRSET"] {
            assert_eq!(code(line), 500, "{line:?}");
        }
        for line in [
            "EHLO",
            "DATA x",
            "STARTTLS x",
            "VRFY",
            "RSET x",
            "MAIL FROM:a@b.test",
            "MAIL FROM:<a@b.test>x",
            "MAIL TO:<a@b.test>",
            "RCPT TO:<>",
            "RCPT TO:<a>",
            "MAIL FROM:<> SIZE",
            "MAIL FROM:<> SIZE=-1",
            "MAIL FROM:<> SIZE=1 SIZE=2",
            "MAIL FROM:<> SMTPUTF8=1",
            "AUTH",
        ] {
            assert_eq!(code(line), 501, "{line:?}");
        }
        assert_eq!(code("EXPN staff"), 502);
        for line in ["MAIL FROM:<> BODY=BINARYMIME", "MAIL FROM:<> BY=5;R", "RCPT TO:<a@b.test> X=1"] {
            assert_eq!(code(line), 555, "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_command_or_a_fault(
            verb in prop::sample::select(vec!["", "MAIL FROM:", "RCPT TO:", "EHLO ", "MAIL FROM:<"]),
            rest in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let line = [verb.as_bytes(), &rest].concat();
            if let Ok(Command::Mail(MailCommand { from: path, .. }) | Command::Rcpt(RcptCommand { to: path, .. })) =
                parse(&line)
            {
                prop_assert!(!path.chars().any(char::is_control));
            }
        }
    }
}
