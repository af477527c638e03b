//! Classifies the cause of an unreachable destination, and describes what an operator should check first.

use std::fmt;
use std::str::FromStr;

use crate::domain::outcome::{Outcome, Reply};

/// The cause of an unreachable destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = BlockCause)]
pub enum Cause {
    /// The server rejects the login, or offers no supported mechanism.
    Auth,
    /// The server's certificate is not valid: it is expired, for another name, or from an unknown issuer.
    Certificate,
    /// TLS is required but not offered, or the TLS handshake failed.
    Tls,
    /// The DNS has no server for the destination, or a query failed.
    Dns,
    /// No server listens at the address.
    ConnectionRefused,
    /// The server does not respond in time.
    Timeout,
    /// The network has no path to the server.
    Network,
    /// The server closes the connection before a message can be sent.
    Disconnected,
    /// The server refuses the session with a reply.
    Refused,
}

impl Cause {
    /// All causes.
    pub const ALL: [Self; 9] = [
        Self::Auth,
        Self::Certificate,
        Self::Tls,
        Self::Dns,
        Self::ConnectionRefused,
        Self::Timeout,
        Self::Network,
        Self::Disconnected,
        Self::Refused,
    ];

    /// Returns the cause's name in SQL, JSON, logs and documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Certificate => "certificate",
            Self::Tls => "tls",
            Self::Dns => "dns",
            Self::ConnectionRefused => "connection_refused",
            Self::Timeout => "timeout",
            Self::Network => "network",
            Self::Disconnected => "disconnected",
            Self::Refused => "refused",
        }
    }

    /// Classifies an outcome that was decided before MAIL.
    pub fn new(outcome: &Outcome) -> Self {
        Self::from_reply(&outcome.reply)
    }

    /// Classifies a server's reply by its codes, and by its text if these are ambiguous; a local error by its enhanced code
    /// and text.
    fn from_reply(reply: &Reply) -> Self {
        let text = reply.text.to_ascii_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let enhanced = reply.enhanced.map(|code| (code.subject, code.detail));
        match (reply.code, enhanced) {
            (Some(530), _) if has(&["starttls"]) => Self::Tls,
            (Some(530 | 534 | 535 | 538), _) | (Some(_), Some((7, 8 | 9))) => Self::Auth,
            (Some(454), _) if has(&["auth"]) => Self::Auth,
            (Some(454), _) => Self::Tls,
            (Some(_), _) => Self::Refused,
            (None, Some((4, 3 | 4 | 6))) => Self::Dns,
            (None, _) if has(&["certificate"]) => Self::Certificate,
            (None, _) if has(&["auth", "user and password"]) => Self::Auth,
            (None, Some((7, _))) => Self::Tls,
            (None, _) if has(&["refused"]) => Self::ConnectionRefused,
            (None, _) if has(&["took too long", "timed out", "time-out", "timeout"]) => Self::Timeout,
            (None, Some((4, 1))) => Self::Network,
            (None, _) => Self::Disconnected,
        }
    }

    /// Returns a verb phrase that describes the destination, such as "rejects the login".
    pub fn verb(self) -> &'static str {
        match self {
            Self::Auth => "rejects the login",
            Self::Certificate => "has an invalid certificate",
            Self::Tls => "cannot be reached over TLS",
            Self::Dns => "cannot be found in the DNS",
            Self::ConnectionRefused => "refuses connections",
            Self::Timeout => "does not respond in time",
            Self::Network => "cannot be reached over the network",
            Self::Disconnected => "closes the connection before a message can be sent",
            Self::Refused => "refuses the session",
        }
    }

    /// Returns an instruction for the operator.
    pub fn fix(self) -> &'static str {
        match self {
            Self::Auth => {
                "Fix the user name, the password or the AUTH mechanism of the route, and restart the workers; the next \
                 probe then reopens the lane."
            }
            Self::Certificate => {
                "Have the server's certificate renewed or replaced, or trust its issuer in the route's TLS settings; the next \
                 probe then reopens the lane."
            }
            Self::Tls => {
                "Have the server offer TLS again, or change the TLS setting of the route; the next probe then reopens the lane."
            }
            Self::Dns => {
                "Fix the DNS records of the domain or the relay, or this machine's resolver; the next probe then reopens the lane."
            }
            Self::ConnectionRefused => {
                "Start the mail server at that address, or fix the host and port of the route; the next probe then reopens \
                 the lane."
            }
            Self::Timeout | Self::Network => {
                "Fix the destination or the network path (a firewall that blocks port 25 is a frequent cause); the next probe \
                 then reopens the lane."
            }
            Self::Disconnected => {
                "Fix the destination, or the proxy or firewall before it; the next probe then reopens the lane."
            }
            Self::Refused => {
                "Follow the reply, or contact the destination's postmaster; the next probe then reopens the lane."
            }
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Cause {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == word).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cause_follows_from_code_and_text() {
        use Cause::{Auth, Certificate, ConnectionRefused, Disconnected, Dns, Network, Refused, Timeout, Tls};
        let server = |code, text: &str| Reply::from_lines(code, [text].into_iter());
        for (reply, cause) in [
            (server(535, "5.7.8 Authentication credentials invalid"), Auth),
            (server(530, "5.7.0 Authentication required"), Auth),
            (server(530, "5.7.0 Must issue a STARTTLS command first"), Tls),
            (server(454, "4.7.0 Temporary authentication failure"), Auth),
            (server(454, "4.7.0 TLS not available due to local problem"), Tls),
            (server(554, "5.7.1 your IP is on a blocklist"), Refused),
            (
                Reply::local_error_with(4, 7, 5, "TLS handshake failed: invalid peer certificate: UnknownIssuer"),
                Certificate,
            ),
            (Reply::local_error_with(4, 7, 5, "TLS handshake failed: received corrupt message"), Tls),
            (Reply::local_error_with(4, 7, 5, "TLS handshake failed: it took too long"), Tls),
            (Reply::local_error_with(4, 7, 10, "TLS is required and the server does not offer it"), Tls),
            (Reply::local_error_with(4, 7, 0, "the server does not offer AUTH PLAIN"), Auth),
            (Reply::local_error_with(4, 4, 3, "cannot look up the mail exchangers of a.test: SERVFAIL"), Dns),
            (Reply::local_error_with(4, 4, 4, "MTA-STS enforce: the policy of a.test names none"), Dns),
            (
                Reply::local_error_with(
                    4,
                    4,
                    1,
                    "could not connect to 192.0.2.1:25: Connection refused (os error 111)",
                ),
                ConnectionRefused,
            ),
            (Reply::local_error_with(4, 4, 1, "could not connect to 192.0.2.1:25: it took too long"), Timeout),
            (
                Reply::local_error_with(4, 4, 1, "could not connect to 192.0.2.1:25: No route to host (os error 113)"),
                Network,
            ),
            (Reply::local_error_with(4, 4, 2, "at the greeting: the connection was closed"), Disconnected),
        ] {
            assert_eq!(Cause::from_reply(&reply), cause, "{reply:?}");
        }
        assert!(Cause::ALL.iter().all(|cause| cause.as_str().parse() == Ok(*cause)));
    }
}
