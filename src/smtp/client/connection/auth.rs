//! AUTH PLAIN (RFC 4616), LOGIN and XOAUTH2, by RFC 4954.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lettre::transport::smtp::authentication::Mechanism as Spoken;
use secrecy::{ExposeSecret, SecretString};
use std::fmt::Display;
use std::time::Duration;

use super::ehlo::Capabilities;
use super::reply::RawReply;
use super::wire::Wire;
use crate::domain::relay::{Login, Mechanism, Password};

/// Why authentication failed.
#[derive(Debug)]
pub(in crate::smtp) enum AuthError {
    /// The server offers none of the mechanisms that may be used, which are these.
    NoMechanism(String),
    /// The password file gave no password, for this reason.
    NoPassword(String),
    /// The server refused, or sent a reply that is no part of the exchange.
    Refused(RawReply),
    /// The connection failed, for this reason.
    Wire(String),
}

/// Authenticates. The caller has made sure that the connection may carry a password.
pub(in crate::smtp) async fn log_in(
    wire: &mut Wire,
    offer: &Capabilities,
    login: &Login,
    wait: Duration,
) -> Result<(), AuthError> {
    let allowed: &[Spoken] = match login.mechanism {
        None => &[Spoken::Plain, Spoken::Login],
        Some(Mechanism::Plain) => &[Spoken::Plain],
        Some(Mechanism::Login) => &[Spoken::Login],
        Some(Mechanism::Xoauth2) => &[Spoken::Xoauth2],
    };
    let none = || AuthError::NoMechanism(allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "));
    let mechanism = offer.mechanism(allowed).ok_or_else(none)?;
    let password = password(&login.password).await?;
    let secrets = Secrets::new(&login.user, password.expose_secret());
    exchange(wire, mechanism, login, &password, wait).await.map_err(|error| secrets.strip_from(error))
}

async fn exchange(
    wire: &mut Wire,
    mechanism: Spoken,
    login: &Login,
    password: &SecretString,
    wait: Duration,
) -> Result<(), AuthError> {
    let (user, password) = (&login.user, password.expose_secret());
    // LOGIN prompts for user and password in this order; the prompts' text differs from server to server.
    let answers = match mechanism {
        Spoken::Login => vec![user.clone(), password.to_owned()],
        Spoken::Xoauth2 => vec![format!("user={user}\u{1}auth=Bearer {password}\u{1}\u{1}")],
        Spoken::Plain => vec![format!("\0{user}\0{password}")],
    };
    let mut answers = answers.into_iter().map(|answer| STANDARD.encode(answer)).peekable();
    let (initial, is_plain) = (answers.peek().cloned().unwrap_or_default(), mechanism == Spoken::Plain);
    let mut command = format!("AUTH {mechanism} {initial}\r\n");
    if mechanism == Spoken::Login || command.len() > LINE {
        command = format!("AUTH {mechanism}\r\n");
    } else {
        answers.next();
    }
    // Some servers ignore the initial response and send a challenge for it.
    let again = (is_plain && answers.peek().is_none()).then_some(initial);
    let mut reply = ask(wire, command, wait).await?;
    for answer in answers.chain(again) {
        if reply.code != 334 {
            break;
        }
        reply = ask(wire, format!("{answer}\r\n"), wait).await?;
    }
    match reply.code {
        334 if mechanism == Spoken::Xoauth2 => Err(explained(wire, &reply, wait).await),
        334 => {
            // The server sent a further challenge that has no response: cancel the exchange (RFC 4954 §4).
            ask(wire, "*\r\n", wait).await?;
            Err(AuthError::Refused(reply))
        }
        200..300 => Ok(()),
        _ => Err(AuthError::Refused(reply)),
    }
}

async fn ask(wire: &mut Wire, line: impl Display, wait: Duration) -> Result<RawReply, AuthError> {
    wire.ask(line, wait).await.map_err(|error| AuthError::Wire(error.to_string()))
}

/// Reads the refusal of a token. It comes as a challenge, which needs an empty response before the server sends its
/// final reply.
async fn explained(wire: &mut Wire, challenge: &RawReply, wait: Duration) -> AuthError {
    let mut reply = match ask(wire, "\r\n", wait).await {
        Ok(reply) => reply,
        Err(error) => return error,
    };
    // A challenge that is too long has been truncated.
    let text = challenge.text.trim();
    let whole = text.len() - text.len() % 4;
    if let Ok(decoded) = STANDARD.decode(text.get(..whole).unwrap_or_default()) {
        let decoded = String::from_utf8_lossy(&decoded).replace(char::is_control, " ");
        reply.text = format!("{} ({})", reply.text, decoded.trim());
    }
    AuthError::Refused(reply)
}

/// Secrets to remove from replies: some servers quote the command that they refuse, and replies are stored and shown.
struct Secrets(Vec<String>);

/// Maximum length of a command line (RFC 5321 §4.5.3.1.4); a longer initial response goes in a line of its own (RFC
/// 4954 §4).
const LINE: usize = 512;
/// Replacement for a secret.
const REMOVED: &str = "[removed]";
/// The shortest part of a secret that is removed.
const SHORTEST: usize = 8;

impl Secrets {
    fn new(user: &str, password: &str) -> Self {
        let encoded = [
            format!("\0{user}\0{password}"),
            format!("{user}\0{user}\0{password}"),
            format!("user={user}\u{1}auth=Bearer {password}\u{1}\u{1}"),
            password.to_owned(),
        ];
        let encoded = encoded.map(|text| STANDARD.encode(text).trim_end_matches('=').to_owned());
        Self(encoded.into_iter().chain([password.to_owned()]).filter(|secret| !secret.is_empty()).collect())
    }

    fn strip_from(&self, error: AuthError) -> AuthError {
        match error {
            AuthError::Refused(reply) => AuthError::Refused(RawReply { text: self.strip(&reply.text), ..reply }),
            AuthError::Wire(why) => AuthError::Wire(self.strip(&why)),
            other => other,
        }
    }

    /// Returns the text without secrets, and without long parts of them.
    fn strip(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.0 {
            text = text.replace(secret.as_str(), REMOVED);
        }
        let is_letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/');
        let is_part = |word: &str| word.len() >= SHORTEST && self.0.iter().any(|secret| secret.contains(word));
        let mut stripped = String::with_capacity(text.len());
        for piece in text.split_inclusive(|c: char| !is_letter(c)) {
            let word = piece.trim_end_matches(|c: char| !is_letter(c));
            stripped.push_str(if is_part(word) { REMOVED } else { word });
            stripped.push_str(&piece[word.len()..]);
        }
        stripped
    }
}

async fn password(password: &Password) -> Result<SecretString, AuthError> {
    let path = match password {
        Password::Given(password) => return Ok(password.clone()),
        Password::InFile(path) => path,
    };
    let failed = |why: String| AuthError::NoPassword(format!("{}: {why}", path.display()));
    let text = tokio::fs::read_to_string(path).await.map_err(|error| failed(error.to_string()))?;
    let token = text.trim();
    if token.is_empty() || token.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err(failed("it must contain an access token and nothing else".into()));
    }
    Ok(token.to_owned().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_stripped_from_what_a_server_says() {
        let secrets = Secrets::new("ann", "correct horse");
        let plain = STANDARD.encode("\0ann\0correct horse");
        let token = STANDARD.encode("user=ann\u{1}auth=Bearer correct horse\u{1}\u{1}");
        for said in [plain.as_str(), token.as_str(), "correct horse", &plain[..12], &STANDARD.encode("correct horse")] {
            let stripped = secrets.strip(&format!("bad command: AUTH PLAIN {said} from ann"));
            let kept = stripped.replace('=', "");
            assert_eq!(kept, "bad command: AUTH PLAIN [removed] from ann", "{said}");
        }
        assert_eq!(secrets.strip("authentication failed"), "authentication failed");
    }
}
