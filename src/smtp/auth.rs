//! AUTH PLAIN (RFC 4616), LOGIN and XOAUTH2, by RFC 4954.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lettre::transport::smtp::authentication::{Credentials, Mechanism as Spoken};
use lettre::transport::smtp::commands::Auth;
use secrecy::{ExposeSecret, SecretString};
use std::time::Duration;

use super::offer::Offer;
use super::reply::RawReply;
use super::wire::{Wire, WireError};
use crate::domain::relay::{Login, Mechanism, Password};

/// Why the server does not know us.
#[derive(Debug)]
pub(super) enum AuthError {
    /// It offers none of the mechanisms that we may use, which are these.
    NoMechanism(String),
    /// There is no password: the file that should hold it says why.
    NoPassword(String),
    /// It said no, or something that is no part of the exchange.
    Refused(RawReply),
    /// The connection failed.
    Wire(WireError),
}

/// Introduces us. The caller has made sure that the connection may carry a password.
pub(super) async fn log_in(wire: &mut Wire, offer: &Offer, login: &Login, wait: Duration) -> Result<(), AuthError> {
    let allowed: &[Spoken] = match login.mechanism {
        None => &[Spoken::Plain, Spoken::Login],
        Some(Mechanism::Plain) => &[Spoken::Plain],
        Some(Mechanism::Login) => &[Spoken::Login],
        Some(Mechanism::Xoauth2) => &[Spoken::Xoauth2],
    };
    let none = || AuthError::NoMechanism(allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "));
    let mechanism = offer.mechanism(allowed).ok_or_else(none)?;
    let password = password(&login.password).await?;
    let credentials = Credentials::new(login.user.clone(), password.expose_secret().to_owned());
    // LOGIN asks for user and password in this order, in words that differ from server to server.
    let prompts: &[Option<&str>] = match mechanism {
        Spoken::Login => &[None, Some("Username:"), Some("Password:")],
        _ => &[None],
    };
    for (step, prompt) in prompts.iter().enumerate() {
        let command = Auth::new(mechanism, credentials.clone(), prompt.map(str::to_owned)).map_err(|_| none())?;
        let reply = wire.ask(command, wait).await.map_err(AuthError::Wire)?;
        let is_last = step + 1 == prompts.len();
        if is_last && reply.code == 334 && mechanism == Spoken::Xoauth2 {
            return Err(explained(wire, &reply, wait).await);
        }
        let expected = if is_last { reply.is_positive() } else { reply.code == 334 };
        if !expected {
            return Err(AuthError::Refused(reply));
        }
    }
    Ok(())
}

/// The refusal of a token comes as a challenge, which wants an empty answer before the server says no in plain words.
async fn explained(wire: &mut Wire, challenge: &RawReply, wait: Duration) -> AuthError {
    let mut reply = match wire.ask("\r\n", wait).await {
        Ok(reply) => reply,
        Err(error) => return AuthError::Wire(error),
    };
    if let Ok(told) = STANDARD.decode(challenge.text.trim()) {
        let told = String::from_utf8_lossy(&told).replace(char::is_control, " ");
        reply.text = format!("{} ({})", reply.text, told.trim());
    }
    AuthError::Refused(reply)
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
        return Err(failed("it should hold an access token and nothing else".into()));
    }
    Ok(token.to_owned().into())
}
