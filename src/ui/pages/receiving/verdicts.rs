//! What SPF, DKIM, DMARC and ARC say about who sent a received message, in words.

use serde::Deserialize;

/// The verdicts of the API.
#[derive(Debug, Deserialize)]
pub(super) struct Authentication {
    spf: Spf,
    /// One per signature.
    dkim: Vec<Dkim>,
    pub dmarc: Dmarc,
    arc: Arc,
}

#[derive(Debug, Deserialize)]
struct Spf {
    result: String,
    domain: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Dkim {
    result: String,
    domain: Option<String>,
    selector: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Dmarc {
    pub result: String,
    domain: Option<String>,
    policy: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Arc {
    result: String,
}

/// A verdict with its explanation.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict<'a> {
    pub name: &'static str,
    pub result: &'a str,
    pub text: String,
}

/// Why a check did not come to a result, whatever it is about.
fn failed(result: &str) -> Option<&'static str> {
    match result {
        "temperror" => Some("the DNS did not respond in time"),
        "permerror" => {
            Some("what is published in the DNS is invalid, or the message has too many signatures or header fields")
        }
        _ => None,
    }
}

impl Authentication {
    /// Returns whether the address in `From` is right, which only DMARC says.
    pub(super) fn summary(&self) -> String {
        let Dmarc { result, domain, .. } = &self.dmarc;
        let domain = domain.as_deref().unwrap_or("its domain");
        if let Some(why) = failed(result) {
            return format!("It is unknown whether the address in From is right: {why}.");
        }
        match result.as_str() {
            "pass" => format!("The domain in From is confirmed: {domain}."),
            "fail" => format!("The address in From may be forged: nothing confirms {domain}."),
            _ => format!("It is unknown whether the address in From is right: {domain} publishes no DMARC policy."),
        }
    }

    /// Returns all verdicts. A message without signatures has one of DKIM that says so.
    pub(super) fn verdicts(&self) -> Vec<Verdict<'_>> {
        let mut verdicts = vec![self.dmarc.verdict(), self.spf.verdict()];
        if self.dkim.is_empty() {
            verdicts.push(Verdict { name: "DKIM", result: "none", text: "The message has no signature.".to_owned() });
        }
        verdicts.extend(self.dkim.iter().map(Dkim::verdict));
        verdicts.push(self.arc.verdict());
        verdicts
    }
}

/// Returns a verdict, whose text is `text` unless the check did not come to a result.
fn verdict<'a>(name: &'static str, result: &'a str, text: String) -> Verdict<'a> {
    let text = failed(result).map_or(text, |why| format!("The check was not possible: {why}."));
    Verdict { name, result, text }
}

impl Dmarc {
    fn verdict(&self) -> Verdict<'_> {
        let domain = self.domain.as_deref().unwrap_or("the domain in From");
        let policy = match self.policy.as_deref() {
            Some("reject") => " Its owner asks to reject such messages.",
            Some("quarantine") => " Its owner asks to treat such messages as suspicious.",
            Some("none") => " Its owner asks for nothing to be done about such messages.",
            _ => "",
        };
        let text = match self.result.as_str() {
            "pass" => format!("SPF or a DKIM signature confirms {domain}, the domain in From."),
            "fail" => format!("Neither SPF nor a DKIM signature confirms {domain}, the domain in From.{policy}"),
            _ => format!("{domain} publishes no policy."),
        };
        verdict("DMARC", &self.result, text)
    }
}

impl Spf {
    fn verdict(&self) -> Verdict<'_> {
        let domain = self.domain.as_deref().unwrap_or("the domain of the reverse path");
        let text = match self.result.as_str() {
            "pass" => format!("The client may send for {domain}."),
            "fail" => format!("The client must not send for {domain}."),
            "softfail" => format!("The client probably must not send for {domain}."),
            "neutral" => format!("{domain} does not say whether the client may send for it."),
            _ => format!("{domain} does not publish which clients may send for it."),
        };
        verdict("SPF", &self.result, text)
    }
}

impl Dkim {
    fn verdict(&self) -> Verdict<'_> {
        let domain = self.domain.as_deref().unwrap_or("an unknown domain");
        let selector = self.selector.as_ref().map_or_else(String::new, |selector| format!(" (selector {selector})"));
        let text = match self.result.as_str() {
            "pass" => format!("The signature of {domain}{selector} is valid."),
            "fail" => {
                format!(
                    "The signature of {domain}{selector} is not valid: the message was changed on its way, or the \
                     signature is forged."
                )
            }
            _ => format!("The signature of {domain}{selector} could not be verified."),
        };
        verdict("DKIM", &self.result, text)
    }
}

impl Arc {
    fn verdict(&self) -> Verdict<'_> {
        let text = match self.result.as_str() {
            "pass" => "The verdicts of the servers that passed the message on are intact.",
            "fail" => "The verdicts of the servers that passed the message on are not intact.",
            _ => "No server that passed the message on has added its verdicts.",
        };
        verdict("ARC", &self.result, text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[allow(clippy::needless_pass_by_value, reason = "the calls are shorter")]
    fn authentication(spf: &str, dkim: Value, dmarc: &str) -> Authentication {
        let verdicts = json!({"spf": {"result": spf, "domain": "mx.test"}, "dkim": dkim, "arc": {"result": "none"},
            "dmarc": {"result": dmarc, "domain": "acme.test", "policy": "reject"}});
        serde_json::from_value(verdicts).unwrap()
    }

    #[test]
    fn only_dmarc_says_whether_the_sender_is_right() {
        for (spf, dmarc, text) in [
            ("fail", "pass", "The domain in From is confirmed: acme.test."),
            ("pass", "fail", "The address in From may be forged: nothing confirms acme.test."),
            (
                "pass",
                "none",
                "It is unknown whether the address in From is right: acme.test publishes no DMARC policy.",
            ),
            (
                "pass",
                "temperror",
                "It is unknown whether the address in From is right: the DNS did not respond in time.",
            ),
        ] {
            assert_eq!(authentication(spf, json!([]), dmarc).summary(), text);
        }
    }

    #[test]
    fn each_verdict_is_explained() {
        let dkim = json!([{"result": "pass", "domain": "acme.test", "selector": "s1"},
            {"result": "permerror", "domain": null, "selector": null}]);
        let forged = authentication("softfail", dkim, "fail");
        let texts: Vec<_> = forged.verdicts().into_iter().map(|one| (one.name, one.result, one.text)).collect();
        let expected = [
            (
                "DMARC",
                "fail",
                "Neither SPF nor a DKIM signature confirms acme.test, the domain in From. Its owner asks to reject such \
                 messages.",
            ),
            ("SPF", "softfail", "The client probably must not send for mx.test."),
            ("DKIM", "pass", "The signature of acme.test (selector s1) is valid."),
            (
                "DKIM",
                "permerror",
                "The check was not possible: what is published in the DNS is invalid, or the message has too many \
                 signatures or header fields.",
            ),
            ("ARC", "none", "No server that passed the message on has added its verdicts."),
        ];
        assert_eq!(texts, expected.map(|(name, result, text)| (name, result, text.to_owned())));
        let unsigned = authentication("pass", json!([]), "pass");
        assert!(unsigned.verdicts().iter().any(|one| one.text == "The message has no signature."));
    }
}
