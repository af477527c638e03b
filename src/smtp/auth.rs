//! AUTH PLAIN (RFC 4616) and LOGIN, by RFC 4954.

use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS, Mechanism};
use lettre::transport::smtp::commands::Auth;
use secrecy::ExposeSecret;
use std::time::Duration;

use super::offer::Offer;
use super::relay::Login;
use super::reply::RawReply;
use super::wire::{Wire, WireError};

/// Why the server does not know us.
#[derive(Debug)]
pub(super) enum AuthError {
    /// It offers no mechanism that we have.
    NoMechanism,
    /// It said no, or something that is no part of the exchange.
    Refused(RawReply),
    /// The connection failed.
    Wire(WireError),
}

/// Introduces us. The caller has made sure that the connection may carry a password.
pub(super) async fn log_in(wire: &mut Wire, offer: &Offer, login: &Login, wait: Duration) -> Result<(), AuthError> {
    let mechanism = offer.mechanism(DEFAULT_MECHANISMS).ok_or(AuthError::NoMechanism)?;
    let credentials = Credentials::new(login.user.clone(), login.password.expose_secret().to_owned());
    // LOGIN asks for user and password in this order, in words that differ from server to server.
    let prompts: &[Option<&str>] = match mechanism {
        Mechanism::Login => &[None, Some("Username:"), Some("Password:")],
        _ => &[None],
    };
    for (step, prompt) in prompts.iter().enumerate() {
        let command = Auth::new(mechanism, credentials.clone(), prompt.map(str::to_owned));
        let command = command.map_err(|_| AuthError::NoMechanism)?;
        let reply = wire.ask(command, wait).await.map_err(AuthError::Wire)?;
        let expected = if step + 1 == prompts.len() { reply.is_positive() } else { reply.code == 334 };
        if !expected {
            return Err(AuthError::Refused(reply));
        }
    }
    Ok(())
}
