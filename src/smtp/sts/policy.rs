//! A domain's policy (RFC 8461 §3.2): the hosts that accept its messages, and how to treat other hosts and those
//! without a valid certificate.

use std::time::Duration;

/// Upper bound of `max_age` (RFC 8461 §3.2: a year, 31557600 s).
const MAX_AGE: Duration = Duration::from_hours(8_766);
/// Maximum patterns of one policy, which bounds its memory.
const MAX_PATTERNS: usize = 64;

/// The effect of a host's violation of the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::smtp) enum Mode {
    /// No messages are sent to the host.
    Enforce,
    /// Messages are sent to the host, and the attempt reports the violation.
    Testing,
    /// No effect: the domain is withdrawing its policy.
    None,
}

/// A fetched policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::smtp) struct Policy {
    pub mode: Mode,
    /// How long the policy is in force after its fetch.
    pub max_age: Duration,
    patterns: Vec<Pattern>,
}

/// A host name, or `*.` and a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    /// Whether one label precedes `name`.
    wildcard: bool,
    /// Name in lower case, without a dot at the end.
    name: String,
}

/// Why a text is not a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::smtp) enum PolicyError {
    /// The first line is not the version.
    #[error("the first line must be `version: STSv1`")]
    Version,
    /// A line is not `key: value`.
    #[error("every line must be `key: value`")]
    Line,
    /// `mode` is missing or unknown.
    #[error("`mode` must be `enforce`, `testing` or `none`")]
    Mode,
    /// `max_age` is missing or not a number of at most ten digits.
    #[error("`max_age` must be a number of seconds")]
    MaxAge,
    /// The mode needs an `mx` but there is none, there are too many, or one is not a host name.
    #[error("`mx` must be given 1 to {MAX_PATTERNS} times, each with a host name")]
    Mx,
}

impl Policy {
    /// Parses the text of `/.well-known/mta-sts.txt`. Unknown keys are ignored, and the first of duplicate keys counts,
    /// except for `mx`.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let mut lines = text.lines().filter(|line| !line.trim().is_empty());
        if lines.next().and_then(pair) != Some(("version", "STSv1")) {
            return Err(PolicyError::Version);
        }
        let (mut mode, mut max_age, mut patterns) = (None, None, Vec::new());
        for line in lines {
            let (key, value) = pair(line).ok_or(PolicyError::Line)?;
            match key {
                "mode" => _ = mode.get_or_insert(value),
                "max_age" => _ = max_age.get_or_insert(value),
                "mx" if patterns.len() < MAX_PATTERNS => patterns.push(Pattern::parse(value).ok_or(PolicyError::Mx)?),
                "mx" => return Err(PolicyError::Mx),
                _ => {}
            }
        }
        let mode = match mode {
            Some("enforce") => Mode::Enforce,
            Some("testing") => Mode::Testing,
            Some("none") => Mode::None,
            _ => return Err(PolicyError::Mode),
        };
        let seconds = max_age.filter(|digits| (1..=10).contains(&digits.len()) && !digits.starts_with('+'));
        let seconds = seconds.and_then(|digits| digits.parse().ok()).ok_or(PolicyError::MaxAge)?;
        if patterns.is_empty() && mode != Mode::None {
            return Err(PolicyError::Mx);
        }
        Ok(Self { mode, max_age: Duration::from_secs(seconds).min(MAX_AGE), patterns })
    }

    /// Returns whether messages may go to this mail exchanger.
    pub fn allows(&self, host: &str) -> bool {
        self.mode != Mode::Enforce || self.names(host)
    }

    /// Returns whether the policy names this mail exchanger (RFC 8461 §4.1).
    pub fn names(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        self.patterns.iter().any(|pattern| pattern.covers(&host))
    }
}

