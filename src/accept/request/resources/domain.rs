//! Parses the body of `POST /v1/domains`.

use crate::accept::request::json::fields::Fields;
use crate::accept::request::json::pointer::Pointer;
use crate::accept::request::{Rejection, json};
use crate::domain::address::Address;
use crate::domain::api::fault::{Code, Faults};

/// Maximum length of a name, which leaves space for prefixes such as `_dmarc.` and selectors.
const MAX_NAME: usize = 200;

/// Parses the name of a new domain and returns it in the form that addresses use: A-labels, lower case.
pub fn parse(body: &[u8]) -> Result<String, Rejection> {
    let value = json::read(body, json::MAX_VALUES)?;
    let mut faults = Faults::default();
    let at = Pointer::Root;
    let name = Fields::open(value, &at, &["name"], &mut faults).and_then(|mut fields| {
        let node = fields.require("name", &mut faults)?;
        let at = node.at;
        let text = node.string(&mut faults)?;
        let name = name(&text);
        if let Err(why) = &name {
            at.fault(&mut faults, Code::InvalidValue, format_args!("{why}"));
        }
        name.ok()
    });
    match name {
        Some(name) if faults.is_empty() => Ok(name),
        _ => Err(Rejection::Invalid(faults.into_vec())),
    }
}

/// Returns the domain, or the reason why messages cannot be sent from it.
fn name(text: &str) -> Result<String, String> {
    if text.contains('@') {
        return Err("must be only the part after the @".into());
    }
    let address: Address =
        format!("postmaster@{text}").parse().map_err(|error| format!("must be a domain name: {error}"))?;
    let name = address.domain();
    if !name.contains('.') || name.starts_with('[') {
        return Err("must be below a top-level domain, such as example.com".into());
    }
    if name.len() > MAX_NAME {
        return Err(format!("must have at most {MAX_NAME} bytes"));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<String, Vec<(String, &'static str)>> {
        parse(body.as_bytes()).map_err(|rejection| match rejection {
            Rejection::Invalid(faults) => faults.into_iter().map(|fault| (fault.pointer, fault.code)).collect(),
            _ => Vec::new(),
        })
    }

    #[test]
    fn name_is_converted_to_a_labels() {
        assert_eq!(read(r#"{"name": "Bücher.example"}"#), Ok("xn--bcher-kva.example".into()));
        assert_eq!(read(r#"{"name": "News.Acme.test"}"#), Ok("news.acme.test".into()));
    }

    #[test]
    fn domain_that_cannot_be_signed_for_is_refused() {
        let long = format!("{0}.{0}.{0}.{0}.test", "a".repeat(50));
        for name in ["", "a@acme.test", "test", "acme.test.", "[192.0.2.1]", "a b.test", "a/b.test", "-a.test", &long] {
            let body = serde_json::json!({ "name": name }).to_string();
            assert_eq!(read(&body), Err(vec![("/name".into(), "invalid_value")]), "{name}");
        }
        assert_eq!(read("{}"), Err(vec![("/name".into(), "required")]));
        let two = vec![("/keys".into(), "unknown_field"), ("/name".into(), "invalid_type")];
        assert_eq!(read(r#"{"name": 5, "keys": 1}"#), Err(two));
    }
}
