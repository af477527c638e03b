//! Inbound routes: which addresses receive messages.
//!
//! Of the routes of a tenant that match an address, the most specific one counts: the exact address, then the longest
//! prefix with a `+`, then the wildcard. Local parts are compared without case, domains as A-labels.
//!
//! Addresses that ask a server to relay (`user%other.test@own.test`, `other.test!user@own.test`, quoted local parts) match
//! no route, not even a wildcard. A source route (`@a.test:user@own.test`) was removed before.

pub mod relay;

use std::fmt;
use std::str::FromStr;

use super::address::{Address, MAX_LOCAL};
use super::words::words;

words! {
    /// What happens with a received message. It is stored, and has an event, in any case.
    pub enum InboundAction as "InboundActionType" {
        /// The application acts on the event `message.received`, which webhook endpoints with this event type receive.
        Webhook = "webhook",
        /// The message is only kept until the application asks for it.
        Store = "store",
        /// The message is passed on, unchanged, to the server in `to`.
        Relay = "relay",
    }
}

impl FromStr for InboundAction {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|action| action.as_str() == text).ok_or(())
    }
}

/// How a route matches local parts, from the most to the least specific one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MatchKind {
    /// One local part.
    Exact,
    /// Every local part that begins with a prefix and a `+`, such as `reply+42`.
    Plus,
    /// Every local part.
    Wildcard,
}

impl MatchKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Exact, Self::Plus, Self::Wildcard];

    /// Returns the name in SQL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Plus => "plus",
            Self::Wildcard => "wildcard",
        }
    }
}

/// The addresses that a route matches: `support@acme.test`, `reply+*@acme.test` or `*@acme.test`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteMatch {
    /// How local parts are compared.
    pub kind: MatchKind,
    /// The local part, or the prefix before the `+`, in lower case; of a wildcard, empty.
    pub local: String,
    /// The domain: lower case, A-labels.
    pub domain: String,
}

impl RouteMatch {
    /// Creates a match from its columns; `None` if this version does not know its kind.
    pub fn from_row(kind: &str, local: String, domain: String) -> Option<Self> {
        let kind = MatchKind::ALL.into_iter().find(|one| one.as_str() == kind)?;
        Some(Self { kind, local, domain })
    }

    /// Returns whether the match includes an address.
    pub fn includes(&self, recipient: &InboundRecipient) -> bool {
        self.domain == recipient.domain
            && match self.kind {
                MatchKind::Exact => self.local == recipient.local,
                MatchKind::Plus => {
                    let tag = recipient.local.strip_prefix(&self.local).and_then(|rest| rest.strip_prefix('+'));
                    tag.is_some_and(|tag| !tag.is_empty())
                }
                MatchKind::Wildcard => true,
            }
    }

    /// Returns the rank of the match: the lowest one of those that include an address counts.
    pub fn rank(&self) -> (MatchKind, usize) {
        (self.kind, usize::MAX - self.local.len())
    }
}

/// Returns a domain and the domains above it, except for top-level domains.
pub fn domain_and_parents(domain: &str) -> Vec<String> {
    let labels: Vec<&str> = domain.split('.').collect();
    (0..labels.len().saturating_sub(1))
        .map(|from| labels.iter().skip(from).copied().collect::<Vec<_>>().join("."))
        .collect()
}

impl fmt::Display for RouteMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            MatchKind::Exact => write!(f, "{}@{}", self.local, self.domain),
            MatchKind::Plus => write!(f, "{}+*@{}", self.local, self.domain),
            MatchKind::Wildcard => write!(f, "*@{}", self.domain),
        }
    }
}

/// Why a text is not a match, written for the caller of the API.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MatchError(String);

impl FromStr for RouteMatch {
    type Err = MatchError;

    fn from_str(text: &str) -> Result<Self, MatchError> {
        const FORMS: &str = "use an address, `*@DOMAIN`, or `PREFIX+*@DOMAIN`";
        let error = |why: String| MatchError(why);
        let (local, domain) = text.rsplit_once('@').ok_or_else(|| error(format!("has no @; {FORMS}")))?;
        let (kind, local) = match local.strip_suffix('*') {
            Some("") => (MatchKind::Wildcard, ""),
            Some(rest) => match rest.strip_suffix('+') {
                Some(prefix) => (MatchKind::Plus, prefix),
                None => return Err(error(format!("the `*` stands alone or after a `+`; {FORMS}"))),
            },
            None => (MatchKind::Exact, local),
        };
        if local.contains('*') {
            return Err(error(format!("has more than one `*`; {FORMS}")));
        }
        // The longest local parts that a prefix matches have a tag, too.
        if kind == MatchKind::Plus && local.len() + 2 > MAX_LOCAL {
            return Err(error(format!("the part before the `+` must have at most {} characters", MAX_LOCAL - 2)));
        }
        let sample = if kind == MatchKind::Wildcard { "x" } else { local };
        let address: Address = format!("{sample}@{domain}").parse().map_err(|why| error(format!("{why}; {FORMS}")))?;
        if is_relay_form(address.local()) {
            return Err(error("the local part must not contain quotes, `%`, `!`, `/`, `|` or `@`".into()));
        }
        if address.domain().starts_with('[') || !address.domain().contains('.') {
            return Err(error("the domain must be below a top-level domain, such as reply.example.com".into()));
        }
        let local = if kind == MatchKind::Wildcard { String::new() } else { address.local().to_lowercase() };
        Ok(Self { kind, local, domain: address.domain().to_owned() })
    }
}

