//! The search box of the dashboard: `to:ann@example.test status:bounced "your invoice"`.
//!
//! A term is `field:value`, with quotes around a value that contains spaces. Words without a field are an address if they
//! contain `@`, a `Message-ID` in angle brackets, and otherwise a part of the subject. The result is the parameters of
//! `GET /v1/messages`, which checks the values.

use chrono::{DateTime, NaiveDate, SecondsFormat, TimeDelta, Utc};

/// The fields of the search box, and the parameter of `GET /v1/messages` that each sets.
pub const FIELDS: &[(&str, &str)] = &[
    ("to", "to"),
    ("to-domain", "to_domain"),
    ("from", "from"),
    ("subject", "subject"),
    ("status", "status"),
    ("held", "held"),
    ("stream", "stream"),
    ("tag", "tag"),
    ("template", "template"),
    ("bulk", "bulk"),
    ("lane", "lane"),
    ("key", "key"),
    ("message-id", "message_id"),
    ("after", "created_after"),
    ("before", "created_before"),
];

/// Returns the field that sets a parameter of `GET /v1/messages`.
pub fn field(param: &str) -> &str {
    FIELDS.iter().find(|(_, name)| *name == param).map_or(param, |(field, _)| field)
}

/// A parsed search.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Search {
    /// Parameters of `GET /v1/messages`, each at most once.
    pub params: Vec<(&'static str, String)>,
    /// What is wrong with the text, in sentences.
    pub faults: Vec<String>,
}

/// Parses the text of the search box. `now` is the end of relative times such as `after:24h`.
pub fn parse(text: &str, now: DateTime<Utc>) -> Search {
    let mut search = Search::default();
    let mut words = Vec::new();
    for term in terms(text) {
        match term {
            Term::Field(name, value) => search.add_field(&name, value, now),
            Term::Word(word) if word.starts_with('<') && word.ends_with('>') => search.set("message_id", word),
            Term::Word(word) if word.contains('@') => search.set("to", word),
            Term::Word(word) => words.push(word),
        }
    }
    if !words.is_empty() {
        search.set("subject", words.join(" "));
    }
    search
}

