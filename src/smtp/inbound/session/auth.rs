//! AUTH (RFC 4954) that accepts every user and password. Responses are read and discarded: they may contain real
//! passwords.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};

use super::super::Handler;
use super::super::command::{AuthCommand, NOT_OFFERED};
use super::super::line::LineFault;
use super::{Input, Next, Session};

/// The challenges of LOGIN in base64: `Username:`, `Password:`.
const LOGIN: [&str; 2] = ["VXNlcm5hbWU6", "UGFzc3dvcmQ6"];

impl<S: AsyncRead + AsyncWrite + Unpin, H: Handler> Session<'_, S, H> {
    /// Runs the mechanism's exchange, and accepts any response.
    pub(super) async fn auth(&mut self, auth: &AuthCommand) -> io::Result<Next> {
        if !self.settings.accepts_any_login {
            return Ok(self.refuse(NOT_OFFERED.code, NOT_OFFERED.text));
        }
        if self.helo.is_none() || self.mail.is_some() || self.is_authenticated {
            return Ok(self.refuse(503, "5.5.1 AUTH is allowed once, after EHLO and before MAIL"));
        }
        let challenges: &[&str] = match auth.mechanism.as_str() {
            "PLAIN" => &[""],
            "LOGIN" => &LOGIN,
            _ => return Ok(self.refuse(504, "5.5.4 Only PLAIN and LOGIN are offered")),
        };
        for challenge in challenges.iter().skip(usize::from(auth.has_initial_response)) {
            self.wire.reply(334, challenge);
            match self.next_line().await? {
                Input::End(why) => {
                    self.wire.reply(421, why);
                    return Ok(Next::Quit);
                }
                Input::Line(Ok(line)) if line == b"*" => return Ok(self.refuse(501, "5.7.0 Canceled")),
                Input::Line(Ok(_)) => {}
                Input::Line(Err(LineFault::TooLong)) => return Ok(self.refuse(500, "5.5.6 The response is too long")),
                Input::Line(Err(LineFault::Endless)) => return Ok(self.end_after_endless_line()),
                Input::Line(Err(LineFault::BareLineFeed)) => {
                    return Ok(self.refuse(500, "5.5.2 Lines must end with CRLF"));
                }
            }
        }
        self.is_authenticated = true;
        self.wire.reply(235, "2.7.0 Accepted, as any user and password");
        Ok(Next::Continue)
    }
}
