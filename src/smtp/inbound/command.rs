//! Parses a line into a command (RFC 5321 §4.1.1). Any bytes yield either a command or a fault, which is sent as the
//! reply.

use super::path;

/// A client's command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// `EHLO name`
    Ehlo(String),
    /// `HELO name`
    Helo(String),
    /// `MAIL FROM:<from> …`
    Mail(MailCommand),
    /// `RCPT TO:<to>`
    Rcpt(String),
    /// `DATA`
    Data,
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AuthCommand {
    /// The mechanism, in upper case.
    pub(super) mechanism: String,
    /// Whether the command contained the initial response, which is discarded because credentials are not checked.
    pub(super) has_initial_response: bool,
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
const UNKNOWN_PARAMETER: CommandFault = fault(555, "5.5.4 A parameter is not supported here");

/// Parses a line, which must not include its CRLF.
pub(super) fn parse(line: &[u8]) -> Result<Command, CommandFault> {
    let Ok(line) = std::str::from_utf8(line) else {
        return Err(fault(500, "5.5.2 The command is not UTF-8"));
    };
    if line.chars().any(char::is_control) {
        return Err(fault(500, "5.5.2 The command contains a control character"));
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
        "BDAT" | "EXPN" => Err(NOT_OFFERED),
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
    let has_initial_response = !response.trim().is_empty();
    Ok(Command::Auth(AuthCommand { mechanism: mechanism.to_ascii_uppercase(), has_initial_response }))
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
    let mut mail = MailCommand { from: from.to_owned(), ..MailCommand::default() };
    let (mut body, mut auth) = (false, false);
    for parameter in parameters.split(' ').filter(|word| !word.is_empty()) {
        let (key, value) = parameter.split_once('=').map_or((parameter, None), |(key, value)| (key, Some(value)));
        match (key.to_ascii_uppercase().as_str(), value) {
            ("SIZE", Some(value)) if mail.size.is_none() => mail.size = Some(size(value)?),
            ("BODY", Some(value)) if !body => {
                body = true;
                if !["7BIT", "8BITMIME"].iter().any(|supported| supported.eq_ignore_ascii_case(value)) {
                    return Err(UNKNOWN_PARAMETER);
                }
            }
            // RFC 4954 §5: the original submitter. It is ignored: it only matters from trusted clients.
            ("AUTH", Some(_)) if !auth => auth = true,
            ("SMTPUTF8", None) if !mail.smtputf8 => mail.smtputf8 = true,
            ("SIZE" | "BODY" | "SMTPUTF8" | "AUTH", _) => return Err(BAD_PARAMETER),
            _ => return Err(UNKNOWN_PARAMETER),
        }
    }
    Ok(mail)
}

/// Parses up to 20 digits (RFC 1870 §3); a number too large for `u64` becomes `u64::MAX`.
fn size(value: &str) -> Result<u64, CommandFault> {
    if !(1..=20).contains(&value.len()) || !value.bytes().all(|b| b.is_ascii_digit()) {
        return Err(BAD_PARAMETER);
    }
    Ok(value.parse().unwrap_or(u64::MAX))
}

fn rcpt(argument: &str) -> Result<String, CommandFault> {
    let (path, parameters) = keyword_and_path(argument, "TO").ok_or(BAD_RCPT)?;
    if !parameters.trim().is_empty() {
        return Err(UNKNOWN_PARAMETER);
    }
    // RFC 5321 §4.5.1: postmaster needs no domain.
    if path.eq_ignore_ascii_case("postmaster") {
        return Ok(path.to_owned());
    }
    path::address(path).map(str::to_owned).ok_or(BAD_RCPT)
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
        assert_eq!(parse(b"rcpt to:<A@b.test>"), Ok(Command::Rcpt("A@b.test".into())));
        assert_eq!(parse(b"RCPT TO: <Postmaster>"), Ok(Command::Rcpt("Postmaster".into())));
        assert_eq!(parse(b"data "), Ok(Command::Data));
        assert_eq!(parse(b"NOOP what ever"), Ok(Command::Noop));
        assert_eq!((parse(b"help mail"), parse(b"VRFY ann")), (Ok(Command::Help), Ok(Command::Vrfy)));
        assert_eq!(parse(b"RCPT TO:<@one.test,@two.test:A@b.test>"), Ok(Command::Rcpt("A@b.test".into())));
    }

    #[test]
    fn mail_parameters_are_parsed() {
        let mail = MailCommand { from: "é@b.test".into(), size: Some(12), smtputf8: true };
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
        assert_eq!(code("BDAT 3 LAST"), 502);
        for line in ["MAIL FROM:<> BODY=BINARYMIME", "MAIL FROM:<> RET=FULL", "RCPT TO:<a@b.test> NOTIFY=NEVER"] {
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
            if let Ok(Command::Mail(MailCommand { from: path, .. }) | Command::Rcpt(path)) = parse(&line) {
                prop_assert!(!path.chars().any(char::is_control));
            }
        }
    }
}
