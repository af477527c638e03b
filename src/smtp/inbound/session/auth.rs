//! AUTH (RFC 4954) with PLAIN and LOGIN. Credentials are accepted over TLS or from this machine, passed to the handler and
//! dropped. The development inbox accepts all of them unseen: they may be real passwords.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};

use super::super::command::{AuthCommand, NOT_OFFERED};
use super::super::line::LineFault;
use super::super::{Authentication, Handler, Login, login};
use super::{Input, Next, Session};

/// The challenges of LOGIN in base64: `Username:`, `Password:`.
const LOGIN: [&str; 2] = ["VXNlcm5hbWU6", "UGFzc3dvcmQ6"];
/// The maximum number of responses of a mechanism.
const MAX_RESPONSES: usize = LOGIN.len();

/// How the exchange of responses ended.
enum Exchange {
    Responses(Vec<Vec<u8>>),
    /// The command has failed, and the reply is written.
    Failed(Next),
}

impl<S: AsyncRead + AsyncWrite + Unpin, H: Handler> Session<'_, S, H> {
    /// Returns whether AUTH is offered now. Not without TLS, except to the development inbox and from this machine, where
    /// nobody can listen.
    pub(super) fn offers_auth(&self) -> bool {
        match self.settings.authentication {
            Authentication::None => false,
            Authentication::AcceptsAny => true,
            Authentication::Required => self.is_secure || self.peer.ip().to_canonical().is_loopback(),
        }
    }

    /// Returns the refusal of a client that has to sign in.
    pub(super) fn sign_in_hint(&self) -> &'static str {
        match (self.offers_auth(), self.offers_tls()) {
            (true, _) => "5.7.0 Authentication required: send AUTH with an API key as the password",
            (false, true) => "5.7.0 Authentication required: send STARTTLS first, then AUTH",
            (false, false) => "5.7.0 Authentication required, but this server has no certificate for TLS",
        }
    }

    /// Runs the mechanism's exchange, and lets the handler check the credentials.
    pub(super) async fn auth(&mut self, auth: &AuthCommand) -> io::Result<Next> {
        if self.settings.authentication == Authentication::None {
            return Ok(self.refuse(NOT_OFFERED.code, NOT_OFFERED.text));
        }
        if self.helo.is_none() || self.mail.is_some() || self.is_authenticated {
            return Ok(self.refuse(503, "5.5.1 AUTH is allowed once, after EHLO and before MAIL"));
        }
        if !self.offers_auth() {
            return Ok(self.refuse(538, "5.7.11 Encryption required: send STARTTLS first"));
        }
        let challenges: &[&str] = match auth.mechanism.as_str() {
            "PLAIN" => &[""],
            "LOGIN" => &LOGIN,
            _ => return Ok(self.refuse(504, "5.5.4 Only PLAIN and LOGIN are offered")),
        };
        let responses = match self.exchange(challenges, auth.initial_response.as_deref()).await? {
            Exchange::Responses(responses) => responses,
            Exchange::Failed(next) => return Ok(next),
        };
        if self.settings.authentication == Authentication::AcceptsAny {
            self.is_authenticated = true;
            self.wire.reply(235, "2.7.0 Accepted, as any user and password");
            return Ok(Next::Continue);
        }
        let Some((user, password)) = credentials(&responses) else {
            return Ok(self.refuse(501, "5.5.2 The response is not valid"));
        };
        match self.handler.sign_in(Login { user: &user, password: &password, peer: self.peer }).await {
            Ok(identity) => {
                self.identity = Some(identity);
                self.is_authenticated = true;
                self.wire.reply(235, "2.7.0 Accepted");
                Ok(Next::Continue)
            }
            Err(refusal) => Ok(self.refuse_with(&refusal)),
        }
    }

    /// Sends the challenges that the initial response does not answer, and reads the responses.
    async fn exchange(&mut self, challenges: &[&str], initial: Option<&str>) -> io::Result<Exchange> {
        let mut responses = Vec::with_capacity(MAX_RESPONSES);
        responses.extend(initial.map(|initial| initial.as_bytes().to_vec()));
        for challenge in challenges.iter().skip(responses.len()) {
            self.wire.reply(334, challenge);
            let failed = match self.next_line().await? {
                Input::Line(Ok(line)) if line != b"*" => {
                    responses.push(line);
                    continue;
                }
                Input::Line(Ok(_)) => self.refuse(501, "5.7.0 Canceled"),
                Input::End(why) => {
                    self.wire.reply(421, why);
                    Next::Quit
                }
                Input::Line(Err(LineFault::TooLong)) => self.refuse(500, "5.5.6 The response is too long"),
                Input::Line(Err(LineFault::Endless)) => self.end_after_endless_line(),
                Input::Line(Err(LineFault::BadChunk)) => self.end_at_bad_chunk(),
                Input::Line(Err(LineFault::BareLineFeed)) => self.refuse(500, "5.5.2 Lines must end with CRLF"),
            };
            return Ok(Exchange::Failed(failed));
        }
        Ok(Exchange::Responses(responses))
    }
}

