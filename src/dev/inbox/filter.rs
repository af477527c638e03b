//! A filter for the messages of the inbox.

use super::Summary;

/// Conditions, all of which a message must meet. Letter case does not matter.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// A recipient of the envelope. A value with `@` matches a whole address, a value without `@` any part of an
    /// address.
    pub to: Option<String>,
    /// The sender. A value with `@` matches the whole address in the `From` header, a value without `@` any part of the
    /// header. For a message without this header, the sender of the envelope is used.
    pub from: Option<String>,
    /// A part of the subject.
    pub subject: Option<String>,
    /// A part of the subject, of the `From` header or of a recipient.
    pub any: Option<String>,
    /// Only messages with a number above this one.
    pub after: Option<u64>,
}

impl Filter {
    /// Returns whether a message meets every condition.
    pub(super) fn matches(&self, message: &Summary) -> bool {
        let from = message.from.as_deref().unwrap_or(&message.envelope.from);
        let subject = message.subject.as_deref().unwrap_or_default();
        let recipients = || message.envelope.to.iter();
        let meets = |condition: &Option<String>, test: &dyn Fn(&str) -> bool| {
            condition.as_ref().is_none_or(|wanted| test(&wanted.to_lowercase()))
        };
        self.after.is_none_or(|after| message.n > after)
            && meets(&self.to, &|wanted| recipients().any(|address| is_address(address, wanted)))
            && meets(&self.from, &|wanted| {
                is_address(address_of(from), wanted) || !wanted.contains('@') && contains(from, wanted)
            })
            && meets(&self.subject, &|wanted| contains(subject, wanted))
            && meets(&self.any, &|wanted| {
                contains(subject, wanted)
                    || contains(from, wanted)
                    || recipients().any(|address| contains(address, wanted))
            })
    }
}

fn contains(text: &str, lower_case: &str) -> bool {
    text.to_lowercase().contains(lower_case)
}

/// Returns whether `wanted` is the whole address or, without an `@`, part of it. `ann@example.test` does not match
/// `joann@example.test`.
fn is_address(address: &str, wanted: &str) -> bool {
    if wanted.contains('@') { address.to_lowercase() == wanted } else { contains(address, wanted) }
}

/// Returns the address in a `From` header such as `Ann <ann@example.test>`.
fn address_of(from: &str) -> &str {
    match from.rsplit_once('<') {
        Some((_, address)) => address.trim_end().trim_end_matches('>'),
        None => from.trim(),
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::super::Envelope;
    use super::*;

    fn message() -> Summary {
        Summary {
            n: 7,
            received_at: DateTime::UNIX_EPOCH,
            envelope: Envelope {
                from: "b+token@return.test".into(),
                to: vec!["Joann@example.test".into()],
                helo: String::new(),
            },
            subject: Some("Größe, your Invoice".into()),
            from: Some("Acme <Billing@acme.test>".into()),
            to: None,
            size: 0,
        }
    }

    #[test]
    fn all_conditions_must_be_met() {
        let filter = Filter {
            to: Some("joann@EXAMPLE.test".into()),
            from: Some("billing@acme.test".into()),
            subject: Some("invoice".into()),
            any: Some("GRÖSSE".replace("SS", "ß")),
            after: Some(6),
        };
        assert!(filter.matches(&message()));
        assert!(!Filter { after: Some(7), ..filter.clone() }.matches(&message()));
        assert!(!Filter { subject: Some("receipt".into()), ..filter }.matches(&message()));
    }

    #[test]
    fn whole_address_matches_only_itself() {
        let to = |wanted: &str| Filter { to: Some(wanted.into()), ..Filter::default() }.matches(&message());
        assert!(to("joann@example.test") && to("joann") && to("ann"));
        assert!(!to("ann@example.test"));
        let from = |wanted: &str| Filter { from: Some(wanted.into()), ..Filter::default() }.matches(&message());
        assert!(from("billing@acme.test") && from("acme"));
        assert!(!from("ling@acme.test"));
    }
}