/// An address in RCPT, as routes compare it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundRecipient {
    /// The local part in lower case.
    pub local: String,
    /// The domain: lower case, A-labels.
    pub domain: String,
}

impl InboundRecipient {
    /// Returns the address in a form that routes can match; `None` if no route can.
    pub fn parse(to: &str) -> Option<Self> {
        let address: Address = to.parse().ok()?;
        let is_routable = !is_relay_form(address.local()) && !address.domain().starts_with('[');
        is_routable.then(|| Self { local: address.local().to_lowercase(), domain: address.domain().to_owned() })
    }
}

/// Returns whether a local part could be an instruction to relay to another address.
fn is_relay_form(local: &str) -> bool {
    local.contains(['"', '%', '!', '/', '|', '@', '\\', ':'])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn route(text: &str) -> RouteMatch {
        text.parse().unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    #[test]
    fn match_is_normalised() {
        for (text, shown) in [
            ("Support@Reply.ACME.test", "support@reply.acme.test"),
            ("*@Bücher.example", "*@xn--bcher-kva.example"),
            ("Reply+*@acme.test", "reply+*@acme.test"),
            ("a+b@acme.test", "a+b@acme.test"),
            ("a+b+*@acme.test", "a+b+*@acme.test"),
        ] {
            assert_eq!(route(text).to_string(), shown);
            assert_eq!(route(shown), route(text));
        }
    }

    #[test]
    fn other_patterns_are_refused() {
        for text in [
            "",
            "acme.test",
            "*",
            "@acme.test",
            "*@",
            "**@acme.test",
            "re*@acme.test",
            "*+@acme.test",
            "*+*@acme.test",
            "*a@acme.test",
            "+*@acme.test",
            "a@*",
            "*@*.acme.test",
            "*@localhost",
            "*@[192.0.2.1]",
            "a@acme.test.",
            "a%b@acme.test",
            "a!b@acme.test",
            "\"a b\"@acme.test",
            "a b@acme.test",
            "a@acme.test, b@acme.test",
            "A <a@acme.test>",
            "a\r\nb@acme.test",
        ] {
            assert!(text.parse::<RouteMatch>().is_err(), "{text}");
        }
        assert!(format!("{}+*@acme.test", "a".repeat(63)).parse::<RouteMatch>().is_err());
    }

    #[test]
    fn most_specific_match_has_the_lowest_rank() {
        let mut routes =
            ["*@a.test", "reply+*@a.test", "reply+x+*@a.test", "reply+x+1@a.test", "x@a.test"].map(route).to_vec();
        routes.sort_by_key(RouteMatch::rank);
        let find = |to: &str| {
            let to = InboundRecipient::parse(to)?;
            routes.iter().find(|route| route.includes(&to)).map(ToString::to_string)
        };
        for (to, found) in [
            ("Reply+X+1@A.test", "reply+x+1@a.test"),
            ("reply+x+2@a.test", "reply+x+*@a.test"),
            ("reply+2@a.test", "reply+*@a.test"),
            ("reply+@a.test", "*@a.test"),
            ("reply@a.test", "*@a.test"),
            ("x@a.test", "x@a.test"),
            ("x+1@a.test", "*@a.test"),
        ] {
            assert_eq!(find(to).as_deref(), Some(found), "{to}");
        }
        for to in ["x@b.test", "x@sub.a.test", "x@a.test.", "x%b.test@a.test", "b.test!x@a.test", "\"x\"@a.test", "x"] {
            assert_eq!(find(to), None, "{to}");
        }
    }

    #[test]
    fn parents_end_below_the_top() {
        assert_eq!(domain_and_parents("a.b.test"), ["a.b.test", "b.test"]);
        assert_eq!(domain_and_parents("b.test"), ["b.test"]);
    }

    proptest! {
        #[test]
        fn any_text_is_a_match_or_an_error(text in "[*+@a-c.%\"!]{0,12}") {
            if let Ok(route) = text.parse::<RouteMatch>() {
                prop_assert_eq!(route.to_string().parse::<RouteMatch>(), Ok(route));
            }
            let _ = InboundRecipient::parse(&text);
        }
    }
}