/// Returns the user and the password in the responses of PLAIN (one) or LOGIN (two).
fn credentials(responses: &[Vec<u8>]) -> Option<(String, String)> {
    match responses {
        [plain] => login::plain(&login::decode(plain)?),
        [user, password] => Some((login::text(login::decode(user)?)?, login::text(login::decode(password)?)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_util::sync::CancellationToken;

    use super::super::super::limits::clients::ClientLimits;
    use super::super::super::limits::eviction::Sessions;
    use super::super::super::{ReceivedMessage, Settings, SmtpRefusal};
    use super::*;

    /// Accepts the password `right`.
    struct OnePassword;

    impl Handler for OnePassword {
        type Identity = String;

        async fn sign_in(&self, login: Login<'_>) -> Result<String, SmtpRefusal> {
            let refusal = SmtpRefusal::permanent(7, 8, "wrong");
            if login.password == "right" { Ok(login.user.to_owned()) } else { Err(refusal) }
        }

        async fn rcpt(&self, _: Option<&String>, _: &str, _: &str) -> Result<(), SmtpRefusal> {
            Ok(())
        }

        async fn message(&self, user: Option<&String>, _: ReceivedMessage) -> Result<String, SmtpRefusal> {
            Ok(format!("from {}", user.map_or("nobody", String::as_str)))
        }
    }

    /// Runs a session of a client with this address, and returns the codes of all replies.
    async fn codes(peer: &str, is_secure: bool, input: &str) -> Vec<String> {
        let settings = Settings { authentication: Authentication::Required, ..Settings::default() };
        let peer: SocketAddr = peer.parse().unwrap();
        let client = ClientLimits::new(&settings).enter(peer.ip(), |_| false).unwrap();
        let active = Arc::new(Sessions::default()).register(1, client.network(), tokio::time::Instant::now());
        let (mut near, far) = tokio::io::duplex(64 << 10);
        near.write_all(input.as_bytes()).await.unwrap();
        near.shutdown().await.unwrap();
        let session = Session::new(far, peer, (&client, &active), &OnePassword, &settings, CancellationToken::new());
        if is_secure {
            session.run_secure().await;
        } else {
            session.run().await;
        }
        let mut replies = String::new();
        near.read_to_string(&mut replies).await.unwrap();
        let last = replies.lines().filter(|line| line.as_bytes().get(3) == Some(&b' '));
        last.map(|line| line[..3].to_owned()).collect()
    }

    const MESSAGE: &str = "MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\nx\r\n.\r\n";

    #[tokio::test]
    async fn password_needs_tls_unless_the_client_is_local() {
        let input = format!("EHLO x\r\nAUTH PLAIN AGFubgByaWdodA==\r\n{MESSAGE}");
        let refused = ["220", "250", "538", "530", "503", "503"];
        assert_eq!(codes("192.0.2.1:1", false, &input).await[..6], refused, "and the message is not read");
        let accepted = ["250", "235", "250", "250", "354", "250"];
        assert_eq!(codes("192.0.2.1:1", true, &input).await, accepted);
        for local in ["127.0.0.1:1", "127.0.0.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(codes(local, false, &input).await[1..], accepted, "{local}");
        }
    }

    #[tokio::test]
    async fn auth_is_not_announced_without_tls() {
        for (peer, is_secure, expected) in
            [("192.0.2.1:1", false, false), ("192.0.2.1:1", true, true), ("127.0.0.1:1", false, true)]
        {
            let settings = Settings { authentication: Authentication::Required, ..Settings::default() };
            let peer: SocketAddr = peer.parse().unwrap();
            let client = ClientLimits::new(&settings).enter(peer.ip(), |_| false).unwrap();
            let active = Arc::new(Sessions::default()).register(1, client.network(), tokio::time::Instant::now());
            let (_near, far) = tokio::io::duplex(1 << 10);
            let mut session =
                Session::new(far, peer, (&client, &active), &OnePassword, &settings, CancellationToken::new());
            session.is_secure = is_secure;
            assert_eq!(session.offers_auth(), expected, "{peer} {is_secure}");
        }
    }

    #[tokio::test]
    async fn wrong_responses_are_refused_and_the_session_continues() {
        let input = "EHLO x\r\nAUTH PLAIN AGFubgB3cm9uZw==\r\nAUTH PLAIN ***\r\nAUTH PLAIN YW5u\r\nAUTH LOGIN\r\n*\r\n\
                     AUTH LOGIN YW5u\r\ncmlnaHQ=\r\nAUTH PLAIN AGFubgByaWdodA==\r\n";
        let expected = ["250", "550", "501", "501", "334", "501", "334", "235", "503"];
        assert_eq!(codes("192.0.2.1:1", true, input).await, expected);
    }
}