impl Pattern {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim_end_matches('.').to_ascii_lowercase();
        let (wildcard, name) = text.strip_prefix("*.").map_or((false, text.as_str()), |name| (true, name));
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        let is_valid = name.len() <= 253 && name.split('.').all(is_label);
        is_valid.then(|| Self { wildcard, name: name.to_owned() })
    }

    /// Returns whether the pattern matches; a wildcard matches exactly one label.
    fn covers(&self, host: &str) -> bool {
        let name = if self.wildcard { host.split_once('.').map(|(_, parent)| parent) } else { Some(host) };
        name == Some(&self.name)
    }
}

fn pair(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once(':')?;
    Some((key.trim(), value.trim()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(lines: &str) -> Result<Policy, PolicyError> {
        Policy::parse(&format!("version: STSv1\n{lines}"))
    }

    #[test]
    fn the_rfc_example_is_parsed() {
        let text = "version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmx: *.example.net\r\n\
                    mx: backupmx.example.com\r\nmax_age: 604800\r\n";
        let policy = Policy::parse(text).unwrap();
        assert_eq!((policy.mode, policy.max_age), (Mode::Enforce, Duration::from_hours(7 * 24)));
        for host in ["mail.example.com", "MAIL.Example.com.", "mx1.example.net", "backupmx.example.com"] {
            assert!(policy.names(host), "{host}");
        }
        for host in ["example.com", "example.net", "a.b.example.net", "xexample.net", ".example.net.x", "", "mail"] {
            assert!(!policy.names(host), "{host}");
        }
    }

    #[test]
    fn line_ends_order_and_unknown_keys_do_not_matter() {
        let policy = policy("max_age:60\n\nfuture: x\nmx:a.test\nmode : testing\nmode: enforce\nmax_age: 61").unwrap();
        assert_eq!((policy.mode, policy.max_age), (Mode::Testing, Duration::from_mins(1)));
    }

    #[test]
    fn max_age_is_at_most_a_year() {
        assert_eq!(policy("mode: none\nmax_age: 9999999999").unwrap().max_age, MAX_AGE);
        assert_eq!(policy("mode: none\nmax_age: 0").unwrap().max_age, Duration::ZERO);
    }

    #[test]
    fn an_invalid_policy_is_an_error() {
        assert_eq!(Policy::parse(""), Err(PolicyError::Version));
        assert_eq!(Policy::parse("<html>not found</html>"), Err(PolicyError::Version));
        assert_eq!(Policy::parse("mode: none\nversion: STSv1\nmax_age: 1"), Err(PolicyError::Version));
        for (lines, error) in [
            ("mode: enforce\nmx: a.test\nmax_age: 60\nnonsense", PolicyError::Line),
            ("mode: Enforced\nmx: a.test\nmax_age: 60", PolicyError::Mode),
            ("mx: a.test\nmax_age: 60", PolicyError::Mode),
            ("mode: enforce\nmx: a.test", PolicyError::MaxAge),
            ("mode: enforce\nmx: a.test\nmax_age: -1", PolicyError::MaxAge),
            ("mode: enforce\nmx: a.test\nmax_age: +1", PolicyError::MaxAge),
            ("mode: enforce\nmx: a.test\nmax_age: 99999999999", PolicyError::MaxAge),
            ("mode: enforce\nmax_age: 60", PolicyError::Mx),
            ("mode: testing\nmx: a.*.test\nmax_age: 60", PolicyError::Mx),
            ("mode: testing\nmx: *\nmax_age: 60", PolicyError::Mx),
            ("mode: testing\nmx: a b\nmax_age: 60", PolicyError::Mx),
        ] {
            assert_eq!(policy(lines), Err(error), "{lines}");
        }
        let many = "mx: a.test\n".repeat(MAX_PATTERNS + 1);
        assert_eq!(policy(&format!("mode: enforce\nmax_age: 60\n{many}")), Err(PolicyError::Mx));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_a_panic(text in any::<String>(), host in any::<String>()) {
            let _ = Policy::parse(&text);
            if let Ok(policy) = policy(&format!("mode: enforce\nmax_age: 60\nmx: *.a.test\n{text}")) {
                let _ = policy.names(&host);
            }
        }
    }
}