impl Search {
    fn add_field(&mut self, name: &str, value: String, now: DateTime<Utc>) {
        let Some((_, param)) = FIELDS.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)) else {
            let fields: Vec<&str> = FIELDS.iter().map(|(field, _)| *field).collect();
            self.faults.push(format!("`{name}:` is not a field; use {}.", fields.join(", ")));
            return;
        };
        match *param {
            "created_after" | "created_before" => match time(&value, now) {
                Some(at) => self.set(param, at.to_rfc3339_opts(SecondsFormat::Secs, true)),
                None => self.faults.push(format!(
                    "`{value}` is not a time; write a date such as 2026-12-01, 2026-12-01T09:00:00Z, or an age such as 24h."
                )),
            },
            _ => self.set(param, value),
        }
    }

    fn set(&mut self, param: &'static str, value: String) {
        if self.params.iter().any(|(set, _)| *set == param) {
            self.faults.push(format!("`{}:` may be given once.", field(param)));
        } else {
            self.params.push((param, value));
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Term {
    Field(String, String),
    Word(String),
}

/// Splits the text into terms at white space outside of quotes. A field without a value, which is being typed, is left out.
fn terms(text: &str) -> Vec<Term> {
    let mut terms = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let name_end = rest.find(|c: char| !c.is_ascii_alphabetic() && c != '-').unwrap_or(rest.len());
        let is_field = name_end > 0 && rest[name_end..].starts_with(':');
        let (name, after) = if is_field { (&rest[..name_end], &rest[name_end + 1..]) } else { ("", rest) };
        let (value, left) = value(after);
        match (is_field, value.is_empty()) {
            (true, false) => terms.push(Term::Field(name.to_owned(), value)),
            (false, false) => terms.push(Term::Word(value)),
            (_, true) => {}
        }
        rest = left.trim_start();
    }
    terms
}

/// Returns the value at the start of `text`, and the rest. A quote without its end lasts to the end of the text.
fn value(text: &str) -> (String, &str) {
    if let Some(quoted) = text.strip_prefix('"') {
        let end = quoted.find('"').unwrap_or(quoted.len());
        return (quoted[..end].trim().to_owned(), quoted.get(end + 1..).unwrap_or_default());
    }
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    (text[..end].to_owned(), &text[end..])
}

/// Parses a date, an RFC 3339 time, or an age such as `90m`, `24h` or `7d`.
pub fn time(text: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    if let Ok(date) = text.parse::<NaiveDate>() {
        return Some(date.and_hms_opt(0, 0, 0)?.and_utc());
    }
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Some(at.to_utc());
    }
    let count: i64 =
        text.get(..text.len().checked_sub(1)?)?.parse().ok().filter(|count| (0..=100_000).contains(count))?;
    let age = match text.as_bytes().last()? {
        b'm' => TimeDelta::minutes(count),
        b'h' => TimeDelta::hours(count),
        b'd' => TimeDelta::days(count),
        _ => return None,
    };
    now.checked_sub_signed(age)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-11-30T12:00:00Z".parse().unwrap()
    }

    fn params(text: &str) -> Vec<(&'static str, String)> {
        let search = parse(text, now());
        assert_eq!(search.faults, Vec::<String>::new(), "{text}");
        search.params
    }

    fn one(text: &str) -> (&'static str, String) {
        let mut params = params(text);
        assert_eq!(params.len(), 1, "{text}");
        params.remove(0)
    }

    #[test]
    fn fields_become_parameters() {
        for (text, param, value) in [
            ("to:ann@example.test", "to", "ann@example.test"),
            ("STATUS:bounced", "status", "bounced"),
            ("tag:order:42", "tag", "order:42"),
            ("subject:\"your invoice\"", "subject", "your invoice"),
            ("message-id:<a@b.test>", "message_id", "<a@b.test>"),
            ("after:2026-11-01", "created_after", "2026-11-01T00:00:00Z"),
            ("before:2026-11-01T09:30:00+01:00", "created_before", "2026-11-01T08:30:00Z"),
            ("after:24h", "created_after", "2026-11-29T12:00:00Z"),
        ] {
            assert_eq!(one(text), (param, value.to_owned()), "{text}");
        }
    }

    #[test]
    fn words_without_a_field_are_guessed() {
        assert_eq!(one("ann@example.test"), ("to", "ann@example.test".to_owned()));
        assert_eq!(one("<a@b.test>"), ("message_id", "<a@b.test>".to_owned()));
        assert_eq!(one("your  invoice"), ("subject", "your invoice".to_owned()));
        assert_eq!(one("\"3:15 pm\""), ("subject", "3:15 pm".to_owned()));
        assert_eq!(one("\"unfinished"), ("subject", "unfinished".to_owned()));
    }

    #[test]
    fn parameters_are_named_by_their_field() {
        for (param, name) in [("created_after", "after"), ("to_domain", "to-domain"), ("status", "status")] {
            assert_eq!(field(param), name);
        }
    }

    #[test]
    fn several_terms_are_combined() {
        let expected = [("status", "deferred"), ("stream", "bulk"), ("subject", "sale now")];
        assert_eq!(
            params("sale status:deferred now stream:bulk"),
            expected.map(|(param, value)| (param, value.to_owned()))
        );
    }

    #[test]
    fn field_without_a_value_is_ignored_while_it_is_typed() {
        assert_eq!(params("to: "), []);
        assert_eq!(params("   "), []);
    }

    #[test]
    fn faults_name_the_term_and_the_fix() {
        for (text, fault) in [
            ("too:ann@example.test", "`too:` is not a field; use to, "),
            ("to:a@x.test to:b@x.test", "`to:` may be given once."),
            ("after:yesterday", "`yesterday` is not a time; write a date such as "),
        ] {
            let search = parse(text, now());
            assert_eq!(search.faults.len(), 1, "{text}");
            assert!(search.faults[0].starts_with(fault), "{:?}", search.faults);
        }
    }

    proptest! {
        #[test]
        fn every_text_is_parsed(text in "\\PC{0,60}") {
            let search = parse(&text, now());
            prop_assert!(search.params.len() <= FIELDS.len());
        }
    }
}
