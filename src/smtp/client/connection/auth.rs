//! The AUTH command (RFC 4954) with PLAIN (RFC 4616), LOGIN and XOAUTH2.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lettre::transport::smtp::authentication::Mechanism as LettreMechanism;
use secrecy::{ExposeSecret, SecretString};
use std::time::Duration;

use super::ehlo::Capabilities;
use super::reply::RawReply;
use super::wire::Wire;
use crate::domain::routing::relay::{Login, Mechanism, Password};

/// Why authentication failed.
#[derive(Debug)]
pub(in crate::smtp) enum AuthError {
    /// The server offers none of the allowed mechanisms, which the text lists.
    NoMechanism(String),
    /// The token file has no usable token, for this reason.
    NoPassword(String),
    /// The server refused the credentials, or sent an unexpected reply.
    Refused(RawReply),
    /// The connection failed, for this reason.
    Wire(String),
}

/// Authenticates. The caller must have checked that the connection may carry a password.
pub(in crate::smtp) async fn log_in(
    wire: &mut Wire,
    offer: &Capabilities,
    login: &Login,
    wait: Duration,
) -> Result<(), AuthError> {
    let allowed: &[LettreMechanism] = match login.mechanism {
        None => &[LettreMechanism::Plain, LettreMechanism::Login],
        Some(Mechanism::Plain) => &[LettreMechanism::Plain],
        Some(Mechanism::Login) => &[LettreMechanism::Login],
        Some(Mechanism::Xoauth2) => &[LettreMechanism::Xoauth2],
    };
    let none = || AuthError::NoMechanism(allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "));
    let mechanism = offer.mechanism(allowed).ok_or_else(none)?;
    let password = password(&login.password).await?;
    let secrets = Secrets::new(&login.user, password.expose_secret());
    let mut dialogue = Dialogue { wire, secrets: &secrets, wait };
    exchange(&mut dialogue, mechanism, login, &password).await.map_err(|error| secrets.strip_from(error))
}

async fn exchange(
    dialogue: &mut Dialogue<'_>,
    mechanism: LettreMechanism,
    login: &Login,
    password: &SecretString,
) -> Result<(), AuthError> {
    let (user, password) = (&login.user, password.expose_secret());
    // LOGIN prompts for the user and then for the password; the text of the prompts differs from server to server.
    let responses = match mechanism {
        LettreMechanism::Login => vec![user.clone(), password.to_owned()],
        LettreMechanism::Xoauth2 => vec![format!("user={user}\u{1}auth=Bearer {password}\u{1}\u{1}")],
        LettreMechanism::Plain => vec![format!("\0{user}\0{password}")],
    };
    let mut responses = responses.into_iter().map(|response| STANDARD.encode(response)).peekable();
    let (initial, is_plain) = (responses.peek().cloned().unwrap_or_default(), mechanism == LettreMechanism::Plain);
    let mut command = format!("AUTH {mechanism} {initial}\r\n");
    let mut shown = format!("AUTH {mechanism} {REMOVED}");
    if mechanism == LettreMechanism::Login || command.len() > COMMAND_LIMIT {
        command = format!("AUTH {mechanism}\r\n");
        shown = format!("AUTH {mechanism}");
    } else {
        responses.next();
    }
    // Some servers ignore the initial response and send a challenge for it.
    let repeated = (is_plain && responses.peek().is_none()).then_some(initial);
    let mut reply = dialogue.send(&command, &shown).await?;
    for response in responses.chain(repeated) {
        if reply.code != 334 {
            break;
        }
        reply = dialogue.send(&format!("{response}\r\n"), REMOVED).await?;
    }
    match reply.code {
        334 if mechanism == LettreMechanism::Xoauth2 => Err(token_refusal(dialogue, &reply).await),
        334 => {
            // There is no response to a further challenge: cancel the exchange (RFC 4954 §4).
            dialogue.send("*\r\n", "*").await?;
            Err(AuthError::Refused(reply))
        }
        200..300 => Ok(()),
        _ => Err(AuthError::Refused(reply)),
    }
}

/// The exchange of credentials over a connection. Its transcript has no secrets.
struct Dialogue<'a> {
    wire: &'a mut Wire,
    secrets: &'a Secrets,
    wait: Duration,
}

impl Dialogue<'_> {
    /// Sends a line and reads the reply. `shown` is the line in the transcript.
    async fn send(&mut self, line: &str, shown: &str) -> Result<RawReply, AuthError> {
        let transcript = self.wire.transcript.clone();
        transcript.sent(shown);
        match self.wire.secret_command(line, self.wait).await {
            // A challenge may quote a secret in an encoding of its own.
            Ok(reply) if reply.code == 334 => {
                transcript.received_as(&reply, |_| REMOVED.into());
                Ok(reply)
            }
            Ok(reply) => {
                transcript.received_as(&reply, |line| self.secrets.strip(line).into());
                Ok(reply)
            }
            Err(error) => Err(AuthError::Wire(error.to_string())),
        }
    }
}

/// Reads the refusal of a token. The server sends it as a challenge, and its final reply only after an empty response.
async fn token_refusal(dialogue: &mut Dialogue<'_>, challenge: &RawReply) -> AuthError {
    let mut reply = match dialogue.send("\r\n", "").await {
        Ok(reply) => reply,
        Err(error) => return error,
    };
    // A long challenge has been truncated, so only whole base64 groups are decoded.
    let text = challenge.text.trim();
    let whole = text.len() - text.len() % 4;
    if let Ok(decoded) = STANDARD.decode(text.get(..whole).unwrap_or_default()) {
        let decoded = String::from_utf8_lossy(&decoded).replace(char::is_control, " ");
        reply.text = format!("{} ({})", reply.text, decoded.trim());
    }
    AuthError::Refused(reply)
}

/// Secrets to remove from replies: some servers quote the command that they refuse, and replies are stored
/// and returned by the API.
struct Secrets(Vec<String>);

/// Maximum length of a command line (RFC 5321 §4.5.3.1.4); a longer initial response goes in a separate line (RFC
/// 4954 §4).
const COMMAND_LIMIT: usize = 512;
/// Replacement for a secret.
const REMOVED: &str = "[removed]";
/// Minimum length of a part of a secret that is removed.
const MIN_PART: usize = 8;

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
        let is_part = |word: &str| word.len() >= MIN_PART && self.0.iter().any(|secret| secret.contains(word));
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
    fn secrets_are_stripped_from_replies() {
        let secrets = Secrets::new("ann", "correct horse");
        let plain = STANDARD.encode("\0ann\0correct horse");
        let token = STANDARD.encode("user=ann\u{1}auth=Bearer correct horse\u{1}\u{1}");
        for quoted in [plain.as_str(), token.as_str(), "correct horse", &plain[..12], &STANDARD.encode("correct horse")]
        {
            let stripped = secrets.strip(&format!("bad command: AUTH PLAIN {quoted} from ann"));
            let unpadded = stripped.replace('=', "");
            assert_eq!(unpadded, "bad command: AUTH PLAIN [removed] from ann", "{quoted}");
        }
        assert_eq!(secrets.strip("authentication failed"), "authentication failed");
    }
}
